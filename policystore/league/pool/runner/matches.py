"""Make the record of an episode out of its returns: who won, and the sums of each role."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from policystore.format.records.matches import Match, Outcome, Returns
from policystore.league.pool.runner.reasons import NOT_FINITE, OUTCOME_FAILED
from policystore.league.pool.runner.settings import EndedEpisode, PoolSettings
from policystore.rllib.worker_code.compat import is_old_worker

__all__ = ["RefusedEpisodeError", "RolePlayer", "explores", "match_of", "ranks_of"]

_TOLERANCE = 1e-9  # sums of the same rewards in another order differ by less


class RefusedEpisodeError(Exception):
    """An episode cannot be recorded.

    Attributes:
        reason: one of ``runner/reasons.py``.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class RolePlayer(NamedTuple):
    """Who played an agent.

    Attributes:
        player: as in :class:`~policystore.format.records.matches.Match`.
        ref: what reports call the player; may be empty.
        played: digests of the weights that the first and the last step were played with, for a
            policy in training; None for other policies.
    """

    player: str
    ref: str
    played: tuple[str, str] | None


def match_of(
    settings: PoolSettings,
    sides: Sequence[Sequence[Any]],
    players: Mapping[Any, RolePlayer],
    ended: EndedEpisode,
    *,
    explore: bool | None = None,
) -> Match:
    """Return the record of one episode.

    A role is an agent's text. Agents that never appeared have no role.

    Args:
        settings: the settings of the pool.
        sides: agents that win or lose together.
        players: agent -> who played it.
        ended: the episode.
        explore: whether all policies sampled their actions; None if that is not known.

    Raises:
        RefusedEpisodeError: a return is not finite, or the user's outcome function failed.
    """
    agents = [agent for side in sides for agent in side if agent in ended.returns]
    agents.sort(key=str)
    if not all(math.isfinite(ended.returns[agent]) for agent in agents):
        raise RefusedEpisodeError(NOT_FINITE, f"the returns are {dict(ended.returns)}")
    present = [[agent for agent in side if agent in ended.returns] for side in sides]
    ranks = ranks_of(_scores(settings, agents, ended), [side for side in present if side])
    return Match(
        players={str(agent): players[agent].player for agent in agents},
        episodes=1,
        outcomes=() if ranks is None else (Outcome(tuple(ranks[a] for a in agents), 1),),
        teams={str(agent): settings.teams[agent] for agent in agents if agent in settings.teams},
        returns={str(agent): _returns(ended.returns[agent]) for agent in agents},
        env=settings.env,
        env_digest=settings.env_digest,
        played={str(a): played for a in agents if (played := players[a].played) is not None},
        refs={str(agent): players[agent].ref for agent in agents if players[agent].ref},
        explore=explore,
    )


def explores(runner: Any, policy_ids: Iterable[str]) -> bool | None:
    """Tell whether policies of an env runner sample their actions; None if they differ.

    On the old API stack each policy has a config of its own.
    """
    if not is_old_worker(runner):
        return bool(runner.config.explore)
    configs = [runner.policy_map[pid].config for pid in policy_ids]
    values = {bool(config.get("explore", True)) for config in configs}
    return values.pop() if len(values) == 1 else None


def _returns(value: float) -> Returns:
    exact = Fraction(float(value))
    return Returns(1, exact, exact * exact)


def _scores(
    settings: PoolSettings, agents: Sequence[Any], ended: EndedEpisode
) -> Mapping[Any, float] | None:
    if not callable(settings.outcome):
        return ended.returns if settings.outcome == "returns" else None
    try:
        scores = settings.outcome(ended)
        if scores is None:
            return None
        checked = {agent: float(scores[agent]) for agent in agents}
    except Exception as error:
        raise RefusedEpisodeError(
            OUTCOME_FAILED,
            "the function outcome= returns a number for each agent of the episode, or None; it "
            f"raised {type(error).__name__}: {error}",
        ) from error
    if not all(map(math.isfinite, checked.values())):
        raise RefusedEpisodeError(NOT_FINITE, f"the scores are {checked}")
    return checked


def ranks_of(
    scores: Mapping[Any, float] | None, sides: Sequence[Sequence[Any]]
) -> dict[Any, int] | None:
    """Return the rank of each agent, 0 for the best; None without scores or for one side alone.

    The scores of a side are added. Scores that differ by no more than floats do by the order in
    which they are added are equal, and equal scores have the same rank.
    """
    if scores is None or len(sides) < 2:
        return None
    totals = [math.fsum(scores[agent] for agent in side) for side in sides]
    order = sorted(range(len(sides)), key=lambda index: -totals[index])
    ranks: dict[Any, int] = {}
    rank, previous = 0, totals[order[0]]
    for place, index in enumerate(order):
        if not math.isclose(totals[index], previous, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
            rank, previous = place, totals[index]
        ranks |= dict.fromkeys(sides[index], rank)
    return ranks
