"""Measure a real server: latencies by size and concurrency, and the requests of each call."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from policystore import PolicyStore, Snapshot
from policystore._util.files import read_file
from policystore.backends import s3 as s3_module
from policystore.digest import Hasher

__all__ = ["calibrate"]

_OPERATIONS = {
    "get_object": "GET", "head_object": "HEAD", "put_object": "PUT", "list_objects_v2": "LIST",
    "delete_object": "DELETE",
}  # fmt: skip
_SIZES = (600, 500_000, 8_000_000)
_AT_ONCE = (1, 8, 32)
_EACH = 96  # requests of each cell


def _summary(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "median_ms": round(1000 * statistics.median(ordered), 2),
        "p99_ms": round(1000 * ordered[int(0.99 * (len(ordered) - 1))], 2),
    }


def _timed(call: Callable[[int], Any], at_once: int, count: int) -> tuple[list[float], float]:
    """Make calls at once; return the seconds of each, and the processor seconds of each."""

    def one(number: int) -> float:
        began = time.perf_counter()
        call(number)
        return time.perf_counter() - began

    before = time.process_time()
    with ThreadPoolExecutor(at_once) as pool:
        seconds = list(pool.map(one, range(count)))
    return seconds, (time.process_time() - before) / count


def _latencies(backend: Any) -> tuple[list[dict[str, Any]], float]:
    rows = []
    cpu: list[float] = []
    for size in _SIZES:
        data = os.urandom(size)
        calls: dict[str, Callable[[int], Any]] = {
            "PUT": lambda n, d=data: backend.replace(f"objects/x{len(d)}/{n}", d),  # type: ignore[misc]
            "GET": lambda n, d=data: backend.get(f"objects/x{len(d)}/{n}", limit=len(d)),  # type: ignore[misc]
        }
        if size == _SIZES[0]:
            calls["HEAD"] = lambda n: backend.size(f"objects/x{_SIZES[0]}/{n}")
            calls["CREATE"] = lambda n: backend.create(f"objects/x{_SIZES[0]}/{n}", b"x")
        count = _EACH if size < 1_000_000 else _EACH // 3
        for operation, call in calls.items():
            call(0)
            for at_once in _AT_ONCE:
                seconds, each = _timed(call, at_once, count)
                rows.append(
                    {"operation": operation, "bytes": size, "at_once": at_once} | _summary(seconds)
                )
                if size == _SIZES[0] and operation in ("GET", "HEAD"):
                    cpu.append(each)
    return rows, statistics.median(cpu)


def _counted(store: PolicyStore, call: Callable[[], Any]) -> dict[str, int]:
    """Make a call, and count its requests below the backend, where s3fs makes them."""
    counts: Counter[str] = Counter()
    fs: Any = store._backend._filesystem()  # type: ignore[attr-defined]
    real = fs._call_s3

    async def counting(method: Any, *args: Any, **request: Any) -> Any:
        name = _OPERATIONS.get(str(method), str(method))
        counts["CREATE" if "IfNoneMatch" in request else name] += 1
        return await real(method, *args, **request)

    fs._call_s3 = counting
    try:
        call()
    finally:
        del fs._call_s3
    return dict(sorted(counts.items()))


def _calls(store: PolicyStore) -> dict[str, dict[str, int]]:
    def snap(seed: int) -> Snapshot:
        return Snapshot(weights={"w": np.full(100, seed, np.float32)})

    for seed in range(3):
        store.push(snap(seed), "a")
    for number in (1, 2):
        store.tag(f"a@{number}", "champion")
    watch = store.watch("a@champion", interval=0.001)
    next(watch)
    calls: dict[str, Callable[[], Any]] = {
        "push": lambda: store.push(snap(9), "a"),
        "pull by digest": lambda: store.pull(snap(0).digest),
        "pull by name": lambda: store.pull("a"),
        "pull by tag": lambda: store.pull("a@champion"),
        "look of a watch": watch._look,
    }
    made = {name: _counted(store, call) for name, call in calls.items()}
    store.tag("a@3", "champion")
    made["look that sees a change"] = _counted(store, watch._look)
    return made


def _hash_bytes(folder: Path) -> float:
    """Measure the bytes a second that are read from the page cache and hashed."""
    path = folder / "x"
    path.write_bytes(os.urandom(64_000_000))

    def read() -> float:
        began = time.perf_counter()
        read_file(path, limit=None, share=True, on_data=Hasher().update)
        return time.perf_counter() - began

    return round(64e6 / min(read() for _ in range(5)), -7)


def _machine() -> str:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"model name\s*:\s*(.+)", text)
    processor = found[1] if found else platform.processor()
    return f"{os.cpu_count()} cores of {processor}, {platform.system()} {platform.machine()}"


def calibrate(endpoint: str, folder: Path, server: str) -> dict[str, Any]:
    """Measure a server, and return what ``scale.py`` writes as JSON.

    Args:
        endpoint: the address of the server, which knows the credentials of the environment.
        folder: for temporary files.
        server: how the page names the server.
    """
    import boto3

    bucket = f"scale-{uuid.uuid4().hex}"
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=bucket)
    store = PolicyStore(f"s3://{bucket}/p", storage_options={"endpoint_url": endpoint}, cache=False)
    calls = _calls(store)
    rows, cpu = _latencies(store._backend)
    return {
        "server": server,
        "machine": _machine(),
        "pool": s3_module._POOL,
        "client_seconds": round(cpu, 5),
        "hash_bytes": _hash_bytes(folder),
        "calls": calls,
        "latencies": rows,
    }
