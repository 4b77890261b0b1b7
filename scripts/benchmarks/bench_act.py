"""Compare a player's act and act_batch with the network alone, and with RLlib's pipelines.

    ./.venv/bin/python scripts/benchmarks/bench_act.py [--rounds 400] [--quiet-only]

The script prints a Markdown table for each API stack: medians in microseconds, the ratio of a
player to the network alone, and the ratio of the slowest hundredth of the calls to their median.
Three ways are measured in one run, on the same policy:

- network: the module's ``_forward_inference``, or the model of an old-stack policy, under
  ``torch.inference_mode()`` on a tensor that is ready. With torch's own number of threads, and with
  one thread, because a player computes small networks on one thread.
- player: ``player.act(obs)`` and ``player.act_batch`` of 64 rows, as arrays.
- pipelines: the same calls through RLlib's connectors, on one thread.

The network on one thread and the player are called in turn. Then all of it once more while two
other processes compute, on a machine that is busy.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.benchmarks.lines.acting import (
    NEW,
    OLD,
    ROWS,
    Cell,
    alone,
    batch_of,
    new_player,
    old_player,
)


def in_turn(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each call, which are made in turn, for half a second or so."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + 0.6
    for index in range(rounds + rounds // 10):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            stop = time.perf_counter()
            if index >= rounds // 10 or stop > end - 0.3 or index < 2:
                seconds[name].append(stop - start)
        if stop > end and index:
            break
    return seconds


def with_threads(call: Callable[[], Any], threads: int) -> Callable[[], Any]:
    def run() -> Any:
        torch.set_num_threads(threads)
        return call()

    return run


def measure(cell: Cell, make: Callable[[Cell], Any], rounds: int, threads: int) -> None:
    """Print the lines of one policy."""
    player, forward, slow = make(cell)
    fast = player._engine
    single = cell.observations.sample()
    rows = [cell.observations.sample() for _ in range(ROWS)]
    batch = batch_of(cell, rows)

    for label, count, call in (
        ("act", 1, lambda: player.act(single)),
        (f"act_batch of {ROWS}", ROWS, lambda: player.act_batch(batch)),
    ):
        bare = forward(count)
        player._engine = fast
        player.reset()
        # Threads of torch go on spinning for a while after an operation, so that each group of
        # calls has one number of threads.
        seconds = in_turn(
            {"network, one thread": alone(bare, 1), "player": with_threads(call, threads)}, rounds
        )
        seconds["late"] = in_turn({"late": with_threads(call, threads)}, 3 * rounds)["late"]
        player._engine = slow
        player.reset()
        seconds |= in_turn({"pipelines": with_threads(call, 1)}, rounds)
        player._engine = fast
        player.reset()
        seconds |= in_turn({"network": alone(bare, threads)}, rounds)
        middle = {name: statistics.median(each) * 1e6 for name, each in seconds.items()}
        late = {
            name: statistics.quantiles(seconds[name], n=100)[-1] * 1e6
            for name in ("network, one thread", "late")
        }
        best = min(middle["network"], middle["network, one thread"])
        print(
            f"| {cell.name} | {label} | {middle['network']:.0f} | "
            f"{middle['network, one thread']:.0f} | {middle['player']:.0f} | "
            f"{middle['pipelines']:.0f} | {middle['player'] / best:.1f} | "
            f"{late['network, one thread'] / middle['network, one thread']:.1f} | "
            f"{late['late'] / middle['late']:.1f} |",
            flush=True,
        )


def spin() -> None:
    while True:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--quiet-only", action="store_true", help="no busy machine")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    for load in (0,) if options.quiet_only else (0, 2):
        spinning = [multiprocessing.Process(target=spin, daemon=True) for _ in range(load)]
        for each in spinning:
            each.start()
        for stack, cells, make in (("new", NEW, new_player), ("old", OLD, old_player)):
            print(
                f"\n{stack} API stack, {load} other processes of this script compute, "
                f"{os.cpu_count()} cores, load of the machine {os.getloadavg()[0]:.1f}, "
                f"torch has {threads} threads\n\n"
                "| policy | call | network, µs | network on one thread, µs | player, µs | "
                "pipelines on one thread, µs | player / network | p99 / median of the network | "
                "p99 / median of the player |\n|---|---|---|---|---|---|---|---|---|"
            )
            for cell in cells:
                measure(cell, make, options.rounds, threads)
        for each in spinning:
            each.terminate()


if __name__ == "__main__":
    main()
