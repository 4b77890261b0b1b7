"""Durable pushes to a folder, against writing, flushing and renaming the same files."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from policystore import PolicyStore, Snapshot
from scripts.benchmarks.lines.harness.policies import MB, arrays_of
from scripts.benchmarks.lines.harness.rows import Report
from scripts.benchmarks.lines.harness.settings import Settings
from scripts.benchmarks.lines.harness.times import Prepared, in_turn

__all__ = ["measure"]

_SIZES = {0.5: 30, 8.0: 25, 200.0: 9}  # MB, and how many rounds
_LIMITS = {0.5: 2.0, 8.0: 1.3, 200.0: 1.3}


def measure(settings: Settings, report: Report) -> None:
    for size, rounds in ({0.5: 2, 8.0: 2} if settings.quick else _SIZES).items():
        with settings.folder() as folder:
            _one_size(report, folder, size, settings.rounds(rounds))
    if settings.quick:
        report.omit("200 MB (--quick)")


def _one_size(report: Report, folder: Path, size: float, rounds: int) -> None:
    """Measure pushes of new policies under one name.

    The other contender writes files with the same names and as many bytes in another folder, as a
    push does it: a temporary file, a flush, a rename, and a flush of the file's folder and of each
    folder that is new.
    """
    root, plain = folder / "store", folder / "plain"
    store = PolicyStore(root)
    snaps = _snapshots(int(size * MB))
    store.push(next(snaps), "bench/main")
    held = _files_of(root)
    digest = store.push(next(snaps), "bench/main").digest
    new = {path: data for path, data in _files_of(root).items() if held.get(path) != data}
    report.check(
        sum(map(len, new.values())) >= int(size * MB),
        "the files of a push lack bytes of the policy",
    )
    report.check(store.resolve("bench/main") == digest, "the name has another policy")
    (plain / "tmp").mkdir(parents=True)
    targets = (plain / str(number) for number in itertools.count())
    times = in_turn(
        {
            "push": Prepared(lambda: next(snaps), lambda snap: store.push(snap, "bench/main")),
            "plain": Prepared(
                lambda: next(targets), lambda target: _write(new, plain / "tmp", target)
            ),
        },
        rounds,
        warm_up=2,
    )
    report.check(len(store.log("bench/main")) == rounds + 4, "versions are missing")
    report.check(_files_of(plain / "0") == new, "the other contender wrote other bytes")
    report.compare(
        f"push {size:g} MB, durable", "write, fsync and rename of the same files",
        times["push"], times["plain"], limit=_LIMITS[size],
        note=f"{len(new)} files",
    )  # fmt: skip


def _snapshots(nbytes: int) -> Iterator[Any]:
    """Yield snapshots, every tensor of which is new."""
    arrays = arrays_of(nbytes)
    for number in itertools.count():
        changed = {name: array.copy() for name, array in arrays.items()}
        for array in changed.values():
            array[0] = np.float32(number)
        yield Snapshot(weights=changed)


def _files_of(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def _write(files: dict[str, bytes], temporary: Path, root: Path) -> None:
    for number, (name, data) in enumerate(files.items()):
        path = root / name
        new = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = temporary / str(number)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        beside.rename(path)
        for folder in [path.parent, *(each.parent for each in new)]:
            _flush(folder)


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
