"""Make matches of what a caller gives: a Match, or a dict with wins, draws and returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

from policystore._util.late import np
from policystore._util.messages import brief
from policystore._util.near import close_names, did_you_mean
from policystore.digest import Digest
from policystore.errors import FormatError, InvalidInputError, NotFoundError, PolicyStoreError
from policystore.format.canonical_json import parse_canonical
from policystore.format.records.exact import exact, exact_sums
from policystore.format.records.matches import (
    HEURISTIC,
    Match,
    Outcome,
    Returns,
    is_player,
    normal_match,
)

__all__ = ["Resolve", "make_matches"]

Resolve = Callable[[Any], tuple[str, str]]
"""Returns the player that a ref means, and the label to keep, such as ``soccer/main@17``."""

_FIELDS = (
    "players", "episodes", "wins", "draws", "outcomes", "teams", "returns", "env", "env_digest",
    "seeds", "played", "refs", "iteration", "episode_returns", "explore", "max_steps", "env_config",
)  # fmt: skip

_DICTS = ({"~dict"}, {"~missing"})  # the tags of dicts, and of a config that is left out


def make_matches(given: object, resolve: Resolve) -> list[Match]:
    """Return the matches of a call in the form that records have.

    Args:
        given: an iterable of Match and of dicts, as :meth:`League.record` takes them.
        resolve: looks up the refs of players.

    Raises:
        InvalidInputError: a value that a match cannot have; the message names match and field.
        PolicyStoreError: what ``resolve`` raises.
    """
    if isinstance(given, (str, bytes, Mapping, Match)) or not isinstance(given, Iterable):
        raise InvalidInputError(f"record() takes a list of matches, not {brief(given)}")
    return [_make(index, each, resolve) for index, each in enumerate(given)]


def _make(index: int, given: object, resolve: Resolve) -> Match:
    try:
        return _normal(given, resolve)
    except PolicyStoreError as error:
        raise error.within(f"match {index}") from None


def _normal(given: object, resolve: Resolve) -> Match:
    if isinstance(given, Mapping):
        given = _of_mapping(given)
    if not isinstance(given, Match):
        raise InvalidInputError(f"expected a dict or a Match, found {brief(given)}")
    players = given.players
    _check_config(given.env_config)
    if given.time or given.writer:
        given = replace(given, time="", writer="")  # a match that was read from a league
    if isinstance(players, Mapping) and not all(map(is_player, players.values())):
        given = _with_players(given, resolve)
    return normal_match(given)


def _check_config(text: object) -> None:
    """Check that the config of an environment is canonical JSON of a dict.

    Readers are not as strict: only a replay needs the config.

    Raises:
        InvalidInputError: it is not.
    """
    if not text or not isinstance(text, str):  # normal_match names another type
        return
    try:
        config = parse_canonical(text.encode(), "the text")
    except (FormatError, UnicodeEncodeError) as error:
        raise InvalidInputError(f"env_config: {error}") from None
    tagged = isinstance(config, dict) and any(key.startswith("~") for key in config)
    if not isinstance(config, dict) or (tagged and config.keys() not in _DICTS):
        raise InvalidInputError(
            f"env_config: expected canonical JSON of a dict, such as '{{\"size\":5}}', found "
            f"{brief(text)}. docs/format.md has the form"
        )


def _with_players(match: Match, resolve: Resolve) -> Match:
    """Look up the refs of players; each becomes the label of its player without one."""
    players, refs = dict(match.players), dict(match.refs)
    for role, player in players.items():
        if isinstance(player, Digest):
            players[role] = str(player)
        elif not is_player(player):
            players[role], label = _resolved(player, role, resolve)
            if label:
                refs.setdefault(role, label)
    return replace(match, players=players, refs=refs)


def _resolved(player: object, role: object, resolve: Resolve) -> tuple[str, str]:
    try:
        if isinstance(player, str) and player.startswith(HEURISTIC):
            raise InvalidInputError(
                f"{player!r:.140} is no name of a player without weights: letters, digits and "
                f". _ - + / : follow {HEURISTIC!r}, at most 100"
            )
        return resolve(player)
    except NotFoundError as error:
        hint = ""
        if isinstance(player, str) and is_player(HEURISTIC + player):
            hint = f" If the player has no weights, give {HEURISTIC + player!r}."
        raise NotFoundError(f"players[{brief(role)}]: {error}{hint}") from None
    except PolicyStoreError as error:
        raise error.within(f"players[{brief(role)}]") from None


def _of_mapping(given: Mapping[Any, Any]) -> Match:
    for name in given:
        if name not in _FIELDS:
            near = did_you_mean(close_names(str(name), _FIELDS))
            raise InvalidInputError(
                f"{brief(name)} is no field of a match; the fields are {', '.join(_FIELDS)}.{near}"
            )
    for name in ("players", "episodes"):
        if name not in given:
            raise InvalidInputError(f"{name}: missing; each match needs players and episodes")
    players, env, env_digest = given["players"], given.get("env") or "", given.get("env_digest")
    if not isinstance(env, str) and hasattr(env, "id") and hasattr(env, "digest"):
        env, env_digest = env.id, env_digest or env.digest  # an EnvIdentity
    teams, returns = given.get("teams") or {}, given.get("returns") or {}
    if not isinstance(returns, Mapping):
        raise InvalidInputError(f"returns: expected a dict by role, found {brief(returns)}")
    outcomes: tuple[Outcome, ...] = ()
    if isinstance(players, Mapping) and isinstance(teams, Mapping):  # else normal_match says it
        outcomes = _outcomes(given, sorted(players, key=str), teams)
    return Match(
        players=players,
        episodes=given["episodes"],
        outcomes=outcomes,
        teams=teams,
        returns={role: _returns(each, role, given["episodes"]) for role, each in returns.items()},
        env=env,
        env_digest=str(env_digest or ""),
        seeds=_listed(given.get("seeds"), "seeds"),
        played=given.get("played") or {},
        refs=given.get("refs") or {},
        iteration=given.get("iteration"),
        episode_returns=given.get("episode_returns") or {},
        explore=given.get("explore"),
        max_steps=given.get("max_steps"),
        env_config=given.get("env_config") or "",
    )


def _listed(values: object, field: str) -> tuple[Any, ...]:
    if values is None:
        return ()
    if isinstance(values, np.ndarray):
        values = values.tolist()
    unordered = (str, bytes, Mapping, AbstractSet)  # a set holds equal returns once
    if isinstance(values, unordered) or not isinstance(values, Iterable):
        raise InvalidInputError(f"{field}: expected a list, found {brief(values)}")
    return tuple(values)


def _outcomes(
    given: Mapping[Any, Any], roles: list[Any], teams: Mapping[Any, Any]
) -> tuple[Outcome, ...]:
    wins, draws, outcomes = given.get("wins"), given.get("draws"), given.get("outcomes")
    if outcomes is not None:
        if wins or draws:
            raise InvalidInputError("give either outcomes, or wins and draws, and not both")
        return tuple(_outcome(each, roles) for each in _listed(outcomes, "outcomes"))
    if wins is not None and not isinstance(wins, Mapping):
        raise InvalidInputError(f"wins: expected a dict by role or team, found {brief(wins)}")
    sides = [teams.get(role, role) for role in roles]
    if (wins or draws) and len(set(sides)) < 2:
        raise InvalidInputError(
            "wins and draws need two or more sides that play against each other. For a "
            "cooperative environment, give only returns."
        )
    made = []
    for winner, count in (wins or {}).items():
        winning = teams.get(winner, winner)
        if winning not in sides:
            raise InvalidInputError(
                f"wins: {brief(winner)} is neither a role nor a team; the roles are {brief(roles)}"
            )
        if _count(count, f"wins[{brief(winner)}]"):
            ranks = tuple(0 if side == winning else None for side in sides)
            made.append(Outcome(ranks, count))
    if draws is not None and _count(draws, "draws"):
        made.append(Outcome((0,) * len(roles), draws))
    return tuple(made)


def _count(value: object, field: str) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise InvalidInputError(f"{field}: expected a number of episodes, found {brief(value)}")
    return bool(value > 0)


def _outcome(given: object, roles: list[Any]) -> Outcome:
    if isinstance(given, Outcome):
        return given
    if not isinstance(given, Mapping) or given.keys() != {"ranks", "episodes"}:
        raise InvalidInputError(
            "outcomes: expected dicts such as {'ranks': {'red': 0, 'blue': 1}, 'episodes': 3}, "
            f"found {brief(given)}"
        )
    ranks = given["ranks"]
    if not isinstance(ranks, Mapping) or not ranks.keys() <= set(roles):
        raise InvalidInputError(
            f"outcomes: ranks is a dict by role, with the roles {brief(roles)}; "
            f"found {brief(ranks)}"
        )
    return Outcome(tuple(ranks.get(role) for role in roles), given["episodes"])


def _returns(given: object, role: object, episodes: Any) -> Returns:
    if isinstance(given, Returns):
        return given
    try:
        if isinstance(given, Mapping):
            if not {"sum", "squares"} <= given.keys() <= {"sum", "squares", "episodes"}:
                raise InvalidInputError(
                    "expected a list of returns, or a dict with 'sum', 'squares' and, if not all "
                    f"episodes count, 'episodes'; found {brief(list(given))}"
                )
            count = given.get("episodes", episodes)
            return Returns(count, exact(given["sum"]), exact(given["squares"]))
        numbers = _listed(given, "returns")
        if isinstance(episodes, (int, np.integer)) and not 0 < len(numbers) <= episodes:
            raise InvalidInputError(
                f"expected one return for each episode, found {len(numbers):,} returns for "
                f"{episodes:,} episodes"
            )
        return Returns(len(numbers), *exact_sums(numbers))
    except InvalidInputError as error:
        raise error.within(f"returns[{brief(role)}]") from None
