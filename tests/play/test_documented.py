"""The Python blocks of docs/play.md run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support import DATA
from tests.support.doc_blocks import DOCS, run_blocks


def test_the_blocks_about_playing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(DATA / "play" / "ppo.onnx", tmp_path / "main.onnx")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    run_blocks("", names, DOCS / "play.md")

    assert isinstance(names["action"], int)
    assert names["actions"] == dict.fromkeys(names["sessions"], names["action"])  # type: ignore[call-overload]
    assert "remembers of an episode  nothing" in capsys.readouterr().out
