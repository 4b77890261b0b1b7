"""Moves of a tag: each one a record of its own, made on what the one before it says."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable
from typing import TypeAlias

from policystore.digest import digest_of
from policystore.format.records import TagMove, Version
from policystore.repository.record_log import tag_list
from policystore.repository.resolver import Resolver

__all__ = ["When", "move_tag"]

When: TypeAlias = Callable[[Version | None], bool]
"""Whether to move a tag, given the version that it points to; None where it points to none."""


def move_tag(
    find: Resolver,
    name: str,
    tag: str,
    target: Version | None,
    *,
    time: datetime.datetime,
    author: str,
    when: When | None = None,
) -> Version | None:
    """Move a tag, or take it away, whoever else is moving it; its history is kept.

    Args:
        find: looks at the store.
        name, tag: which.
        target: the version it is to point to; None to take it away.
        time, author: for the record.
        when: whether to move it, asked again if another writer moves it meanwhile: the move
            follows the very one that it was asked about.

    Returns:
        Where the tag stands now.
    """
    nonce = secrets.token_hex(16)

    def make(number: int, before: bytes | None) -> bytes:
        if when is not None:
            current = None if before is None else find.moved_to(name, tag, before)
            if not when(current):
                raise _StaysError(current)
        return TagMove(
            name=name,
            tag=tag,
            number=number,
            target=None if target is None else target.number,
            digest=None if target is None else target.digest,
            previous=None if before is None else digest_of(before),
            time=time,
            author=author,
            nonce=nonce,
        ).to_bytes()

    try:
        tag_list(find.backend, name, tag).append(make, nonce)
    except _StaysError as stays:
        return stays.version
    return target


class _StaysError(Exception):
    """A tag is not to be moved."""

    def __init__(self, version: Version | None) -> None:
        super().__init__(version)
        self.version = version
