"""Count what is in a store: by listings alone, or with the records of all versions.

Keys are counted while they are listed, and forgotten. What grows with the store are 8 bytes for
each needed object, and a little for each name with marks and for each tag.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

from policystore._util.batches import batches
from policystore._util.concurrency import in_parallel
from policystore.backends.base import Backend, Entry
from policystore.errors import FormatError, IntegrityError, InvalidInputError, NotFoundError
from policystore.format.keys import (
    KEPT,
    MAX_RECORD,
    OBJECTS,
    TRASH,
    digest_of_kept,
    digest_of_key,
    digest_of_trash,
    mark_key,
    name_of_prefix,
    names_prefix,
    number_of,
    tag_key,
    tag_of_prefix,
    tags_prefix,
    version_key,
)
from policystore.format.records import MAX_MARK, Kept, Mark, Span, TagMove, Version, find_span
from policystore.repository.digest_prefixes import DigestPrefixes
from policystore.repository.objects import ObjectReader
from policystore.repository.upkeep.stats_report import StatsProgress, StoreStats

__all__ = ["count_store"]

_Record = TypeVar("_Record")

# The keys of one name follow each other.
_name_of_prefix = lru_cache(1024)(name_of_prefix)

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


@dataclass
class _Tag:
    """The moves of a tag.

    Attributes:
        newest: the number of the newest move.
        first_recent: the first move within the grace; 0 if there is none.
    """

    newest: int = 0
    first_recent: int = 0


@dataclass
class _Seen:
    """What the listing of the names showed.

    Attributes:
        marks: the newest mark of each name that has marks.
        recent_marks: the marks within the grace, as name and number.
        tags: the moves of each tag, by name and tag.
        deleted: the deleted versions of each name.
        tagged: versions to which a tag points, or has pointed within the grace.
    """

    marks: dict[str, int] = field(default_factory=dict)
    recent_marks: set[tuple[str, int]] = field(default_factory=set)
    tags: dict[tuple[str, str], _Tag] = field(default_factory=dict)
    deleted: dict[str, tuple[Span, ...]] = field(default_factory=dict)
    tagged: set[tuple[str, int]] = field(default_factory=set)


class _Count:
    """One count; arguments as in :func:`count_store`, and ``recent``: when the grace begins."""

    def __init__(
        self, backend: Backend, prefix: str, recent: float, progress: StatsProgress | None
    ) -> None:
        self.backend = backend
        self.prefix = prefix
        self.recent = recent
        self.stats = StoreStats(backend.url, prefix)
        self.seen = _Seen()
        self.reader = ObjectReader(backend)
        self.needed = DigestPrefixes()
        self.needed_nbytes = 0
        self._progress = progress

    def run(self, details: bool) -> StoreStats:
        stats, whole = self.stats, not self.prefix
        for entry in self._listed(names_prefix(self.prefix)):
            self._add_record(entry)
        self._read_marks()
        if details:
            self._read_tags()
            self._read_versions()
        if whole:
            self._count_kept(details)
        if whole or details:
            self._count_objects(details)
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

    def _is_recent(self, entry: Entry) -> bool:
        return entry.time is None or entry.time >= self.recent

    def _add_record(self, entry: Entry) -> None:
        """Count one key below ``names/``."""
        prefix, separator, _ = entry.key.partition("/@")
        number, name = number_of(entry.key), _name_of_prefix(prefix + separator)
        if number is None or name is None or not separator:
            return  # a hint, or a key that is not of a store
        stats, seen = self.stats, self.seen
        tag = None
        if entry.key.startswith(tags_prefix(name)):
            tag = tag_of_prefix(entry.key.rpartition("/")[0] + "/", name)
        if entry.key == version_key(name, number):
            stats.versions += 1
            stats.names += number == 1
        elif entry.key == mark_key(name, number):
            seen.marks[name] = max(number, seen.marks.get(name, 0))
            if self._is_recent(entry):
                seen.recent_marks.add((name, number))
        elif tag is not None and entry.key == tag_key(name, tag, number):
            stats.tags += number == 1
            moves = seen.tags.setdefault((name, tag), _Tag())
            moves.newest = max(moves.newest, number)
            if self._is_recent(entry):
                moves.first_recent = min(number, moves.first_recent or number)
        else:
            return
        stats.records += 1

    def _read(
        self, keys: list[str], parse: Callable[[bytes | memoryview, str], _Record], limit: int
    ) -> list[_Record]:
        """Read records at the same time, and count those that cannot be read."""

        def read(key: str) -> _Record | None:
            try:
                return parse(self.backend.get(key, limit=limit), key)
            except (FormatError, NotFoundError):
                return None

        records = in_parallel(read, keys, workers=self.backend.parallel)
        good = [record for record in records if record is not None]
        self.stats.unreadable += len(records) - len(good)
        return good

    def _read_marks(self) -> None:
        """Read the newest mark of each name that has marks."""
        keys = (mark_key(name, number) for name, number in self.seen.marks.items())
        for page in batches(keys, _PAGE):
            for mark in self._read(page, Mark.from_bytes, MAX_MARK):
                self.seen.deleted[mark.name] = mark.deleted
                self.stats.deleted += sum(span.last - span.first + 1 for span in mark.deleted)

    # What needs the records

    def _read_tags(self) -> None:
        """Find the versions that a tag points to, or has pointed to within the grace."""
        keys = (
            tag_key(name, tag, number)
            for (name, tag), moves in self.seen.tags.items()
            # The first recent move has taken the tag away from the target of the move before.
            for number in range(
                max(1, (moves.first_recent or moves.newest + 1) - 1), moves.newest + 1
            )
        )
        for page in batches(keys, _PAGE):
            for move in self._read(page, TagMove.from_bytes, MAX_RECORD):
                if move.target is not None:
                    self.seen.tagged.add((move.name, move.target))

    def _is_needed(self, key: str) -> bool:
        """Return whether a key is the record of a version whose objects a collector keeps."""
        prefix, separator, rest = key.partition("/@")
        name = _name_of_prefix(prefix + separator) if rest.startswith("versions/") else None
        number = number_of(key)
        if name is None or number is None:
            return False
        span = find_span(self.seen.deleted.get(name, ()), number)
        if span is None or (name, number) in self.seen.tagged:
            return True
        return (name, span.mark) in self.seen.recent_marks

    def _read_versions(self) -> None:
        """Add up the objects of all versions whose objects a collector keeps."""
        listed = self._listed(names_prefix(self.prefix))
        keys = (entry.key for entry in listed if self._is_needed(entry.key))
        for page in batches(keys, _PAGE):
            for version in self._read(page, Version.from_bytes, MAX_RECORD):
                self._need(version)

    def _need(self, record: Version | Kept) -> None:
        """Add the objects of a policy to those that are needed."""
        objects = record.objects
        if objects is None:
            try:
                policy = self.reader.policy(record.digest)
            except (NotFoundError, IntegrityError, FormatError):
                self.stats.unreadable += 1
                return
            objects = {item.digest: item.size for item in policy.parsed.external.values()}
            objects[record.digest] = policy.nbytes
        for digest, nbytes in objects.items():
            self.needed.add(digest)
            self.needed_nbytes += nbytes

    # Objects

    def _count_kept(self, details: bool) -> None:
        """Count the pushes without a name."""
        stats, kept = self.stats, 0
        for page in batches(self._listed(KEPT), _PAGE):
            keys = [entry.key for entry in page if digest_of_kept(entry.key) is not None]
            kept += len(keys)
            stats.kept = kept
            if details:
                for record in self._read(keys, Kept.from_bytes, MAX_RECORD):
                    self._need(record)
        stats.kept = kept
        stats.records += kept

    def _count_objects(self, details: bool) -> None:
        """Count the objects; with details, tell needed objects from garbage."""
        stats, whole = self.stats, not self.prefix
        stats.objects = stats.nbytes = 0
        needed_nbytes = garbage = garbage_nbytes = 0
        for page in batches(self._listed(OBJECTS), _PAGE):
            objects = [(digest_of_key(entry.key), entry) for entry in page]
            known = [(digest, entry) for digest, entry in objects if digest is not None]
            needed = (
                self.needed.contain([digest for digest, _ in known])
                if details
                else [whole] * len(known)
            )
            for (_, entry), is_needed in zip(known, needed, strict=True):
                if whole or is_needed:
                    stats.objects += 1
                    stats.nbytes += entry.nbytes
                if is_needed:
                    needed_nbytes += entry.nbytes
                elif not self._is_recent(entry):
                    garbage += 1
                    garbage_nbytes += entry.nbytes
        if details:
            stats.shared_nbytes = max(0, self.needed_nbytes - needed_nbytes)
            if whole and not stats.unreadable:
                stats.garbage_objects, stats.garbage_nbytes = garbage, garbage_nbytes
