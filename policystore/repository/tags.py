"""Move tags: each move is a record of its own, made from the record before it."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable
from typing import TypeAlias

from policystore.digest import digest_of
from policystore.format.records import TagMove, Version
from policystore.repository.record_log import tag_log
from policystore.repository.resolver import Resolver

__all__ = ["When", "move_tag"]

When: TypeAlias = Callable[[Version | None], bool]
"""A function that returns whether to move a tag. Its argument is the version that the tag points
to, or None if there is no such tag."""


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
    """
    nonce = secrets.token_hex(16)

    def make_record(number: int, previous: bytes | None) -> bytes:
        if when is not None:
            current = None if previous is None else resolver.target_of(name, tag, previous)
            if not when(current):
                raise _NotMovedError(current)
        return TagMove(
            name=name,
            tag=tag,
            number=number,
            target=None if target is None else target.number,
            digest=None if target is None else target.digest,
            previous=None if previous is None else digest_of(previous),
            time=time,
            author=author,
            nonce=nonce,
        ).to_bytes()

    try:
        tag_log(resolver.backend, name, tag).append(make_record, nonce)
    except _NotMovedError as error:
        return error.version
    return target


class _NotMovedError(Exception):
    """End a move that ``when`` has refused.

    Attributes:
        version: the version that the tag points to.
    """

    def __init__(self, version: Version | None) -> None:
        super().__init__(version)
        self.version = version
