"""Read and write summaries, which save readers the reading of all batches of a league.

A summary names bodies, and each body holds the sums of some batches. The newest body covers few
batches, and each one before it covers several times more: a new summary merges the newest bodies
and leaves the old ones as they are. So a reader needs few requests, and little is written again.

No number depends on a summary. A reader that cannot read the newest summary, or one of its bodies,
takes the one before, and without any it reads all batches.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from policystore._util.batches import batches
from policystore._util.concurrency import in_parallel
from policystore.backends.base import Backend
from policystore.digest import digest_of
from policystore.errors import (
    FormatError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
)
from policystore.format.keys import MAX_RECORD, number_of
from policystore.format.league_keys import body_key, summaries_prefix, summary_key
from policystore.format.records.match_summary import MAX_BODIES, BodyEntry, Summary
from policystore.format.records.sums import Tally, body_bytes, parse_body
from policystore.repository.stamp import default_author, now

__all__ = ["Base", "newest_base", "read_bodies", "read_summary", "write_summary"]

_MAX_TRIES = 3  # summaries that are tried before all batches are read
_AT_ONCE = 8  # bodies
_GROWTH = 8  # how many times more batches a body covers than the body after it, at least


@dataclass
class Base:
    """The summary that a reader has begun with.

    Attributes:
        number: the newest number of a summary of the epoch; 0 if there is none.
        bodies: the bodies of the summary with that number; empty if the summary cannot be read. The
            collector may remove bodies of earlier summaries, so no new summary names these.
        tally: the sums of the newest summary that could be read.
    """

    number: int = 0
    bodies: tuple[BodyEntry, ...] = ()
    tally: Tally = field(default_factory=Tally)


def newest_base(backend: Backend, league: str, epoch: int) -> Base:
    """Read the newest summary of an epoch that can be read.

    Returns:
        The summary; without bodies if none can be read.

    Raises:
        StorageError: the storage failed.
    """
    prefix = summaries_prefix(league, epoch)
    numbers = {number_of(key) for key in backend.keys(prefix)}
    newest_first = sorted((number for number in numbers if number is not None), reverse=True)
    for number in newest_first[:_MAX_TRIES]:
        with suppress(FormatError, IntegrityError, NotFoundError):
            summary = read_summary(backend, league, epoch, number)
            tally = read_bodies(backend, league, epoch, summary.bodies)
            is_newest = number == newest_first[0]
            return Base(newest_first[0], summary.bodies if is_newest else (), tally)
    return Base(max(newest_first, default=0))


def read_summary(backend: Backend, league: str, epoch: int, number: int) -> Summary:
    """Read a summary.

    Raises:
        NotFoundError: there is no summary with this number.
        FormatError: the bytes are no summary of this number, epoch and league.
    """
    key = summary_key(league, epoch, number)
    label = backend.location(key)
    summary = Summary.from_bytes(backend.get(key, limit=MAX_RECORD), label)
    if (summary.league, summary.epoch, summary.number) != (league, epoch, number):
        raise FormatError(f"{label} is the summary {summary.number} of {summary.league!r}")
    return summary


def read_bodies(backend: Backend, league: str, epoch: int, bodies: Sequence[BodyEntry]) -> Tally:
    """Read bodies, check them against their digests, and add them up in their order.

    Raises:
        NotFoundError: a body is missing.
        IntegrityError: the bytes of a body do not have its digest.
        FormatError: a body is too long, or of another league, epoch or format.
    """
    merged = Tally()
    read = partial(_read_body, backend, league)
    for some in batches(bodies, _AT_ONCE):
        for entry, data in zip(
            some, in_parallel(read, some, workers=backend.parallel), strict=True
        ):
            label = backend.location(body_key(league, entry.digest))
            tally = parse_body(data, label, league, epoch)
            if tally.batches != entry.batches:
                raise FormatError(
                    f"{label} covers {tally.batches} batches, and not {entry.batches}"
                )
            merged.merge(tally)
    return merged


def _read_body(backend: Backend, league: str, entry: BodyEntry) -> bytes | memoryview:
    key = body_key(league, entry.digest)
    data = backend.get(key, limit=entry.nbytes)
    if digest_of(data) != entry.digest:
        raise IntegrityError(
            f"{backend.location(key)}: the bytes do not have the digest {entry.digest}"
        )
    return data


def write_summary(backend: Backend, league: str, epoch: int, base: Base, new: Tally) -> Base | None:
    """Write a summary of what a base covers and what was read since.

    The bodies are written before the summary that names them, also if they exist already: so they
    are new, and the collector keeps them.

    Args:
        backend: the storage.
        league: the league.
        epoch: the epoch.
        base: the newest summary, as the caller knows it.
        new: the sums of all records that the bodies of ``base`` do not cover.

    Returns:
        The new summary, without sums; None if there is a newer summary than ``base`` already.

    Raises:
        InvalidInputError: the sums are too large for a summary.
        NotFoundError, FormatError, IntegrityError: a body of ``base`` is lost meanwhile.
        ReadOnlyError: this user may not write.
        StorageError: the storage failed.
    """
    key = summary_key(league, epoch, base.number + 1)
    if backend.size(key) is not None:
        return None
    kept = list(base.bodies)
    merged = Tally()
    merged.merge(new)
    while kept and _batches_of(last := _last_group(kept)) < _GROWTH * merged.batches:
        earlier = read_bodies(backend, league, epoch, last)
        earlier.merge(merged)
        merged, kept = earlier, kept[: -len(last)]
    made = [(digest_of(data), data) for data in body_bytes(merged, league, epoch)]
    bodies = [
        *kept,
        *(
            BodyEntry(digest, len(data), 0 if index else merged.batches)
            for index, (digest, data) in enumerate(made)
        ),
    ]
    if len(bodies) > MAX_BODIES:
        raise InvalidInputError(f"a summary would need {len(bodies)} bodies")
    for digest, data in made:
        backend.replace(body_key(league, digest), data)
    summary = Summary(
        league=league,
        epoch=epoch,
        number=base.number + 1,
        nonce=secrets.token_hex(16),
        time=now(),
        author=default_author(),
        bodies=tuple(bodies),
    )
    data = summary.to_bytes()
    if not backend.create(key, data) and bytes(backend.get(key, limit=MAX_RECORD)) != data:
        return None
    return Base(summary.number, summary.bodies)


def _last_group(bodies: Sequence[BodyEntry]) -> list[BodyEntry]:
    """Return the last body that covers batches, with the bodies that were cut off it."""
    start = max(index for index, each in enumerate(bodies) if each.batches)
    return list(bodies[start:])


def _batches_of(bodies: Sequence[BodyEntry]) -> int:
    return sum(each.batches for each in bodies)
