"""Measure pull, rebuild and load in an idle cluster, and in a cluster without a free CPU slot.

    ./.venv/bin/python scripts/benchmarks/bench_busy.py [--rounds N]

The script prints both medians, for one running Algorithm with two env runners. Actors that do
nothing take the slots, so only Ray's slots are scarce, and not the processor. Some rounds run with
free slots, then the same number of rounds without a free slot, and so on. A task waits for a slot
all the time, to show that no slot was free.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reads these when it is imported
os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"

import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig

from policystore import PolicyStore
from policystore.rllib import check_sync, load_into, rebuild_module, snapshot

_TURNS = 4


@ray.remote(num_cpus=1)
class Holder:
    """An actor that takes a CPU slot and keeps it."""

    def ready(self) -> bool:
        """Return True once the actor has its slot."""
        return True


@ray.remote(num_cpus=1)
def waits_for_a_slot() -> bool:
    """Return as soon as a slot is free."""
    return True


def timed(call: Callable[[], Any], into: list[float]) -> Any:
    """Call, and append the seconds that the call took."""
    start = time.perf_counter()
    found = call()
    into.append(time.perf_counter() - start)
    return found


def one_round(algo: Any, store: PolicyStore, times: dict[str, list[float]]) -> None:
    """Make and time each of the calls once."""
    snap = timed(lambda: store.pull("busy/main"), times.setdefault("pull", []))
    timed(lambda: rebuild_module(snap), times.setdefault("rebuild_module", []))
    report = timed(
        lambda: load_into(algo, {"default_policy": snap}), times.setdefault("load_into", [])
    )
    report.raise_if_bad()
    timed(lambda: check_sync(algo), times.setdefault("check_sync", [])).raise_if_bad()


def main() -> int:
    """Measure, and print the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40, help="of each kind")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    config = PPOConfig().environment("CartPole-v1").debugging(log_level="ERROR")
    config.env_runners(num_env_runners=2, num_cpus_per_env_runner=0.5)
    config.training(train_batch_size_per_learner=200, minibatch_size=100, num_epochs=1)
    algo = config.build_algo()
    store = PolicyStore(tempfile.mkdtemp(prefix="busy-"))
    store.push(snapshot(algo, "default_policy"), "busy/main")
    found: dict[str, dict[str, list[float]]] = {"idle": {}, "busy": {}}
    try:
        algo.train()
        one_round(algo, store, {})  # imports, caches
        for _ in range(_TURNS):
            for _ in range(rounds // _TURNS):
                one_round(algo, store, found["idle"])
            holders = [Holder.remote() for _ in range(int(ray.available_resources()["CPU"]))]
            ray.get([holder.ready.remote() for holder in holders])
            waiting = waits_for_a_slot.remote()
            for _ in range(rounds // _TURNS):
                one_round(algo, store, found["busy"])
            done, _ = ray.wait([waiting], timeout=0.1)
            if done:
                print("a slot was free: nothing was shown")
                return 1
            for holder in holders:
                ray.kill(holder)
            ray.get(waiting)
    finally:
        algo.stop()
        ray.shutdown()
    print(f"Ray {ray.__version__}; medians of {len(found['idle']['pull'])} rounds each")
    print("| call | idle | all slots taken | ratio |\n|---|---|---|---|")
    for call, idle in found["idle"].items():
        one, other = statistics.median(idle), statistics.median(found["busy"][call])
        print(f"| {call} | {one * 1e3:.2f} ms | {other * 1e3:.2f} ms | {other / one:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
