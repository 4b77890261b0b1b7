"""Fit the ratings of the Bradley-Terry model.

Player i beats player j with the probability ``s_i / (s_i + s_j)``, where s is the strength of a
player (Bradley and Terry, "Rank analysis of incomplete block designs I", Biometrika 39, 1952). A
draw is half a win and half a loss. The strengths are the most likely ones. All arithmetic is on
strengths, by operations that IEEE 754 rounds correctly, in a fixed order; logarithms come at the
end, from ``decimal``. So the same counts give the same bits on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Context, Decimal
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from policystore.errors import InvalidInputError
from policystore.league.analysis.laplacian import (
    Graph,
    inverse_diagonal,
    ordered_sums,
)

__all__ = [
    "ELO",
    "Games",
    "components",
    "fit_strengths",
    "rating_errors",
    "ratings_of",
    "strength_of",
]

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

ELO = 400 / math.log(10)
"""Points of the Elo scale for a difference of 1 between logarithms of strengths."""

_EXACT = Context(prec=28)
_PRECISION = 1e-11  # of logarithms of strengths
_MOST_STEPS = 200
_LEAST_DISPERSION = 1.0 / 16.0  # draws against the anchors' ratings could make it negative
_FARTHEST = 1e-250  # the smallest strength: 100,000 points below the mean


@dataclass(frozen=True)
class Games:
    """Hold the results of all pairs of players, as numbers of games.

    Attributes:
        size: number of players.
        first, second: the players of each pair, int64.
        won: wins and half draws of the first player of each pair, float64.
        lost: wins and half draws of the second player of each pair, float64.
    """

    size: int
    first: Integers
    second: Integers
    won: Floats
    lost: Floats

    @property
    def number(self) -> Floats:
        """The number of games of each pair, above 0."""
        return self.won + self.lost

    def with_draws(self, draws: float) -> Games:
        """Return the games with more draws, so that each player has a finite rating.

        Each player gives half of ``draws`` to its pairs, in proportion to their numbers of games;
        so two players that meet nobody else have ``draws`` more. It is the prior of R. Coulom's
        bayeselo, https://www.remi-coulom.fr/Bayesian-Elo/. Such draws change the difference
        between players that meet, by an amount that does not grow with the number of players.
        """
        ends = np.concatenate((self.first, self.second))
        numbers = ordered_sums(ends, np.concatenate((self.number, self.number)), self.size)
        given = draws / 2.0 / np.maximum(numbers, 1.0)
        more = self.number * (given[self.first] + given[self.second])
        return replace(self, won=self.won + more / 2.0, lost=self.lost + more / 2.0)


def fit_strengths(games: Games, known: Floats) -> Floats:
    """Return the most likely strengths.

    Newton's method finds the maximum from every start, because a step is shortened where the
    strengths of two players who met would change by different factors (Sun and Tran-Dinh,
    "Generalized self-concordant functions", Mathematical Programming 178, 2019, section 4).

    Args:
        games: the results. Each player without a known strength has to be connected to each other
            player by wins, and by losses, of pairs; else there is no maximum.
        known: the strength of each player whose strength is given, NaN for the others. At least one
            is given in each group of players that meet.

    Raises:
        InvalidInputError: the strengths differ by more than a factor of 10^250.
    """
    fixed = ~np.isnan(known)
    strengths = np.where(fixed, known, 1.0)
    previous = math.inf
    for _ in range(_MOST_STEPS):
        gradient, graph = _derivatives(games, strengths, fixed)
        step = graph.solve(gradient, tolerance=1e-6)
        reach = float(np.max(np.abs(step[games.first] - step[games.second]), initial=0.0))
        strengths = strengths * _exponential(step * (2.0 / (2.0 + reach)))
        if not ((strengths > _FARTHEST) & (strengths < 1.0 / _FARTHEST)).all():
            break
        # Rounding errors end the progress where numbers of games differ by many digits.
        if reach < _PRECISION or (reach < 1e-4 and reach > previous / 2.0):
            return strengths
        previous = reach
    raise InvalidInputError(
        "no ratings within 100,000 points explain the results: some players are too one-sided. "
        "Give prior= a larger number of draws"
    )


def _derivatives(games: Games, strengths: Floats, fixed: NDArray[np.bool_]) -> tuple[Floats, Graph]:
    """Return the gradient of the log-likelihood, and the Fisher information as a graph."""
    one, other = strengths[games.first], strengths[games.second]
    share, rest = one / (one + other), other / (one + other)
    # That is won - number * share, without a difference of large numbers.
    surprise = games.won * rest - games.lost * share
    ends = np.concatenate((games.first, games.second))
    gradient = ordered_sums(ends, np.concatenate((surprise, -surprise)), games.size)
    gradient[fixed] = 0.0
    weights = games.number * (share * rest)
    return gradient, Graph(games.size, games.first, games.second, weights, fixed)


def _exponential(x: Floats) -> Floats:
    """Return about e^x, for small x with an error of the fifth order: Padé's (2, 2) approximant."""
    halvings = max(0, math.frexp(float(np.max(np.abs(x), initial=0.0)))[1])
    x = x / 2.0**halvings
    even, odd = 12.0 + x * x, 6.0 * x
    power = (even + odd) / (even - odd)
    with np.errstate(over="ignore"):
        for _ in range(halvings):
            power = power * power
    return power


def rating_errors(
    games: Games,
    strengths: Floats,
    fixed: NDArray[np.bool_],
    group: Integers,
    draws: Integers,
) -> Floats:
    """Return the standard errors of the ratings, in points of the Elo scale.

    They are the roots of the diagonal of the inverse of the Fisher information. Where no rating is
    given, the information has no inverse, because only differences are known. Then the errors are
    those of the differences to the mean rating of the group.

    The information is that of games without draws. A draw has no spread, where half a win by chance
    has a variance of 1/4. So all errors are multiplied by the root of one factor, the dispersion of
    a quasi-likelihood (Wedderburn, Biometrika 61, 1974): the variance of all results that is left,
    as a share of what it were without draws. One more decisive game between equals is added.

    Args:
        games: the results.
        strengths: the fitted strengths.
        fixed: the players whose ratings are given; their errors are 0.
        group: the number of each player's group, int64: players of different groups never meet.
        draws: the number of draws of each pair, int64.

    Returns:
        float64; infinity for a player that met nobody.
    """
    _, graph = _derivatives(games, strengths, fixed)
    degrees = graph.degrees()
    floating = ~np.isin(group, group[fixed])
    ground = fixed.copy()
    for place in np.lexsort((-degrees, group)).tolist():  # the best known of each group
        if floating[place] and not ground[group == group[place]].any():
            ground[place] = True
    grounded = Graph(games.size, games.first, games.second, graph.weights, ground)
    variances = np.zeros(games.size)
    variances[~ground] = inverse_diagonal(grounded.dense())
    members = np.bincount(group)[group]
    share = np.where(floating & ~ground, 1.0 / members, 0.0)
    with_mean = grounded.solve(share, tolerance=1e-12)
    of_mean = ordered_sums(group, share * with_mean, int(group.max(initial=0)) + 1)[group]
    variances = np.where(floating, variances - 2.0 * with_mean + of_mean, variances)
    variances[(members == 1) & ~fixed] = np.inf
    spread = math.fsum(graph.weights.tolist()) + 0.25
    left = max(1.0 - math.fsum(draws.tolist()) / 4.0 / spread, _LEAST_DISPERSION)
    return np.sqrt(np.maximum(variances, 0.0) * left) * ELO


def strength_of(rating: float) -> float:
    """Return the strength that has a rating, correctly rounded."""
    return float(_EXACT.power(Decimal(10), _EXACT.divide(Decimal(rating), Decimal(400))))


def ratings_of(strengths: Floats) -> Floats:
    """Return the ratings of strengths, correctly rounded; strength 1 has the rating 0."""
    exact = (
        _EXACT.multiply(_EXACT.log10(Decimal(each)), Decimal(400)) for each in strengths.tolist()
    )
    return np.array([float(each) for each in exact])


def components(size: int, arcs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Return the strongly connected components of a directed graph, each sorted.

    The method is Tarjan's (SIAM Journal on Computing 1, 1972), without recursion. The components
    are sorted by their first node.
    """
    following: list[list[int]] = [[] for _ in range(size)]
    for start, end in arcs:
        following[start].append(end)
    index: list[int] = [-1] * size
    low: list[int] = [0] * size
    open_nodes: list[int] = []
    is_open = [False] * size
    found: list[list[int]] = []
    number = 0
    for root in range(size):
        if index[root] >= 0:
            continue
        path = [(root, 0)]
        while path:
            node, position = path.pop()
            if position == 0:
                index[node] = low[node] = number
                number += 1
                open_nodes.append(node)
                is_open[node] = True
            if position < len(following[node]):
                path.append((node, position + 1))
                after = following[node][position]
                if index[after] < 0:
                    path.append((after, 0))
                elif is_open[after]:
                    low[node] = min(low[node], index[after])
                continue
            if path:
                low[path[-1][0]] = min(low[path[-1][0]], low[node])
            if low[node] == index[node]:
                group: list[int] = []
                while not group or group[-1] != node:
                    group.append(open_nodes.pop())
                    is_open[group[-1]] = False
                found.append(sorted(group))
    return sorted(found)
