"""Move tags: each move is a record of its own, made from the record before it."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from policystore._util.concurrency import run_both
from policystore.digest import digest_of
from policystore.errors import NotFoundError
from policystore.format.keys import tag_hint_key
from policystore.format.records import TagHint, TagMove, Version, find_span
from policystore.repository.lookup.hints import write_hint
from policystore.repository.lookup.state import deleted_error, newest_mark
from policystore.repository.lookup.tag_moves import parse_move
from policystore.repository.record_log import tag_log, version_log
from policystore.repository.resolver import Resolver

__all__ = ["When", "move_tag"]

When: TypeAlias = Callable[[Version | None], bool]
"""A function that returns whether to move a tag. Its argument is the version that the tag points
to, or None if there is no such tag or its version was deleted."""


def move_tag(
    resolver: Resolver,
    name: str,
    tag: str,
    target: Version | None,
    *,
    time: datetime.datetime,
    author: str,
    when: When | None = None,
) -> Version | None:
    """Move or remove a tag, also while other writers move it. The store keeps all earlier moves.

    After the move, the marks of the name are read again: if the version was deleted at the same
    time, the tag is moved back. A deletion reads the tags after its mark. So one of the two calls
    sees the other, and no tag is left on a version that was deleted without ``force``.

    Args:
        resolver: reads the store.
        name: the name to which the tag belongs.
        tag: the tag.
        target: the version that the tag should point to; None to remove the tag.
        time: the time for the record.
        author: the author for the record.
        when: a function that returns whether to move the tag. It is called again if another writer
            moves the tag at the same time. So a tag only moves away from the version with which
            ``when`` was called last.

    Returns:
        The version that the tag points to after the call; None if there is no such tag.

    Raises:
        NotFoundError: the version was deleted before the tag was moved.
    """
    mover = _Mover(resolver, name, tag, time, author)
    hint, tag_hint = run_both(
        version_log(resolver.backend, name).read_hint,
        tag_log(resolver.backend, name, tag).read_hint,
        at_once=resolver.backend.parallel > 1,
    )
    before: list[bytes | None] = []

    def check(move: int, previous: bytes | None) -> None:
        before[:] = [previous]
        if when is not None:
            current = mover.target_of(move, previous)
            if not when(current):
                raise _NotMovedError(current)

    try:
        nonce = mover.append(target, check, tag_hint)
    except _NotMovedError as error:
        return error.version
    if target is not None:
        known = 0 if hint is None else hint.marks
        deleted = mover.deleted_error(target, known)
        if deleted is not None:
            back = mover.move_back(nonce, before[0], known)
            raise NotFoundError(f"the tag {tag!r} now points to {back}: {deleted}")
    return target


@dataclass(frozen=True)
class _Mover:
    """Moves one tag, for one call; attributes as the arguments of :func:`move_tag`."""

    resolver: Resolver
    name: str
    tag: str
    time: datetime.datetime
    author: str

    def append(
        self,
        target: Version | None,
        check: Callable[[int, bytes | None], None],
        hint: TagHint | None,
    ) -> str:
        """Append a move, and write the hint of the tag.

        Args:
            target: the version that the tag should point to; None to remove the tag.
            check: called with the number of the move, and the bytes of the move before. If it
                raises, nothing is appended.
            hint: the hint of the tag.

        Returns:
            The nonce of the move.
        """
        backend, nonce = self.resolver.backend, secrets.token_hex(16)
        moves = tag_log(backend, self.name, self.tag)
        number = None if target is None else target.number
        digest = None if target is None else target.digest

        def make_record(move: int, previous: bytes | None) -> bytes:
            check(move, previous)
            return TagMove(
                name=self.name,
                tag=self.tag,
                number=move,
                target=number,
                digest=digest,
                previous=None if previous is None else digest_of(previous),
                time=self.time,
                author=self.author,
                nonce=nonce,
            ).to_bytes()

        def hint_of(move: int) -> None:
            data = TagHint(move, number, digest).to_bytes()
            write_hint(backend, tag_hint_key(self.name, self.tag), data)

        data = moves.append(make_record, nonce, newest=moves.newest(hint), write_hint=hint_of)
        if backend.is_remote and TagMove.from_bytes(data, "the move").number == 1:
            hint_of(1)  # a pull by tag finds the first move without a hint only by more requests
        return nonce

    def target_of(self, move: int, previous: bytes | None) -> Version | None:
        """Return the version that the move before ``move`` points to, if it stands."""
        if previous is None:
            return None
        backend = self.resolver.backend
        earlier = parse_move(backend, self.name, self.tag, move - 1, previous)
        return self.resolver.target_of(earlier)

    def deleted_error(self, version: Version, known: int) -> NotFoundError | None:
        """Return the error if a version was deleted; None if it stands.

        Args:
            version: the version.
            known: the number of a mark that should exist; 0 for none.
        """
        backend, number = self.resolver.backend, version.number or 0
        mark = newest_mark(backend, self.name, known)
        span = None if mark is None else find_span(mark.deleted, number)
        if mark is None or span is None:
            return None
        return deleted_error(backend, self.name, number, span, mark)

    def move_back(self, nonce: str, before: bytes | None, known: int) -> str:
        """Move the tag back to where it pointed, unless another writer has moved it since.

        Args:
            nonce: the nonce of the move to take back.
            before: the bytes of the move before that one.
            known: the number of a mark that should exist; 0 for none.

        Returns:
            Where the tag points to now, for a message.
        """
        moves = tag_log(self.resolver.backend, self.name, self.tag)

        def check(move: int, previous: bytes | None) -> None:
            if previous is None or nonce.encode("ascii") not in previous:
                raise _NotMovedError(None)

        number = 0 if before is None else TagMove.from_bytes(before, "the move before").number
        target = self.target_of(number + 1, before)
        try:
            nonce = self.append(target, check, moves.read_hint())
            # The version before may have been deleted, because the tag had left it.
            if target is not None and self.deleted_error(target, known) is not None:
                target = None
                self.append(target, check, moves.read_hint())
        except _NotMovedError:
            return "another version, to which another writer moved it"
        return "no version" if target is None else target.ref


class _NotMovedError(Exception):
    """End a move that ``when`` has refused.

    Attributes:
        version: the version that the tag points to.
    """

    def __init__(self, version: Version | None) -> None:
        super().__init__(version)
        self.version = version
