"""Turn played groups into matches of a ledger, and find the matches that a ledger has already."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from types import TracebackType
from typing import Any, Protocol

from policystore.format.canonical_json import Json
from policystore.format.records.matches import (
    Match,
    MatchTotal,
    Outcome,
    Returns,
    normal_match,
    rank_order,
)
from policystore.league.tournament.playing.groups import Group, GroupResult, Rules
from policystore.repository.matches.shared_list import SharedList
from policystore.store import PolicyStore

__all__ = ["Ledger", "Recorder", "is_of", "known_matches", "make_match", "total_matches"]

_MOST_WAITING = 64  # matches that are not recorded yet
_LONGEST_WAIT = 5.0  # seconds


class Ledger(Protocol):
    """What a tournament needs of a :class:`policystore.league.League`."""

    @property
    def store(self) -> PolicyStore:
        """The store that has the policies."""

    def _shared_list(self, identity: Json, /) -> SharedList:
        """Return the list that is shared by all processes that play one tournament."""

    def _who(self) -> str:
        """Return who records."""

    def matches(self) -> Iterator[Match]:
        """Read all matches."""

    def totals(self) -> Any:
        """Add up all matches."""


def make_match(group: Group, result: GroupResult, rules: Rules) -> Match:
    """Return a played group as a match."""
    refs = {role: rules.contenders[player].ref for role, player in group.lineup.items()}
    teams = rules.judge.teams
    return normal_match(
        Match(
            players=dict(group.lineup),
            episodes=len(group.seeds),
            outcomes=tuple(Outcome(ranks, 1) for ranks in result.ranks if ranks is not None),
            teams={role: teams[role] for role in group.lineup if role in teams},
            returns={role: _exact_sums(result.returns[role]) for role in group.lineup},
            env=rules.env.identity.id,
            env_digest=rules.env.identity.digest,
            seeds=group.seeds,
            episode_returns={role: result.returns[role] for role in group.lineup},
            refs={role: ref for role, ref in refs.items() if ref},
            explore=rules.explore,
            max_steps=rules.max_steps,
            env_config=rules.env.written,
        )
    )


def _exact_sums(returns: Iterable[float]) -> Returns:
    exact = [Fraction(value) for value in returns]
    return Returns(
        len(exact), sum(exact, Fraction(0)), sum((each * each for each in exact), Fraction(0))
    )


class Recorder:
    """Records matches in batches: 64 at a time, or what there is after 5 seconds.

    All processes that play the same tournament record into one list. No episode is recorded twice.
    Leaving the ``with`` block records the rest, also after an error or an interrupt.

    Args:
        ledger: the league.
        rules: the environment, and who plays together.
        salt: what else tells the seeds of this tournament from those of others.

    Attributes:
        earlier: the matches that the list had before.
        recorded: the matches that were recorded.
        others: the matches that other processes have recorded since the recorder was made, as far
            as they are known. The caller may remove matches.
    """

    def __init__(self, ledger: Ledger, rules: Rules, salt: Iterable[object]) -> None:
        teams = [list(each) for each in sorted(rules.judge.teams.items())]
        self._list = ledger._shared_list(["tournament", rules.env.identity.digest, teams, *salt])
        self._author = ledger._who()
        self.earlier = self._list.refresh()
        self.recorded: list[Match] = []
        self.others: list[Match] = []
        self._waiting: list[Match] = []
        self._since = time.monotonic()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.flush()

    def add(self, match: Match) -> None:
        """Take a match, and record those that wait if there are enough of them."""
        self._waiting.append(match)
        waited = time.monotonic() - self._since
        if len(self._waiting) >= _MOST_WAITING or waited >= _LONGEST_WAIT:
            self.flush()

    def flush(self) -> None:
        """Record the matches that wait."""
        if self._waiting:
            recorded, others = self._list.record(self._waiting, self._author)
            self.recorded += recorded
            self.others += others
        self._waiting = []
        self._since = time.monotonic()


def known_matches(
    ledger: Ledger, rules: Rules, earlier: Iterable[Match]
) -> dict[tuple[tuple[str, str], ...], list[Match]]:
    """Return the matches with seeds of the same environment and teams, by lineup.

    The batches of the ledger are read only if the totals show such matches.

    Args:
        ledger: the league.
        rules: environment, teams and players.
        earlier: the matches of the tournament's own list. Their episodes are not recorded again, so
            they must be known, whatever summaries and listings say.
    """
    known: dict[tuple[tuple[str, str], ...], list[Match]] = {}
    seen: set[tuple[tuple[tuple[str, str], ...], tuple[int, ...]]] = set()
    in_ledger = any(is_of(rules, total) for total in ledger.totals().matchups)
    for match in itertools.chain(earlier, ledger.matches() if in_ledger else ()):
        lineup = tuple(sorted(match.players.items()))
        if match.seeds and is_of(rules, match) and (lineup, match.seeds) not in seen:
            seen.add((lineup, match.seeds))
            known.setdefault(lineup, []).append(match)
    return known


def is_of(rules: Rules, match: Match | MatchTotal) -> bool:
    """Return whether a match has the environment and teams of a tournament, and players of it."""
    teams = rules.judge.teams
    return (
        match.env_digest == rules.env.identity.digest
        and set(match.players.values()) <= rules.contenders.keys()
        and dict(match.teams) == {r: t for r, t in teams.items() if r in match.players}
    )


def total_matches(matches: Iterable[Match]) -> list[MatchTotal]:
    """Add up matches that have the same players, teams and environment."""
    totals: dict[tuple[Any, ...], MatchTotal] = {}
    for match in matches:
        key = (
            tuple(match.players.items()), tuple(match.teams.items()), match.env, match.env_digest,
        )  # fmt: skip
        before = totals.get(key)
        outcomes = Counter({each.ranks: each.episodes for each in match.outcomes})
        returns: Mapping[str, Returns] = match.returns
        if before is not None:
            outcomes.update({each.ranks: each.episodes for each in before.outcomes})
            returns = {
                role: _added(match.returns[role], before.returns[role]) for role in match.returns
            }
        totals[key] = MatchTotal(
            match.players,
            match.teams,
            match.env,
            match.env_digest,
            1 + (before.matches if before else 0),
            match.episodes + (before.episodes if before else 0),
            tuple(sorted(itertools.starmap(Outcome, outcomes.items()), key=rank_order)),
            returns,
        )
    return [totals[key] for key in sorted(totals)]


def _added(one: Returns, other: Returns) -> Returns:
    return Returns(one.episodes + other.episodes, one.sum + other.sum, one.squares + other.squares)
