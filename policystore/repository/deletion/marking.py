"""Append marks to a name, and write its hint after them."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from policystore.backends.base import Backend
from policystore.digest import digest_of
from policystore.format.keys import MARKER, deleted_key
from policystore.format.records import (
    Action,
    Mark,
    find_span,
    marker_bytes,
    newest_standing,
    pointer_bytes,
    with_spans,
)
from policystore.repository.lookup.hints import write_hint_of
from policystore.repository.lookup.state import NameState, parse_mark
from policystore.repository.record_log import Probe, mark_log
from policystore.repository.stamp import default_author, now

__all__ = ["Change", "MarkNotes", "append_mark", "as_ranges", "deleted_by"]

Change = Callable[[NameState], Sequence[tuple[int, int]]]
"""A function that returns the versions to delete or restore, as ascending ranges, from the state of
the name. It is called again if another writer appends a mark at the same time."""

Guard = Callable[[Callable[[], bool]], bool]


@dataclass(frozen=True)
class MarkNotes:
    """Say who makes a mark, why and when.

    Attributes:
        message: why.
        author: who; by default ``$POLICYSTORE_AUTHOR`` or the name of the user.
        time: when, in UTC.
    """

    message: str = ""
    author: str = field(default_factory=default_author)
    time: datetime.datetime = field(default_factory=now)

    @classmethod
    def of(cls, message: str, author: str | None) -> MarkNotes:
        """Return the notes of a call with these arguments."""
        return cls(message) if author is None else cls(message, author)


def append_mark(
    backend: Backend,
    state: NameState,
    action: Action,
    change: Change,
    notes: MarkNotes,
    *,
    force: bool = False,
    guard: Guard | None = None,
) -> Mark:
    """Append a mark, also while other writers append marks; then write the hint of the name.

    If no version stands after the mark, ``deleted/<name>/@mark`` is written before it.

    Args:
        backend: the storage of the store.
        state: the state of the name, as the caller has just read it.
        action: what the mark does.
        change: returns the versions that the mark changes. If it raises, nothing is written.
        notes: who makes the mark, and why.
        force: whether the mark deletes versions though tags point to them.
        guard: calls the function that creates the mark, as :meth:`Freshness.call` does.

    Raises:
        InvalidInputError: author or message are too long, or the deleted versions lie in too many
            ranges for a mark.
        ReadOnlyError: this user may not write.
        StorageError: the storage failed.
    """
    backend.verify_exclusive_create(MARKER, marker_bytes())
    name, nonce = state.name, secrets.token_hex(16)

    def make_record(number: int, previous: bytes | None) -> bytes:
        before = None if previous is None else parse_mark(backend, name, number - 1, previous)
        present = NameState(name, state.newest, before)
        changed = tuple(change(present))
        by = None if action == "restore" else number
        mark = Mark(
            name=name,
            number=number,
            action=action,
            changed=changed,
            deleted=with_spans(present.deleted, changed, by),
            previous=None if previous is None else digest_of(previous),
            time=notes.time,
            author=notes.author,
            message=notes.message,
            nonce=nonce,
            force=force,
        )
        data = mark.to_bytes()
        if not newest_standing(mark.deleted, state.newest.number):
            backend.replace(deleted_key(name), pointer_bytes())
        return data

    # The canonical bytes of a mark are the bytes that were read.
    last = state.mark
    newest = Probe(0, None) if last is None else Probe(last.number, last.to_bytes())
    data = mark_log(backend, name).append(make_record, nonce, newest=newest, guard=guard)
    mark = Mark.from_bytes(data, f"the mark of {name}")
    write_hint_of(backend, replace(state, mark=mark))
    return mark


def as_ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return numbers as ascending ranges of a first and a last number."""
    ranges: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges


def deleted_by(state: NameState, numbers: Iterable[int], mark: int) -> list[int]:
    """Return those of some versions that a mark has deleted, and that are still deleted."""
    spans = [(number, find_span(state.deleted, number)) for number in numbers]
    return [number for number, span in spans if span is not None and span.mark == mark]
