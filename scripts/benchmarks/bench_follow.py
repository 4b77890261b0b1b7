"""Measure how long a player's calls take while it follows a tag, and while it loads a new policy.

    ./.venv/bin/python scripts/benchmarks/bench_follow.py [--hidden 64] [--changes 20]

One thread calls act again and again. The table compares these calls without following, with a
thread that only asks for the tag, and while that thread pulls, rebuilds and takes over a policy.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import numpy as np
from serving import NAME, OBSERVATIONS, TAG, make_store

from policystore.rllib import rebuild_player

SECONDS = 3.0  # of the calls without a change


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hidden", type=int, default=64, help="units of both layers")
    parser.add_argument("--changes", type=int, default=20, help="how often the tag moves")
    parser.add_argument("--recurrent", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="policystore-follow-") as folder:
        store = make_store(folder, hidden=given.hidden, recurrent=given.recurrent)
        player = rebuild_player(store.pull(f"{NAME}@1"))
        session = player.session()
        observation = OBSERVATIONS.sample()
        calls: list[tuple[float, float]] = []
        done = threading.Event()

        def play() -> None:
            while not done.is_set():
                began = time.perf_counter()
                session.act(observation)
                calls.append((began, time.perf_counter()))

        thread = threading.Thread(target=play)
        thread.start()
        spans: dict[str, list[tuple[float, float]]] = {}

        def measure(label: str, wait: float) -> None:
            began = time.perf_counter()
            time.sleep(wait)
            spans.setdefault(label, []).append((began, time.perf_counter()))

        time.sleep(0.5)  # the first calls are slower
        measure("without following", SECONDS)
        loading: list[float] = []
        take_over = player._adopt  # replaced, to see when a load ends
        load = store.pull

        def pull(*args: object, **options: object) -> object:
            loading.append(time.perf_counter())
            return load(*args, **options)  # type: ignore[arg-type]

        def adopt(*args: object) -> None:
            take_over(*args)  # type: ignore[arg-type]
            spans.setdefault("while a policy is loaded", []).append(
                (loading[-1], time.perf_counter())
            )

        store.pull = pull  # type: ignore[method-assign, assignment]
        player._adopt = adopt  # type: ignore[method-assign, assignment]
        player.follow(store, f"{NAME}@{TAG}", interval=0.05)
        measure("following, no change", SECONDS)
        following = player.following
        for change in range(given.changes):
            store.tag(f"{NAME}@{2 - change % 2}", TAG)
            while following.changes <= change:
                time.sleep(0.005)
            time.sleep(0.1)
        done.set()
        thread.join()
        player.unfollow()
    report(calls, spans)


def report(calls: list[tuple[float, float]], spans: dict[str, list[tuple[float, float]]]) -> None:
    print(f"{'':<28}{'calls':>8}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}{'calls/s':>9}")
    for label, times in spans.items():
        took = [
            (end - begin) * 1e3
            for begin, end in calls
            if any(begin < last and end > first for first, last in times)
        ]
        p50, p99 = np.percentile(took, [50, 99])
        rate = len(took) / sum(last - first for first, last in times)
        print(f"{label:<28}{len(took):>8}{p50:>9.3f}{p99:>9.3f}{max(took):>9.3f}{rate:>9.0f}")
    loads = spans["while a policy is loaded"]
    took = [(last - first) * 1e3 for first, last in loads]
    print(f"a policy was loaded in {np.median(took):.0f} ms (median of {len(took)})")


if __name__ == "__main__":
    main()
