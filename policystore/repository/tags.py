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
"""Tells whether to move a tag. It is called with the version that the tag points to, or None."""


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
    """Move a tag, or take it away, also while others move it; its history is kept.

    Args:
        resolver: reads the store.
        name: the name that the tag stands on.
        tag: the tag.
        target: the version that the tag is to point to; None to take the tag away.
        time: the time for the record.
        author: the author for the record.
        when: tells whether to move the tag. It is called again if another writer moves the tag at
            the same time, so that the move always follows the version that it was asked about.

    Returns:
        The version that the tag points to now.
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
