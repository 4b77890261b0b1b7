"""Copy one name: its versions, its marks, its tags and its annotations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from policystore._util.concurrency import in_parallel, run_both
from policystore._util.log import logger
from policystore.digest import digest_of
from policystore.errors import (
    FormatError,
    IntegrityError,
    InvalidInputError,
    ReadOnlyError,
    StorageError,
)
from policystore.format.keys import MAX_RECORD, hint_key, version_key
from policystore.format.records import Hint, Version, find_span, newest_standing
from policystore.repository.lookup.hints import bring_hint_forward
from policystore.repository.mirror.cursors import Cursors
from policystore.repository.mirror.marks import MarkCopier
from policystore.repository.mirror.objects import Needs
from policystore.repository.mirror.report import NameCopy, show_numbers
from policystore.repository.mirror.sides import Record, Sides
from policystore.repository.mirror.version_list import VersionList
from policystore.repository.record_log import version_log

__all__ = ["NameCopier"]

_Out = TypeVar("_Out")

_WINDOW = 256  # versions whose objects are copied together


@dataclass
class _Item:
    """A version on its way.

    Attributes:
        record: the record in the source.
        needs: the objects of the version.
        stands: False if the version is deleted in the source.
    """

    record: Record
    needs: Needs
    stands: bool


@dataclass
class _Window:
    """Versions that are copied together.

    Attributes:
        items: the versions.
        damage: the error of the version after them; None if there is none.
    """

    items: list[_Item]
    damage: IntegrityError | FormatError | None = None


class NameCopier:
    """Copy the versions of one name.

    Args:
        sides: the two stores.
        name: the name.
        report: gets what was done.

    Attributes:
        list: the versions in the target.
        marks: copies the marks.
        same: all versions up to this number have the same bytes on both sides.
        newest: the newest version of the source when the copy began.
    """

    def __init__(self, sides: Sides, name: str, report: NameCopy) -> None:
        self._sides, self._name, self._report = sides, name, report
        self.list = VersionList(sides, name)
        log = version_log(sides.source, name)
        hint = log.read_hint()
        self.newest = log.newest(hint).number
        marks = 0 if hint is None else hint.marks
        self.marks = MarkCopier(sides, name, report, source=marks, target=self.list.marks)
        self.same = self._find_same()
        self._hint: Hint | None = None  # the hint that was written last

    def copy_list(self) -> None:
        """Copy all versions that the target lacks, and the marks.

        Raises:
            IntegrityError: the source has lost an object, or an object is damaged.
            FormatError: a record is damaged.
            StorageError: the storage failed.
        """
        self._report.present = self.same
        if self.same == self.list.number and not self._copy_same():
            # Another writer took a number.
            self.list = VersionList(self._sides, self._name)
            self.same = self._find_same()
        if self.same < self.list.number:
            self._copy_apart()
        self._write_hint()

    def copy_versions(self, numbers: Sequence[int]) -> None:
        """Copy some versions alone, without marks.

        Raises:
            PolicyStoreError: as in :meth:`copy_list`.
        """
        for number in numbers:
            if number <= self.same:
                self._report.present += 1
                continue
            (item,) = self._prepare([number], apart=True)
            if not item.stands:
                self._report.skipped.append(f"version {number}: deleted in the source")
            elif self.same == self.list.number == number - 1 and self._commit_same(
                [item], with_marks=False
            ):
                self.same = number
                if find_span(self.marks.target.deleted, number) is not None:
                    self.marks.uncover(number, number)
            else:
                self.list.scan(self.same + 1)
                self.marks.uncover(self.same + 1, self.list.number)
                self._commit_apart([item])
        self._write_hint()

    def number_in_target(self, number: int) -> int | None:
        """Return the number in the target of a version of the source; None if it is not there.

        Raises:
            IntegrityError: the source has lost the record of the version.
        """
        if number <= self.same:
            return number
        (record,) = self._sides.versions(self._sides.source, self._name, [number])
        if record.version.nonce not in self.list.numbers:
            self.list.scan(self.same + 1)
        return self.list.numbers.get(record.version.nonce)

    def _find_same(self) -> int:
        """Find the last version that has the same bytes on both sides.

        Each record holds the digest of the record before. So all earlier records are the same.
        """
        low, high = 0, min(self.list.number, self.newest)
        middle = high
        while low < high:
            if self._is_same(middle):
                low = middle
            else:
                high = middle - 1
            middle = (low + high + 1) // 2
        return low

    def _is_same(self, number: int) -> bool:
        key = version_key(self._name, number)
        if number != self.list.number:
            return self._sides.equal(key)
        return self._sides.source.get(key, limit=MAX_RECORD) == self.list.last

    # Lists of which one is the beginning of the other

    def _copy_same(self) -> bool:
        """Copy versions under their numbers; return False if another writer has taken one."""
        first = self.list.number + 1
        if first == 1 and not self.marks.is_deleted(1):
            # Before the marks: a name with marks and without versions is not left behind.
            items = self._prepare([1], apart=False)
            if not self._commit_same(items, hint=self.newest == 1):
                return False
            first = 2
        self.marks.copy(self.list.number)
        at_once = max(self._sides.source.parallel, self._sides.target.parallel) > 1
        window = self._prepare_window(self._numbers(first), apart=False)
        for start in range(first, self.newest + 1, _WINDOW):
            following = self._numbers(start + _WINDOW)
            commit = partial(self._commit_same, window.items)
            prepare = partial(self._prepare_window, following, apart=False)
            if window.damage is not None:
                if not commit():
                    return False
                raise window.damage
            done, window = run_both(commit, prepare, at_once=at_once and bool(following))
            if not done:
                return False
        self.same = self.list.number
        return True

    def _commit_same(
        self, items: Sequence[_Item], *, hint: bool = True, with_marks: bool = True
    ) -> bool:
        """Create records with the bytes of the source; return False if a number is taken."""
        for item in items:
            if with_marks and (self.list.number or not item.stands):
                # Versions that were deleted since the copy began may have lost their objects.
                self.marks.copy(self.list.number)
            version, data = item.record.version, item.record.data
            previous = None if self.list.last is None else digest_of(self.list.last)
            if version.previous != previous:
                raise FormatError(
                    f"{self._location(item)} does not follow the record before it: a record was "
                    "changed; verify() tells which"
                )
            create = partial(self.list.create_next, data)
            if not self._create(item, create):
                return False
            self._report.copied.append(item.record.number)
        if hint:
            self._write_hint()
        return True

    # Lists that differ

    def _copy_apart(self) -> None:
        """Copy the versions whose nonces the target does not have, under new numbers."""
        self.marks.copy(self.list.number, within=self.same)
        if self.same == self.newest:
            return
        self.marks.uncover(self.same + 1, self.list.number)
        cursors = Cursors(self._sides, self._name)
        cursor = cursors.read(self.newest, self.list.number, self.marks.source.number)
        done = max(self.same, 0 if cursor is None else cursor.number)
        known = max(self.same, 0 if cursor is None else cursor.target)
        self._report.present = done - len(self._report.copied)
        if done == self.newest:
            return
        self.list.scan(known + 1)
        deleted: list[int] = []
        nonces: set[str] = set()
        for start in range(done + 1, self.newest + 1, _WINDOW):
            window = self._prepare_window(self._numbers(start), apart=True)
            deleted += [item.record.number for item in window.items if not item.stands]
            nonces |= {item.record.version.nonce for item in window.items}
            self._commit_apart([item for item in window.items if item.stands])
            if window.damage is not None:
                raise window.damage
        if deleted:
            self._report.skipped.append(
                f"versions {show_numbers(deleted)}: deleted in the source, and the target has "
                "other versions under these numbers"
            )
        # Another source may have the same versions up to here, and others after them. Of these the
        # target must not have copies up to the number in the cursor.
        others = [number for nonce, number in self.list.copies.items() if nonce not in nonces]
        read = min(others) - 1 if others else self.list.number
        cursors.write(window.items[-1].record, self.marks.source.number, read)

    def _commit_apart(self, items: Sequence[_Item]) -> None:
        """Create records of versions under new numbers."""
        for item in items:
            append = partial(self.list.append, item.record)
            try:
                number, created = self._create(item, append)
            except InvalidInputError as error:
                self._report.skipped.append(f"version {item.record.number}: {error}")
                continue
            if created:
                self._report.renumbered[item.record.number] = number
            else:
                self._report.present += 1
        self._write_hint()

    # Both

    def _numbers(self, start: int) -> range:
        """Return the versions that are copied together, from ``start`` on."""
        return range(start, min(start + _WINDOW, self.newest + 1))

    def _prepare_window(self, numbers: Sequence[int], *, apart: bool) -> _Window:
        """Prepare versions as :meth:`_prepare` does, up to the first one that is damaged."""
        try:
            return _Window(self._prepare(numbers, apart=apart))
        except (IntegrityError, FormatError) as error:
            if len(numbers) == 1:
                return _Window([], error)
        # The objects of the first half need not be copied again.
        half = len(numbers) // 2
        window = self._prepare_window(numbers[:half], apart=apart)
        if window.damage is None:
            rest = self._prepare_window(numbers[half:], apart=apart)
            window = _Window([*window.items, *rest.items], rest.damage)
        return window

    def _prepare(self, numbers: Sequence[int], *, apart: bool) -> list[_Item]:
        """Read records of the source, and copy the objects of these versions.

        Args:
            numbers: the versions.
            apart: whether the records get new numbers. Deleted versions, and those that the target
                has, then need no objects.

        Raises:
            IntegrityError: the source has lost an object of a version, or an object is damaged.
        """
        sides = self._sides
        items = [
            _Item(
                record,
                Needs(record.version.digest, record.version.objects),
                stands=not self.marks.is_deleted(record.number),
            )
            for record in sides.versions(sides.source, self._name, numbers)
        ]
        if apart and any(item.record.version.origin is not None for item in items):
            # The source may have got these versions from the target, which has them at any place.
            self.list.scan(self.same + 1)
        wanted = [
            item
            for item in items
            if item.stands and not (apart and item.record.version.nonce in self.list.numbers)
        ]
        if not apart:
            # A deleted version can be restored as long as its objects are there.
            gone = [item for item in items if not item.stands]
            complete = in_parallel(
                lambda item: sides.objects.has_all(item.needs), gone, workers=sides.workers
            )
            wanted += [item for item, whole in zip(gone, complete, strict=True) if whole]
        sides.objects.ensure([item.needs for item in wanted])
        lost = [item for item in wanted if item.stands and item.needs.missing]
        if lost:
            self.marks.refresh()
        for item in lost:
            item.stands = not self.marks.is_deleted(item.record.number)
            if item.stands:
                raise IntegrityError(
                    f"{sides.source.url} does not have the object {item.needs.missing[0]}, which "
                    f"{item.record.version.ref} needs: the store has lost it. Restore the object "
                    "from a backup, push the same policy again, or delete the version."
                )
        return items

    def _create(self, item: _Item, create: Callable[[], _Out]) -> _Out:
        needs = [item.needs] if item.stands and item.needs.checked else []
        return self._sides.objects.create(needs, create)

    def _location(self, item: _Item) -> str:
        return self._sides.source.location(version_key(self._name, item.record.number))

    def _write_hint(self) -> None:
        """Write the hint of the target, if the copy has changed the name."""
        number, last = self.list.number, self.list.last
        if self._sides.dry_run or not self._report.changed or last is None:
            return
        marks = self.marks.target
        stands = newest_standing(marks.deleted, number)
        if stands in (0, number):
            version = Version.from_bytes(last, "the newest record of the target")
        else:
            (record,) = self._sides.versions(self._sides.target, self._name, [stands])
            version = record.version
        hint = Hint(number, version.digest, marks.number, stands)
        if hint == self._hint:
            return
        self._hint = hint
        try:
            self._sides.replace(hint_key(self._name), hint.to_bytes())
        except (StorageError, ReadOnlyError) as error:
            # The versions are there; the next copy or push writes the hint again.
            logger.warning("the hint of %s could not be written: %s", self._name, error)
            return
        bring_hint_forward(self._sides.target, self._name, hint)
