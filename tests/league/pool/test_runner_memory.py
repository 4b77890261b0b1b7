"""A thousand swaps leave an env runner with the memory of a few."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from policystore import PolicyStore
from policystore.digest import Digest
from policystore.league.pool.messages import RunnerRequest
from policystore.league.pool.runner import exchange
from policystore.league.pool.runner.slots import SnapshotCache
from policystore.testing import make_snapshot
from tests.support.league_runner import Table

SWAPS = 1000


def resident() -> float:
    """Return the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.long
@pytest.mark.wide
def test_memory_is_flat_over_a_thousand_swaps(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path / "store", cache=tmp_path / "cache")
    table = Table(store, env={"lengths": [1]}, opponents=40, cached_bytes=3000)
    table.give()

    def swap(until: int) -> tuple[int, float]:
        received = swaps = 0
        while swaps < until:
            table.runner.sample(num_timesteps=20)
            answer = exchange(table.runner, RunnerRequest(None, received, table.pool.life))
            received, swaps = answer.first + len(answer.records) - 1, answer.swaps
            table.runner.witnessed.clear()  # the test's own
            table.runner.get_metrics()
            for env in table.runner.env.envs:
                env.unwrapped.history.clear()
        gc.collect()
        return len(gc.get_objects()), resident()

    objects, memory = swap(200)
    more_objects, more_memory = swap(200 + SWAPS)
    assert more_objects - objects < 3000
    assert more_memory - memory < 15.0


def test_the_cache_keeps_what_was_used_last_within_its_bytes() -> None:
    snaps = {str(snap.digest): snap for snap in map(make_snapshot, range(4))}
    (size,) = {snap.nbytes for snap in snaps.values()}
    pulled: list[str] = []

    def pull(digest: Digest) -> object:
        pulled.append(str(digest))
        return snaps[str(digest)]

    cache = SnapshotCache(pull, 2 * size)
    one, two, three, four = snaps
    for player in (one, two, one, three, one, two):
        assert cache.get(player) is snaps[player]
    assert pulled == [one, two, three, two]
    assert cache.nbytes == 2 * size
    small = SnapshotCache(pull, size - 1)
    assert small.get(four) is snaps[four]
    assert small.nbytes == 0
