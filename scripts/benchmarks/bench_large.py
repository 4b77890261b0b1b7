"""Push a large policy to S3 and pull it: time, peak memory, and a push that is killed.

    ./.venv/bin/python scripts/benchmarks/bench_large.py [--mib 1024]

The server is the one in POLICYSTORE_TEST_S3 (scripts/tools/ceph.py starts such a server), or else
moto's server, which keeps all data in the memory of a separate process. Every step runs in a fresh
process. The push that was killed is run again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np

KEY, SECRET = "AKIDOFTHETESTS", "SECRETOFTHETESTS"
MIB = 1 << 20


def policy(mib: int) -> Any:
    """Return a policy of this size: half of it one tensor, the rest tensors of 64 MiB."""
    from policystore import Snapshot, Spec

    random = np.random.default_rng(0)
    sizes = [mib // 2] + [64] * (mib // 128)
    return Snapshot(
        weights={
            f"layer{n}": random.standard_normal((size, MIB // 4), dtype=np.float32)
            for n, size in enumerate(sizes)
        },
        spec=Spec(),
    )


def step(what: str, given: argparse.Namespace) -> None:
    """Do one step in this fresh process, and print one line of JSON."""
    from policystore import PolicyStore

    options = {"endpoint_url": given.endpoint, "key": KEY, "secret": SECRET}
    cache = given.cache if what == "pull, from the cache" else False
    if what == "pull, filling the cache":
        cache = given.cache
    store = PolicyStore(given.url, storage_options=options, cache=cache)
    snap = policy(given.mib) if what.startswith(("make", "push")) else None

    def cut(done: int, total: int) -> None:
        if done > total / 2:
            os.kill(os.getpid(), signal.SIGKILL)

    store.names()
    before, began = peak(), time.monotonic()
    if what == "push, killed half-way":
        store.push(snap, "large/policy", progress=cut)
    elif what.startswith("push"):
        store.push(snap, "large/policy")
    elif what.startswith("pull"):
        store.pull("large/policy")
    print(json.dumps({"seconds": time.monotonic() - began, "before": before, "peak": peak()}))


def peak() -> float:
    """Return the most memory that this process has had so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        step(given.step, given)
        return 0
    with contextlib.ExitStack() as stack:
        endpoint = os.environ.get("POLICYSTORE_TEST_S3") or stack.enter_context(moto())
        client = s3(endpoint)
        bucket = f"large-{uuid.uuid4().hex}"
        client.create_bucket(Bucket=bucket)
        cache = stack.enter_context(tempfile.TemporaryDirectory())
        print(f"{given.mib} MiB; compare the memory with that of the step that makes the policy")
        print(f"{'':28}{'time':>9}{'MiB/s':>8}{'peak':>10}{'before':>10}  MiB")
        for what in ("make", "push, killed half-way", "push, again", "push, a third time", "pull",
                     "pull, filling the cache", "pull, from the cache"):  # fmt: skip
            sent = bytes_of(client, bucket)
            done = subprocess.run(
                [sys.executable, __file__, "--step", what, "--mib", str(given.mib),
                 "--endpoint", endpoint, "--url", f"s3://{bucket}/p", "--cache", cache],
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            now = bytes_of(client, bucket)
            killed = what == "push, killed half-way"
            if done.returncode != (-signal.SIGKILL if killed else 0):
                raise SystemExit(f"error: {what}: exit status {done.returncode}")
            if killed:
                print(f"{what:28}{'':>37}  {now / MIB:.0f} MiB stand in the bucket, whole")
                continue
            found = json.loads(done.stdout)
            speed = given.mib / found["seconds"] if what != "make" else 0
            print(f"{what:28}{found['seconds']:>7.2f} s{speed:>8.0f}{found['peak']:>10.0f}"
                  f"{found['before']:>10.0f}  " + (f"{(now - sent) / MIB:.0f} MiB sent"
                                                   if what.startswith("push") else ""))  # fmt: skip
    return 0


def s3(endpoint: str) -> Any:
    import boto3

    return boto3.client("s3", endpoint_url=endpoint, aws_access_key_id=KEY,
                        aws_secret_access_key=SECRET, region_name="us-east-1")  # fmt: skip


def bytes_of(client: Any, bucket: str) -> int:
    """Return the bytes of all objects in the bucket."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return sum(entry["Size"] for page in pages for entry in page.get("Contents", ()))


@contextlib.contextmanager
def moto() -> Any:
    """Run moto's server in a separate process during the block; yield its URL."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from tests.support import s3_server\n"
        "with s3_server.moto_server() as endpoint:\n"
        "    print(endpoint, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(Path(__file__).resolve().parents[2])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        yield first_line(process)
    finally:
        process.kill()
        process.wait()


def first_line(process: subprocess.Popen[str]) -> str:
    """Return the first line that a process prints."""
    line = process.stdout.readline().strip() if process.stdout else ""
    if not line:
        raise SystemExit(f"error: {process.args!r} did not start")
    return line


if __name__ == "__main__":
    sys.exit(main())
