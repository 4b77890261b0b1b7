"""Time verify and stats of a store of many small policies against a plain listing, in one run.

    scripts/benchmarks/bench_verify.py --store local --policies 100000
    scripts/benchmarks/bench_verify.py --store moto --policies 10000

Each case runs in a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_large
from build_store import Shape, Write, files_below, fill, peak

VERSIONS_OF_A_NAME = 100


def list_plainly(store: Any) -> str:
    """List every key with its size and time; the measure for all other cases."""
    return f"{sum(1 for _ in store._backend.entries('')):,} keys"


def stats(store: Any) -> str:
    return f"{store.stats().objects:,} objects"


def stats_with_details(store: Any) -> str:
    return f"{store.stats(details=True).shared_nbytes:,} bytes shared"


def verify(store: Any) -> str:
    return str(store.verify()).partition(": ")[2]


def verify_a_tenth(store: Any) -> str:
    return str(store.verify(fraction=0.1)).partition(": ")[2]


CASES: dict[str, Callable[[Any], str]] = {
    "plain listing": list_plainly,
    "stats": stats,
    "stats, details": stats_with_details,
    "verify, a tenth": verify_a_tenth,
    "verify": verify,
}


def run_case(name: str, url: str, options: dict[str, str] | None, results: Any) -> None:
    """Run one case in this process; send its seconds, its peak in MiB, and its text."""
    from policystore import PolicyStore

    store = PolicyStore(url, storage_options=options, cache=False)
    next(iter(store._backend.keys("names/")), None)  # loads the libraries
    before, began = peak(), time.perf_counter()
    text = CASES[name](store)
    seconds = time.perf_counter() - began
    results.put((seconds, peak() - before, text))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--store", choices=["local", "moto"], default="local")
    parser.add_argument("--policies", type=int, default=10_000)
    parser.add_argument("--case", action="append", choices=list(CASES), help="all by default")
    given = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        options = None
        began = time.perf_counter()
        if given.store == "local":
            folder = tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR"))
            root = Path(stack.enter_context(folder)) / "store"
            url = str(root)
            write: Write = files_below(root)
        else:
            endpoint = stack.enter_context(bench_large.moto())
            bucket = f"verify-{uuid.uuid4().hex}"
            client = bench_large.s3(endpoint)
            client.create_bucket(Bucket=bucket)
            url = f"s3://{bucket}/p"
            options = {
                "endpoint_url": endpoint, "key": bench_large.KEY, "secret": bench_large.SECRET,
            }  # fmt: skip

            def write(key: str, data: bytes) -> None:
                client.put_object(Bucket=bucket, Key=f"p/{key}", Body=data)

        fill(write, Shape(given.policies, VERSIONS_OF_A_NAME))
        print(f"{given.policies:,} policies, made in {time.perf_counter() - began:.1f} s")
        measure = None
        for name in given.case or CASES:
            results = spawn.Queue()
            process = spawn.Process(target=run_case, args=(name, url, options, results))
            process.start()
            seconds, grown, text = results.get()
            process.join()
            measure = seconds if measure is None else measure
            print(
                f"{name:18} {seconds:8.2f} s {seconds / measure:7.1f} x "
                f"+{grown:6.1f} MiB at its peak  {text}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
