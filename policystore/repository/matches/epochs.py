"""List the leagues of a store, find their present epochs, and delete leagues.

A league is deleted by a record that ends its present epoch: the lists and summaries of this epoch
do not count any more, and the collector removes them. Matches that are recorded later belong to the
next epoch.
"""

from __future__ import annotations

import datetime
import secrets

from policystore._util.concurrency import in_parallel
from policystore._util.near import close_names, did_you_mean
from policystore.backends.base import Backend
from policystore.errors import NotFoundError
from policystore.format.keys import league_of_prefix, league_prefix
from policystore.format.league_keys import deletion_key, writers_prefix
from policystore.format.records.match_summary import LeagueDeletion
from policystore.format.refs import check_name
from policystore.repository.record_log import Probe, RecordLog

__all__ = ["current_epoch", "delete_league", "league_names", "newest_deletion", "unknown_league"]


def _deletions(backend: Backend, league: str) -> RecordLog[Probe]:
    return RecordLog(backend, lambda epoch: deletion_key(league, epoch))


def newest_deletion(backend: Backend, league: str, known: int = 0) -> int:
    """Return the newest epoch of a league that was deleted; 0 if none was.

    Args:
        backend: the storage.
        league: the league.
        known: an epoch that was deleted, as the caller knows; 0 if it knows none.
    """
    log = _deletions(backend, league)
    if not log.has(known + 1):  # one request in all but the rarest cases
        return known
    return log.newest(Probe(known + 1, None)).number


def current_epoch(backend: Backend, league: str, known: int = 1) -> int:
    """Return the present epoch of a league: 1 for a new league, and one more for each deletion.

    Args:
        backend: the storage.
        league: the league.
        known: the present epoch at an earlier time.
    """
    return newest_deletion(backend, league, known - 1) + 1


def league_names(backend: Backend) -> list[str]:
    """List the leagues that have matches, sorted.

    Raises:
        StorageError: the storage failed.
    """
    found = {league_of_prefix(prefix) for prefix in backend.prefixes(league_prefix(""), "/@")}
    names = sorted(name for name in found if name is not None)
    filled = in_parallel(lambda name: has_matches(backend, name), names, workers=backend.parallel)
    return [name for name, is_filled in zip(names, filled, strict=True) if is_filled]


def has_matches(backend: Backend, league: str) -> bool:
    """Return whether a league has matches in its present epoch."""
    prefix = writers_prefix(league, current_epoch(backend, league))
    return next(iter(backend.prefixes(prefix, "/")), None) is not None


def delete_league(
    backend: Backend, league: str, *, time: datetime.datetime, author: str, message: str
) -> LeagueDeletion:
    """Delete all matches of a league: end its present epoch.

    A match that is recorded at the same time is deleted, or belongs to the next epoch.

    Raises:
        NotFoundError: the league has no matches.
        InvalidInputError: author or message are too long.
        StorageError: the storage failed.
    """
    check_name(league)
    if not has_matches(backend, league):
        raise unknown_league(backend, league)
    record = LeagueDeletion(
        league=league,
        epoch=1,
        nonce=secrets.token_hex(16),
        time=time,
        author=author,
        message=message,
    )
    data = _deletions(backend, league).append(
        lambda number, _: record.of_epoch(number).to_bytes(), record.nonce
    )
    return LeagueDeletion.from_bytes(data, f"the deletion of the league {league}")


def unknown_league(backend: Backend, league: str) -> NotFoundError:
    """Return the error for a league without matches; its message names leagues like it."""
    near = did_you_mean(close_names(league, league_names(backend)))
    return NotFoundError(f"{backend.url} has no matches of a league {league!r}.{near}")
