"""Compare a training whose pool has many opponents with one whose pool has few.

    scripts/benchmarks/bench_league_pool.py --opponents 10 2000

For each number of opponents, a process of its own trains PPO on rock, paper, scissors for a few
iterations, with opponents drawn uniformly from so many snapshots in a store. The script prints the
median time of an iteration, the memory of the env runners and of the driver, how many modules they
hold, how often the env runners swapped opponents, and how many requests the driver made to
the storage in an iteration; and each number relative to that of the first pool.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import numpy as np
import psutil
import ray
from league_demo import RockPaperScissors
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from policystore import PolicyStore, Snapshot
from policystore.league import League, OpponentPool, every, uniform
from policystore.rllib import snapshot

RUNNERS, ENVS, HIDDEN = 2, 2, [64, 64]
SLOTS = [f"opponent_{number}" for number in range(ENVS)]
WARM_UP = 3  # iterations that are not measured
EXAMPLES = str(Path(__file__).parents[1] / "examples")
CALLS = "get", "get_hashed", "size", "keys", "entries", "prefixes", "create", "replace", "put"


def make_config() -> PPOConfig:
    return (
        PPOConfig()
        .environment(RockPaperScissors)
        .env_runners(num_env_runners=RUNNERS, num_envs_per_env_runner=ENVS)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=HIDDEN))
        .training(train_batch_size=800, minibatch_size=200, num_epochs=2)
        .debugging(seed=0, log_level="ERROR")
    )


def fill(store: PolicyStore, name: str, count: int) -> None:
    """Push so many policies that differ, and that fit the slots."""
    config = make_config().env_runners(num_env_runners=0)
    config.multi_agent(policies={"main"}, policy_mapping_fn=lambda *_, **__: "main")
    algo = config.build_algo()
    snap = snapshot(algo, "main")
    algo.stop()
    rng = np.random.default_rng(0)
    for _ in range(count):
        weights = {
            key: (array + rng.normal(0, 0.1, array.shape)).astype(array.dtype)
            for key, array in snap.weights.items()
        }
        store.push(Snapshot(weights=weights, state=snap.state, spec=snap.spec), name)


def count_calls(runner: Any = None) -> None:
    """Count the calls of the storage in this process from now on."""
    from policystore.backends.local import LocalBackend

    counts = Counter[str]()
    LocalBackend.counts = counts  # type: ignore[attr-defined]
    for name in CALLS:
        call = getattr(LocalBackend, name)

        def counted(self: Any, key: str, *args: Any, _call: Any = call, **more: Any) -> Any:
            kind = key.partition("/")[0]
            type(self).counts[kind] += 1
            return _call(self, key, *args, **more)

        setattr(LocalBackend, name, counted)


def look(runner: Any = None) -> dict[str, Any]:
    """Return memory in bytes, number of modules and calls of the storage of this process."""
    from policystore.backends.local import LocalBackend

    return {
        "rss": psutil.Process().memory_info().rss,
        "modules": 0 if runner is None else len(list(runner.module.keys())),
        "calls": sum(LocalBackend.counts.values()),  # type: ignore[attr-defined]
    }


def measure(folder: Path, opponents: int, iterations: int) -> dict[str, Any]:
    """Train against so many opponents, and return the figures."""
    # Ray's workers import the environment by the name of its module.
    os.environ["PYTHONPATH"] = os.pathsep.join([EXAMPLES, os.environ.get("PYTHONPATH", "")])
    ray.init(include_dashboard=False, num_cpus=RUNNERS + 1, logging_level="ERROR")
    store = PolicyStore(folder)
    fill(store, "many/main", opponents)
    pool = OpponentPool(
        League(store, "many"), "main", SLOTS, sampler=uniform(), snapshot=every(10**6)
    )
    algo = pool.configure(make_config()).build_algo()
    count_calls()
    algo.env_runner_group.foreach_env_runner(count_calls, local_env_runner=False)
    for _ in range(WARM_UP):
        algo.train()
    seconds, calls, first = [], [], look()["calls"]
    for _ in range(iterations):
        began = time.perf_counter()
        result = algo.train()
        seconds.append(time.perf_counter() - began)
        calls.append(look()["calls"] - first)
        first = look()["calls"]
    runners = algo.env_runner_group.foreach_env_runner(look, local_env_runner=False)
    told = result["policystore"]["opponent_pool"]
    algo.stop()
    ray.shutdown()
    return {
        "opponents": opponents,
        "candidates": told["main"]["candidates"],
        "seconds of an iteration": statistics.median(seconds),
        "seconds of the pool in it": told["seconds"],
        "MB of an env runner": max(each["rss"] for each in runners) / 1e6,
        "MB of the driver": look()["rss"] / 1e6,
        "modules of an env runner": max(each["modules"] for each in runners),
        "swaps": told["swaps"],
        "requests of the driver": statistics.median(calls),
    }


def show(found: list[dict[str, Any]]) -> None:
    width = max(map(len, found[0]))
    for name, base in found[0].items():
        cells = [f"{each[name]:>12,.3f}" if isinstance(base, float) else f"{each[name]:>12,}"
                 for each in found]  # fmt: skip
        ratios = [f"{each[name] / base:8.2f}x" for each in found[1:]] if base else []
        print(f"{name:{width}}", *cells, *ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--opponents", type=int, nargs="+", default=[10, 2000])
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="figures for a program")
    arguments = parser.parse_args()
    if len(arguments.opponents) == 1:
        with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
            print(json.dumps(measure(Path(folder), *arguments.opponents, arguments.iterations)))
        return
    found = []
    for opponents in arguments.opponents:
        command = [sys.executable, __file__, "--opponents", str(opponents)]
        command += ["--iterations", str(arguments.iterations)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found.append(json.loads(output.splitlines()[-1]))
    print(json.dumps(found)) if arguments.json else show(found)


if __name__ == "__main__":
    main()
