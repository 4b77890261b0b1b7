"""Strategies, ratings and intervals are those of other libraries and of other methods."""

from __future__ import annotations

import math
import warnings

import nashpy
import numpy as np
import pytest
from open_spiel.python.algorithms.elo import compute_ratings_from_matrices
from scipy.optimize import brentq, minimize_scalar

from policystore.league.analysis import payoffs, ratings, win_rate_interval
from policystore.league.analysis.nash import equilibrium
from tests.support.league_totals import simulate


@pytest.mark.parametrize("seed", range(8))
def test_equilibria_are_those_that_nashpy_enumerates(seed):
    rng = np.random.default_rng(seed)
    gains = rng.normal(0, 0.3, tuple(rng.integers(2, 6, 2)))
    found = list(nashpy.Game(gains).support_enumeration())
    ((rows, columns),) = found  # a random game has one equilibrium

    one, other, value = equilibrium(gains)

    assert value == pytest.approx(rows @ gains @ columns, abs=1e-9)
    np.testing.assert_allclose(one, rows, atol=1e-7)
    np.testing.assert_allclose(other, columns, atol=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_equilibria_of_leagues_are_those_that_nashpy_enumerates(seed):
    rng = np.random.default_rng(seed)
    table = payoffs(simulate(rng.normal(0, 100, 6), 20, rng))
    gains = (table.wins - table.losses) / (2.0 * np.maximum(table.episodes, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # there may be several equilibria
        known = [rows for rows, _ in nashpy.Game(gains).vertex_enumeration()]

    shares = equilibrium(gains)[0]

    assert (gains @ shares).max() < 1e-9
    if len({tuple(np.round(rows, 6)) for rows in known}) == 1:
        np.testing.assert_allclose(shares, known[0], atol=1e-6)


@pytest.mark.parametrize("draws", [0.0, 0.4])
def test_ratings_are_those_of_openspiel(draws):
    rng = np.random.default_rng(7)
    totals = simulate(rng.normal(0, 150, 10), 30, rng, draws=draws)
    table, ours = payoffs(totals), ratings(totals, prior=0).ratings

    theirs = compute_ratings_from_matrices(
        table.wins,
        table.draws if draws else None,
        smoothing_factor=0.0,
        max_iterations=100_000,
        convergence_delta=1e-12,
    )

    np.testing.assert_allclose(ours - ours.mean(), theirs - theirs.mean(), atol=0.01)


def score_distance(difference, wins, draws, losses):
    """Return how many standard errors the wins are from what a difference predicts.

    The probability of a loss is the most likely one, found by a search; the rest is the definition
    of a score test of the difference of two probabilities.
    """
    number = wins + draws + losses

    def unlikely(loss):
        shares = (loss + difference, 1 - difference - 2 * loss, loss)
        pairs = zip((wins, draws, losses), shares, strict=True)
        return -sum(count * math.log(max(share, 1e-300)) for count, share in pairs if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    loss = minimize_scalar(
        unlikely, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
    ).x
    variance = number * (2 * loss + difference - difference**2)
    return (wins - losses - number * difference) / math.sqrt(variance)


@pytest.mark.parametrize(
    "counts", [(1, 43, 0), (5, 3, 2), (10, 30, 4), (2, 1, 7), (300, 500, 200), (7, 0, 3)]
)
def test_the_ends_of_an_interval_are_where_a_score_test_begins_to_refuse(counts):
    (low,), (high,) = win_rate_interval(*([count] for count in counts))
    observed = (counts[0] - counts[2]) / sum(counts)

    for reach, edge, end in ((1.959964, -0.999999, low), (-1.959964, 0.999999, high)):
        root = brentq(lambda d, to: score_distance(d, *counts) - to, edge, observed, args=(reach,))
        assert (1 + root) / 2 == pytest.approx(end, abs=1e-6)
