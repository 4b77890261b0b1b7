"""Find all objects that a store needs: of versions, of tags, and of pushes without a name.

Needed are the objects of each version that stands, of each version that was deleted within the
grace, of each version that a tag points to or has pointed to within the grace, and of each push
without a name. The parents of a version are not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import TypeVar

from policystore._util.concurrency import in_parallel
from policystore._util.progress import Meter
from policystore.digest import Digest
from policystore.errors import FormatError, IntegrityError, NotFoundError
from policystore.format.keys import (
    DELETED,
    KEPT,
    LEAGUES,
    MAX_RECORD,
    digest_of_kept,
    mark_key,
    name_of_deleted,
    tag_key,
    version_key,
)
from policystore.format.records import (
    MAX_MARK,
    Kept,
    Mark,
    Span,
    TagMove,
    Version,
    check_pointer,
    find_span,
)
from policystore.repository.collect.names import (
    UNKNOWN_KEY,
    ListedName,
    ListedNumbers,
    list_names,
    nothing_collected,
)
from policystore.repository.digest_prefixes import DigestPrefixes
from policystore.repository.objects import ObjectReader

__all__ = ["find_roots"]

_PAGE = 1024  # records in memory at once

_Item = TypeVar("_Item")
_Record = TypeVar("_Record")

_RESTORE = "Restore the record from a backup; verify() lists what else is damaged."
_LEAGUES = "This release does not know the records of leagues: collect with a newer policystore."
_LOST = "Restore the policy from a backup, or delete the version and wait until the grace is over."


def find_roots(objects: ObjectReader, recent: float, meter: Meter) -> DigestPrefixes:
    """Return the digests of all objects that the store needs.

    Args:
        objects: reads the objects of the store.
        recent: what happened after this time is within the grace, by the clock of the storage.
        meter: counts the names.

    Raises:
        FormatError: a key or a record that the collector does not understand; the message names it.
        StorageError: the storage failed.
    """
    return _RootFinder(objects, recent, meter).run()


class _RootFinder:
    """One search for roots; arguments as in :func:`find_roots`."""

    def __init__(self, objects: ObjectReader, recent: float, meter: Meter) -> None:
        self._objects = objects
        self._backend = objects.backend
        self._recent = recent
        self._meter = meter
        self._roots = DigestPrefixes()
        self._opened: set[Digest] = set()  # policies whose objects no record lists

    def run(self) -> DigestPrefixes:
        """Read all records."""
        key = next(iter(self._backend.keys(LEAGUES)), None)
        if key is not None:
            raise nothing_collected(self._backend, key, "an unknown key", _LEAGUES)
        names = list_names(self._backend, self._recent)
        self._meter.expect(len(names))
        for page in _pages(names.items(), _PAGE):
            needed = self._each(lambda item: self._needed_versions(*item), page)
            versions = (
                (name, number)
                for (name, _), ranges in zip(page, needed, strict=True)
                for number in chain.from_iterable(ranges)
            )
            for some in _pages(versions, _PAGE):
                for version in self._each(lambda item: self._read_version(*item), some):
                    key = version_key(version.name or "", version.number or 0)
                    self._add(key, version.digest, version.objects)
            self._meter.add(len(page))
        for keys in _pages(self._backend.keys(KEPT), _PAGE):
            for key, kept in zip(keys, self._each(self._read_kept, keys), strict=True):
                self._add(key, kept.digest, kept.objects)
        for keys in _pages(self._backend.keys(DELETED), _PAGE):
            self._each(self._check_pointer, keys)
        return self._roots

    def _each(self, call: Callable[[_Item], _Record], items: list[_Item]) -> list[_Record]:
        return in_parallel(call, items, workers=self._backend.parallel)

    def _needed_versions(self, name: str, listed: ListedName) -> list[Iterable[int]]:
        """Return the numbers of the versions of a name whose objects are needed."""
        newest, deleted = self._newest_version(name, listed.versions), self._deleted(name, listed)
        begins = [1, *(span.last + 1 for span in deleted)]
        ends = [*(min(span.first, newest + 1) for span in deleted), newest + 1]
        tagged = {
            target
            for tag, moves in listed.tags.items()
            for target in self._recent_targets(name, tag, moves)
            if find_span(deleted, target)
        }
        return [*map(range, begins, ends), sorted(tagged)]

    def _newest_version(self, name: str, listed: ListedNumbers) -> int:
        """Return the number of the newest version. It may have been pushed after the listing."""
        newest = listed.newest
        while self._backend.size(version_key(name, newest + 1)) is not None:
            newest += 1
        return newest

    def _deleted(self, name: str, listed: ListedName) -> list[Span]:
        """Return the versions that were deleted before the grace began."""
        number, data = listed.marks.newest, None
        while True:
            try:
                data = self._backend.get(mark_key(name, number + 1), limit=MAX_MARK)
            except NotFoundError:
                break
            number += 1
        if not number:
            return []
        key = mark_key(name, number)
        if data is None:
            data = self._read(key, MAX_MARK)
        mark = self._parse(Mark.from_bytes, key, data)
        self._check_place(key, (mark.name, mark.number), (name, number))
        return [span for span in mark.deleted if not listed.marks.is_recent(span.mark)]

    def _recent_targets(self, name: str, tag: str, moves: ListedNumbers) -> Iterator[int]:
        """Yield the versions to which a tag points, or has pointed within the grace."""
        # A recent move has taken the tag away from the target of the move before.
        first = moves.newest if moves.first_recent is None else max(1, moves.first_recent - 1)
        for number in range(first, moves.newest + 1):
            key = tag_key(name, tag, number)
            move = self._parse(TagMove.from_bytes, key, self._read(key, MAX_RECORD))
            self._check_place(key, (move.name, move.tag, move.number), (name, tag, number))
            if move.target is not None:
                yield move.target

    def _read_version(self, name: str, number: int) -> Version:
        key = version_key(name, number)
        version = self._parse(Version.from_bytes, key, self._read(key, MAX_RECORD))
        self._check_place(key, (version.name, version.number), (name, number))
        return version

    def _read_kept(self, key: str) -> Kept:
        digest = digest_of_kept(key)
        if digest is None:
            raise nothing_collected(self._backend, key, "an unknown key", UNKNOWN_KEY)
        kept = self._parse(Kept.from_bytes, key, self._read(key, MAX_RECORD))
        self._check_place(key, (kept.digest,), (digest,))
        return kept

    def _check_pointer(self, key: str) -> None:
        if name_of_deleted(key) is None:
            raise nothing_collected(self._backend, key, "an unknown key", UNKNOWN_KEY)
        self._parse(check_pointer, key, self._read(key, MAX_RECORD))

    def _add(self, key: str, digest: Digest, objects: Mapping[Digest, int] | None) -> None:
        """Add the objects of a policy.

        Args:
            key: the key of the record that needs the policy.
            digest: the digest of the policy.
            objects: its objects; None if they stand in the policy object alone.
        """
        self._roots.add(digest)
        if objects is not None:
            for each in objects:
                self._roots.add(each)
        elif digest not in self._opened:
            self._opened.add(digest)
            try:
                policy = self._objects.policy(digest)
            except (NotFoundError, IntegrityError, FormatError) as error:
                raise nothing_collected(self._backend, key, str(error), _LOST) from None
            for external in policy.parsed.external.values():
                self._roots.add(external.digest)

    def _read(self, key: str, limit: int) -> bytes | memoryview:
        try:
            return self._backend.get(key, limit=limit)
        except NotFoundError:
            raise nothing_collected(self._backend, key, "the record is missing", _RESTORE) from None
        except FormatError as error:
            raise nothing_collected(self._backend, key, str(error), _RESTORE) from None

    def _parse(
        self,
        parse: Callable[[bytes | memoryview, str], _Record],
        key: str,
        data: bytes | memoryview,
    ) -> _Record:
        try:
            return parse(data, key)
        except FormatError as error:
            raise nothing_collected(self._backend, key, str(error), _RESTORE) from None

    def _check_place(
        self, key: str, actual: tuple[object, ...], expected: tuple[object, ...]
    ) -> None:
        if actual != expected:
            problem = "the record belongs to another key: it was moved or copied"
            raise nothing_collected(self._backend, key, problem, _RESTORE)


def _pages(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while page := list(islice(iterator, size)):
        yield page
