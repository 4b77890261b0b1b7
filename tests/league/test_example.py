"""The example of a league: it learns, is killed and goes on, and each game stands in the ledger once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from policystore import PolicyStore
from policystore.league import League
from tests.support import ROOT

PROGRAM = ROOT / "scripts" / "examples" / "league.py"
LINE = re.compile(r"iteration (\d+): (\d+) games")


def run(folder: Path, until: int) -> dict[int, int]:
    """Run the example, kill it after an iteration, and return the games of each iteration."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(folder), "--minutes", "60"],
        cwd=PROGRAM.parent,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    games: dict[int, int] = {}
    assert process.stdout is not None
    for line in process.stdout:
        if match := LINE.match(line):
            games[int(match.group(1))] = int(match.group(2))
            if int(match.group(1)) >= until:
                break
    cluster = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.stdout.close()
    process.wait()
    for each in cluster:  # Ray's processes, which would end by themselves later
        with suppress(psutil.NoSuchProcess):
            each.kill()
    return games


@pytest.mark.long
@pytest.mark.wide
def test_the_example_is_killed_and_goes_on(tmp_path: Path) -> None:
    first = run(tmp_path, 7)
    league = League(PolicyStore(tmp_path / "store", cache=False), "connect-four")
    before = league.totals()
    played = sum(before.unknown.values()) + before.episodes
    # The games of the last iteration may have come into the ledger, or have been lost by the kill.
    assert sum(first.values()) - first[7] <= played <= sum(first.values()) + 200

    second = run(tmp_path, 7)
    assert min(second) == 6  # the checkpoint is of iteration 5
    after = league.totals()
    more = sum(after.unknown.values()) + after.episodes - played
    assert sum(second.values()) - second[7] <= more <= sum(second.values()) + 200
    assert league.store.verify().ok
