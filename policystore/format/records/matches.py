"""Matches of a league, and totals of them, as values. ``docs/format.md`` has their bytes."""

from __future__ import annotations

import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import TypeVar

from policystore._util.messages import brief
from policystore.digest import PREFIX
from policystore.errors import InvalidInputError
from policystore.format.records.exact import can_be_sums, exact

__all__ = [
    "HEURISTIC",
    "MAX_CONFIG",
    "MAX_EPISODES",
    "MAX_ROLES",
    "Match",
    "MatchTotal",
    "Outcome",
    "Returns",
    "check_label",
    "check_whole",
    "is_player",
    "normal_match",
    "rank_order",
]

HEURISTIC = "heuristic:"
"""The start of the names of players without weights."""

MAX_ROLES = 1_000
MAX_EPISODES = 1_000_000_000
MAX_CONFIG = 65_536  # characters of the config of an environment
_MAX_TEXT = 600  # characters of a role, team, ref, reason or the id of an environment
_DIGEST = re.compile(rf"{PREFIX}[0-9a-f]{{64}}\Z")
_HEURISTIC = re.compile(rf"{HEURISTIC}[A-Za-z0-9._:/+-]{{1,100}}\Z")
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1

_COMMON: tuple[tuple[int, int], ...] = (
    (0, 1),
    (1, 0),
    (0, 0),
)  # ranks of two sides, in normal form

_Value = TypeVar("_Value")
_Ranks = tuple[int | None, ...]


@dataclass(frozen=True)
class Outcome:
    """One way in which episodes of a match ended, and how many episodes ended so.

    Attributes:
        ranks: one rank for each role, in the order of the match's roles. A lower rank is better,
            0 is the best. Equal ranks are a draw between these roles. None means that the role came
            behind all roles with a rank, and that the order among the roles with None is unknown.
            Roles of one team have the same rank.
        episodes: number of episodes, at least 1.
    """

    ranks: tuple[int | None, ...]
    episodes: int


@dataclass(frozen=True)
class Returns:
    """The returns of one role, as exact sums: the same on every machine, in any order of adding.

    Attributes:
        episodes: number of episodes with a known return.
        sum: exact sum of the returns.
        squares: exact sum of the squares of the returns.
    """

    episodes: int
    sum: Fraction
    squares: Fraction


@dataclass(frozen=True)
class Match:
    """One or more episodes that the same players played in the same roles.

    Attributes:
        players: role -> player, sorted by role. A player is ``blake3:`` and 64 hex digits, the
            digest of a policy, or ``heuristic:NAME``, an opponent without weights.
        episodes: number of episodes, at least 1.
        outcomes: how the episodes ended, sorted; their numbers of episodes add up to at most
            ``episodes``. Empty for a cooperative environment, where only the returns count.
        teams: role -> team, for the roles that play together; empty if each role plays alone.
        returns: role -> returns, where they are known.
        env: id of the environment; empty if unknown.
        env_digest: digest of the environment's id and config, ``blake3:…``; empty if unknown.
        seeds: seeds of the episodes, where they are known; empty or one for each episode.
        played: role -> digests of the weights that acting needs, at the first and at the last step,
            for roles whose weights changed during the match: a learner in training.
        refs: role -> what the writer called the player, such as ``soccer/main@17``. Only a label.
        iteration: the iteration of the training in which the match ended; None outside of one.
        time: when the match was recorded, in UTC, as the records of versions have it.
        writer: id of the writer's list; empty before the match is recorded.
        episode_returns: role -> the return of each episode, in their order, so that a replay can
            name the episode that differs. Totals do not have them.
        explore: whether all policies sampled their actions (True), or took those that they think
            best (False); None if it is not known, or differs between policies.
        max_steps: the steps after which episodes were cut off by who played them; None without
            such a limit, and where it is not known.
        env_config: the config of the environment, as the JSON text that ``docs/format.md``
            describes; empty for an environment without a config, and where it is not known.
    """

    players: Mapping[str, str]
    episodes: int
    outcomes: tuple[Outcome, ...] = ()
    teams: Mapping[str, str] = field(default_factory=dict)
    returns: Mapping[str, Returns] = field(default_factory=dict)
    env: str = ""
    env_digest: str = ""
    seeds: tuple[int, ...] = ()
    played: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    refs: Mapping[str, str] = field(default_factory=dict)
    iteration: int | None = None
    time: str = ""
    writer: str = ""
    episode_returns: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    explore: bool | None = None
    max_steps: int | None = None
    env_config: str = ""


@dataclass(frozen=True)
class MatchTotal:
    """All episodes of a league that the same players played in the same roles and environment.

    Attributes:
        players: as in :class:`Match`.
        teams: as in :class:`Match`.
        env: as in :class:`Match`.
        env_digest: as in :class:`Match`.
        matches: number of matches.
        episodes: number of episodes.
        outcomes: as in :class:`Match`, each ranking once, sorted.
        returns: as in :class:`Match`.
    """

    players: Mapping[str, str]
    teams: Mapping[str, str]
    env: str
    env_digest: str
    matches: int
    episodes: int
    outcomes: tuple[Outcome, ...]
    returns: Mapping[str, Returns]


def is_player(text: object) -> bool:
    """Return whether a text is ``blake3:`` and 64 hex digits, or ``heuristic:NAME``."""
    return isinstance(text, str) and bool(_DIGEST.match(text) or _HEURISTIC.match(text))


def normal_match(match: Match) -> Match:
    """Return a match in the one form in which records have it.

    Roles are sorted. Ranks are 0, 1, 2, … without gaps; a single side without a rank is the last
    one, and gets the last rank. Equal outcomes are one outcome. A team of one role is no team.

    Raises:
        InvalidInputError: a value that a match cannot have; the message begins with the field.
    """
    roles = _roles(match.players)
    players = {role: match.players[role] for role in roles}
    episodes = check_whole(match.episodes, "episodes", 1, MAX_EPISODES)
    teams = _teams(_of_roles(match.teams, "teams", players, check_label))
    digest = match.env_digest
    if digest != "" and not (isinstance(digest, str) and _DIGEST.match(digest)):
        raise InvalidInputError(f"env_digest: expected 'blake3:…' or '', found {brief(digest)}")
    iteration, max_steps = match.iteration, match.max_steps
    if match.explore is not None and not isinstance(match.explore, bool):
        raise InvalidInputError(f"explore: expected a bool or None, found {brief(match.explore)}")
    return Match(
        players=players,
        episodes=episodes,
        outcomes=_outcomes(match.outcomes, episodes, roles, teams),
        teams=teams,
        returns=_of_roles(match.returns, "returns", players, partial(_returns, episodes)),
        env=match.env if match.env == "" else _text(match.env, "env"),
        env_digest=digest,
        seeds=_seeds(match.seeds, episodes),
        played=_of_roles(match.played, "played", players, _digests),
        refs=_of_roles(match.refs, "refs", players, check_label),
        iteration=None if iteration is None else check_whole(iteration, "iteration", 0, _INT_MAX),
        time=match.time,
        writer=match.writer,
        episode_returns=_of_roles(
            match.episode_returns, "episode_returns", players, partial(_floats, episodes)
        ),
        explore=match.explore,
        max_steps=None if max_steps is None else check_whole(max_steps, "max_steps", 1, _INT_MAX),
        env_config=_text(match.env_config, "env_config", MAX_CONFIG) if match.env_config else "",
    )


def check_label(value: object, most: int = _MAX_TEXT) -> str:
    """Return a text such as a reason, team or label, if it has 1 to ``most`` characters.

    Raises:
        InvalidInputError: another value, or a text without a UTF-8 form.
    """
    if not isinstance(value, str) or not value or len(value) > most:
        raise InvalidInputError(f"expected a text of 1 to {most} characters, found {brief(value)}")
    if not value.isascii() and any("\ud800" <= each <= "\udfff" for each in value):
        raise InvalidInputError(f"the text {brief(value)} holds a lone surrogate")
    return value


def rank_order(outcome: Outcome) -> tuple[tuple[bool, int], ...]:
    """Return the key by which outcomes are sorted: by the ranks, with None behind all ranks."""
    return tuple((rank is None, rank or 0) for rank in outcome.ranks)


def _roles(players: object) -> list[str]:
    if not isinstance(players, Mapping) or not 1 <= len(players) <= MAX_ROLES:
        raise InvalidInputError(
            f"players: expected a dict of 1 to {MAX_ROLES:,} roles, found {brief(players)}"
        )
    for role, player in players.items():
        if not isinstance(role, str) or not 0 < len(role) <= _MAX_TEXT or not role.isascii():
            _text(role, "players: the role")
        if not is_player(player):
            raise InvalidInputError(
                f"players[{brief(role)}]: expected 'blake3:' and 64 digits, or '{HEURISTIC}NAME' "
                f"with letters, digits and . _ - + / : in NAME; found {brief(player)}"
            )
    return sorted(players)


def _of_roles(
    values: object, field: str, players: Mapping[str, str], check: Callable[[object], _Value]
) -> dict[str, _Value]:
    """Check the values of a dict by role, and sort the dict."""
    if not isinstance(values, Mapping):
        raise InvalidInputError(f"{field}: expected a dict by role, found {brief(values)}")
    if not values:
        return {}
    unknown = next((role for role in values if role not in players), None)
    if unknown is not None:
        raise InvalidInputError(
            f"{field}: {brief(unknown)} is not a role of the match; "
            f"the roles are {brief(list(players))}"
        )
    try:
        return {role: check(values[role]) for role in players if role in values}
    except InvalidInputError:
        # Without a label for each value, this is twice as fast; the error is made anew with one.
        for role in values:
            _check_role(values[role], f"{field}[{brief(role)}]", check)
        raise


def _check_role(value: object, label: str, check: Callable[[object], object]) -> None:
    try:
        check(value)
    except InvalidInputError as error:
        raise error.within(label) from None


def _teams(teams: dict[str, str]) -> dict[str, str]:
    """Leave out the teams of one role."""
    sizes = Counter(teams.values())
    return {role: team for role, team in teams.items() if sizes[team] > 1}


def _text(value: object, field: str, most: int = _MAX_TEXT) -> str:
    try:
        return check_label(value, most)
    except InvalidInputError as error:
        raise error.within(field) from None


def check_whole(value: object, field: str, low: int, high: int) -> int:
    """Return a whole number, also one of numpy, as an int.

    Raises:
        InvalidInputError: no whole number, or one outside of the bounds.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidInputError(f"{field}: expected an int, found {brief(value)}") from None
    if not low <= number <= high:
        raise InvalidInputError(
            f"{field}: expected a number from {low:,} to {high:,}, found {brief(number)}"
        )
    return number


def _digests(value: object) -> tuple[str, str]:
    if (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and all(isinstance(digest, str) and _DIGEST.match(digest) for digest in value)
    ):
        return value[0], value[1]
    raise InvalidInputError(
        f"expected the digests at the first and at the last step, found {brief(value)}"
    )


def _seeds(seeds: object, episodes: int) -> tuple[int, ...]:
    if not isinstance(seeds, (tuple, list)) or len(seeds) not in (0, episodes):
        raise InvalidInputError(
            f"seeds: expected one seed for each of the {episodes:,} episodes, or none; "
            f"found {brief(seeds)}"
        )
    return tuple(check_whole(seed, "seeds", _INT_MIN, _INT_MAX) for seed in seeds)


def _floats(episodes: int, values: object) -> tuple[float, ...]:
    if (
        isinstance(values, (tuple, list))
        and len(values) == episodes
        and all(isinstance(each, float) and math.isfinite(each) for each in values)
    ):
        return tuple(map(float, values))
    raise InvalidInputError(
        f"expected a finite float for each of the {episodes:,} episodes, found {brief(values)}"
    )


def _returns(episodes: int, value: object) -> Returns:
    if not isinstance(value, Returns):
        raise InvalidInputError(f"expected Returns, found {brief(value)}")
    count = check_whole(value.episodes, "episodes", 1, episodes)
    total, squares = exact(value.sum), exact(value.squares)
    if not can_be_sums(count, total, squares):
        raise InvalidInputError(
            f"{count} numbers with this sum cannot have a sum of squares that is so small"
        )
    return Returns(count, total, squares)


def _outcomes(
    outcomes: object, episodes: int, roles: list[str], teams: Mapping[str, str]
) -> tuple[Outcome, ...]:
    if not isinstance(outcomes, (tuple, list)):
        raise InvalidInputError(f"outcomes: expected a list of Outcome, found {brief(outcomes)}")
    sides = [(teams.get(role, ""), "" if role in teams else role) for role in roles]
    counts: dict[_Ranks, int] = {}
    for outcome in outcomes:
        if not isinstance(outcome, Outcome):
            raise InvalidInputError(f"outcomes: expected an Outcome, found {brief(outcome)}")
        ranks = _ranks(outcome.ranks, roles, sides)
        count = check_whole(outcome.episodes, "outcomes: episodes", 1, episodes)
        counts[ranks] = counts.get(ranks, 0) + count
    if sum(counts.values()) > episodes:
        raise InvalidInputError(
            f"outcomes: wins, draws and other outcomes count {sum(counts.values()):,} episodes, "
            f"and the match has {episodes:,}"
        )
    normal = [Outcome(ranks, count) for ranks, count in counts.items()]
    return tuple(sorted(normal, key=rank_order))


def _ranks(ranks: object, roles: list[str], sides: list[tuple[str, str]]) -> _Ranks:
    """Return ranks without gaps; a single side without a rank gets the last one."""
    if ranks in _COMMON and len(roles) == 2 and sides[0] != sides[1]:
        return _COMMON[_COMMON.index(ranks)]  # 1 equals True, 1.0 and numpy's 1, which differ
    if not isinstance(ranks, (tuple, list)) or len(ranks) != len(roles):
        raise InvalidInputError(
            f"outcomes: expected one rank for each role of {brief(roles)}, found {brief(ranks)}"
        )
    whole = [
        None if rank is None else check_whole(rank, "outcomes: a rank", 0, _INT_MAX)
        for rank in ranks
    ]
    by_side: dict[tuple[str, str], int | None] = {}
    for side, rank in zip(sides, whole, strict=True):
        if by_side.setdefault(side, rank) != rank:
            raise InvalidInputError(
                f"outcomes: the roles of the team {brief(side[0])} have different ranks, "
                f"{brief(ranks)}; the roles of one team have the same rank"
            )
    known = sorted({rank for rank in by_side.values() if rank is not None})
    if not known:
        raise InvalidInputError(
            "outcomes: no role has a rank; leave out the outcome of such episodes"
        )
    place: dict[int | None, int | None] = {rank: index for index, rank in enumerate(known)}
    behind = [side for side, rank in by_side.items() if rank is None]
    place[None] = len(known) if len(behind) == 1 else None
    return tuple(place[rank] for rank in whole)
