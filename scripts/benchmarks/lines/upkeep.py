"""Calls that look after a store of 100,000 objects, against a plain listing of the same keys.

Each call runs in a process of its own, so that its peak of memory is its own. Half of the versions
were deleted long ago. The calls that have to read are measured against a loop that reads, too.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blake3

from policystore import PolicyStore
from scripts.benchmarks.lines.harness.machine import peak
from scripts.benchmarks.lines.harness.processes import in_child
from scripts.benchmarks.lines.harness.rows import Report
from scripts.benchmarks.lines.harness.settings import Settings
from scripts.benchmarks.lines.harness.store_files import Shape, files_below, fill
from scripts.benchmarks.lines.harness.times import Times

__all__ = ["measure", "run"]

_LIMIT = 1.5
_FLAT = 1.2  # the peak of memory, compared with that of a tenth of the objects
_VERSIONS_OF_A_NAME = 1000
_NOW = datetime.timedelta(0)


def measure(settings: Settings, report: Report) -> None:
    objects, rounds = (400, 1) if settings.quick else (100_000, 3)
    if settings.quick:
        report.omit("memory, compared with that of a smaller store (--quick)")
    with settings.folder() as folder:
        _objects(report, folder, objects, rounds)
    with settings.folder() as folder:
        _versions(report, folder, objects, rounds)


def _objects(report: Report, folder: Path, objects: int, rounds: int) -> None:
    """Measure calls that go through all objects."""
    roots = {count: folder / str(count) for count in (objects // 10, objects)}
    for count, root in roots.items():
        versions = min(_VERSIONS_OF_A_NAME, count // 4)
        fill(files_below(root), Shape(count, versions, deleted=0.5))
    found = _in_turn(["list", "stats", "collect, dry run"], roots[objects], rounds)
    more = ["hash", "verify", "verify, a tenth", "stats, details"]
    found |= _in_turn(more, roots[objects], 1)
    light = ["stats", "collect, dry run", "verify"] if rounds > 1 else []
    small = _in_turn(light, roots[objects // 10], 1)
    # These change the store. Both move half of its objects.
    found |= _in_turn(["collect"], roots[objects], 1)
    found |= _in_turn(["rename"], roots[objects], 1)
    for call in ("list", "hash", "stats", "verify"):
        counts = {each["count"] for each in found[call]}
        report.check(
            min(counts) >= objects, f"{call}: {counts} objects or keys, not {objects} or more"
        )
    half = {each["count"] for call in ("collect", "collect, dry run", "rename")
            for each in found[call]}  # fmt: skip
    report.check(half == {objects // 2}, f"{half} objects were moved, not half of {objects}")
    what = f"of {objects:,} objects"
    for call, ours, theirs, against in (
        ("stats()", "stats", "list", "a plain listing"),
        ("collect_garbage(), dry run", "collect, dry run", "list", "a plain listing"),
        ("verify()", "verify", "hash", "a plain listing, and hashing every object"),
        ("collect_garbage(), half is moved", "collect", "rename",
         "a plain listing, and renaming as many files"),
    ):  # fmt: skip
        report.compare(f"{call} {what}", against, _times(found[ours]), _times(found[theirs]),
                       limit=_LIMIT)  # fmt: skip
    for call, shown in (
        ("stats, details", "stats(details=True)"), ("verify, a tenth", "verify(fraction=0.1)"),
    ):  # fmt: skip
        report.compare(f"{shown} {what}", "a plain listing", _times(found[call]),
                       _times(found["list"]))  # fmt: skip
    for call in light:
        report.count(f"peak memory of {call} {what}", f"of {objects // 10:,} objects",
                     _peak(found[call]), _peak(small[call]), "MiB", limit=_FLAT)  # fmt: skip


def _versions(report: Report, folder: Path, versions: int, rounds: int) -> None:
    """Measure prunes of a name that has all versions."""
    roots = {count: folder / str(count) for count in (versions // 10, versions)}
    for count, root in roots.items():
        fill(files_below(root), Shape(count, count, nbytes=8, with_objects=False))
    calls = ["list name", "read name", "prune, keep_last", "prune, keep_best"]
    found = _in_turn(calls, roots[versions], rounds)
    small = _in_turn(calls[2:] if rounds > 1 else [], roots[versions // 10], 1)
    for call in calls[2:]:
        counts = {each["count"] for each in found[call]}
        # The newest version is kept, too, if it is not one of the best.
        right = {versions - versions // 10, versions - versions // 10 - (call != calls[2])}
        report.check(counts <= right, f"{call}: {counts} versions are pruned, not {right}")
    what = f"of {versions:,} versions"
    for ours, theirs, against in (
        ("prune, keep_last", "list name", "a plain listing of the name"),
        ("prune, keep_best", "read name", "a plain listing, and reading every record"),
    ):
        report.compare(f"{ours} {what}", against, _times(found[ours]), _times(found[theirs]),
                       limit=_LIMIT)  # fmt: skip
        if small:
            report.count(f"peak memory of {ours} {what}", f"of {versions // 10:,} versions",
                         _peak(found[ours]), _peak(small[ours]), "MiB", limit=_FLAT)  # fmt: skip


def _in_turn(calls: list[str], root: Path, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Run each call in a process of its own, once in each round."""
    found: dict[str, list[dict[str, Any]]] = {call: [] for call in calls}
    for number in range(rounds if calls else 0):
        first = number % len(calls)
        for call in calls[first:] + calls[:first]:
            found[call].append(in_child(run, call=call, root=str(root)))
    return found


def _times(results: list[dict[str, Any]]) -> Times:
    return Times(tuple(each["seconds"] for each in results))


def _peak(results: list[dict[str, Any]]) -> float:
    return max(each["peak"] for each in results)


def run(call: str, root: str) -> dict[str, Any]:
    """Make one call in this process; return seconds, the peak in MiB, and a count."""
    store = PolicyStore(root, cache=False)
    store.names("n/0")  # loads the code
    blake3.blake3(b"")
    began = time.perf_counter()
    count = _CALLS[call](store, Path(root))
    return {"seconds": time.perf_counter() - began, "peak": peak(), "count": count}


def _list(_: PolicyStore, root: Path) -> int:
    """List all files with their sizes and times, as a program without policystore would."""
    return sum(1 for _ in _files(root))


def _hash(_: PolicyStore, root: Path) -> int:
    """List all files, and hash each object."""
    count = 0
    for path, _size, _time in _files(root):
        if path.endswith(".safetensors"):
            data = Path(path).read_bytes()
            count += blake3.blake3(data).hexdigest() == Path(path).stem
    return count


def _files(root: Path) -> Any:
    waiting = [str(root)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    stat = entry.stat(follow_symlinks=False)
                    yield entry.path, stat.st_size, stat.st_mtime


def _rename(_: PolicyStore, root: Path) -> int:
    """List all files, and rename each object that is left into another folder."""
    moved = 0
    for path, _size, _time in list(_files(root)):
        if "/objects/" in path:
            target = root / "plain" / Path(path).parent.name
            target.mkdir(parents=True, exist_ok=True)
            Path(path).rename(target / Path(path).name)
            moved += 1
    return moved


def _read_records(_: PolicyStore, root: Path) -> int:
    return sum(len(Path(path).read_bytes()) > 0 for path, *_ in _files(root / "names/n/0"))


def _verify(store: PolicyStore, fraction: float | None = None) -> int:
    report = store.verify(fraction=fraction)
    if not report.ok:
        raise RuntimeError(str(report)[:500])
    return report.objects


def _prune(store: PolicyStore, root: Path, **criteria: Any) -> int:
    report = store.prune("n/0", dry_run=True, **criteria)
    return sum(last - first + 1 for first, last in report.ranges)


_CALLS: dict[str, Callable[[PolicyStore, Path], int]] = {
    "list": _list,
    "hash": _hash,
    "rename": _rename,
    "list name": lambda _, root: sum(1 for _ in _files(root / "names/n/0")),
    "read name": _read_records,
    "stats": lambda store, _: store.stats().objects,
    "stats, details": lambda store, _: store.stats(details=True).objects,
    "verify": lambda store, _: _verify(store),
    "verify, a tenth": lambda store, _: _verify(store, 0.1),
    "collect, dry run": lambda store, _: store.collect_garbage(_NOW, exclusive=True).moved.count,
    "collect": lambda store, _: (
        store.collect_garbage(_NOW, exclusive=True, dry_run=False).moved.count
    ),
    "prune, keep_last": lambda store, root: _prune(store, root, keep_last=_tenth(root)),
    "prune, keep_best": lambda store, root: _prune(
        store, root, keep_best=("return", "max", _tenth(root)), keep_tagged=False
    ),
}


def _tenth(root: Path) -> int:
    """Return a tenth of the versions; the folder of the store is called by their number."""
    return int(root.name) // 10
