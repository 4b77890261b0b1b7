"""The blocks of the page on ratings run, and print what the page says."""

from __future__ import annotations

from typing import Any

import pytest

from policystore.league.analysis import payoffs
from tests.support.doc_blocks import DOCS, run_blocks


def test_the_blocks_about_ratings(capsys: pytest.CaptureFixture[str]):
    names: dict[str, Any] = {}
    run_blocks("", names, DOCS / "ratings.md")

    table = payoffs(names["totals"])
    new, old = table.place("heuristic:new"), table.place("heuristic:old")
    assert table.win_rates[new, old] == 0.75
    assert "{'heuristic:new': 1.0, " in capsys.readouterr().out
