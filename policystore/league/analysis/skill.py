"""Rate players by the package openskill: matches of any number of sides, and teams.

The model is that of Plackett and Luce as R. Weng and C. Lin update it, match by match ("A Bayesian
approximation method for online ranking", Journal of Machine Learning Research 12, 2011).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from policystore.errors import MissingPackageError
from policystore.format.records.matches import MatchTotal, Outcome
from policystore.league.analysis.counting import sides_of

__all__ = ["MAX_UPDATES", "fit_skills"]

Floats: TypeAlias = NDArray[np.float64]

MAX_UPDATES = 20_000
"""More episodes than this are thinned out, because each takes about a tenth of a millisecond."""

_DIGITS = 6


def fit_skills(totals: Sequence[MatchTotal], players: Sequence[str]) -> tuple[Floats, Floats, int]:
    """Return ratings and errors on the Elo scale, and how many episodes they are from.

    Args:
        totals: the totals, in any order.
        players: the players to rate.

    Raises:
        MissingPackageError: openskill is not installed.
    """
    try:
        from openskill.models import PlackettLuce
    except ImportError as error:
        raise MissingPackageError.of(
            'ratings(model="openskill")', "openskill", extra="league", error=error
        ) from None
    model: Any = PlackettLuce()
    skills = {player: (float(model.mu), float(model.sigma)) for player in players}
    count = 0
    for total, outcome in _episodes(totals):
        _update(model, skills, total, outcome)
        count += 1
    # Two players of known skill: the odds are exp((mu - mu') / (sqrt(2) beta)).
    scale = 400 / math.log(10) / (math.sqrt(2) * float(model.beta))
    ratings = [scale * (skills[player][0] - float(model.mu)) for player in players]
    errors = [scale * skills[player][1] for player in players]
    return np.round(np.array(ratings), _DIGITS), np.round(np.array(errors), _DIGITS), count


def _episodes(totals: Sequence[MatchTotal]) -> Iterator[tuple[MatchTotal, Outcome]]:
    """Yield episodes in a fixed order, in which each outcome is spread evenly.

    The k-th of n episodes of an outcome has the time (k - 1/2) / n. Episodes of one time stand in
    the order of players, teams, environments and ranks.
    """
    known = sum(outcome.episodes for total in totals for outcome in total.outcomes)
    timed = []
    for total in sorted(totals, key=_order):
        outcomes = sorted(
            total.outcomes, key=lambda each: [(r is None, r or 0) for r in each.ranks]
        )
        for outcome in outcomes:
            share = outcome.episodes
            if known > MAX_UPDATES:
                share = max(1, share * MAX_UPDATES // known)
            timed += [((2 * k + 1) / (2 * share), total, outcome) for k in range(share)]
    timed.sort(key=lambda each: each[0])  # stable
    for _, total, outcome in timed:
        yield total, outcome


def _order(total: MatchTotal) -> tuple[Any, ...]:
    return (
        sorted(total.players.items()),
        sorted(total.teams.items()),
        total.env,
        total.env_digest,
    )


def _update(
    model: Any, skills: dict[str, tuple[float, float]], total: MatchTotal, outcome: Outcome
) -> None:
    """Update the skills by one episode.

    A player with several roles gets the sum of the changes of its mean, and the product of the
    factors of its deviation.
    """
    sides = sides_of(total)
    members = [[total.players[role] for role in side.roles] for side in sides]
    if len({player for side in members for player in side}) < 2 or len(sides) < 2:
        return
    given = [outcome.ranks[side.place] for side in sides]
    last = len(given)  # behind each rank that there is: ranks count sides
    highest = max((rank for rank in given if rank is not None), default=0)
    ranks = [max(last, highest + 1) if rank is None else rank for rank in given]
    teams = [
        [model.rating(mu=skills[player][0], sigma=skills[player][1]) for player in side]
        for side in members
    ]
    rated = model.rate(teams, ranks=ranks)
    before = {player: skills[player] for side in members for player in side}
    for side, team in zip(members, rated, strict=True):
        for player, rating in zip(side, team, strict=True):
            mean, deviation = skills[player]
            old_mean, old_deviation = before[player]
            skills[player] = (
                mean + float(rating.mu) - old_mean,
                deviation * float(rating.sigma) / old_deviation,
            )
