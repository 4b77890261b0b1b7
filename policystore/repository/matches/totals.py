"""Hold the totals of a league, as a value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policystore.display.pretty import print_text
from policystore.format.records.matches import MatchTotal, Returns

__all__ = ["RecordedBatch", "Totals"]


@dataclass(frozen=True)
class RecordedBatch:
    """Say where matches were recorded.

    Attributes:
        writer: id of the writer's list; empty if there was nothing to record.
        number: number of the last batch in that list; 0 if there was nothing to record.
        matches: how many matches were recorded.
        batches: how many batches hold them; more than 1 if they did not fit into one.
    """

    writer: str
    number: int
    matches: int
    batches: int = 1


@dataclass(frozen=True)
class Totals:
    """The sums of all matches of a league: exact, and the same for each reader.

    Attributes:
        league: the name of the league.
        matchups: the sums for each combination of players, teams and environment, sorted.
        unknown: number of episodes that were played and not recorded, by reason.
        refs: player -> the label that the newest match with this player has for it.
        writers: number of writers' lists.
        batches: number of batches.
        epoch: the present epoch of the league; 1 if the league was never deleted.
        last: the newest time of a batch, by the clock of its writer; empty without batches.
    """

    league: str
    matchups: tuple[MatchTotal, ...] = ()
    unknown: Mapping[str, int] = field(default_factory=dict)
    refs: Mapping[str, str] = field(default_factory=dict)
    writers: int = 0
    batches: int = 0
    epoch: int = 1
    last: str = ""

    @property
    def matches(self) -> int:
        """The number of matches."""
        return sum(total.matches for total in self.matchups)

    @property
    def episodes(self) -> int:
        """The number of recorded episodes."""
        return sum(total.episodes for total in self.matchups)

    @property
    def players(self) -> tuple[str, ...]:
        """All players, sorted."""
        return tuple(sorted({each for total in self.matchups for each in total.players.values()}))

    def __repr__(self) -> str:
        unknown = sum(self.unknown.values())
        more = f", {unknown:,} episodes unknown" if unknown else ""
        return (
            f"<Totals of {self.league}: {len(self.players):,} players, {self.matches:,} matches, "
            f"{self.episodes:,} episodes{more}>"
        )

    def __str__(self) -> str:
        from policystore.repository.matches.showing import totals_text  # late: few show totals

        return totals_text(self)

    _repr_pretty_ = print_text

    def _repr_html_(self) -> str:
        from policystore.repository.matches.showing import totals_html

        return totals_html(self)

    def to_records(self) -> list[dict[str, Any]]:
        """Return one dict for each role of each matchup, for tables and data frames.

        Keys: ``env``, ``role``, ``player``, ``ref``, ``team``, ``opponents`` (the other players,
        by role), ``matches``, ``episodes``, ``best`` (episodes in which no other side came before
        the role, and a side came behind it), ``draws`` (episodes in which all sides had the same
        rank), ``return_mean`` (None if no return is known).
        """
        return [
            self._record(total, index, role)
            for total in self.matchups
            for index, role in enumerate(total.players)
        ]

    def _record(self, total: MatchTotal, index: int, role: str) -> dict[str, Any]:
        drawn = [each for each in total.outcomes if set(each.ranks) == {0}]
        best = [each for each in total.outcomes if each.ranks[index] == 0 and each not in drawn]
        returns = total.returns.get(role)
        player = total.players[role]
        return {
            "env": total.env,
            "role": role,
            "player": player,
            "ref": self.refs.get(player, ""),
            "team": total.teams.get(role, ""),
            "opponents": {other: each for other, each in total.players.items() if other != role},
            "matches": total.matches,
            "episodes": total.episodes,
            "best": sum(each.episodes for each in best),
            "draws": sum(each.episodes for each in drawn),
            "return_mean": None if returns is None else _mean(returns),
        }


def _mean(returns: Returns) -> float:
    try:
        return float(returns.sum / returns.episodes)
    except OverflowError:
        return math.nan  # a sum that no episodes have: a forged summary
