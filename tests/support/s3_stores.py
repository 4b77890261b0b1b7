"""Open stores in a bucket through the proxy, and look at the requests that the proxy saw."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from typing import Any

from policystore import PolicyStore
from tests.support.s3_server import Answer, Proxy, Request, client, error

RECORD = "names/a/@versions/"


def open_store(proxy: Proxy, bucket: str, **kwargs: Any) -> PolicyStore:
    options = {"endpoint_url": proxy.endpoint, **kwargs.pop("storage_options", {})}
    kwargs.setdefault("cache", False)
    return PolicyStore(f"s3://{bucket}/p", storage_options=options, **kwargs)


def is_put(request: Request, part: str = "") -> bool:
    return request.method == "PUT" and part in request.path.replace("%40", "@")


def record_names(bucket: str, endpoint: str) -> list[str]:
    found = client(endpoint).list_objects_v2(Bucket=bucket, Prefix="p/names/a/@versions/")
    return [entry["Key"][-15:] for entry in found.get("Contents", ())]


def request_lines(proxy: Proxy, bucket: str) -> list[str]:
    """Return the requests that the proxy saw as lines, without digests and the bucket."""
    lines = (line.replace("%40", "@").replace(f"/{bucket}/p/", "") for line in proxy.told())
    return [re.sub(r"objects/\w\w/\w+", "objects/…", line) for line in lines]


def answering(proxy: Proxy, status: int, code: str, methods: tuple[str, ...]) -> None:
    def refuse(request: Request) -> Answer | None:
        return error(status, code) if request.method in methods else None

    proxy.before = refuse


def run_program(program: str, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *args],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
