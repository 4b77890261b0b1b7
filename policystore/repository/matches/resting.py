"""End the lists of writers that have not written for a day, so that readers look for no more."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Mapping
from itertools import islice

from policystore.backends.base import Backend
from policystore.digest import digest_of
from policystore.errors import IntegrityError, NotFoundError
from policystore.format.league_keys import batch_key
from policystore.format.records.fields import format_time
from policystore.format.records.match_batch import MAX_BATCH, ListEnd
from policystore.format.records.sums import ListState
from policystore.repository.stamp import default_author, now

__all__ = ["REST", "end_rested_lists"]

REST = datetime.timedelta(days=1)
"""How old the newest record of a list is, by the clock of the storage, if others end the list."""

_MOST = 16  # lists in one call


def end_rested_lists(
    backend: Backend, league: str, epoch: int, lists: Mapping[str, ListState]
) -> int:
    """End lists whose newest record is older than :data:`REST`, a few at a time.

    The clock of this machine only says which lists are worth a look. Whether a list has rested is
    decided by the clock of the storage. A writer that comes back begins another list.

    Args:
        backend: the storage.
        league: the league.
        epoch: the epoch.
        lists: writer -> how far its list was read.

    Returns:
        How many lists were ended.

    Raises:
        StorageError: the storage failed, or does not tell the times of keys.
        ReadOnlyError: this user may not write.
        IntegrityError: the newest record of a list is gone.
    """
    before = format_time(now() - REST)
    resting = [
        (writer, state.number)
        for writer, state in lists.items()
        if not state.sealed and state.time < before
    ]
    if not resting:
        return 0
    time = backend.server_time()
    ended = 0
    for writer, number in islice(resting, _MOST):
        key = batch_key(league, epoch, writer, number)
        written = next((each.time for each in backend.entries(key) if each.key == key), None)
        if written is not None and time - written > REST.total_seconds():
            ended += _end(backend, league, epoch, writer, number)
    return ended


def _end(backend: Backend, league: str, epoch: int, writer: str, number: int) -> bool:
    key = batch_key(league, epoch, writer, number)
    try:
        newest = backend.get(key, limit=MAX_BATCH)
    except NotFoundError:
        raise IntegrityError(
            f"{backend.location(key)} is missing: it was the newest record of a list. "
            "verify() tells more"
        ) from None
    end = ListEnd(
        league=league,
        epoch=epoch,
        writer=writer,
        number=number + 1,
        nonce=secrets.token_hex(16),
        previous=digest_of(newest),
        time=now(),
        author=default_author(),
    )
    return backend.create(batch_key(league, epoch, writer, number + 1), end.to_bytes())
