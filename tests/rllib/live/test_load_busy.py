from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.state import actors

from policystore import PolicyStore
from policystore.rllib import check_sync, load_into, rebuild_module, snapshot
from tests.support.new_stack_algorithms import assert_held, built, configured, other


@ray.remote(num_cpus=1)
class Holder:
    """Takes a CPU and keeps it."""

    def ready(self) -> bool:
        return True


@ray.remote(num_cpus=1)
def probe() -> bool:
    return True


def living() -> set[str]:
    return {name for name, row in actors().items() if row["State"] == "ALIVE"}


@pytest.mark.long
def test_a_full_cluster(ray_session: None, tmp_path: Path) -> None:
    """Pull, rebuild and load take no CPU, actor or task slot, so they do not wait for any."""
    with built(configured(runners=1, evals=1)) as algo:
        algo.train()
        store = PolicyStore(tmp_path / "store")
        snap = other(snapshot(algo, "foe"), 1.0)
        store.push(snap, "foe")
        holders: list[Any] = []
        waiting = None
        try:
            while waiting is None:
                holders.append(Holder.remote())
                ready, _ = ray.wait([holders[-1].ready.remote()], timeout=6)
                if not ready:
                    ray.kill(holders.pop())
                    waiting = probe.remote()
            assert holders
            before = living()
            pulled = store.pull("foe")
            module = rebuild_module(pulled)
            report = load_into(algo, {"foe": pulled})
            again = check_sync(algo, ["foe"])
            done, _ = ray.wait([waiting], timeout=0.1)
            assert not done, "a CPU was free all the time, so nothing was shown"
            assert living() == before
        finally:
            for holder in holders:
                ray.kill(holder)
        assert ray.get(waiting, timeout=60), "the probe can run once there is a CPU"
        assert report.ok
        assert again.ok
        assert_held(algo, {"foe": snap})
        assert set(module.state_dict()) == set(snap.weights)
