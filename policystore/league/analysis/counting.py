"""Count who beat whom, out of the totals of a league.

All numbers are integers and exact fractions, so the order of the totals has no effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations
from typing import Any, TypeAlias

from policystore._util.messages import brief
from policystore.errors import InvalidInputError
from policystore.format.records.matches import MatchTotal, Outcome

__all__ = [
    "MAX_EPISODES",
    "Entry",
    "PairCounts",
    "Side",
    "check_env",
    "check_refs",
    "count_pairs",
    "is_wanted",
    "list_totals",
    "sides_of",
]

MAX_EPISODES = 2**52
"""Larger numbers of episodes are refused, because a float does not hold their halves exactly."""

Entry: TypeAlias = tuple[str, str]
"""A player and a role; the role is empty if all roles count together."""


@dataclass
class PairCounts:
    """Hold the results of all pairs of a league.

    Attributes:
        results: two entries in ascending order -> wins of the first, draws, losses of the first.
        returns: entry, opponent -> number and sum of the entry's returns against the opponent.
        entries: all entries that stand in a total that was counted.
        with_itself: player -> number of results of the player against itself.
        unranked: number of episodes without a known outcome.
        in_other_environments: number of episodes in environments that were not asked for.
        envs: the environments: id, digest.
        sides: the largest number of sides of an episode.
    """

    results: dict[tuple[Entry, Entry], list[int]] = field(default_factory=dict)
    returns: dict[tuple[Entry, Entry], tuple[int, Fraction]] = field(default_factory=dict)
    entries: set[Entry] = field(default_factory=set)
    with_itself: dict[str, int] = field(default_factory=dict)
    unranked: int = 0
    in_other_environments: int = 0
    envs: set[tuple[str, str]] = field(default_factory=set)
    sides: int = 0


@dataclass(frozen=True)
class Side:
    """The roles of a match that win, draw and lose together.

    Attributes:
        place: the place of the side's first role among all roles in alphabetical order.
        roles: the roles, in alphabetical order.
    """

    place: int
    roles: tuple[str, ...]


def sides_of(total: MatchTotal) -> tuple[Side, ...]:
    """Return the sides of a match: each team, and each role without a team."""
    members: dict[tuple[bool, str], list[tuple[int, str]]] = {}
    for place, role in enumerate(sorted(total.players)):
        team = total.teams.get(role)
        key = (False, role) if team is None else (True, team)
        members.setdefault(key, []).append((place, role))
    return tuple(Side(each[0][0], tuple(role for _, role in each)) for each in members.values())


def check_refs(refs: Mapping[str, str]) -> None:
    """Check that refs map players to texts.

    Raises:
        InvalidInputError: they do not.
    """
    if not isinstance(refs, Mapping):
        raise InvalidInputError(f"refs={brief(refs)}: expected a mapping of players to refs")


def list_totals(totals: object) -> list[MatchTotal]:
    """Return the totals that a caller gave, as a list.

    Raises:
        InvalidInputError: something else than totals.
    """
    listed: list[Any] = list(totals) if isinstance(totals, Iterable) else [totals]
    wrong = next((each for each in listed if not isinstance(each, MatchTotal)), None)
    if wrong is not None or listed == [None]:
        raise InvalidInputError(
            f"expected the totals of matchups, such as league.totals().matchups, found "
            f"{brief(wrong)}"
        )
    return listed


def check_env(env: object) -> str | None:
    """Return the id or digest of an environment that a caller gave; None for all.

    Args:
        env: a text, an EnvIdentity, or None.

    Raises:
        InvalidInputError: another value.
    """
    digest = getattr(env, "digest", env)  # of an EnvIdentity
    if digest is not None and not isinstance(digest, str):
        raise InvalidInputError(
            f"env={brief(env)}: expected the id or digest of an environment, or None for all"
        )
    return digest


def is_wanted(total: MatchTotal, env: str | None) -> bool:
    """Return whether a total is of an environment, which its id or its digest names."""
    return env is None or env in (total.env, total.env_digest)


def count_pairs(
    totals: Iterable[MatchTotal],
    *,
    env: str | None = None,
    by_role: bool = False,
    with_returns: bool = True,
) -> PairCounts:
    """Count the results of all pairs.

    Each side of an episode is compared with each other side. A comparison is one result for each
    player of the one side against each player of the other: a win, a draw or a loss. A player with
    several roles of a side counts once, except with ``by_role``. Two sides without a rank, whose
    order is unknown, are not compared.

    Args:
        totals: the totals, in any order.
        env: id or digest of an environment; None for all.
        by_role: whether the roles of a player are kept apart.
        with_returns: whether to add up the returns, too.

    Raises:
        InvalidInputError: a total contradicts itself, or numbers are too large to be exact.
    """
    counts = PairCounts()
    for total in list_totals(totals):
        if is_wanted(total, env):
            count = _count_two if len(total.players) == 2 and not total.teams else _count
            count(total, by_role, with_returns, counts)
        else:
            counts.in_other_environments += total.episodes
    most = max((sum(result) for result in counts.results.values()), default=0)
    if most > MAX_EPISODES:
        raise InvalidInputError(
            f"a pair of players has {brief(most)} episodes: more than {MAX_EPISODES:,} cannot be "
            "counted exactly"
        )
    return counts


def _count_two(total: MatchTotal, by_role: bool, with_returns: bool, counts: PairCounts) -> None:
    """Do the same as ``_count`` for two roles that play alone, several times as fast."""
    (role, player), (other_role, opponent) = sorted(total.players.items())
    first, second = (player, role if by_role else ""), (opponent, other_role if by_role else "")
    counts.entries.add(first)
    counts.entries.add(second)
    counts.envs.add((total.env, total.env_digest))
    known = 0
    for outcome in total.outcomes:
        known += outcome.episodes
        if len(outcome.ranks) != 2:
            raise _wrong_ranks(2, outcome)
    counts.unranked += total.episodes - known
    if not total.outcomes:
        return
    counts.sides = max(counts.sides, 2)
    _add(first, second, _compare(0, 1, total.outcomes), counts)
    if with_returns and total.returns:
        _add_returns(total, first, (role,), second, counts)
        _add_returns(total, second, (other_role,), first, counts)


def _count(total: MatchTotal, by_role: bool, with_returns: bool, counts: PairCounts) -> None:
    sides = sides_of(total)
    entries = [_entries(total, side, by_role) for side in sides]
    for each in entries:
        counts.entries.update(each)
    counts.envs.add((total.env, total.env_digest))
    counts.unranked += total.episodes - sum(outcome.episodes for outcome in total.outcomes)
    if not total.outcomes:
        return
    counts.sides = max(counts.sides, len(sides))
    _check_teams(total, sides)
    for (one, ones), (other, others) in combinations(zip(sides, entries, strict=True), 2):
        result = _compare(one.place, other.place, total.outcomes)
        for first in ones:
            for second in others:
                _add(first, second, result, counts)
                if with_returns:
                    _add_returns(total, first, ones[first], second, counts)
                    _add_returns(total, second, others[second], first, counts)


def _entries(total: MatchTotal, side: Side, by_role: bool) -> dict[Entry, tuple[str, ...]]:
    """Return the entries of a side, each with its roles."""
    entries: dict[Entry, tuple[str, ...]] = {}
    for role in side.roles:
        entry = (total.players[role], role if by_role else "")
        entries[entry] = (*entries.get(entry, ()), role)
    return entries


def _check_teams(total: MatchTotal, sides: tuple[Side, ...]) -> None:
    places = {role: place for place, role in enumerate(sorted(total.players))}
    for outcome in total.outcomes:
        if len(outcome.ranks) != len(places):
            raise _wrong_ranks(len(places), outcome)
        for side in sides:
            if len({outcome.ranks[places[role]] for role in side.roles}) > 1:
                raise InvalidInputError(
                    f"the roles {', '.join(side.roles)} are one team, and an outcome has different "
                    f"ranks for them: {brief(outcome.ranks)}. Expected the same rank for all"
                )


def _wrong_ranks(roles: int, outcome: Outcome) -> InvalidInputError:
    return InvalidInputError(
        f"a match of {roles} roles has an outcome of {len(outcome.ranks)} ranks: "
        "expected a rank or None for each role"
    )


def _compare(one: int, other: int, outcomes: Iterable[Outcome]) -> tuple[int, int, int]:
    """Return wins, draws and losses of one place against another place."""
    wins = draws = losses = 0
    for outcome in outcomes:
        left, right = outcome.ranks[one], outcome.ranks[other]
        if left is None and right is None:
            continue
        if right is None or (left is not None and left < right):
            wins += outcome.episodes
        elif left == right:
            draws += outcome.episodes
        else:
            losses += outcome.episodes
    return wins, draws, losses


def _add(first: Entry, second: Entry, result: tuple[int, int, int], counts: PairCounts) -> None:
    if not any(result):
        return
    if first == second:
        known = counts.with_itself.get(first[0], 0)
        counts.with_itself[first[0]] = known + sum(result)
        return
    if second < first:
        first, second, result = second, first, (result[2], result[1], result[0])
    sums = counts.results.setdefault((first, second), [0, 0, 0])
    for index, number in enumerate(result):
        sums[index] += number


def _add_returns(
    total: MatchTotal, entry: Entry, roles: tuple[str, ...], opponent: Entry, counts: PairCounts
) -> None:
    if entry == opponent:
        return
    for role in roles:
        known = total.returns.get(role)
        if known is not None:
            pair = (entry, opponent)
            had = counts.returns.get(pair)
            if had is None:
                counts.returns[pair] = (known.episodes, known.sum)
            else:
                counts.returns[pair] = (had[0] + known.episodes, had[1] + known.sum)
