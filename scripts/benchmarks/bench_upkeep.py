"""Time the calls that look after a large store against a plain listing, in one run.

One store has synthetic objects of a few bytes, whose digests are not those of their bytes, and
versions of ten objects each. Half of the versions were deleted long ago. The prunes have a store
of one name, with as many versions as objects. To add a case, write a function of a
:class:`Subject` and give it a line in ``CASES``. Below ``/tmp``, which may be in memory, a listing
takes less time than on a disk: ``BENCH_DIR`` chooses another folder.

    scripts/benchmarks/bench_upkeep.py --store memory --objects 1000000
    scripts/benchmarks/bench_upkeep.py --store local --objects 100000
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from build_store import TIME, Shape, files_below, fill, peak

from policystore import PolicyStore
from policystore.backends.base import Backend, Entry, Problems
from policystore.backends.local import LocalBackend
from policystore.backends.memory import MemoryBackend
from policystore.digest import digest_of

OBJECTS_OF_A_VERSION = 10
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


@dataclass
class Subject:
    """What a case works on.

    Attributes:
        backend: the storage; its clock is :data:`LATER` ahead.
        store: a store over the storage.
        versions: how many versions the store has.
    """

    backend: Backend
    store: PolicyStore
    versions: int


Case: TypeAlias = Callable[[Subject], str]


def plain_listing(subject: Subject) -> str:
    """List every key with its size and time; the measure for the cases after it."""
    return f"{sum(1 for _ in subject.backend.entries('')):,} keys"


def stats(subject: Subject) -> str:
    return f"{subject.store.stats().objects:,} objects"


def stats_with_details(subject: Subject) -> str:
    counted = subject.store.stats(details=True, grace=datetime.timedelta(0))
    return f"{counted.garbage_objects:,} objects of garbage"


def collect_dry(subject: Subject) -> str:
    report = subject.store.collect_garbage(GRACE)
    return f"{report.moved.count:,} objects would be moved"


def collect(subject: Subject) -> str:
    report = subject.store.collect_garbage(GRACE, dry_run=False)
    return f"{report.moved.count:,} objects moved"


def collect_again(subject: Subject) -> str:
    report = subject.store.collect_garbage(GRACE, dry_run=False)
    return f"{report.purged.count:,} copies purged, {report.in_trash.count:,} stay in the trash"


def plain_listing_of_a_name(subject: Subject) -> str:
    """List every key of the name; the measure for the prunes."""
    return f"{sum(1 for _ in subject.backend.entries('names/n/0/')):,} keys"


def pruning(criterion: str, dry_run: bool) -> Case:
    """Return a case that prunes the name; each criterion prunes some of what the last one left."""

    def case(subject: Subject) -> str:
        now = datetime.datetime.now(datetime.timezone.utc)
        criteria: dict[str, Any] = {
            "keep_last": subject.versions * 4 // 5,
            "older_than": now - TIME - datetime.timedelta(minutes=subject.versions // 2),
            "keep_best": ("return", "max", 100),
        }
        kept = {criterion: criteria[criterion]}
        report = subject.store.prune("n/0", dry_run=dry_run, **kept)
        pruned = sum(last - first + 1 for first, last in report.ranges)
        return f"{pruned:,} versions {'would be ' if dry_run else ''}pruned"

    return case


CASES: dict[str, Case] = {
    "plain listing": plain_listing,
    "stats": stats,
    "stats, details": stats_with_details,
    "collect, dry run": collect_dry,
    "collect": collect,
    "collect again": collect_again,
}
PRUNES: dict[str, Case] = {
    "listing of the name": plain_listing_of_a_name,
    **{
        f"prune, {criterion}{', dry run' if dry_run else ''}": pruning(criterion, dry_run)
        for dry_run in (True, False)
        for criterion in ("keep_last", "older_than", "keep_best")
    },
}


def open_memory(shape: Shape) -> Backend:
    backend = FoldersInMemory("bench")
    fill(backend.replace, shape)
    backend._space.clock = lambda: time.time() + LATER
    return backend


def open_local(shape: Shape, root: Path) -> Backend:
    fill(files_below(root), shape)
    backend = LocalBackend(root)
    server_time = backend.server_time
    backend.server_time = lambda: server_time() + LATER  # type: ignore[method-assign]
    return backend


def run(cases: dict[str, Case], names: list[str], subject: Subject, *, apart: bool) -> None:
    """Run cases and print a line about each.

    Args:
        cases: all cases; the first one is the measure for the others.
        names: which of them to run.
        subject: what they work on.
        apart: whether each case has a process of its own, whose peak of memory is its own.
    """
    measure = None
    for name in [next(iter(cases)), *(name for name in list(cases)[1:] if name in names)]:

        def timed(name: str = name) -> tuple[float, float, str]:
            before, began = peak(), time.perf_counter()
            result = cases[name](subject)
            return time.perf_counter() - began, peak() - before, result

        if apart:
            _FORKED.append(timed)
            with multiprocessing.get_context("fork").Pool(1) as pool:
                seconds, grown, result = pool.apply(_run_forked)
        else:
            seconds, grown, result = timed()
        measure = seconds if measure is None else measure
        print(
            f"{name:32} {seconds:8.2f} s  {seconds / measure:6.1f} x  "
            f"+{grown:6.1f} MiB at its peak  {result}",
            flush=True,
        )


_FORKED: list[Callable[[], tuple[float, float, str]]] = []  # what a forked process runs


def _run_forked() -> tuple[float, float, str]:
    return _FORKED[-1]()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=["memory", "local"], default="memory")
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--case", action="append", choices=[*CASES, *PRUNES], help="all by default")
    args = parser.parse_args()
    shapes = (
        (CASES, Shape(
            args.objects // OBJECTS_OF_A_VERSION, nbytes=8, deleted=0.5,
            objects_of_a_version=OBJECTS_OF_A_VERSION,
        )),
        (PRUNES, Shape(args.objects, args.objects, nbytes=8, with_objects=False)),
    )  # fmt: skip
    for cases, shape in shapes:
        names = [name for name in args.case or cases if name in cases]
        if not names:
            continue
        with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
            began = time.perf_counter()
            in_memory = args.store == "memory"
            backend = open_memory(shape) if in_memory else open_local(shape, Path(folder) / "s")
            subject = Subject(backend, PolicyStore.over(backend, cache=False), shape.versions)
            digest_of(b"")  # the library of the digests is loaded before the memory is measured
            print(
                f"{shape.versions:,} versions of {shape.versions_of_a_name:,} for each name, "
                f"made in {time.perf_counter() - began:.1f} s"
            )
            run(cases, names, subject, apart=not in_memory)


if __name__ == "__main__":
    main()
