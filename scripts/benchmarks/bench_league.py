"""Time what an opponent pool costs inside of an env runner: swaps, and bookkeeping per episode.

A swap gives two slots other opponents: both are pulled through a cache on disk and checked against
their digests, the slots' present weights are hashed, because the records of an episode wait for
that, and the new ones are written and locked. The opponents were in the slots before, as most are
in a long run: the first load of each takes one hash more, and of the first one all checks.
Beside it, alternately, ``load_state_dict`` writes the same weights from tensors that were made
beforehand, and checks nothing. *Bookkeeping* is all that the pool does in an episode whose
opponents sit in their slots already, without the environment and the networks; and the hash of both
slots in the exchange of an iteration.

``--memory`` swaps opponents again and again, and prints the memory of the process on the way.
"""

from __future__ import annotations

import argparse
import collections
import functools
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reads these when it is imported
os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"


import numpy as np
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.examples.envs.classes.multi_agent import MultiAgentCartPole

from policystore import PolicyStore, Snapshot
from policystore.league.pool.messages import Candidate, Draws, DrawTable, RunnerRequest
from policystore.league.pool.runner import (
    EndedEpisode,
    PoolCallbacks,
    PoolMapping,
    PoolSettings,
    RunnerPool,
    exchange,
    pool_of,
)
from policystore.rllib import snapshot

SLOTS = ("opponent_0", "opponent_1")
AGENTS = (0, 1, 2)
LEARNER = "blake3:" + "1" * 64
ITERATION = 1.0  # seconds


class Bench:
    """An env runner of three agents, with two slots and a pool of stored opponents."""

    def __init__(self, folder: Path, hidden: int, opponents: int) -> None:
        store = PolicyStore(folder / "store", cache=folder / "cache")
        settings = PoolSettings(
            store, "bench", ("main",), {"": SLOTS}, {"main": (0,)}, cached_bytes=0
        )
        self.runner = MultiAgentEnvRunner(config=configured(settings, hidden))
        pool = pool_of(self.runner)
        assert pool is not None  # noqa: S101
        self.pool: RunnerPool = pool
        first = snapshot(self.runner.module[SLOTS[0]])
        self.parameters = sum(array.size for array in first.weights.values())
        rng = np.random.default_rng(0)
        self.snaps = [
            Snapshot(
                weights={
                    name: rng.normal(size=array.shape).astype(array.dtype)
                    for name, array in first.weights.items()
                },
                spec=first.spec,
            )
            for _ in range(opponents)
        ]
        versions = [store.push(snap, "bench/main") for snap in self.snaps]
        self.candidates = [Candidate(str(each.digest), each.ref) for each in versions]
        for each in versions:
            store.pull(each.digest)  # into the cache
        self.number = 0

    def draw(self, *candidates: Candidate, hashes: bool = True) -> None:
        """Let the next episodes be played against these opponents.

        Args:
            candidates: the opponents.
            hashes: whether records are handed out, for which slots are hashed.
        """
        self.number += 1
        table = DrawTable(candidates, sequence=tuple(range(len(candidates))))
        draws = Draws(self.number, 0, {"main": table}, {"main": 1.0}, {"main": LEARNER}, True)
        request = RunnerRequest(draws, received=10**9, life=self.pool.life)
        if hashes:
            exchange(self.runner, request)
        else:
            self.pool._take(self.runner, request)

    def play(self) -> tuple[float, float]:
        """Begin and end an episode; return the seconds of its beginning, and of the rest."""
        name = f"episode {time.perf_counter_ns()}"
        began = time.perf_counter()
        self.pool.begin(self.runner, 0, name, AGENTS, 1)
        between = time.perf_counter()
        self.pool.start(0)
        self.pool.step(self.runner, 0)
        policies = self.pool.under_way[0].policies
        ended = EndedEpisode(name, dict.fromkeys(AGENTS, 1.0), policies, 1, True, False, None)
        self.pool.end(self.runner, 0, ended)
        return between - began, time.perf_counter() - between


def configured(settings: PoolSettings, hidden: int) -> Any:
    """Return the config of an env runner."""
    return (
        PPOConfig()
        .environment(MultiAgentCartPole, env_config={"num_agents": len(AGENTS)})
        .env_runners(num_env_runners=0)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[hidden, hidden]))
        .multi_agent(
            policies={"main", *SLOTS},
            policy_mapping_fn=PoolMapping(settings),
            policies_to_train=["main"],
        )
        .callbacks(functools.partial(PoolCallbacks, settings))
        .debugging(log_level="ERROR")
    )


def measure(hidden: int, rounds: int) -> None:
    """Print medians and ratios for a network."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), hidden, opponents=6)
        modules = [bench.runner.module[slot].unwrapped() for slot in SLOTS]
        names = list(modules[0].state_dict())
        tensors = [
            {n: torch.from_numpy(np.array(s.weights[n])) for n in names} for s in bench.snaps
        ]
        times: dict[str, list[float]] = collections.defaultdict(list)
        for number in range(rounds):
            # Pairs that have nothing in common with the pair before: both slots are loaded.
            first = number % 3 * 2
            bench.draw(*bench.candidates[first - 2 :][:2])
            bench.play()  # its record waits for both slots
            bench.draw(*bench.candidates[first : first + 2], hashes=False)
            before = bench.pool.slots.swaps
            used = time.process_time()
            swap, _ = bench.play()
            used = time.process_time() - used
            assert bench.pool.slots.swaps == before + 2  # noqa: S101
            if number >= 3:
                times["swap"].append(swap)
                times["swap, processor"].append(used)
            began = time.perf_counter()
            for module, weights in zip(modules, tensors[first:], strict=False):
                module.load_state_dict(weights)
            times["plain"].append(time.perf_counter() - began)
            for slot in SLOTS:  # load_state_dict wrote the same bytes
                bench.pool.watch.digest(_access(bench), slot)
            for _ in range(3):
                times["episode"].append(sum(bench.play()))
            began, used = time.perf_counter(), time.process_time()
            bench.draw(*bench.candidates[first : first + 2])
            times["exchange"].append(time.perf_counter() - began)
            times["exchange, processor"].append(time.process_time() - used)
        assert not bench.pool._buffer.unknown  # noqa: S101
        median = {name: statistics.median(each) * 1e3 for name, each in times.items()}
        best = {name: min(each) * 1e3 for name, each in times.items()}
        print(
            f"{bench.parameters:,} parameters: swap of two slots {median['swap']:.2f} ms, "
            f"{median['swap, processor']:.2f} ms of processor time (best "
            f"{best['swap, processor']:.2f}), which is "
            f"{median['swap, processor'] / 1e3 / ITERATION:.2%} of an iteration of a second; "
            f"load_state_dict of both {median['plain']:.2f} ms; bookkeeping of an episode "
            f"{median['episode'] * 1e3:.0f} µs (best {best['episode'] * 1e3:.0f}); an exchange, "
            f"which hashes both slots, {median['exchange']:.2f} ms, "
            f"{median['exchange, processor']:.2f} ms of processor time"
        )


def _access(bench: Bench) -> Any:
    from policystore.rllib.worker_code.tensors import PolicyAccess

    return PolicyAccess(bench.runner)


def resident() -> float:
    """Return the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def watch_memory(hidden: int, swaps: int) -> None:
    """Print the memory of the process over many swaps, each to another of 50 opponents."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), hidden, opponents=50)
        bench.snaps.clear()
        for number in range(swaps // 2 + 1):
            if number % max(1, swaps // 20) == 0:
                print(f"{bench.pool.slots.swaps} swaps: {resident():.1f} MB")
            first = number % 25 * 2
            bench.draw(*bench.candidates[first : first + 2])
            bench.play()


def main() -> None:
    """Measure networks of about 20 thousand, one million and 13 million parameters."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 1000, 3600])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--memory", type=int, metavar="SWAPS")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for hidden in arguments.hidden:
        if arguments.memory is not None:
            watch_memory(hidden, arguments.memory)
        else:
            measure(hidden, arguments.rounds)


if __name__ == "__main__":
    main()
