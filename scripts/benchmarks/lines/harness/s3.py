"""S3 servers of this machine: moto's, and Ceph's gateway; and boto3 to measure against."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from scripts.tools import ceph

__all__ = ["KINDS", "bucket_of", "client_of", "options_of", "servers"]

KINDS = ("ceph", "moto")
_MOTO = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%s" % server.get_host_and_port(), flush=True)
sys.stdin.read()
"""


@contextmanager
def servers(kinds: Iterable[str]) -> Iterator[dict[str, str]]:
    """Run servers during the block, and yield the URL of each.

    A gateway of Ceph that runs already is used, if ``POLICYSTORE_TEST_S3`` has its URL.
    """
    with ExitStack() as stack:
        urls = {}
        for kind in kinds:
            if kind == "moto":
                urls[kind] = stack.enter_context(_moto())
            else:
                running = os.environ.get("POLICYSTORE_TEST_S3")
                urls[kind] = running or stack.enter_context(ceph.gateway())
        yield urls


@contextmanager
def _moto() -> Iterator[str]:
    """Run moto's server in a separate process, which keeps all data in its memory."""
    process = subprocess.Popen(
        [sys.executable, "-c", _MOTO],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        url = process.stdout.readline().strip() if process.stdout else ""
        if not url:
            raise RuntimeError("moto's server did not start")
        yield url
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


def client_of(endpoint: str, connections: int = 10) -> Any:
    """Return a client of boto3 that keeps so many connections."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id=ceph.KEY, aws_secret_access_key=ceph.SECRET,
        region_name="us-east-1", config=Config(max_pool_connections=connections),
    )  # fmt: skip


def options_of(endpoint: str) -> dict[str, Any]:
    """Return the storage options of a store in a bucket of the server."""
    return {"endpoint_url": endpoint, "key": ceph.KEY, "secret": ceph.SECRET}


def bucket_of(endpoint: str) -> str:
    """Make a new bucket, and return its name."""
    name = f"lines-{uuid.uuid4().hex}"
    client_of(endpoint).create_bucket(Bucket=name)
    return name
