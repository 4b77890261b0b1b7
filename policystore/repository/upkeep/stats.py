"""Count what is in a store: by listings alone, or with the records of all versions.

Keys are counted while they are listed, and forgotten. What grows with the store are 8 bytes for
each needed object, and a little for each name with marks and for each tag.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator

from policystore._util.batches import batches
from policystore._util.concurrency import in_parallel
from policystore._util.progress import Meter
from policystore.backends.base import Backend, Entry
from policystore.errors import FormatError, InvalidInputError, NotFoundError
from policystore.format.keys import (
    KEPT,
    LEAGUES,
    OBJECTS,
    TRASH,
    digest_bytes_of_key,
    digest_of_kept,
    digest_of_key,
    digest_of_trash,
    mark_key,
    names_prefix,
    parse_name_key,
)
from policystore.format.league_keys import parse_league_key
from policystore.format.records import MAX_MARK, Mark
from policystore.repository.lookup.listing import can_start_a_name
from policystore.repository.objects import ObjectReader
from policystore.repository.roots.search import Roots, find_roots
from policystore.repository.upkeep.stats_report import StatsProgress, StoreStats

__all__ = ["count_store"]

_PAGE = 1024  # keys between two calls of the callback, and records in memory at once


def count_store(
    backend: Backend,
    prefix: str = "",
    *,
    details: bool = False,
    grace: datetime.timedelta = datetime.timedelta(days=7),
    progress: StatsProgress | None = None,
) -> StoreStats:
    """Count names, versions, objects and bytes; change nothing.

    Args:
        backend: the storage of the store.
        prefix: the beginning of the names to count.
        details: whether to read the records as well.
        grace: how old an object has to be before a collector takes it.
        progress: is called with the numbers so far, after each page of keys.

    Raises:
        InvalidInputError: ``prefix`` is not text.
        StorageError: the storage failed.
    """
    if not isinstance(prefix, str):
        raise InvalidInputError(f"a prefix is a string, not {type(prefix).__qualname__}")
    return _Count(backend, prefix, time.time() - grace.total_seconds(), progress).run(details)


class _Count:
    """One count; arguments as in :func:`count_store`, and ``recent``: when the grace begins."""

    def __init__(
        self, backend: Backend, prefix: str, recent: float, progress: StatsProgress | None
    ) -> None:
        self.backend = backend
        self.prefix = prefix
        self.recent = recent
        self.stats = StoreStats(backend.url, prefix)
        self.marks: dict[str, int] = {}  # the newest mark of each name that has marks
        self._progress = progress

    def run(self, details: bool) -> StoreStats:
        stats, whole = self.stats, not self.prefix
        if can_start_a_name(self.prefix):
            for entry in self._listed(names_prefix(self.prefix)):
                self._add_record(entry)
        self._read_marks()
        roots = self._find_roots() if details else None
        if whole:
            self._count_kept()
            self._count_leagues()
        if whole or roots is not None:
            self._count_objects(roots)
        if whole:
            stats.trash_objects = stats.trash_nbytes = 0
            for entry in self._listed(TRASH):
                if digest_of_trash(entry.key) is not None:
                    stats.trash_objects += 1
                    stats.trash_nbytes += entry.nbytes
        return stats

    def _listed(self, prefix: str) -> Iterator[Entry]:
        """Yield the keys of a listing; what cannot be listed is left out."""
        for page in batches(self.backend.entries(prefix, problems=[]), _PAGE):
            yield from page
            if self._progress is not None:
                self._progress(self.stats)

    def _add_record(self, entry: Entry) -> None:
        """Count one key below ``names/``."""
        key, stats = parse_name_key(entry.key), self.stats
        if key is None:
            return  # a key that is not of a store
        kind = key.kind
        if kind == "version":
            stats.versions += 1
            stats.names += key.number == 1
        elif kind == "mark":
            self.marks[key.name] = max(key.number, self.marks.get(key.name, 0))
        elif kind == "tag":
            stats.tags += key.number == 1
        elif kind == "annotation":
            stats.annotations += 1
        else:
            return  # a hint, or the cursor of a mirror
        stats.records += 1

    def _read_marks(self) -> None:
        """Read the newest mark of each name that has marks, and count those that are damaged."""

        def read(key: str) -> Mark | None:
            try:
                return Mark.from_bytes(self.backend.get(key, limit=MAX_MARK), key)
            except (FormatError, NotFoundError):
                return None

        keys = (mark_key(name, number) for name, number in self.marks.items())
        for page in batches(keys, _PAGE):
            for mark in in_parallel(read, page, workers=self.backend.parallel):
                if mark is None:
                    self.stats.unreadable += 1
                else:
                    self.stats.deleted += sum(s.last - s.first + 1 for s in mark.deleted)

    def _find_roots(self) -> Roots:
        """Find what a collector would keep, and count the records that cannot be read."""

        def report(done: int, total: int) -> None:
            if self._progress is not None:
                self._progress(self.stats)

        roots = find_roots(
            ObjectReader(self.backend),
            self.recent,
            Meter(report),
            prefix=self.prefix,
            only_count=True,
        )
        self.stats.unreadable = roots.unreadable
        return roots

    # Objects

    def _count_kept(self) -> None:
        """Count the pushes without a name."""
        keys = (entry.key for entry in self._listed(KEPT))
        self.stats.kept = sum(digest_of_kept(key) is not None for key in keys)
        self.stats.records += self.stats.kept

    def _count_leagues(self) -> None:
        """Count the leagues, and the records and bytes of their present epochs."""
        stats = self.stats
        stats.leagues = stats.match_records = stats.league_nbytes = 0
        epochs: dict[str, int] = {}  # the present epoch of each league that was deleted
        counts: dict[tuple[str, int], int] = {}
        for entry in self._listed(LEAGUES):
            key = parse_league_key(entry.key)
            if key is None:
                continue  # a key that is not of a store
            stats.records += 1
            stats.league_nbytes += max(0, entry.nbytes)
            if key.kind == "deleted":
                epochs[key.league] = max(key.number + 1, epochs.get(key.league, 1))
            elif key.kind == "matches":
                place = key.league, key.epoch
                counts[place] = counts.get(place, 0) + 1
        for (league, epoch), count in counts.items():
            if epoch >= epochs.get(league, 1):
                stats.leagues += 1
                stats.match_records += count

    def _count_objects(self, roots: Roots | None) -> None:
        """Count the objects; with the roots, tell needed objects from garbage."""
        stats, whole = self.stats, not self.prefix
        stats.objects = stats.nbytes = 0
        needed_nbytes = garbage = garbage_nbytes = 0
        if roots is None:
            for entry in self._listed(OBJECTS):
                if digest_bytes_of_key(entry.key) is not None:
                    stats.objects += 1
                    stats.nbytes += entry.nbytes
            return
        for page in batches(self._listed(OBJECTS), _PAGE):
            objects = [(digest_of_key(entry.key), entry) for entry in page]
            known = [(digest, entry) for digest, entry in objects if digest is not None]
            needed = roots.digests.contain([digest for digest, _ in known])
            for (_, entry), is_needed in zip(known, needed, strict=True):
                if whole or is_needed:
                    stats.objects += 1
                    stats.nbytes += entry.nbytes
                if is_needed:
                    needed_nbytes += entry.nbytes
                elif entry.is_old(self.recent):
                    garbage += 1
                    garbage_nbytes += entry.nbytes
        stats.shared_nbytes = max(0, roots.nbytes - needed_nbytes)
        if whole and roots.is_complete:
            stats.garbage_objects, stats.garbage_nbytes = garbage, garbage_nbytes
