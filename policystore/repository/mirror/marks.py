"""Copy the marks of a name, which say which of its versions are deleted."""

from __future__ import annotations

import secrets
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from policystore._util.deadlines import LateError, deadline
from policystore.backends.base import Backend
from policystore.digest import digest_of
from policystore.errors import FormatError, IntegrityError
from policystore.format.keys import deleted_key, mark_key
from policystore.format.records import MAX_MARK, Action, Mark, Span, find_span, with_spans
from policystore.format.refs import MAX_NUMBER
from policystore.repository.freshness import MAX_DELAY
from policystore.repository.mirror.objects import Needs
from policystore.repository.mirror.report import NameCopy, show_numbers
from policystore.repository.mirror.sides import Sides, find_newest
from policystore.repository.record_log import RecordLog
from policystore.repository.stamp import default_author, now

__all__ = ["MarkCopier", "MarkState"]

_WINDOW = 256  # records that are read together
_MESSAGE = "deleted in the store that this version was copied from"

Ranges: TypeAlias = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class MarkState:
    """The newest mark of a name.

    Attributes:
        number: its number; 0 if the name has no marks.
        data: its bytes.
        deleted: the versions that are deleted.
    """

    number: int = 0
    data: bytes | None = None
    deleted: tuple[Span, ...] = ()


class MarkCopier:
    """Copy marks of one name.

    Args:
        sides: the two stores.
        name: the name.
        report: gets what was done.
        source, target: numbers of marks that should exist on both sides; 0 for none.

    Attributes:
        source: the newest mark of the source, when it was read last.
        target: the newest mark of the target, when it was read or written last.
    """

    def __init__(
        self, sides: Sides, name: str, report: NameCopy, *, source: int, target: int
    ) -> None:
        self._sides, self._name, self._report = sides, name, report
        self.source = self._read(sides.source, source)
        self.target = self._read(sides.target, target)
        self._done = 0  # the newest mark of the source that copy() has dealt with

    def is_deleted(self, number: int) -> bool:
        """Return whether a version is deleted in the source."""
        return find_span(self.source.deleted, number) is not None

    def is_deleted_in_target(self, number: int) -> bool:
        """Read the newest mark of the target again, and return whether a version is deleted."""
        self.target = self._read(self._sides.target, self.target.number)
        return find_span(self.target.deleted, number) is not None

    def refresh(self) -> None:
        """Read the newest mark of the source again."""
        self.source = self._read(self._sides.source, self.source.number)

    def copy(self, newest: int, within: int = MAX_NUMBER) -> None:
        """Copy the marks that the target lacks, if its marks are the first ones of the source.

        Args:
            newest: the newest version of the target.
            within: the last version that is the same on both sides. A mark that changes a later
                version is not copied, nor are the marks after it.
        """
        source = self.source
        if source.number <= self._done:
            return
        self._done = source.number
        self.target = target = self._read(self._sides.target, self.target.number)
        if min(source.number, target.number) and not self._sides.equal(
            self._key(min(source.number, target.number)), limit=MAX_MARK
        ):
            self._part(newest, within)
            return
        if target.number >= source.number:
            return
        if self._sides.source.size(deleted_key(self._name)) is not None or self.is_deleted(1):
            self._sides.write_pointer(self._name)
        restored = self._restored(source, min(newest, within))
        create = partial(self._copy_all, source, within)
        if not self._sides.objects.create(restored, create):
            self.target = self._read(self._sides.target, self.target.number)
            self._part(newest, within)

    def _copy_all(self, source: MarkState, within: int) -> bool:
        """Copy marks one after the other; return False at a mark that cannot be copied."""
        while self.target.number < source.number:
            number = self.target.number + 1
            key = self._key(number)
            data = self._sides.read(self._sides.source, key, limit=MAX_MARK)
            mark = self._parse(self._sides.source, number, data)
            previous = self.target.data
            if mark.previous != (None if previous is None else digest_of(previous)):
                raise FormatError(
                    f"{self._sides.source.location(key)} does not follow the mark before it: a "
                    "record was changed; verify() tells which"
                )
            if any(last > within for _, last in mark.changed):
                return False
            if self._sides.create_or_read(key, data, limit=MAX_MARK) != data:
                return False
            self._report.marks += 1
            self.target = MarkState(number, data, mark.deleted)
        return True

    def _restored(self, source: MarkState, newest: int) -> list[Needs]:
        """Copy the objects of versions that the next marks restore in the target.

        Raises:
            IntegrityError: the source has lost an object.
        """
        numbers = [
            number
            for span in self.target.deleted
            for number in range(span.first, min(span.last, newest) + 1)
            if find_span(source.deleted, number) is None
        ]
        needs = [
            Needs(record.version.digest, record.version.objects)
            for start in range(0, len(numbers), _WINDOW)
            for record in self._sides.versions(
                self._sides.source, self._name, numbers[start : start + _WINDOW]
            )
        ]
        self._sides.objects.ensure(needs)
        for number, need in zip(numbers, needs, strict=True):
            if need.missing:
                raise IntegrityError(
                    f"{self._name}@{number} was restored in {self._sides.source.url}, which does "
                    f"not have the object {need.missing[0]}"
                )
        return needs

    def _part(self, newest: int, within: int) -> None:
        """Go on beside marks of the target that the source does not have."""
        self._differ(min(newest, within))
        if within == MAX_NUMBER:
            self._cover(newest + 1)

    def _differ(self, newest: int) -> None:
        """Report the versions that are deleted on one side only."""
        sides = (
            (self.source.deleted, self.target.deleted, "deleted in the source only"),
            (self.target.deleted, self.source.deleted, "deleted in the target only"),
        )
        for deleted, other, text in sides:
            ranges = _without(deleted, other, 1, newest)
            if ranges:
                numbers = (number for a, b in ranges for number in range(a, b + 1))
                self._report.conflicts.append(f"versions {show_numbers(numbers)}: {text}")

    def _cover(self, first: int) -> None:
        """Delete versions from ``first`` on that are deleted in the source, before they come."""

        def make(state: MarkState) -> Ranges:
            return _without(self.source.deleted, state.deleted, first, MAX_NUMBER)

        self._append("delete", make)

    def uncover(self, first: int, newest: int) -> None:
        """Restore the target's own versions that marks of the source have deleted.

        Marks come before the versions that they delete. If other writers have taken the numbers of
        these versions meanwhile, the marks must not delete the versions of these writers.

        Args:
            first: the first version that is not the same on both sides.
            newest: the newest version of the target.
        """
        lost: set[int] = set()

        def make(state: MarkState) -> Ranges:
            ranges: list[tuple[int, int]] = []
            lost.clear()
            for span in state.deleted:
                start = max(span.first, first)
                if start <= newest and self._is_own(span.mark):
                    start = newest + 1
                standing = range(start, min(span.last, newest) + 1)
                lost.update(number for number in standing if not self._keep_objects(number))
                kept = [Span(number, number, 1) for number in sorted(lost)]
                ranges += _without([Span(start, max(start, span.last), 1)], kept, start, span.last)
            return ranges

        self.target = self._read(self._sides.target, self.target.number)
        self._append("restore", make)
        if lost:
            self._report.conflicts.append(
                f"versions {show_numbers(sorted(lost))}: deleted by marks of the source, and the "
                "target does not have their objects any more"
            )

    def _keep_objects(self, number: int) -> bool:
        """Return whether the target has the objects of one of its versions."""
        (record,) = self._sides.versions(self._sides.target, self._name, [number])
        return self._sides.objects.keep(record.version.objects or [record.version.digest])

    def _is_own(self, number: int) -> bool:
        """Return whether a mark was made in the target, and not by a mirror."""
        key = self._key(number)
        if self._sides.equal(key, limit=MAX_MARK):
            return False
        data = bytes(self._sides.target.get(key, limit=MAX_MARK))
        return self._parse(self._sides.target, number, data).message != _MESSAGE

    def _append(self, action: Action, make: Callable[[MarkState], Ranges]) -> None:
        """Write a mark of the target's own, if there is something to change.

        Args:
            action: what the mark does.
            make: returns the versions to change, from the newest mark.
        """
        nonce = secrets.token_hex(16)
        while True:
            state = self.target
            began = self._sides.objects.clock()
            changed = tuple(make(state))
            if not changed:
                return
            number = state.number + 1
            mark = Mark(
                name=self._name,
                number=number,
                action=action,
                changed=changed,
                deleted=with_spans(state.deleted, changed, number if action == "delete" else None),
                previous=None if state.data is None else digest_of(state.data),
                time=now(),
                author=default_author(),
                message=_MESSAGE if action == "delete" else "",
                nonce=nonce,
                force=action == "delete",
            )
            if action == "delete":
                self._sides.write_pointer(self._name)
            data = mark.to_bytes()
            try:
                with deadline(began + MAX_DELAY, self._sides.objects.clock):
                    found = self._sides.create_or_read(self._key(number), data, limit=MAX_MARK)
            except LateError:
                continue  # the objects are looked at again
            parsed = self._parse(self._sides.target, number, found)
            self.target = MarkState(number, found, parsed.deleted)
            if parsed.nonce == nonce:
                self._report.marks += 1
                return

    def _read(self, backend: Backend, known: int) -> MarkState:
        newest = find_newest(RecordLog(backend, self._key), known)
        if not newest.number:
            return MarkState()
        data = newest.data
        if data is None:
            data = bytes(backend.get(self._key(newest.number), limit=MAX_MARK))
        mark = self._parse(backend, newest.number, data)
        return MarkState(newest.number, data, mark.deleted)

    def _parse(self, backend: Backend, number: int, data: bytes) -> Mark:
        location = backend.location(self._key(number))
        mark = Mark.from_bytes(data, location)
        if (mark.name, mark.number) != (self._name, number):
            raise FormatError(
                f"{location}: the record belongs to another key: it was moved or copied to this key"
            )
        return mark

    def _key(self, number: int) -> str:
        return mark_key(self._name, number)


def _without(
    deleted: Iterable[Span], other: Sequence[Span], first: int, last: int
) -> list[tuple[int, int]]:
    """Return the versions in ``deleted`` and not in ``other``, as ranges.

    Args:
        deleted, other: versions in ascending order.
        first, last: the first and the last version to look at.
    """
    ranges: list[tuple[int, int]] = []
    for span in deleted:
        start, end = max(span.first, first), min(span.last, last)
        index = max(0, bisect_right(other, start, key=lambda hole: hole.first) - 1)
        while start <= end and index < len(other) and other[index].first <= end:
            hole = other[index]
            if start < hole.first:
                ranges.append((start, hole.first - 1))
            start = max(start, hole.last + 1)
            index += 1
        if start <= end:
            ranges.append((start, end))
    return ranges
