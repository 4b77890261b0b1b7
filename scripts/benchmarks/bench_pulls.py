"""Measure pulls over a slow connection: of one policy and of a hundred, by digest and by name.

    ./.venv/bin/python scripts/benchmarks/bench_pulls.py [--delay 20] [--policies 100]

A relay in a separate process makes every request longer by the delay. The server is the one in
POLICYSTORE_TEST_S3 (scripts/tools/ceph.py starts such a server), or else moto's server, which
itself takes some milliseconds of one processor for each request.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

import bench_large
import numpy as np

ROUNDS = 7


async def relay(target: str, delay: float) -> None:
    """Pass bytes on in both directions; bytes of a client wait for the delay."""
    host, _, port = target.rpartition(":")

    async def pump(reader: Any, writer: Any, wait: float) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 18):
                if wait:
                    await asyncio.sleep(wait)
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: Any, writer: Any) -> None:
        there, here = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, here, delay), pump(there, writer, 0.0))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def median(call: Callable[[], Any]) -> float:
    """Return the median of the wall times in seconds; the first call does not count."""
    times = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--delay", type=float, default=20.0, help="milliseconds")
    parser.add_argument("--policies", type=int, default=100)
    parser.add_argument("--relay", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.relay:
        asyncio.run(relay(given.relay, given.delay / 1000))
        return 0
    from policystore import PolicyStore, Snapshot, Spec

    with contextlib.ExitStack() as stack:
        endpoint = os.environ.get("POLICYSTORE_TEST_S3") or stack.enter_context(bench_large.moto())
        bucket = f"pulls-{uuid.uuid4().hex}"
        bench_large.s3(endpoint).create_bucket(Bucket=bucket)
        line = subprocess.Popen(
            [sys.executable, __file__, "--relay", endpoint.removeprefix("http://"),
             "--delay", str(given.delay)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        stack.callback(line.wait)
        stack.callback(line.kill)
        slow = f"http://127.0.0.1:{bench_large.first_line(line)}"
        keys = {"key": bench_large.KEY, "secret": bench_large.SECRET}

        def opened(url: str) -> PolicyStore:
            return PolicyStore(
                f"s3://{bucket}/p", storage_options={"endpoint_url": url, **keys}, cache=False
            )

        fast, store = opened(endpoint), opened(slow)
        names = [f"league/p{n}" for n in range(given.policies)]
        digests = []
        for n, name in enumerate(names):
            snap = Snapshot(weights={"w": np.full((64, 64), n, np.float32)}, spec=Spec())
            digests.append(fast.push(snap, name).digest)
        print(f"{given.delay:g} ms a request, {given.policies} policies; medians of {ROUNDS}")
        print(f"{'':12}{'one':>10}{'all':>10}{'requests':>10}{'4 x one + 2 ms a request':>28}")
        for what, refs, requests in (("by digest", digests, 1), ("by name", names, 4)):
            one = median(lambda refs=refs: store.pull(refs[0]))
            all_of_them = median(lambda refs=refs: store.pull_many(refs))
            count = requests * given.policies
            limit = 4 * one + 0.002 * count
            verdict = "within" if all_of_them <= limit else "OVER"
            print(
                f"{what:12}{one * 1e3:>7.1f} ms{all_of_them * 1e3:>7.0f} ms{count:>10}"
                f"{limit * 1e3:>25.0f} ms  {verdict}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
