"""The example with the three roles of AlphaStar runs, and goes on when it is run again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from policystore.league import League
from tests.support import ROOT


@pytest.mark.long
@pytest.mark.wide
def test_the_three_roles_train_and_a_second_run_goes_on(tmp_path: Path) -> None:
    script = ROOT / "scripts/examples/league_roles.py"
    league = League(tmp_path / "store", "duel")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    arguments = ["--seconds", "10", "--runners", "1", "--store", str(tmp_path / "store")]
    episodes = [0]
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, script, *arguments],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "the strongest of all snapshots" in done.stdout
        assert re.search(r"main_exploiter: \d+ snapshots in the store, [1-9]\d* new", done.stdout)
        episodes.append(league.totals().episodes)
    assert episodes == sorted(set(episodes))
    names = ["duel/league_exploiter", "duel/main", "duel/main_exploiter"]
    assert league.store.names("duel/") == names
    starts = [v for v in league.store.log("duel/main") if v.message == "start of training"]
    assert len(starts) == 2
