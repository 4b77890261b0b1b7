"""Peak memory of pushes and pulls, and how often a push hashes the weights.

Each figure comes from a process of its own, whose peak is that of this call.
"""

from __future__ import annotations

from typing import Any

import blake3
import numpy as np

from policystore import PolicyStore, Snapshot
from scripts.benchmarks.lines.harness.machine import growth_of
from scripts.benchmarks.lines.harness.policies import MB, arrays_of
from scripts.benchmarks.lines.harness.processes import in_child
from scripts.benchmarks.lines.harness.rows import Report
from scripts.benchmarks.lines.harness.settings import Settings

__all__ = ["hashes_of_a_push", "measure", "peak_of_pull", "peak_of_push"]

_PEAK = 1.2  # how often the policy may be in memory


def measure(settings: Settings, report: Report) -> None:
    size = 24 if settings.quick else 400
    if settings.quick:
        report.omit("private folders, and several tensors (--quick)")
    for count, shape in ((1, "one tensor"), *([] if settings.quick else [(12, "12 tensors")])):
        for mode, kind in ((0o2777, "shared"), *([] if settings.quick else [(0o755, "private")])):
            with settings.folder() as folder:
                root = folder / "store"
                root.mkdir()
                root.chmod(mode)
                where = {"root": str(root), "size": size, "tensors": count}
                pushed = in_child(peak_of_push, **where)
                pulled = in_child(peak_of_pull, root=str(root))
                report.check(pulled["same"], "a pull gave other weights")
                what = f"{size} MB in {shape}, {kind} folder"
                report.count(
                    f"memory of a push beyond the policy: {what}", "the policy",
                    pushed, size * MB / 2**20, "MiB", limit=_PEAK,
                )  # fmt: skip
                report.count(
                    f"memory of a pull, with the policy: {what}", "the policy",
                    pulled["grown"], size * MB / 2**20, "MiB", limit=_PEAK,
                )  # fmt: skip
    for size_of in (0.5, 8.0):
        with settings.folder() as folder:
            hashed = in_child(hashes_of_a_push, root=str(folder / "store"), size=size_of)
        report.check(hashed >= int(size_of * MB) * 0.99, "a push hashed less than the weights")
        report.count(
            f"bytes that a push of {size_of:g} MB hashes", "the weights", hashed, size_of * MB, "B",
            limit=1.05, note="records and headers are hashed, too",
        )  # fmt: skip


def peak_of_push(root: str, size: int, tensors: int) -> float:
    """Return by how many MiB a push raises the peak above that of the policy."""
    store = PolicyStore(root)
    store.push(Snapshot(weights={"w": np.ones(3, np.float32)}), "bench/first")  # loads the code
    snap = Snapshot(weights=arrays_of(size * MB, tensors=tensors))
    return growth_of(lambda: store.push(snap, "bench/main"))


def peak_of_pull(root: str) -> dict[str, Any]:
    """Return by how many MiB a pull, with what it returns, raises the peak."""
    store = PolicyStore(root)
    store.pull("bench/first")
    kept = []

    def pull() -> None:
        kept.append(store.pull("bench/main"))
        for array in kept[0].weights.values():
            array.max()  # reads every page, so that all of a map is in memory

    grown = growth_of(pull)
    snap = kept[0]
    weights = arrays_of(snap.nbytes, tensors=len(snap.weights))
    return {
        "grown": grown,
        "same": all(np.array_equal(weights[name], snap.weights[name]) for name in weights),
    }


def hashes_of_a_push(root: str, size: float) -> int:
    """Return how many bytes a push hashes, with the Snapshot that is pushed."""
    arrays = arrays_of(int(size * MB))
    hashed = 0
    original: Any = blake3.blake3

    def counting(data: Any = b"", **options: Any) -> Any:
        return _Counting(original(data, **options), memoryview(data).nbytes)

    class _Counting:
        def __init__(self, inner: Any, count: int) -> None:
            nonlocal hashed
            hashed += count
            self._inner = inner

        def update(self, data: Any) -> Any:
            nonlocal hashed
            hashed += memoryview(data).nbytes
            self._inner.update(data)
            return self

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    blake3.blake3 = counting  # type: ignore[assignment, misc]
    try:
        PolicyStore(root).push(Snapshot(weights=arrays), "bench/main")
    finally:
        blake3.blake3 = original  # type: ignore[misc]
    return hashed
