"""Time the calls that look after a large store against a plain listing, in one run.

The store has synthetic objects of a few bytes, whose digests are not those of their bytes, and
versions of ten objects each. Half of the versions were deleted long ago. To add a case, write a
function of a :class:`Subject` and give it a line in ``CASES``.

    scripts/benchmarks/bench_upkeep.py --store memory --objects 1000000
    scripts/benchmarks/bench_upkeep.py --store local --objects 100000
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import blake3

from policystore import Digest, PolicyStore, Version
from policystore.backends.base import Backend, Entry, Problems
from policystore.backends.local import LocalBackend
from policystore.backends.memory import MemoryBackend
from policystore.digest import digest_of
from policystore.format.keys import MARKER, mark_key, object_key, version_key
from policystore.format.records import Mark, Span, marker_bytes

OBJECTS_OF_A_VERSION = 10
VERSIONS_OF_A_NAME = 1000
NONCE = "0" * 32
TIME = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
GRACE = datetime.timedelta(days=7)
LATER = 100 * 24 * 3600.0  # seconds from the making of the store to the collection


class FoldersInMemory(MemoryBackend):
    """Keep keys in memory by their first two folders, so that a listing looks at few other keys."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.folders: dict[str, dict[str, None]] = {}
        write = self._space.write

        def write_and_note(key: str, data: bytes) -> None:
            write(key, data)
            self.folders.setdefault(_folder(key), {})[key] = None

        self._space.write = write_and_note  # type: ignore[method-assign]

    def delete(self, key: str) -> None:  # noqa: D102
        super().delete(key)
        self.folders.get(_folder(key), {}).pop(key, None)

    def entries(self, prefix: str, *, problems: Problems | None = None) -> Iterator[Entry]:  # noqa: D102
        space = self._space
        if prefix.count("/") >= 2:
            folders = [_folder(prefix)]
        else:
            folders = [folder for folder in self.folders if folder.startswith(prefix)]
        for folder in folders:
            for key in list(self.folders.get(folder, ())):
                if key.startswith(prefix):
                    yield Entry(key, len(space.data[key]), space.times[key])

    def prefixes(self, prefix: str, delimiter: str) -> Iterator[str]:  # noqa: D102
        if delimiter == "/" and prefix.count("/") == 1:
            yield from [folder for folder in self.folders if folder.startswith(prefix)]
        else:
            yield from super().prefixes(prefix, delimiter)


def _folder(key: str) -> str:
    return "/".join(key.split("/", 2)[:2]) + "/"


def fill(write: Callable[[str, bytes], None], count: int) -> None:
    """Write a store of ``count`` objects.

    Args:
        write: writes a key.
        count: how many objects the store gets.
    """
    write(MARKER, marker_bytes())
    digests = (Digest(blake3.blake3(b"%d" % n).hexdigest()) for n in range(count))
    for index in range(count // OBJECTS_OF_A_VERSION):
        name, number = f"name{index // VERSIONS_OF_A_NAME}", index % VERSIONS_OF_A_NAME + 1
        objects = dict.fromkeys(itertools.islice(digests, OBJECTS_OF_A_VERSION), 8)
        first = next(iter(objects))
        for digest in objects:
            write(object_key(digest), b"8 bytes.")
        record = Version(
            name, number, first, first, first, first, objects,
            None if number == 1 else first, TIME, "", "", nonce=NONCE,
        )  # fmt: skip
        write(version_key(name, number), record.to_bytes())
        if number == 1:
            deleted = (1, VERSIONS_OF_A_NAME // 2)
            mark = Mark(
                name, 1, "delete", (deleted,), (Span(*deleted, 1),), None, TIME, "", "", NONCE
            )
            write(mark_key(name, 1), mark.to_bytes())


@dataclass
class Subject:
    """What a case works on.

    Attributes:
        backend: the storage; its clock is :data:`LATER` ahead.
        store: a store over the storage.
    """

    backend: Backend
    store: PolicyStore


def plain_listing(subject: Subject) -> str:
    """List every key with its size and time; the measure for all other cases."""
    return f"{sum(1 for _ in subject.backend.entries('')):,} keys"


def collect_dry(subject: Subject) -> str:
    report = subject.store.collect_garbage(GRACE)
    return f"{report.moved.count:,} objects would be moved"


def collect(subject: Subject) -> str:
    report = subject.store.collect_garbage(GRACE, dry_run=False)
    return f"{report.moved.count:,} objects moved"


def collect_again(subject: Subject) -> str:
    report = subject.store.collect_garbage(GRACE, dry_run=False)
    return f"{report.purged.count:,} copies purged, {report.in_trash.count:,} stay in the trash"


CASES: dict[str, Callable[[Subject], str]] = {
    "plain listing": plain_listing,
    "collect, dry run": collect_dry,
    "collect": collect,
    "collect again": collect_again,
}


def open_memory(count: int) -> Backend:
    backend = FoldersInMemory("bench")
    fill(backend.replace, count)
    backend._space.clock = lambda: time.time() + LATER
    return backend


def open_local(count: int, root: Path) -> Backend:
    def write(key: str, data: bytes) -> None:
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    fill(write, count)
    backend = LocalBackend(root)
    server_time = backend.server_time
    backend.server_time = lambda: server_time() + LATER  # type: ignore[method-assign]
    return backend


def peak() -> float:
    """Return the most memory that this process has had so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=["memory", "local"], default="memory")
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--case", action="append", choices=list(CASES), help="all by default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        began = time.perf_counter()
        if args.store == "memory":
            backend = open_memory(args.objects)
        else:
            backend = open_local(args.objects, Path(folder) / "store")
        store = PolicyStore.over(backend, cache=False)
        digest_of(b"")  # the library of the digests is loaded before the memory is measured
        print(f"{args.objects:,} objects, made in {time.perf_counter() - began:.1f} s")
        measure = None
        for name in args.case or CASES:
            before, began = peak(), time.perf_counter()
            result = CASES[name](Subject(backend, store))
            seconds = time.perf_counter() - began
            measure = seconds if measure is None else measure
            print(
                f"{name:24} {seconds:8.2f} s  {seconds / measure:6.1f} x  "
                f"+{peak() - before:6.1f} MiB at its peak  {result}",
                flush=True,
            )


if __name__ == "__main__":
    main()
