"""A policy of 1 GiB on S3, against boto3's transfer manager. Each transfer has a fresh process."""

from __future__ import annotations

import io
import time
from typing import Any

import blake3
import numpy as np

from policystore import PolicyStore, Snapshot
from scripts.benchmarks.lines.harness.machine import growth_of
from scripts.benchmarks.lines.harness.processes import in_child
from scripts.benchmarks.lines.harness.rows import Report
from scripts.benchmarks.lines.harness.s3 import bucket_of, client_of, options_of
from scripts.benchmarks.lines.harness.settings import Settings
from scripts.benchmarks.lines.harness.times import Times

__all__ = ["download", "measure", "pull", "push", "upload"]

_PEAK = 1.2
_KEY = "plain/policy"


def measure(settings: Settings, report: Report) -> None:
    mib = 32 if settings.quick else 1024
    # moto's server is too slow for a figure, and holds all bytes in one Python process.
    endpoint = settings.s3.get("ceph") or (settings.s3.get("moto") if settings.quick else None)
    if endpoint is None:
        report.omit(f"{mib} MiB on S3: no Ceph (--s3 ceph)")
        return
    place = {"endpoint": endpoint, "bucket": bucket_of(endpoint)}
    taken: dict[str, list[dict[str, Any]]] = {"push": [], "upload": [], "pull": [], "download": []}
    for number in range(1 if settings.quick else 3):
        for name, call in [("push", push), ("upload", upload)][:: 1 - number % 2 * 2]:
            # A second push of the same bytes would send nothing.
            if number == 0:
                taken[name].append(in_child(call, mib=mib, **place))
        for name, call in [("pull", pull), ("download", download)][:: 1 - number % 2 * 2]:
            taken[name].append(in_child(call, **place))
    for ours, theirs in (("push", "upload"), ("pull", "download")):
        digests = {each["digest"] for way in (ours, theirs) for each in taken[way]}
        report.check(len(digests) == 2, f"{ours}s and {theirs}s had other bytes: {digests}")
    report.check(
        {each["digest"] for each in taken["push"]} == {each["digest"] for each in taken["pull"]},
        "what was pulled is not what was pushed",
    )
    times = {way: Times(tuple(each["seconds"] for each in all_)) for way, all_ in taken.items()}
    report.compare(f"pull of {mib} MiB, cold", "boto3 download_fileobj into memory, unverified",
                   times["pull"], times["download"], limit=1.0)  # fmt: skip
    report.compare(f"push of {mib} MiB", "boto3 upload_fileobj of one file", times["push"],
                   times["upload"])  # fmt: skip
    for way, what in (("pull", "with the policy"), ("push", "beyond the policy")):
        grown = max(each["grown"] for each in taken[way])
        report.count(
            f"memory of a {way} of {mib} MiB, {what}", "the policy", grown, float(mib), "MiB",
            limit=_PEAK,
        )  # fmt: skip


def _snapshot(mib: int) -> Snapshot:
    """Return a policy of this size: half of it one tensor, the rest tensors of 64 MiB or less."""
    random = np.random.default_rng(0)
    small = min(64, mib // 8)
    sizes = [mib // 2] + [small] * (mib // 2 // small)
    return Snapshot(
        weights={
            f"layer{number}": random.standard_normal((size, 1 << 18), dtype=np.float32)
            for number, size in enumerate(sizes)
        }
    )


def _store(endpoint: str, bucket: str) -> PolicyStore:
    store = PolicyStore(f"s3://{bucket}/p", storage_options=options_of(endpoint), cache=False)
    store.names()  # loads the code, and connects
    return store


def push(endpoint: str, bucket: str, mib: int) -> dict[str, Any]:
    """Push the policy; return seconds, MiB of memory, and the digest."""
    snap, store = _snapshot(mib), _store(endpoint, bucket)
    return _measured(lambda: str(store.push(snap, "large/policy").digest))


def upload(endpoint: str, bucket: str, mib: int) -> dict[str, Any]:
    """Upload the same bytes as one object."""
    body = b"".join(memoryview(array).cast("B") for array in _snapshot(mib).weights.values())
    client = client_of(endpoint)
    found = _measured(lambda: client.upload_fileobj(io.BytesIO(body), bucket, _KEY))
    return {**found, "digest": blake3.blake3(body).hexdigest()}


def pull(endpoint: str, bucket: str) -> dict[str, Any]:
    """Pull the policy by name."""
    store = _store(endpoint, bucket)
    return _measured(lambda: str(store.pull("large/policy").digest))


def download(endpoint: str, bucket: str) -> dict[str, Any]:
    """Download what :func:`upload` uploaded, into memory."""
    client = client_of(endpoint)
    client.list_objects_v2(Bucket=bucket, MaxKeys=1)
    body = io.BytesIO()
    found = _measured(lambda: client.download_fileobj(bucket, _KEY, body))
    return {**found, "digest": blake3.blake3(body.getbuffer()).hexdigest()}


def _measured(call: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def timed() -> None:
        began = time.perf_counter()
        found["digest"] = call()
        found["seconds"] = time.perf_counter() - began

    found["grown"] = growth_of(timed)
    return found
