"""Copy the tags of a name with their histories, where that moves them forward only."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from policystore._util.concurrency import in_parallel
from policystore.backends.base import Backend
from policystore.digest import digest_of
from policystore.errors import FormatError, NotFoundError
from policystore.format.keys import MAX_RECORD, tag_hint_key, tag_key, tag_of_prefix, tags_prefix
from policystore.format.records import TagHint, TagMove, find_span
from policystore.repository.lookup.hints import bring_tag_hint_forward
from policystore.repository.mirror.names import NameCopier
from policystore.repository.mirror.report import NameCopy
from policystore.repository.mirror.sides import Sides, find_newest
from policystore.repository.record_log import tag_log

__all__ = ["copy_tags"]

_WINDOW = 256  # records that are read together


def copy_tags(sides: Sides, name: str, versions: NameCopier, report: NameCopy) -> None:
    """Copy the moves of all tags of a name.

    A tag that was moved in the target stays where it is. If it was moved in the source as well, the
    tag is reported as a conflict.

    Args:
        sides: the two stores.
        name: the name.
        versions: has copied the versions of the name.
        report: gets what was done.
    """
    prefix = tags_prefix(name)
    for key in sorted(sides.source.prefixes(prefix, "/")):
        tag = tag_of_prefix(key, name)
        if tag is not None:
            _TagCopier(sides, name, tag, versions, report).copy()


class _TagCopier:
    def __init__(
        self, sides: Sides, name: str, tag: str, versions: NameCopier, report: NameCopy
    ) -> None:
        self._sides, self._name, self._tag = sides, name, tag
        self._versions, self._report = versions, report

    def copy(self) -> None:
        ours = self._find_newest(self._sides.source)
        theirs = self._find_newest(self._sides.target)
        common = min(ours, theirs)
        same = not common or self._sides.equal(tag_key(self._name, self._tag, common))
        if same and self._versions.same >= self._versions.newest:
            moved = theirs < ours and self._copy_same(theirs, ours)
        elif same and theirs >= ours:
            return
        else:
            moved = self._copy_apart(ours, theirs)
        if moved:
            self._report.tags.append(self._tag)

    def _find_newest(self, backend: Backend) -> int:
        """Find the number of the newest move; 0 for none."""
        key, known = tag_hint_key(self._name, self._tag), 0
        # The hint only saves reading, and tags that were moved long ago have none.
        with suppress(NotFoundError, FormatError):
            known = TagHint.from_bytes(backend.get(key, limit=MAX_RECORD), key).number
        return find_newest(tag_log(backend, self._name, self._tag), known).number

    def _copy_same(self, theirs: int, ours: int) -> bool:
        """Create the moves that the target lacks with the bytes of the source."""
        previous = self._read(self._sides.target, theirs) if theirs else None
        moved = None
        for number in range(theirs + 1, ours + 1):
            data, move = self._read(self._sides.source, number)
            if move.previous != (None if previous is None else digest_of(previous[0])):
                raise FormatError(
                    f"{self._location(number)} does not follow the record before it: a record was "
                    "changed; verify() tells which"
                )
            if (move.target or 0) > self._versions.same:
                break  # the version was pushed after the copy began: the next copy takes both
            if not self._create(number, data):
                break
            previous, moved = (data, move), move
        self._finish(moved)
        return moved is not None

    def _copy_apart(self, ours: int, theirs: int) -> bool:
        """Make the moves anew that come after the last move that the target has."""
        source = self._read_all(self._sides.source, ours)
        target = self._read_all(self._sides.target, theirs)
        nonces = [move.nonce for _, move in source]
        last = target[-1][1].nonce if target else None
        if nonces[-1] in {move.nonce for _, move in target}:
            return False
        if last is not None and last not in nonces:
            self._conflict("the tag was moved on both sides")
            return False
        previous = target[-1][0] if target else None
        moved = None
        number = theirs
        for _, move in source[0 if last is None else nonces.index(last) + 1 :]:
            place = None
            if move.target is not None:
                place = self._place_of(move.target)
                if place is None:
                    continue
            number += 1
            digest = None if previous is None else digest_of(previous)
            remade = replace(move, number=number, target=place, previous=digest)
            data = remade.to_bytes()
            if not self._create(number, data):
                break
            previous, moved = data, remade
        self._finish(moved)
        if moved is None or moved.nonce != nonces[-1]:
            at = source[-1][1].target
            self._conflict(f"the tag is at version {at} in the source, which is not in the target")
        return moved is not None

    def _place_of(self, number: int) -> int | None:
        """Return where a version of the source stands in the target; None if it does not stand."""
        if number > self._versions.newest:
            return None
        place = self._versions.number_in_target(number)
        if place is None or find_span(self._versions.marks.target.deleted, place) is not None:
            return None
        return place

    def _create(self, number: int, data: bytes) -> bool:
        """Create a move; return False, and report it, if another writer has moved the tag."""
        if self._sides.create_or_read(tag_key(self._name, self._tag, number), data) == data:
            return True
        self._conflict("the tag was moved in the target at the same time")
        return False

    def _conflict(self, text: str) -> None:
        self._report.conflicts.append(f"tag {self._tag}: {text}")

    def _finish(self, move: TagMove | None) -> None:
        """Write the hint of the tag, and look whether its version still stands in the target.

        Args:
            move: the last move that was written; None for none.
        """
        if move is None:
            return
        hint = TagHint(move.number, move.target, move.digest)
        self._sides.replace(tag_hint_key(self._name, self._tag), hint.to_bytes())
        if not self._sides.dry_run:
            bring_tag_hint_forward(self._sides.target, self._name, self._tag, hint)
        marks = self._versions.marks
        if move.target is None or (
            move.target <= self._versions.same and marks.is_deleted(move.target)
        ):
            return
        if marks.is_deleted_in_target(move.target):
            self._conflict(f"the tag is at version {move.target}, which is deleted in the target")

    def _read_all(self, backend: Backend, newest: int) -> list[tuple[bytes, TagMove]]:
        read: Callable[[int], tuple[bytes, TagMove]] = partial(self._read, backend)
        moves: list[tuple[bytes, TagMove]] = []
        for start in range(1, newest + 1, _WINDOW):
            numbers = range(start, min(start + _WINDOW, newest + 1))
            moves += in_parallel(read, numbers, workers=self._sides.workers)
        return moves

    def _read(self, backend: Backend, number: int) -> tuple[bytes, TagMove]:
        key = tag_key(self._name, self._tag, number)
        data = self._sides.read(backend, key)
        move = TagMove.from_bytes(data, backend.location(key))
        if (move.name, move.tag, move.number) != (self._name, self._tag, number):
            raise FormatError(
                f"{backend.location(key)}: the record belongs to another key: it was moved or "
                "copied to this key"
            )
        return data, move

    def _location(self, number: int) -> str:
        return self._sides.source.location(tag_key(self._name, self._tag, number))
