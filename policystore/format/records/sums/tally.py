"""Add up the matches of a league exactly, in any order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from policystore.format.records.exact import Scaled, add_scaled, to_fraction, to_scaled
from policystore.format.records.fields import format_time
from policystore.format.records.match_batch import ListRecord, MatchBatch
from policystore.format.records.matches import Match, MatchTotal, Outcome, Returns, rank_order

__all__ = ["ListState", "Matchup", "ReturnSums", "Sums", "Tally"]

Ranks: TypeAlias = tuple[int | None, ...]


class Matchup(NamedTuple):
    """What matches have in common that are added up: players, teams and environment.

    Attributes:
        env, env_digest: as in :class:`Match`.
        players: pairs of role and player, by role.
        teams: pairs of role and team, by role.
    """

    env: str
    env_digest: str
    players: tuple[tuple[str, str], ...]
    teams: tuple[tuple[str, str], ...]


class ReturnSums(NamedTuple):
    """Sums of the returns of one role: number of episodes, sum, and sum of the squares."""

    episodes: int
    sum: Scaled
    squares: Scaled

    def plus(self, other: ReturnSums) -> ReturnSums:
        """Return the sums of both."""
        return ReturnSums(
            self.episodes + other.episodes,
            add_scaled(self.sum, other.sum),
            add_scaled(self.squares, other.squares),
        )


@dataclass
class Sums:
    """The sums of one matchup.

    Attributes:
        matches, episodes: how many.
        outcomes: number of episodes by ranks.
        returns: sums of the returns by role.
    """

    matches: int = 0
    episodes: int = 0
    outcomes: dict[Ranks, int] = field(default_factory=dict)
    returns: dict[str, ReturnSums] = field(default_factory=dict)

    def add(self, other: Sums) -> None:
        """Add the sums of other matches of the same matchup."""
        self.matches += other.matches
        self.episodes += other.episodes
        for ranks, count in other.outcomes.items():
            self.outcomes[ranks] = self.outcomes.get(ranks, 0) + count
        for role, sums in other.returns.items():
            mine = self.returns.get(role)
            self.returns[role] = sums if mine is None else mine.plus(sums)


class ListState(NamedTuple):
    """How far a writer's list was read.

    Attributes:
        number: the number of the newest record that was read.
        time: the time in that record.
        sealed: whether the list has ended. A body keeps of such a list only the id, so ``number``
            may be 0 and ``time`` empty.
    """

    number: int
    time: str
    sealed: bool


@dataclass
class Tally:
    """Sums over some records of a league, and which records these are.

    Attributes:
        matchups: the sums of each matchup.
        refs: player -> time and text of its newest label.
        unknown: number of episodes that were not recorded, by reason.
        lists: writer -> how far its list was read.
        batches: number of batches.
        last: the newest time of a batch; empty if there is none.
    """

    matchups: dict[Matchup, Sums] = field(default_factory=dict)
    refs: dict[str, tuple[str, str]] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    lists: dict[str, ListState] = field(default_factory=dict)
    batches: int = 0
    last: str = ""

    def add_record(self, record: ListRecord) -> None:
        """Add the next record of a writer's list."""
        time, is_batch = format_time(record.time), isinstance(record, MatchBatch)
        self.lists[record.writer] = ListState(record.number, time, not is_batch)
        if isinstance(record, MatchBatch):
            self.last = max(self.last, time)
            self.batches += 1
            for match in record.matches:
                self._add_match(match, time)
            self._add_unknown(record.unknown)

    def merge(self, other: Tally) -> None:
        """Add the sums of other, later records."""
        for matchup, sums in other.matchups.items():
            self.matchups.setdefault(matchup, Sums()).add(sums)
        for player, (time, ref) in other.refs.items():
            self._label(player, time, ref)
        self._add_unknown(other.unknown)
        self.lists |= other.lists
        self.batches += other.batches
        self.last = max(self.last, other.last)

    def totals(self) -> tuple[MatchTotal, ...]:
        """Return the sums, sorted by environment, players and teams."""
        return tuple(_total(*item) for item in sorted(self.matchups.items(), key=_matchup_of))

    def _add_match(self, match: Match, time: str) -> None:
        sums = Sums(
            matches=1,
            episodes=match.episodes,
            outcomes={outcome.ranks: outcome.episodes for outcome in match.outcomes},
            returns={
                role: ReturnSums(each.episodes, to_scaled(each.sum), to_scaled(each.squares))
                for role, each in match.returns.items()
            },
        )
        matchup = Matchup(match.env, match.env_digest, _pairs(match.players), _pairs(match.teams))
        mine = self.matchups.get(matchup)
        if mine is None:
            self.matchups[matchup] = sums
        else:
            mine.add(sums)
        for role, ref in match.refs.items():
            self._label(match.players[role], time, ref)

    def _label(self, player: str, time: str, ref: str) -> None:
        self.refs[player] = max(self.refs.get(player, ("", "")), (time, ref))

    def _add_unknown(self, unknown: Mapping[str, int]) -> None:
        for reason, count in unknown.items():
            self.unknown[reason] = self.unknown.get(reason, 0) + count


def _pairs(by_role: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(by_role.items()))


def _matchup_of(item: tuple[Matchup, Sums]) -> Matchup:
    return item[0]


def _total(matchup: Matchup, sums: Sums) -> MatchTotal:
    return MatchTotal(
        players=dict(matchup.players),
        teams=dict(matchup.teams),
        env=matchup.env,
        env_digest=matchup.env_digest,
        matches=sums.matches,
        episodes=sums.episodes,
        outcomes=_outcomes(sums.outcomes.items()),
        returns={
            role: Returns(each.episodes, to_fraction(each.sum), to_fraction(each.squares))
            for role, each in sorted(sums.returns.items())
        },
    )


def _outcomes(counts: Iterable[tuple[Ranks, int]]) -> tuple[Outcome, ...]:
    return tuple(sorted((Outcome(ranks, count) for ranks, count in counts), key=rank_order))
