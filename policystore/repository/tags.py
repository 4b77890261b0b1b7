"""Move tags. Each move is a record of its own, which repeats a part of the record before it."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from policystore._util.concurrency import run_both
from policystore.digest import Digest, digest_of
from policystore.errors import NotFoundError, ProtectedError
from policystore.format.keys import tag_hint_key
from policystore.format.records import Hint, Protection, TagHint, TagMove, Version, find_span
from policystore.format.refs import Ref
from policystore.repository.lookup.hints import (
    bring_hint_forward,
    bring_tag_hint_forward,
    write_hint,
)
from policystore.repository.lookup.state import deleted_error, newest_mark
from policystore.repository.lookup.tag_moves import last_move, parse_move
from policystore.repository.record_log import Probe, tag_log, version_log
from policystore.repository.resolver import Resolver

__all__ = ["When", "move_tag", "protect_tag"]

When: TypeAlias = Callable[[Version | None], bool]
"""A function that returns whether to move a tag. Its argument is the version that the tag points
to, or None if there is no such tag or its version was deleted."""

_Next: TypeAlias = tuple[int | None, Digest | None, Protection | None]
"""The number and the digest of the version that a move leads to, and who may move the tag then."""


def move_tag(
    resolver: Resolver,
    name: str,
    tag: str,
    target: Version | None,
    *,
    time: datetime.datetime,
    author: str,
    when: When | None = None,
    force: bool = False,
) -> Version | None:
    """Move or remove a tag, also while other writers move it. The store keeps all earlier moves.

    After the move, the marks of the name are read again: if the version was deleted at the same
    time, the tag is moved back. A deletion reads the tags after it has written its mark. So one of
    the two calls notices the other, and no tag is left on a version that was deleted without
    ``force``.

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
        force: whether to move a tag that is protected against this author.

    Returns:
        The version that the tag points to after the call; None if there is no such tag.

    Raises:
        NotFoundError: the version was deleted before the tag was moved.
        ProtectedError: the tag is protected against this author, and ``force`` is False.
    """
    mover = _Mover(resolver, name, tag, time, author)
    hint, tag_hint = run_both(
        version_log(resolver.backend, name).read_hint,
        tag_log(resolver.backend, name, tag).read_hint,
        at_once=resolver.backend.parallel > 1,
    )
    before: list[TagMove | None] = []

    def move(earlier: TagMove | None) -> _Next:
        before[:] = [earlier]
        if when is not None:
            current = None if earlier is None else resolver.target_of(earlier)
            if not when(current):
                raise _NotMovedError(current)
        protection = None if earlier is None else earlier.protected
        if protection is not None and author not in protection.by and not force:
            raise _protected_error(name, tag, protection, author, "move or remove")
        return *_place_of(target), protection

    try:
        made = mover.append(move, mover.newest(tag_hint))
    except _NotMovedError as error:
        return error.version
    if target is None:
        mover.bring_forward(made)
    else:
        deleted, _ = run_both(
            partial(mover.deleted_error, target, hint),
            partial(mover.bring_forward, made),
            at_once=resolver.backend.parallel > 1,
        )
        if deleted is not None:
            back = mover.move_back(made, before[0], hint)
            raise NotFoundError(f"the tag {tag!r} now points to {back}: {deleted}")
    return target


def protect_tag(
    resolver: Resolver,
    name: str,
    tag: str,
    protection: Protection | None,
    *,
    time: datetime.datetime,
    author: str,
    force: bool = False,
) -> TagMove:
    """Protect a tag, or end its protection; the tag stays where it is.

    Args:
        resolver: reads the store.
        name: the name to which the tag belongs.
        tag: the tag.
        protection: who may move the tag from now on; None for everybody.
        time: the time for the record.
        author: the author for the record.
        force: whether to change a protection against this author.

    Raises:
        NotFoundError: no such tag, or the tag is not protected and ``protection`` is None.
        ProtectedError: another author has protected the tag, and ``force`` is False.
    """
    backend = resolver.backend
    last = last_move(backend, name, tag, tag_log(backend, name, tag).read_hint())
    if last is None:
        last = resolver.last_move(name, tag)  # raises the error that lists the tags

    def protect(earlier: TagMove | None) -> _Next:
        present = None if earlier is None else earlier.protected
        if earlier is None or (protection is not None and earlier.target is None):
            raise NotFoundError(
                f"{name!r} has no tag {tag!r} in {backend.url}, because the tag was removed. Set "
                "the tag first"
            )
        if protection is None and present is None:
            raise NotFoundError(f"the tag {tag!r} of {name!r} in {backend.url} is not protected")
        if present is not None and author not in (*present.by, present.author) and not force:
            raise _protected_error(name, tag, present, author, "protect or unprotect")
        return earlier.target, earlier.digest, protection

    # The canonical bytes of a move are the bytes that were read.
    newest = Probe(last.number, last.to_bytes())
    return _Mover(resolver, name, tag, time, author).append(protect, newest)


def _protected_error(
    name: str, tag: str, protection: Protection, author: str, action: str
) -> ProtectedError:
    advice = f"Ask {protection.author!r}"
    if author == protection.author:  # the author may change the protection, so the action is a move
        by = ", ".join(map(repr, sorted({*protection.by, author})))
        advice = f"You protected it yourself: protect it again with by=[{by}]"
    return ProtectedError(
        f"{author!r} may not {action} the tag {tag!r} of {name!r}: {protection}. {advice}, or "
        "give force=True"
    )


def _place_of(version: Version | None) -> tuple[int | None, Digest | None]:
    return (None, None) if version is None else (version.number, version.digest)


@dataclass(frozen=True)
class _Mover:
    """Moves one tag, for one call; attributes as the arguments of :func:`move_tag`."""

    resolver: Resolver
    name: str
    tag: str
    time: datetime.datetime
    author: str

    def newest(self, hint: TagHint | None) -> Probe:
        """Find the last move of the tag."""
        return tag_log(self.resolver.backend, self.name, self.tag).newest(hint)

    def append(self, make: Callable[[TagMove | None], _Next], newest: Probe) -> TagMove:
        """Append a move, and write the hint of the tag.

        Args:
            make: a function of the move before, which returns what the move leads to. It is called
                again if another writer moves the tag at the same time. If it raises, nothing is
                appended.
            newest: the last move.

        Returns:
            The move.
        """
        backend, nonce = self.resolver.backend, secrets.token_hex(16)
        self.resolver.last_pulls.forget(Ref(self.name, tag=self.tag))
        made: list[TagMove] = []

        def make_record(number: int, previous: bytes | None) -> bytes:
            earlier = None
            if previous is not None:
                earlier = parse_move(backend, self.name, self.tag, number - 1, previous)
            target, digest, protection = make(earlier)
            made[:] = [
                TagMove(
                    name=self.name,
                    tag=self.tag,
                    number=number,
                    target=target,
                    digest=digest,
                    previous=None if previous is None else digest_of(previous),
                    time=self.time,
                    author=self.author,
                    nonce=nonce,
                    protected=protection,
                )
            ]
            return made[0].to_bytes()

        def hint_of(number: int) -> None:
            data = TagHint(number, made[0].target, made[0].digest).to_bytes()
            write_hint(backend, tag_hint_key(self.name, self.tag), data)

        moves = tag_log(backend, self.name, self.tag)
        data = moves.append(make_record, nonce, newest=newest, write_hint=hint_of)
        move = TagMove.from_bytes(data, "the move")
        if backend.is_remote and move.number == 1:
            hint_of(1)  # a pull by tag finds the first move without a hint only by more requests
        return move

    def bring_forward(self, move: TagMove) -> None:
        """Write the hint of the tag again, if another writer has moved the tag after a move."""
        hint = TagHint(move.number, move.target, move.digest)
        bring_tag_hint_forward(self.resolver.backend, self.name, self.tag, hint)

    def deleted_error(self, version: Version, hint: Hint | None) -> NotFoundError | None:
        """Return the error if a version was deleted; None if it stands.

        If the hint of the name does not name the newest mark, the hint is written again.

        Args:
            version: the version.
            hint: the hint of the name.
        """
        backend, number = self.resolver.backend, version.number or 0
        known = 0 if hint is None else hint.marks
        mark = newest_mark(backend, self.name, known)
        if mark is not None and mark.number > known:
            bring_hint_forward(backend, self.name, hint)
        span = None if mark is None else find_span(mark.deleted, number)
        if mark is None or span is None:
            return None
        return deleted_error(backend, self.name, number, span, mark)

    def move_back(self, made: TagMove, before: TagMove | None, hint: Hint | None) -> str:
        """Move the tag back to where it pointed, unless another writer has moved it since.

        Args:
            made: the move to take back.
            before: the move before that one.
            hint: the hint of the name.

        Returns:
            Where the tag points to now, for a message.
        """
        own = {made.nonce}
        target = None if before is None else self.resolver.target_of(before)

        def back(earlier: TagMove | None) -> _Next:
            if earlier is None or earlier.nonce not in own:
                raise _NotMovedError(None)
            return *_place_of(target), earlier.protected

        try:
            own.add(self.append(back, self._find()).nonce)
            # The version before may have been deleted, because the tag had left it.
            if target is not None and self.deleted_error(target, hint) is not None:
                target = None
                self.append(back, self._find())
        except _NotMovedError:
            return "another version, to which another writer moved it"
        return "no version" if target is None else target.ref

    def _find(self) -> Probe:
        return self.newest(tag_log(self.resolver.backend, self.name, self.tag).read_hint())


class _NotMovedError(Exception):
    """End a move that ``when`` has refused.

    Attributes:
        version: the version that the tag points to.
    """

    def __init__(self, version: Version | None) -> None:
        super().__init__(version)
        self.version = version
