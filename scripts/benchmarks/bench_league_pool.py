"""Compare a training whose pool has many opponents with one whose pool has few.

    scripts/benchmarks/bench_league_pool.py --opponents 10 2000

For each number of opponents, a process of its own trains PPO on rock, paper, scissors, with
opponents drawn uniformly from so many snapshots in a store. The processes take turns: while one
trains for an iteration, the others wait. So what else the machine does slows all of them alike. The
script prints the median time of an iteration and of the pool's part of it, the memory of the env
runners and of the driver, how many modules they hold, how often the env runners swapped opponents,
and how many requests the driver made to the storage in an iteration; and each number relative to
that of the first pool. ``time against the neighbour`` is the median of the ratios of iterations
that ran one after the other, with the middle half of these ratios.
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


def train(folder: Path, opponents: int) -> None:
    """Train against so many opponents: an iteration for each line of the input, told on a line."""
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
    tell({})
    told: Any = {}
    for _ in sys.stdin:
        calls, began = look()["calls"], time.perf_counter()
        told = algo.train()["policystore"]["opponent_pool"]
        seconds = time.perf_counter() - began
        tell({"seconds": seconds, "pool": told["seconds"], "calls": look()["calls"] - calls})
    runners = algo.env_runner_group.foreach_env_runner(look, local_env_runner=False)
    algo.stop()
    ray.shutdown()
    tell(
        {
            "candidates": told["main"]["candidates"],
            "MB of an env runner": max(each["rss"] for each in runners) / 1e6,
            "MB of the driver": look()["rss"] / 1e6,
            "modules of an env runner": max(each["modules"] for each in runners),
            "swaps": told["swaps"],
        }
    )


def tell(figures: dict[str, Any]) -> None:
    print(json.dumps(figures), flush=True)


class Training:
    """A process that trains against so many opponents, an iteration at a time."""

    def __init__(self, opponents: int) -> None:
        self.opponents = opponents
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--opponents", str(opponents), "--turns"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.turns: list[dict[str, Any]] = []

    def read(self) -> Any:
        """Wait for the next line of figures."""
        assert self._process.stdout is not None  # noqa: S101
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"the training against {self.opponents} opponents ended too early")

    def train(self) -> None:
        """Let the process train for an iteration."""
        assert self._process.stdin is not None  # noqa: S101
        print("train", file=self._process.stdin, flush=True)
        self.turns.append(self.read())

    def figures(self, base: Training) -> dict[str, Any]:
        """End the process, and return all figures."""
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.close()
        last = self.read()
        self._process.wait()
        pairs = zip(self.turns, base.turns, strict=True)
        ratios = [mine["seconds"] / its["seconds"] for mine, its in pairs]
        return {
            "opponents": self.opponents,
            "candidates": last.pop("candidates"),
            "seconds of an iteration": self._median("seconds"),
            "time against the neighbour": [round(each, 3) for each in quartiles(ratios)],
            "seconds of the pool in it": self._median("pool"),
            "requests of the driver": self._median("calls"),
            **last,
        }

    def _median(self, name: str) -> float:
        return statistics.median(each[name] for each in self.turns)


def quartiles(numbers: list[float]) -> list[float]:
    return [float(each) for each in np.percentile(numbers, (50, 25, 75))]


def measure(opponents: list[int], iterations: int) -> list[dict[str, Any]]:
    """Let trainings against these numbers of opponents take turns, and return their figures."""
    trainings = []
    for number in opponents:
        trainings.append(Training(number))
        trainings[-1].read()  # nothing is measured while another one starts
    for number in range(iterations):
        for each in trainings if number % 2 else trainings[::-1]:
            each.train()
    return [each.figures(trainings[0]) for each in trainings]


def show(found: list[dict[str, Any]]) -> None:
    width = max(map(len, found[0]))
    for name, base in found[0].items():
        if isinstance(base, list):
            cells = [f"{one[0]:.2f} ({one[1]:.2f} to {one[2]:.2f})"
                     for one in (each[name] for each in found[1:])]  # fmt: skip
            print(f"{name:{width}}", *cells)
            continue
        cells = [f"{each[name]:>12,.3f}" if isinstance(base, float) else f"{each[name]:>12,}"
                 for each in found]  # fmt: skip
        ratios = [f"{each[name] / base:8.2f}x" for each in found[1:]] if base else []
        print(f"{name:{width}}", *cells, *ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--opponents", type=int, nargs="+", default=[10, 2000])
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="figures for a program")
    parser.add_argument("--turns", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.turns:
        with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
            train(Path(folder), arguments.opponents[0])
        return
    found = measure(arguments.opponents, arguments.iterations)
    print(json.dumps(found)) if arguments.json else show(found)


if __name__ == "__main__":
    main()
