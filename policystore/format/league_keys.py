"""Build and parse the keys of leagues. ``docs/format.md`` section 6."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from policystore.digest import Digest
from policystore.format.keys import LEAGUES, league_of_prefix, league_prefix, number_of

__all__ = [
    "LeagueKey",
    "batch_block",
    "batch_key",
    "bodies_prefix",
    "body_key",
    "deletion_key",
    "deletions_prefix",
    "parse_league_key",
    "summaries_prefix",
    "summary_key",
    "writer_of_prefix",
    "writers_prefix",
]

_WRITER = re.compile(r"[0-9a-f]{32}\Z")
_BODY = re.compile(r"bodies/([0-9a-f]{64})\.json\Z")


def writers_prefix(league: str, epoch: int) -> str:
    """Return the common prefix of all lists of matches of one epoch of a league."""
    return f"{league_prefix(league)}/@matches/{epoch:010d}/"


def batch_key(league: str, epoch: int, writer: str, number: int) -> str:
    """Return the key of a record of a writer's list of matches."""
    return f"{writers_prefix(league, epoch)}{writer}/{number:010d}.json"


def batch_block(league: str, epoch: int, writer: str, number: int) -> str:
    """Return the common prefix of the keys of the 1,000 records around ``number`` of a list.

    The records are those with the same number of thousands, so a listing of them has one page.
    """
    return f"{writers_prefix(league, epoch)}{writer}/{number // 1000:07d}"


def writer_of_prefix(prefix: str) -> str | None:
    """Return the writer in ``…/@matches/<epoch>/<writer>/``; None if it cannot be a writer."""
    writer = prefix.rstrip("/").rpartition("/")[2]
    return writer if _WRITER.match(writer) else None


def summaries_prefix(league: str, epoch: int) -> str:
    """Return the common prefix of the summaries of one epoch of a league."""
    return f"{league_prefix(league)}/@summaries/{epoch:010d}/"


def summary_key(league: str, epoch: int, number: int) -> str:
    """Return the key of a summary."""
    return f"{summaries_prefix(league, epoch)}{number:010d}.json"


def bodies_prefix(league: str) -> str:
    """Return the common prefix of the bodies of all summaries of a league."""
    return f"{league_prefix(league)}/@bodies/"


def body_key(league: str, digest: Digest) -> str:
    """Return the key of a body of summaries."""
    return f"{bodies_prefix(league)}{digest.hex}.json"


def deletions_prefix(league: str) -> str:
    """Return the common prefix of the records that delete epochs of a league."""
    return f"{league_prefix(league)}/@deleted/"


def deletion_key(league: str, epoch: int) -> str:
    """Return the key of the record that deletes an epoch of a league, and begins the next one."""
    return f"{deletions_prefix(league)}{epoch:010d}.json"


@dataclass(frozen=True, slots=True)
class LeagueKey:
    """What a key below ``leagues/`` is.

    Attributes:
        league: the league.
        kind: what the key holds: a batch of matches or the end of a list, a summary, a body of
            summaries, or the deletion of an epoch.
        epoch: the epoch; 0 for a body, which may belong to summaries of any epoch.
        writer: the writer of the list, for ``"matches"``.
        number: the number of the record in its list; for ``"deleted"``, the epoch.
        digest: the digest of a body.
    """

    league: str
    kind: Literal["matches", "summary", "body", "deleted"]
    epoch: int = 0
    writer: str = ""
    number: int = 0
    digest: Digest | None = None


def parse_league_key(key: str) -> LeagueKey | None:
    """Return what a key below ``leagues/`` is; None for a key that format 1 does not have."""
    prefix, separator, rest = key.partition("/@")
    if not separator or not prefix.startswith(LEAGUES):
        return None
    league = league_of_prefix(prefix + separator)
    if league is None:
        return None
    body = _BODY.match(rest)
    if body is not None:
        return LeagueKey(league, "body", digest=Digest(body.group(1)))
    number, parts = number_of(key), rest.split("/")
    if number is None:
        return None
    parsed: LeagueKey | None = None
    if len(parts) == 4 and parts[0] == "matches" and writer_of_prefix(parts[2]):
        epoch = _epoch(parts[1])
        parsed = LeagueKey(league, "matches", epoch, parts[2], number)
        expected = batch_key(league, epoch, parts[2], number)
    elif len(parts) == 3 and parts[0] == "summaries":
        epoch = _epoch(parts[1])
        parsed = LeagueKey(league, "summary", epoch, number=number)
        expected = summary_key(league, epoch, number)
    elif len(parts) == 2 and parts[0] == "deleted":
        epoch = number
        parsed = LeagueKey(league, "deleted", number, number=number)
        expected = deletion_key(league, number)
    return parsed if parsed is not None and epoch and key == expected else None


def _epoch(text: str) -> int:
    """Return an epoch of 10 digits; 0 for another text."""
    return int(text) if len(text) == 10 and text.isascii() and text.isdigit() else 0
