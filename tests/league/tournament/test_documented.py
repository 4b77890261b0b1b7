"""The blocks of docs/tournaments.md run."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.doc_blocks import DOCS, run_blocks


def test_the_block_about_an_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    run_blocks("", names, DOCS / "tournaments.md")

    assert names["evaluation"].episodes == 50
    assert "random in CartPole-v1: return" in capsys.readouterr().out
