"""Several processes and threads that play one tournament: each episode is recorded once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policystore import PolicyStore
from policystore._util.concurrency import in_parallel
from policystore.errors import IntegrityError
from policystore.league import League
from policystore.league.tournament import records
from policystore.repository.matches.shared_list import SharedList
from tests.support import ROOT
from tests.support.played_at_once import play_all

PROGRAM = ROOT / "tests" / "support" / "played_at_once.py"
EPISODES = 12
ALL = 3 * EPISODES  # three pairs of players


def begin(url: Any, pause: float = 0.01) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), str(url), str(EPISODES), "None"]
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "GUESS_PAUSE": str(pause)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=settings)


def ended(process: subprocess.Popen[str]) -> dict[str, int]:
    """Wait for a program, and return what it says it has played."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    found: dict[str, int] = json.loads(output.splitlines()[-1])
    return found


def recorded(league: League) -> Counter[tuple[Any, ...]]:
    """Return how often the ledger has each episode."""
    return Counter(
        (tuple(match.players.items()), seed) for match in league.matches() for seed in match.seeds
    )


def check(league: League) -> None:
    found = recorded(league)
    assert set(found.values()) == {1}
    assert len(found) == ALL
    assert league.totals().episodes == ALL


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def test_two_processes_at_once(tmp_path: Path, processes: Any) -> None:
    processes += [begin(tmp_path), begin(tmp_path)]
    reports = [ended(process) for process in processes]
    assert sum(report["played"] for report in reports) == ALL
    assert [report["episodes"] for report in reports] == [ALL, ALL]
    check(League(tmp_path, "guess"))


@pytest.mark.long
def test_one_process_is_killed_and_resumed_beside_another(tmp_path: Path, processes: Any) -> None:
    killed = begin(tmp_path, 0.5)
    processes.append(killed)
    assert int(killed.stdout.readline()) > 0  # what the line tells of is recorded
    other = begin(tmp_path, 0.1)
    processes.append(other)
    assert int(other.stdout.readline()) > 0
    killed.kill()
    killed.wait()
    resumed = begin(tmp_path)
    processes.append(resumed)
    reports = [ended(other), ended(resumed)]
    assert [report["episodes"] for report in reports] == [ALL, ALL]
    assert 0 < sum(report["played"] for report in reports) < ALL  # the killed one played some
    check(League(tmp_path, "guess"))


def test_threads_with_a_bucket(
    s3_bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_LONGEST_WAIT", 0.0)
    store = PolicyStore(
        f"s3://{s3_bucket}/guess", storage_options={"endpoint_url": s3_endpoint}, cache=False
    )
    reports = in_parallel(lambda _: play_all(League(store, "guess"), EPISODES), range(4), workers=4)
    assert sum(report.played for report in reports) == ALL
    assert {report.episodes for report in reports} == {ALL}
    check(League(store, "guess"))
    assert not list(store.verify().faults)


@pytest.mark.parametrize("wait", [0.0, 60.0])
def test_other_sizes_of_groups_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: float
) -> None:
    """What overlaps with the group of another is played again without the overlap."""
    monkeypatch.setattr(records, "_LONGEST_WAIT", wait)
    league = League(tmp_path, "guess")
    others: list[Any] = []

    def meddle(done: int, total: int) -> None:
        if not others:
            others.append(play_all(League(tmp_path, "guess"), 8, batch_size=3))

    report = play_all(league, EPISODES, batch_size=5, progress=meddle)
    (other,) = others
    assert other.episodes == 3 * 8
    assert other.played == 3 * 8 - (3 if wait == 0.0 else 0)
    assert report.played + other.played == ALL == report.episodes
    assert report.known == other.played
    check(league)
    assert play_all(league, EPISODES, batch_size=5).played == 0


@pytest.mark.parametrize("list_is_read", [True, False])
def test_a_ledger_that_hides_what_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, list_is_read: bool
) -> None:
    """A summary or a listing may be wrong; a tournament then ends, and plays nothing twice."""
    play_all(League(tmp_path, "guess"), EPISODES)
    none = League(tmp_path, "other").totals()
    monkeypatch.setattr(League, "totals", lambda *_: none)
    if list_is_read:
        report = play_all(League(tmp_path, "guess"), EPISODES)
        assert (report.played, report.episodes) == (0, ALL)
    else:
        read = SharedList.refresh
        monkeypatch.setattr(SharedList, "refresh", lambda shared: read(shared)[:0])
        with pytest.raises(IntegrityError, match="no episode of this round could be recorded"):
            play_all(League(tmp_path, "guess"), EPISODES)
    monkeypatch.undo()
    check(League(tmp_path, "guess"))
