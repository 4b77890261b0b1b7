"""Find the objects that a store needs: of versions, of tags, and of pushes without a name.

A store needs the objects of each version that stands, of each version that was deleted within the
grace, of each version that a tag points to or has pointed to within the grace, and of each push
without a name. It does not need the parents of a version. Annotations need no objects, but each
annotation is read, because an annotation of a newer release may need some.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TypeVar

from policystore._util.concurrency import in_parallel
from policystore._util.progress import Meter
from policystore.backends.base import Entry, Problems
from policystore.digest import Digest
from policystore.errors import FormatError, IntegrityError, NotFoundError
from policystore.format.keys import (
    DELETED,
    KEPT,
    MAX_RECORD,
    annotation_key,
    digest_of_kept,
    mark_key,
    name_of_deleted,
    tag_key,
    version_key,
)
from policystore.format.records import (
    MAX_MARK,
    Annotation,
    Kept,
    Mark,
    TagMove,
    Version,
    check_pointer,
    find_span,
)
from policystore.repository.digest_prefixes import DigestPrefixes
from policystore.repository.objects import ObjectReader
from policystore.repository.roots.leagues import LeagueRecords
from policystore.repository.roots.listed import (
    UNKNOWN_KEY,
    ListedName,
    ListedNumbers,
    list_names,
    nothing_collected,
)
from policystore.repository.roots.records import RecordReader

__all__ = ["Roots", "find_roots"]

_PAGE = 1024  # records in memory at once

_Item = TypeVar("_Item")
_Record = TypeVar("_Record")

_LOST = "Restore the policy from a backup, or delete the version and wait until the grace is over."


@dataclass
class Roots:
    """Hold which objects the records of a store need.

    Attributes:
        digests: all objects that are needed.
        nbytes: the bytes of the objects of all these policies, an object counted once for each
            record that needs it.
        dangling: names with a tag on a version that was deleted.
        unreadable: how many records could not be read.
        is_complete: whether every key and record was understood; a collection needs this.
        leagues: records of leagues that nothing needs, and that are as old as the grace.
    """

    digests: DigestPrefixes = field(default_factory=DigestPrefixes)
    nbytes: int = 0
    dangling: set[str] = field(default_factory=set)
    unreadable: int = 0
    is_complete: bool = True
    leagues: list[Entry] = field(default_factory=list)


def find_roots(
    objects: ObjectReader,
    recent: float,
    meter: Meter,
    *,
    prefix: str = "",
    only_count: bool = False,
) -> Roots:
    """Return which objects the records of the store need.

    Args:
        objects: reads the objects of the store.
        recent: the time at which the grace begins, by the clock of the storage.
        meter: counts the names.
        prefix: the start of the names. With a prefix, pushes without a name are left out.
        only_count: True if nothing will be collected. What cannot be understood is then counted,
            and nobody confirms that the newest record of a list in the listing is the newest.

    Raises:
        FormatError: a key or a record that the collector does not understand, unless ``only_count``
            is True; the message names it.
        StorageError: the storage failed.
    """
    return _RootFinder(objects, recent, meter, only_count).run(prefix)


class _RootFinder:
    """Search for roots once; arguments as in :func:`find_roots`."""

    def __init__(
        self, objects: ObjectReader, recent: float, meter: Meter, only_count: bool
    ) -> None:
        self._objects = objects
        self._backend = objects.backend
        self._records = RecordReader(objects.backend)
        self._recent = recent
        self._meter = meter
        self._only_count = only_count
        self._roots = Roots()
        self._lock = threading.Lock()  # guards what several threads count
        self._opened: dict[Digest, int] = {}  # policies whose objects no record lists: their bytes

    def run(self, prefix: str) -> Roots:
        """Read all records, or those of the names that start with a prefix."""
        if not prefix:
            self._read_leagues()
        unknown: list[str] | None = [] if self._only_count else None
        names = list_names(self._backend, self._recent, prefix=prefix, unknown=unknown)
        self._roots.is_complete &= not unknown
        self._meter.expect(len(names))
        for page in _pages(names.items(), _PAGE):
            needed = self._each(lambda item: self._needed_versions(*item), page)
            versions = (
                (name, number)
                for (name, _), ranges in needed
                for number in chain.from_iterable(ranges)
            )
            for some in _pages(versions, _PAGE):
                for (name, number), version in self._each(self._read_version, some):
                    self._add(version_key(name, number), version)
            notes = ((name, *place) for name, each in page for place in each.annotations)
            for places in _pages(notes, _PAGE):
                self._each(lambda place: self._check_annotation(*place), places)
            self._meter.add(len(page))
        if not prefix:
            problems: Problems | None = [] if self._only_count else None
            for keys in _pages(self._backend.keys(KEPT, problems=problems), _PAGE):
                for key, kept in self._each(self._read_kept, keys):
                    self._add(key, kept)
            for keys in _pages(self._backend.keys(DELETED, problems=problems), _PAGE):
                self._each(self._check_pointer, keys)
        return self._roots

    def _each(
        self, call: Callable[[_Item], _Record], items: list[_Item]
    ) -> list[tuple[_Item, _Record]]:
        """Call a function of each item at the same time; return the items with their results.

        An item whose record cannot be understood is left out, if the search only counts.
        """

        def tolerant(item: _Item) -> list[tuple[_Item, _Record]]:
            return [(item, result) for result in self._tolerate(lambda: call(item))]

        found = in_parallel(tolerant, items, workers=self._backend.parallel)
        return list(chain.from_iterable(found))

    def _tolerate(self, call: Callable[[], _Record]) -> list[_Record]:
        """Return the result of a call in a list; if it is a fault and the search counts, no result.

        Raises:
            FormatError: as ``call`` raises it, unless the search only counts.
        """
        try:
            return [call()]
        except FormatError:
            if not self._only_count:
                raise
            with self._lock:
                self._roots.unreadable += 1
                self._roots.is_complete = False
            return []

    def _read_leagues(self) -> None:
        """Read the records of leagues, and note those that nothing needs."""
        leagues = LeagueRecords(self._backend, self._records, self._recent)
        problems: Problems | None = [] if self._only_count else None
        entries = leagues.standing(self._tolerate, problems)
        for page in _pages(entries, _PAGE):
            self._each(leagues.check, page)
        self._roots.leagues = leagues.unneeded

    def _needed_versions(self, name: str, listed: ListedName) -> list[Iterable[int]]:
        """Return the numbers of the versions of a name whose objects are needed."""
        newest = self._newest_version(name, listed.versions)
        marks = self._tolerate(lambda: self._newest_mark(name, listed.marks))
        all_deleted = [span for mark in marks if mark is not None for span in mark.deleted]
        deleted = [span for span in all_deleted if not listed.marks.is_recent(span.mark)]
        begins = [1, *(span.last + 1 for span in deleted)]
        ends = [*(min(span.first, newest + 1) for span in deleted), newest + 1]
        tagged: set[int] = set()
        for tag, moves in listed.tags.items():
            for targets in self._tolerate(lambda: self._recent_targets(name, tag, moves)):  # noqa: B023
                tagged.update(each for each in targets if each and find_span(deleted, each))
                if find_span(all_deleted, targets[-1] or 0):
                    with self._lock:
                        self._roots.dangling.add(name)
        return [*map(range, begins, ends), sorted(tagged)]

    def _newest_version(self, name: str, listed: ListedNumbers) -> int:
        """Return the number of the newest version. It may have been pushed after the listing."""
        newest = listed.newest
        while not self._only_count and (
            self._backend.size(version_key(name, newest + 1)) is not None
        ):
            newest += 1
        return newest

    def _newest_mark(self, name: str, listed: ListedNumbers) -> Mark | None:
        """Return the newest mark of a name. It may have been made after the listing."""
        number, data = listed.newest, None
        while not self._only_count:
            try:
                data = self._backend.get(mark_key(name, number + 1), limit=MAX_MARK)
            except NotFoundError:
                break
            number += 1
        if not number:
            return None
        key = mark_key(name, number)
        mark = self._records.load(key, Mark.from_bytes, limit=MAX_MARK, data=data)
        self._records.check_place(key, (mark.name, mark.number), (name, number))
        return mark

    def _recent_targets(self, name: str, tag: str, moves: ListedNumbers) -> list[int | None]:
        """Return where a tag has pointed within the grace and, at last, where it points now."""
        targets = []
        # A recent move has taken the tag away from the target of the move before.
        first = moves.newest if moves.first_recent is None else max(1, moves.first_recent - 1)
        for number in range(first, moves.newest + 1):
            key = tag_key(name, tag, number)
            move = self._records.load(key, TagMove.from_bytes, limit=MAX_RECORD)
            self._records.check_place(key, (move.name, move.tag, move.number), (name, tag, number))
            targets.append(move.target)
        return targets

    def _read_version(self, item: tuple[str, int]) -> Version:
        name, number = item
        key = version_key(name, number)
        version = self._records.load(key, Version.from_bytes, limit=MAX_RECORD)
        self._records.check_place(key, (version.name, version.number), (name, number))
        return version

    def _read_kept(self, key: str) -> Kept:
        digest = digest_of_kept(key)
        if digest is None:
            raise nothing_collected(self._backend, key, "an unknown key", UNKNOWN_KEY)
        kept = self._records.load(key, Kept.from_bytes, limit=MAX_RECORD)
        self._records.check_place(key, (kept.digest,), (digest,))
        return kept

    def _check_annotation(self, name: str, number: int, nonce: str) -> None:
        key = annotation_key(name, number, nonce)
        found = self._records.load(key, Annotation.from_bytes, limit=MAX_RECORD)
        actual = found.name, found.number, found.nonce
        self._records.check_place(key, actual, (name, number, nonce))

    def _check_pointer(self, key: str) -> None:
        if name_of_deleted(key) is None:
            raise nothing_collected(self._backend, key, "an unknown key", UNKNOWN_KEY)
        self._records.load(key, check_pointer, limit=MAX_RECORD)

    def _add(self, key: str, record: Version | Kept) -> None:
        """Add the objects of a policy; ``key`` is the key of the record that needs the policy."""
        roots, digest = self._roots, record.digest
        if record.objects is not None:  # the policy object is one of them
            for each, nbytes in record.objects.items():
                roots.digests.add(each)
                roots.nbytes += nbytes
            return
        roots.digests.add(digest)
        if digest not in self._opened:
            self._opened[digest] = sum(self._tolerate(lambda: self._open(key, digest)))
        roots.nbytes += self._opened[digest]

    def _open(self, key: str, digest: Digest) -> int:
        """Add the objects that a policy object names, and return the bytes of all objects."""
        try:
            policy = self._objects.policy(digest)
        except (NotFoundError, IntegrityError, FormatError) as error:
            raise nothing_collected(self._backend, key, str(error), _LOST) from None
        external = policy.parsed.external.values()
        for each in external:
            self._roots.digests.add(each.digest)
        return policy.nbytes + sum(each.size for each in external)


def _pages(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while page := list(islice(iterator, size)):
        yield page
