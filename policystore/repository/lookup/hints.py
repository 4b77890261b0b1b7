"""Write hints, and bring a hint forward that names an older record than the newest one.

A hint only saves probes, so a hint that cannot be written is no error. Two writers may write a hint
in another order than their records. So each writer looks for later records after it has written a
hint, and writes the hint again if there are some: of two writers, one sees the other.
"""

from __future__ import annotations

from functools import partial

from policystore._util.concurrency import in_parallel
from policystore._util.log import logger
from policystore.backends.base import Backend
from policystore.errors import PolicyStoreError, ReadOnlyError, StorageError
from policystore.format.keys import hint_key, tag_hint_key
from policystore.format.records import Hint, TagHint
from policystore.repository.lookup.state import NameState, find_state
from policystore.repository.lookup.tag_moves import last_move
from policystore.repository.lookup.versions import read_version
from policystore.repository.record_log import mark_log, tag_log, version_log

__all__ = ["bring_hint_forward", "bring_tag_hint_forward", "write_hint", "write_hint_of"]

_TRIES = 10  # each failed try means that another writer has just written a record


def write_hint(backend: Backend, key: str, data: bytes) -> None:
    """Write a hint, or log why it could not be written.

    The record that the hint names exists and is durable. If this function raised an error, callers
    would write the record again.
    """
    try:
        backend.replace(key, data)
    except (StorageError, ReadOnlyError) as error:
        logger.warning(
            "the hint %s could not be written, which only makes it slower to find the newest "
            "record: %s",
            backend.location(key),
            error,
        )


def write_hint_of(backend: Backend, state: NameState) -> None:
    """Write the hint of a name, and again if later records exist, or log why it was not written.

    Args:
        backend: the storage of the store.
        state: the state of the name; it has a version.
    """
    try:
        for _ in range(_TRIES):
            hint = _hint_of(backend, state)
            write_hint(backend, hint_key(state.name), hint.to_bytes())
            if not _is_behind(backend, state.name, hint):
                return
            state = find_state(backend, state.name, hint)
    except PolicyStoreError as error:
        logger.warning("the hint of %s was not written: %s", state.name, error)


def bring_hint_forward(backend: Backend, name: str, hint: Hint | None) -> None:
    """Write the hint of a name again, if later records exist than the hint names.

    Args:
        backend: the storage of the store.
        name: the name; it has a version.
        hint: the hint that was read or written last; None if the name has none.
    """
    try:
        if hint is None or _is_behind(backend, name, hint):
            write_hint_of(backend, find_state(backend, name, hint))
    except PolicyStoreError as error:
        logger.warning("the hint of %s was not written: %s", name, error)


def bring_tag_hint_forward(backend: Backend, name: str, tag: str, hint: TagHint) -> None:
    """Write the hint of a tag again, if later moves exist than the hint names.

    Args:
        backend: the storage of the store.
        name: the name to which the tag belongs.
        tag: the tag.
        hint: the hint that was written last.
    """
    moves = tag_log(backend, name, tag)
    try:
        for _ in range(_TRIES):
            if not moves.has(hint.number + 1):
                return
            move = last_move(backend, name, tag, hint)
            if move is None:
                return  # the moves were deleted
            hint = TagHint(move.number, move.target, move.digest)
            write_hint(backend, tag_hint_key(name, tag), hint.to_bytes())
    except PolicyStoreError as error:
        logger.warning("the hint of the tag %s of %s was not written: %s", tag, name, error)


def _hint_of(backend: Backend, state: NameState) -> Hint:
    """Build the hint of a name.

    Raises:
        PolicyStoreError: the record of the version that the hint names cannot be read.
    """
    newest = state.newest
    number = state.stands or newest.number
    data = newest.data if number == newest.number else None
    digest = read_version(backend, state.name, number, data).digest
    marks = 0 if state.mark is None else state.mark.number
    return Hint(newest.number, digest, marks, state.stands)


def _is_behind(backend: Backend, name: str, hint: Hint) -> bool:
    """Return whether a version or a mark exists that is later than those that a hint names."""
    looks = [
        partial(version_log(backend, name).has, hint.number + 1),
        partial(mark_log(backend, name).has, hint.marks + 1),
    ]
    return any(in_parallel(lambda look: look(), looks, workers=backend.parallel))
