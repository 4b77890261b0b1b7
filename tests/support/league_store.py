"""Records of leagues for tests of what stands around the ledger, written without the ledger."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import Any

from policystore.backends.base import Backend
from policystore.digest import Digest, digest_of
from policystore.format.league_keys import batch_key, deletion_key
from policystore.format.records.match_batch import ListEnd, MatchBatch
from policystore.format.records.match_summary import LeagueDeletion
from policystore.format.records.matches import Match, Outcome

TIME = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
LEAGUE = "soccer"
WRITERS = ("a" * 32, "b" * 32, "c" * 32)


def match(seed: int) -> Match:
    """Return a match of one episode between two of five players."""
    players = {"blue": f"heuristic:p{seed % 3}", "red": f"heuristic:p{seed % 5}"}
    return Match(players, 1, (Outcome((seed % 2, 1 - seed % 2), 1),), seeds=(seed,))


def records(
    writer: str,
    count: int,
    *,
    epoch: int = 1,
    end: bool = False,
    league: str = LEAGUE,
    per_batch: int = 2,
) -> Iterator[tuple[str, bytes]]:
    """Yield keys and bytes of a writer's list of ``count`` batches, and perhaps of its end."""
    previous: Digest | None = None
    for number in range(1, count + 1 + end):
        common: dict[str, Any] = {
            "league": league,
            "epoch": epoch,
            "writer": writer,
            "number": number,
            "nonce": f"{number:032x}",
            "previous": previous,
            "time": TIME,
            "author": "ann",
        }
        if number > count:
            data = ListEnd(**common).to_bytes()
        else:
            first = (sum(map(ord, writer)) * 100 + number) * per_batch
            matches = tuple(match(first + each) for each in range(per_batch))
            data = MatchBatch(**common, matches=matches, unknown={"late": 1}).to_bytes()
        previous = digest_of(data)
        yield batch_key(league, epoch, writer, number), data


def write_lists(
    backend: Backend, counts: Sequence[int] = (3, 2), *, epoch: int = 1, league: str = LEAGUE
) -> list[str]:
    """Write a list for each count, of that many batches; the first list is ended."""
    keys = []
    for index, count in enumerate(counts):
        for key, data in records(WRITERS[index], count, epoch=epoch, end=index == 0, league=league):
            backend.replace(key, data)
            keys.append(key)
    return keys


def delete_epoch(backend: Backend, epoch: int = 1, *, league: str = LEAGUE) -> str:
    """Delete an epoch of a league."""
    deletion = LeagueDeletion(
        league=league, epoch=epoch, nonce=f"{epoch:032x}", time=TIME, author="ann", message="old"
    )
    key = deletion_key(league, epoch)
    backend.replace(key, deletion.to_bytes())
    return key
