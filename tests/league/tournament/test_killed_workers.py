"""SIGKILL of processes that play: what was played is kept, and no process stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from policystore import MatchError
from policystore.league import League
from policystore.league.tournament import records
from tests.league.tournament.test_at_once import ALL, EPISODES, PROGRAM, check, recorded
from tests.support import ROOT
from tests.support.played_at_once import Guess, play_all
from tests.support.waiting import until


def workers(folder: Path) -> list[int]:
    """Return the processes that have made environments, without this one."""
    return [int(each.name) for each in folder.iterdir() if int(each.name) != os.getpid()]


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def killer(folder: Path, killed: list[int]) -> Callable[[int, int], None]:
    """Return a progress function that kills the first worker process that it finds."""

    def kill(done: int, total: int) -> None:
        if not killed:
            killed.append(workers(folder)[0])
            os.kill(killed[0], signal.SIGKILL)

    return kill


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each step take a while, so that groups are on their way when a process is killed."""
    monkeypatch.setattr(records, "_LONGEST_WAIT", 0.0)
    monkeypatch.setenv("GUESS_PAUSE", "0.02")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.long
def test_a_killed_process_of_a_pool(tmp_path: Path, slow: None) -> None:
    league, folder, killed = League(tmp_path / "store", "guess"), tmp_path / "pids", list[int]()
    folder.mkdir()
    arguments: dict[str, Any] = {"env": (Guess, {"pids": str(folder)}), "batch_size": 2}
    with pytest.raises(MatchError, match="a process ended while it played") as caught:
        play_all(league, EPISODES, parallel="processes", workers=2,
                 progress=killer(folder, killed), **arguments)  # fmt: skip
    assert killed
    kept = recorded(league)
    assert set(kept.values()) == {1}
    assert 0 < len(kept) < ALL
    lost = set(caught.value.seeds)
    assert lost
    assert not lost & {seed for _, seed in kept}
    until(lambda: not any(map(is_alive, workers(folder))))
    # The same call goes on.
    report = play_all(league, EPISODES, **arguments)
    assert (report.known, report.episodes) == (len(kept), ALL)
    check(league)


@pytest.mark.long
def test_workers_end_with_a_killed_program(tmp_path: Path, slow: None) -> None:
    folder = tmp_path / "pids"
    folder.mkdir()
    command = [
        sys.executable,
        str(PROGRAM),
        str(tmp_path / "store"),
        "400",
        "processes",
        str(folder),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as program:
        try:
            assert program.stdout is not None
            assert int(program.stdout.readline()) > 0
            started = workers(folder)
            assert len(started) > 1  # the program itself has made an environment, too
        finally:
            program.kill()
    until(lambda: not any(map(is_alive, workers(folder))))
    assert set(recorded(League(tmp_path / "store", "guess")).values()) == {1}


@pytest.mark.long
@pytest.mark.usefixtures("ray_session")
def test_ray_plays_again_what_a_killed_worker_had(tmp_path: Path, slow: None) -> None:
    league, folder, killed = League(tmp_path / "store", "guess"), tmp_path / "pids", list[int]()
    folder.mkdir()
    report = play_all(league, EPISODES, parallel="ray", workers=2, batch_size=2,
                      env=(Guess, {"pids": str(folder)}), progress=killer(folder, killed))  # fmt: skip
    assert killed
    assert report.played == report.episodes == ALL
    check(league)
    until(lambda: not is_alive(killed[0]))
