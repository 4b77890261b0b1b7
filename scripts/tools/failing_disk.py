#!/usr/bin/env python
"""Push to real disks that fill up, become read-only and go away.

The script mounts small filesystems in memory, so it needs the rights of root on Linux:
``sudo .venv/bin/python scripts/tools/failing_disk.py``. After each failure it checks that the error
has a type and says what to do, that each version whose push had returned is there, that nothing
else is visible, and that the store takes pushes again when the disk does. The tests try the same
with simulated errors, and also a quota that is used up.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from policystore import PolicyStore, ReadOnlyError, Snapshot, Spec, StorageError

MIB = 1 << 20


def snapshot(seed: int, mebibytes: int = 5) -> Snapshot:
    """Return a policy whose large tensor is an object of its own."""
    values = np.random.default_rng(seed).standard_normal(mebibytes * MIB // 8)
    return Snapshot(weights={"w": values}, spec=Spec(config={"seed": seed}))


def require(holds: bool, what: object) -> None:
    """End the program with an error unless a condition holds."""
    if not holds:
        raise SystemExit(f"failed: {what}")


@contextmanager
def mounted(options: str) -> Iterator[Path]:
    """Mount a filesystem in memory at a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def push_until_refused(store: PolicyStore, first: int) -> tuple[list[int], StorageError]:
    """Push to one name until a push fails; return the seeds of the others, and the error."""
    done: list[int] = []
    for seed in range(first, first + 100):
        try:
            store.push(snapshot(seed), "a")
        except StorageError as error:
            return done, error
        done.append(seed)
    raise AssertionError("the disk never became full")


def check(root: Path, seeds: list[int]) -> None:
    """Check that the store holds exactly these versions, and nothing that is damaged."""
    store = PolicyStore(root)
    report = store.verify()
    require(report.ok, str(report))
    require(report.versions == len(seeds), "report.versions == len(seeds)")
    for number, seed in enumerate(seeds, 1):
        require(
            store.pull(f"a@{number}").digest == snapshot(seed).digest,
            "store.pull(f'a@{number}').digest == snapshot(seed).digest",
        )
    require(list((root / "tmp").iterdir()) == [], "list((root / 'tmp').iterdir()) == []")


def full_disk() -> str:
    """Fill a disk of 48 MiB, free some space, and push again."""
    with mounted("size=48m") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(10 * MIB))
        root = disk / "store"
        seeds, error = push_until_refused(PolicyStore(root), 0)
        require("free some space" in str(error), error)
        check(root, seeds)
        ballast.unlink()
        PolicyStore(root).push(snapshot(100), "a")
        check(root, [*seeds, 100])
        return str(error)


def read_only_disk() -> str:
    """Make a disk read-only between two pushes, and writable again."""
    with mounted("size=48m") as disk:
        root = disk / "store"
        store = PolicyStore(root)
        store.push(snapshot(0), "a")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        try:
            store.push(snapshot(1), "a")
        except ReadOnlyError as caught:
            error = str(caught)
        check(root, [0])
        require(store.pull("a") == snapshot(0), "store.pull('a') == snapshot(0)")
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        store.push(snapshot(2), "a")
        check(root, [0, 2])
        return error


def lost_disk() -> str:
    """Unmount the disk of an open store, and mount it again."""
    with mounted("size=48m") as disk, tempfile.TemporaryDirectory() as folder:
        point = Path(folder) / "point"
        point.mkdir()
        subprocess.run(["mount", "--bind", str(disk), str(point)], check=True)
        store = PolicyStore(point / "store")
        store.push(snapshot(0), "a")
        subprocess.run(["umount", str(point)], check=True)
        try:
            store.push(snapshot(1), "a")
        except StorageError as caught:
            error = str(caught)
        require(list(point.iterdir()) == [], "a new store was made where the disk had been")
        subprocess.run(["mount", "--bind", str(disk), str(point)], check=True)
        try:
            require(
                store.push(snapshot(2), "a").number == 2, "store.push(snapshot(2), 'a').number == 2"
            )
            check(point / "store", [0, 2])
        finally:
            subprocess.run(["umount", str(point)], check=True)
        return error


def objects_on_another_disk() -> str:
    """Keep ``objects/`` on a disk of its own by a link, and fill this disk."""
    with mounted("size=48m") as disk, tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        root.mkdir()
        (root / "objects").symlink_to(disk)
        seeds, error = push_until_refused(PolicyStore(root), 0)
        require("free some space" in str(error), error)
        check(root, seeds)
        require(list((disk / ".tmp").iterdir()) == [], "list((disk / '.tmp').iterdir()) == []")
        return str(error)


SITUATIONS: dict[str, Callable[[], str]] = {
    each.__name__.replace("_", " "): each
    for each in (full_disk, read_only_disk, lost_disk, objects_on_another_disk)
}


def main() -> None:
    """Try all situations, and print the error of each."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name, situation in SITUATIONS.items():
        print(f"{name}: {situation()}", flush=True)


if __name__ == "__main__":
    main()
