"""Many processes that record matches of one league in one bucket: nothing is lost or counted twice."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter

import pytest

from policystore import PolicyStore
from policystore.league import League
from tests.support import ROOT
from tests.support.league_writers import seeds_of

PROGRAM = ROOT / "tests" / "support" / "league_writers.py"
FEW = pytest.param(3, 8, marks=pytest.mark.long)
MANY = pytest.param(16, 500, marks=[pytest.mark.ceph, pytest.mark.wide])
SOME = pytest.param(16, 60, marks=pytest.mark.ceph)


def begin(
    url: str, endpoint: str, writer: int, count: int, start: float, *more: str
) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        str(PROGRAM),
        url,
        str(writer),
        str(count),
        str(start),
        endpoint,
        *more,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def acknowledged(output: str) -> set[int]:
    """Return the seeds of the matches that a writer has called durable."""
    whole = output[: output.rfind("\n") + 1]
    return {int(seed) for line in whole.splitlines() for seed in line.split()}


def expected(writers: int, count: int) -> set[int]:
    return {
        seed for writer in range(writers) for batch in range(count)
        for seed in seeds_of(writer, batch)
    }  # fmt: skip


def recorded(store: PolicyStore) -> Counter[int]:
    """Return how often the ledger has each match, by its seed."""
    return Counter(seed for match in League(store, "soccer").matches() for seed in match.seeds)


def check(url: str, endpoint: str, least: set[int], most: set[int]) -> None:
    """Check that the ledger has each match once, and that every reading gives the same numbers."""
    store = PolicyStore(url, storage_options={"endpoint_url": endpoint}, cache=False)
    seen = recorded(store)
    assert not {seed: times for seed, times in seen.items() if times != 1}
    assert least <= set(seen) <= most
    totals = League(store, "soccer").totals()
    assert (totals.matches, totals.episodes) == (len(seen), len(seen))
    report = store.verify()
    assert report.ok, str(report)
    assert report.matches == len(seen)


@pytest.mark.parametrize(("writers", "count"), [FEW, MANY])
def test_writers_lose_nothing_and_count_nothing_twice(
    s3_endpoint: str, s3_bucket: str, writers: int, count: int
) -> None:
    check_writers(f"s3://{s3_bucket}/p", s3_endpoint, writers, count)


@pytest.mark.parametrize(("writers", "count"), [FEW, SOME])
def test_writers_that_fork_lose_nothing_and_count_nothing_twice(
    s3_endpoint: str, s3_bucket: str, writers: int, count: int
) -> None:
    check_writers(f"s3://{s3_bucket}/p", s3_endpoint, writers, count, "--fork")


def check_writers(url: str, s3_endpoint: str, writers: int, count: int, *more: str) -> None:
    """Let writers record at the same time, and check that the ledger has all their matches once."""
    start = time.time() + 3 + writers / 2
    processes = [begin(url, s3_endpoint, n, count, start, *more) for n in range(writers)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * writers
    assert set().union(*map(acknowledged, outputs)) == expected(writers, count)
    check(url, s3_endpoint, expected(writers, count), expected(writers, count))


@pytest.mark.parametrize(("writers", "count"), [FEW, SOME])
def test_killed_writers_leave_what_they_have_called_durable(
    s3_endpoint: str, s3_bucket: str, writers: int, count: int
) -> None:
    """Each writer is killed in the middle, and a second life records what the first one had not."""
    url, start = f"s3://{s3_bucket}/p", time.time() + 3 + writers / 2
    chance = random.Random(7)
    processes = [begin(url, s3_endpoint, n, count, start) for n in range(writers)]
    lines: list[str] = []
    for process in processes:
        assert process.stdout is not None
        until = chance.randrange(1, max(2, count // 2))
        lines.append("".join(process.stdout.readline() for _ in range(until)))
        process.kill()
    rests = [process.communicate()[0] for process in processes]
    durable = [acknowledged(first + rest) for first, rest in zip(lines, rests, strict=True)]
    assert all(durable)
    cut_off = {
        seed for writer, seeds in enumerate(durable) for seed in seeds_of(writer, len(seeds) // 2)
    }
    first = set().union(*durable)
    check(url, s3_endpoint, first, first | cut_off)

    # A second life begins with other matches, under the same numbers of writers and batches.
    again = [begin(url, s3_endpoint, writers + n, 3, time.time()) for n in range(2)]
    assert all(process.communicate()[0] for process in again)
    assert [process.returncode for process in again] == [0, 0]
    more = expected(writers + 2, 3) - expected(writers, 3)
    check(url, s3_endpoint, first | more, first | cut_off | more)
