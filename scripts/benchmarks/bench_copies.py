"""Copy a store of many small objects: time and peak memory, against copies of plain files.

    ./.venv/bin/python scripts/benchmarks/bench_copies.py [--objects 100000] [--remote 5000]

The store has 100 names. Each version has an object of its own, of 1 KiB. The copies between
folders run one after the other, each in a fresh process: ``copy_to``, ``copy_to`` again with
nothing new, and two loops over the files, without and with a flush of each file. The copy to a
bucket goes to moto's server, and beside it boto3 uploads the same files with as many threads.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.benchmarks.lines.harness.machine import peak
from scripts.benchmarks.lines.harness.store_files import Shape, files_below, fill

KEY, SECRET = "AKIDOFTHETESTS", "SECRETOFTHETESTS"
NAMES = 100
THREADS = 64


def build(root: Path, count: int) -> None:
    """Write the files of a store. Its objects are random bytes, which a copy does not look into."""
    fill(files_below(root), Shape(count, count // NAMES, nbytes=1024))


def copy_files(source: Path, target: Path, *, flush: bool) -> None:
    """Copy all files, one after the other."""
    for path in source.rglob("*"):
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            if flush:
                for written in (copy, copy.parent):
                    descriptor = os.open(written, os.O_RDONLY)
                    os.fsync(descriptor)
                    os.close(descriptor)


def upload_files(source: Path, bucket: str, endpoint: str) -> None:
    """Upload all files with boto3, several at once."""
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET,
        region_name="us-east-1", config=Config(max_pool_connections=THREADS),
    )  # fmt: skip

    def upload(path: Path) -> None:
        client.put_object(
            Bucket=bucket, Key=f"plain/{path.relative_to(source)}", Body=path.read_bytes()
        )

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(upload, [path for path in source.rglob("*") if path.is_file()]))


def step(given: argparse.Namespace) -> None:
    """Do one step in this fresh process, and print one line of JSON."""
    from policystore import PolicyStore

    source, target = Path(given.source), given.target
    options = {"endpoint_url": given.endpoint, "key": KEY, "secret": SECRET}
    remote = target.startswith("s3://")
    store = PolicyStore(target, storage_options=options if remote else None, cache=False)
    before, began = peak(), time.monotonic()
    if given.step == "files":
        copy_files(source, Path(target), flush=False)
    elif given.step == "files, flushed":
        copy_files(source, Path(target), flush=True)
    elif given.step == "boto3":
        upload_files(source, target.removeprefix("s3://").partition("/")[0], given.endpoint)
    else:
        PolicyStore(source).copy_to(store)
    print(json.dumps({"seconds": time.monotonic() - began, "before": before, "peak": peak()}))


def run(name: str, source: Path, target: str, endpoint: str = "") -> None:
    """Do one step in a fresh process, and print a line about it."""
    command = [sys.executable, __file__, "--step", name, "--source", str(source)]
    command += ["--target", target, "--endpoint", endpoint]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    took: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{name:24} {took['seconds']:8.1f} s   "
        f"memory {took['before']:.0f} -> {took['peak']:.0f} MiB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--remote", type=int, default=5_000)
    parser.add_argument("--flush", action=argparse.BooleanOptionalAction, default=True)
    for name in ("step", "source", "target", "endpoint"):
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        step(given)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        build(root / "source", given.objects)
        print(f"{given.objects:,} objects, between folders")
        run("files", root / "source", str(root / "plain"))
        if given.flush:
            run("files, flushed", root / "source", str(root / "flushed"))
        run("copy_to", root / "source", str(root / "copy"))
        run("copy_to, nothing new", root / "source", str(root / "copy"))
        shutil.rmtree(root / "source")
        build(root / "source", given.remote)
        print(f"{given.remote:,} objects, to moto's server")
        remote(root / "source")


def remote(source: Path) -> None:
    """Copy to a bucket of moto's server, which runs in a process of its own."""
    import boto3

    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        endpoint = next(iter(server.stdout or ())).strip()
        client = boto3.client(
            "s3", endpoint_url=endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )  # fmt: skip
        client.create_bucket(Bucket="bench")
        run("boto3", source, "s3://bench/", endpoint)
        run("copy_to", source, "s3://bench/copy", endpoint)
        run("copy_to, nothing new", source, "s3://bench/copy", endpoint)
    finally:
        server.kill()
        server.wait()


_SERVER = """
import time
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%s" % server.get_host_and_port(), flush=True)
time.sleep(100_000)
"""


if __name__ == "__main__":
    main()
