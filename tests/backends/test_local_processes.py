"""Kills and races between real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from policystore import PolicyStore
from tests.support import ROOT

SUPPORT = ROOT / "tests" / "support"
CRASH, RACE = SUPPORT / "crash_driver.py", SUPPORT / "race_driver.py"


def run(*args: object) -> str:
    done = subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_push_killed_at_any_step_leaves_the_store_as_before_or_after(tmp_path: Path) -> None:
    assert int(run(CRASH, "steps", tmp_path)) > 100


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=pytest.mark.long) for seed in (0, 1, 2)])
def test_pushes_killed_at_random_moments_lose_nothing_acknowledged(
    tmp_path: Path, seed: int
) -> None:
    assert run(CRASH, "random", tmp_path, seed, 100).strip() == "100"


def race(url: Path, writers: int, count: int) -> list[tuple[int, str]]:
    start = time.time() + 1.5
    processes = [
        subprocess.Popen(
            [sys.executable, str(RACE), str(url), str(writer), str(count), str(start)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for writer in range(writers)
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * writers
    lines = [line.split() for output in outputs for line in output.splitlines()]
    return [(int(number), digest) for number, digest in lines]


def test_eight_processes_push_fifty_times_each_to_one_name(tmp_path: Path) -> None:
    given = race(tmp_path / "s", 8, 50)
    assert sorted(number for number, _ in given) == list(range(1, 401))
    assert len({digest for _, digest in given}) == 400
    store = PolicyStore(tmp_path / "s")
    assert {v.number: str(v.digest) for v in store.log("league/main")} == dict(given)
    report = store.verify()
    assert report.ok, str(report)
    assert report.versions == 400
    assert os.listdir(tmp_path / "s" / "tmp") == []
