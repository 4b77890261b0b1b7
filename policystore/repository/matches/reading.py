"""Read the records of writers' lists: all of a league, or those that a reader does not know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

from policystore._util.batches import batches
from policystore._util.concurrency import in_parallel
from policystore.backends.base import Backend
from policystore.digest import digest_of
from policystore.errors import FormatError, IntegrityError, NotFoundError
from policystore.format.league_keys import (
    batch_block,
    batch_key,
    parse_league_key,
    writer_of_prefix,
    writers_prefix,
)
from policystore.format.records.match_batch import MAX_BATCH, ListRecord, parse_list_record
from policystore.format.records.sums.tally import ListState
from policystore.format.refs import MAX_NUMBER

__all__ = ["ListPart", "all_lists", "new_part", "new_parts", "read_parts"]

_AT_ONCE = 64  # records, or lists


class ListPart(NamedTuple):
    """A part of a writer's list.

    Attributes:
        writer: id of the list.
        first: the number of the first record of the part.
        last: the number of the last record.
    """

    writer: str
    first: int
    last: int


def all_lists(backend: Backend, league: str, epoch: int) -> list[ListPart]:
    """Return all lists of an epoch of a league, sorted. The call costs one listing of all keys.

    Keys that format 1 does not have are passed over; verify() reports them.
    """
    newest: dict[str, int] = {}
    for key in backend.keys(writers_prefix(league, epoch)):
        parsed = parse_league_key(key)
        if parsed is not None:
            newest[parsed.writer] = max(newest.get(parsed.writer, 0), parsed.number)
    return [ListPart(writer, 1, last) for writer, last in sorted(newest.items())]


def new_parts(
    backend: Backend, league: str, epoch: int, known: Mapping[str, ListState]
) -> Iterator[ListPart]:
    """Find the parts of all lists that a reader does not know.

    The call costs one listing of the writers, one request for each list that is not ended, and one
    more for each list that has new records.

    Args:
        backend: the storage.
        league: the league.
        epoch: the epoch.
        known: writer -> how far its list is known.
    """
    listed = backend.prefixes(writers_prefix(league, epoch), "/")
    found = {writer_of_prefix(prefix) for prefix in listed} | known.keys()
    is_open = [
        (writer, known[writer].number if writer in known else 0)
        for writer in sorted(each for each in found if each is not None)
        if writer not in known or not known[writer].sealed
    ]
    find = partial(new_part, backend, league, epoch)
    for some in batches(is_open, _AT_ONCE):
        for part in in_parallel(find, some, workers=backend.parallel):
            if part is not None:
                yield part


def new_part(backend: Backend, league: str, epoch: int, list_: tuple[str, int]) -> ListPart | None:
    """Return what follows a number in a list; None if nothing follows."""
    writer, number = list_
    last = number
    key = partial(batch_key, league, epoch, writer)
    while last < MAX_NUMBER and backend.size(key(last + 1)) is not None:
        last += 1
        if backend.parallel > 1:
            last = max(last, _last_in_block(backend, league, epoch, writer, last))
            if last % 1000 != 999:
                break  # the block has a free number, so the list ends in it
    return ListPart(writer, number + 1, last) if last > number else None


def _last_in_block(backend: Backend, league: str, epoch: int, writer: str, number: int) -> int:
    keys = backend.keys(batch_block(league, epoch, writer, number))
    parsed = [each for each in map(parse_league_key, keys) if each is not None]
    return max((each.number for each in parsed if each.writer == writer), default=0)


def read_parts(
    backend: Backend, league: str, epoch: int, parts: Iterator[ListPart] | list[ListPart]
) -> Iterator[ListRecord]:
    """Yield the records of parts of lists, each list in its order.

    Raises:
        IntegrityError: a record is missing, or does not continue the record before.
        FormatError: the bytes are no record of this list.
        StorageError: the storage failed.
    """
    places = ((part.writer, n) for part in parts for n in range(part.first, part.last + 1))
    writer, digest = "", None
    for some in batches(places, _AT_ONCE if backend.parallel > 1 else 1):
        keys = [batch_key(league, epoch, *place) for place in some]
        read = in_parallel(partial(_read, backend), keys, workers=backend.parallel)
        for place, key, data in zip(some, keys, read, strict=True):
            record = parse_list_record(data, backend.location(key))
            if (record.league, record.epoch, record.writer, record.number) != (
                league,
                epoch,
                *place,
            ):
                raise FormatError(
                    f"{backend.location(key)}: the record belongs to number {record.number} of the "
                    f"list {record.writer} of {record.league!r}, epoch {record.epoch}: it was moved"
                )
            if writer == record.writer and record.previous != digest:
                raise IntegrityError(
                    f"{backend.location(key)} does not continue record {record.number - 1} of the "
                    "list: one of the two was changed. verify() tells more."
                )
            writer, digest = record.writer, digest_of(data)
            yield record


def _read(backend: Backend, key: str) -> bytes:
    try:
        return bytes(backend.get(key, limit=MAX_BATCH))
    except NotFoundError:
        raise IntegrityError(
            f"{backend.location(key)} is missing, though later records of the list are there. "
            "Bring the record back from a copy of the store."
        ) from None
