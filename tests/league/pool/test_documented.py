"""The blocks of docs/league.md run as printed, one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.doc_blocks import DOCS, run_blocks
from tests.support.envs import Duo


@pytest.mark.long
@pytest.mark.usefixtures("ray_session")
def test_the_page_on_leagues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__", "Matching": Duo}

    run_blocks("rllib", names, DOCS / "league.md")

    league = names["league"]
    assert league.totals().episodes >= names["entries"]["episodes"] > 0
    assert len(league.store.log("matching/main")) >= 3
    assert set(names["pool"].learners) == {"main", "main_exploiter", "league_exploiter"}
