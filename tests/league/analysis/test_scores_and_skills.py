"""Scores of cooperative games, intervals, and ratings by the package openskill."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from openskill.models import PlackettLuce
from scipy import stats

from policystore.errors import InvalidInputError, MissingPackageError
from policystore.league.analysis import (
    mean_interval,
    meta_strategy,
    payoffs,
    ratings,
    scores,
    win_rate_interval,
)
from policystore.league.analysis.intervals import student_quantile
from policystore.league.analysis.skill import MAX_UPDATES
from tests.support.html_page import HOSTILE, Page
from tests.support.league_totals import player, ranked, returned, simulate, total

A, B, C, D = map(player, range(4))
UNIT = 400 / math.log(10) / (math.sqrt(2) * 25 / 6)


def test_intervals_without_draws_are_those_of_wilson():
    wins, losses = np.array([7, 0, 10, 500, 1]), np.array([3, 10, 0, 1500, 0])
    low, high = win_rate_interval(wins, 0, losses)
    for place, (won, lost) in enumerate(zip(wins, losses, strict=True)):
        expected = stats.binomtest(int(won), int(won + lost)).proportion_ci(method="wilson")
        assert low[place] == pytest.approx(expected.low, abs=1e-12)
        assert high[place] == pytest.approx(expected.high, abs=1e-12)


def test_intervals_of_extremes():
    low, high = win_rate_interval([0, 0, 10**12], [0, 10, 0], [0, 0, 10**12])
    assert (low[0], high[0]) == (0, 1)
    assert (low[1], high[1]) == (pytest.approx(0.361, abs=1e-3), pytest.approx(0.639, abs=1e-3))
    assert high[2] - low[2] == pytest.approx(1.96 / math.sqrt(2e12), rel=1e-3)


@pytest.mark.parametrize(
    ("shares", "games"), [((0.5, 0.0, 0.5), 30), ((0.3, 0.5, 0.2), 40), ((0.1, 0.8, 0.1), 60)]
)
def test_intervals_hold_the_true_win_rate_in_95_of_100_cases(shares, games):
    won, drawn, lost = np.random.default_rng(2).multinomial(games, shares, 4000).T
    low, high = win_rate_interval(won, drawn, lost)
    rate = shares[0] + shares[1] / 2
    assert 0.935 < ((low <= rate) & (rate <= high)).mean() < 0.97


@pytest.mark.parametrize("freedom", [1, 2, 3, 10, 11, 200, 201, 5000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_students_quantiles_are_those_of_scipy(freedom, confidence):
    expected = stats.t.ppf(0.5 + confidence / 2, freedom)
    assert student_quantile(confidence, freedom) == pytest.approx(expected, rel=1e-7)


def test_intervals_of_means_are_students():
    values = [1.0, 2.5, -3.0, 8.0]
    known = returned(*values)
    mean, low, high = mean_interval(known.episodes, known.sum, known.squares)
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (mean, low, high) == pytest.approx((np.mean(values), *expected))
    assert mean_interval(1, 4.0, 16.0) == (4.0, -math.inf, math.inf)
    assert all(map(math.isnan, mean_interval(0, 0, 0)))
    huge = returned(1e300).sum ** 3
    assert mean_interval(2, huge, huge * huge) == (math.inf, -math.inf, math.inf)


@pytest.mark.long
@pytest.mark.parametrize("draws", [0.0, 0.5, 0.8])
def test_errors_of_ratings_hold_the_true_difference_in_95_of_100_cases(draws):
    rng = np.random.default_rng(4)
    skills = np.array([0.0, 60, 120, 180, 260])
    inside = []
    for _ in range(400):
        table = ratings(simulate(skills, 40, rng, draws=draws), anchor={A: 0.0})
        inside.append(np.abs(table.ratings[1:] - skills[1:]) < 1.96 * table.errors[1:])
    assert 0.935 < np.mean(inside) < 0.97


def test_scores_are_means_of_groups():
    one, two = returned(1, 2, 3), returned(5, 5)
    totals = [
        ranked({"x": 0, "y": 1}, {}, returns={"x": one, "y": one}, unknown=3),
        ranked({"x": 0, "y": 2}, {}, returns={"x": two, "y": two}, unknown=2),
        ranked({"x": 3, "y": 3}, {}, unknown=2),
    ]
    table = scores(totals, refs={A: HOSTILE})

    assert [(each.mean, each.episodes) for each in table] == [(5.0, 2), (2.0, 3)]
    expected = stats.t.interval(0.95, 2, 2.0, stats.sem([1, 2, 3]))
    assert (table[1].low, table[1].high) == pytest.approx(expected)
    assert (table[0].low, table[0].high) == (5.0, 5.0)
    record = table.to_records()[1]
    assert record["players"] == {"x": A, "y": B}
    assert record["refs"] == {"x": HOSTILE, "y": None}
    assert "x: " in str(table)
    assert Page(table._repr_html_()).has_only_harmless_elements()
    assert scores(totals, env="other") == []
    assert str(scores([])) == "no known returns"


def test_openskill_rates_episodes_in_the_documented_order():
    totals = [total(1, 2, 1, 0, 1), total(0, 1, 2)]
    model = PlackettLuce()
    skills = {each: model.rating() for each in (A, B, C)}
    # The two of A and B have the times 1/4 and 3/4, those of B and C 1/2.
    for one, other, ranks in [(A, B, [0, 1]), (B, C, [0, 1]), (B, C, [1, 0]), (A, B, [0, 1])]:
        [[skills[one]], [skills[other]]] = model.rate([[skills[one]], [skills[other]]], ranks=ranks)

    table = ratings(totals, model="openskill", anchor={B: 1000})

    expected = [1000 + UNIT * (skills[each].mu - skills[B].mu) for each in (A, B, C)]
    np.testing.assert_allclose(table.ratings, expected, atol=1e-5)
    np.testing.assert_allclose(
        table.errors, [UNIT * skills[each].sigma for each in (A, B, C)], atol=1e-5
    )
    assert (
        ratings(totals[::-1], model="openskill", anchor={B: 1000}).to_records()
        == table.to_records()
    )


def test_openskill_takes_teams_and_more_than_two_sides():
    teams = {"r0": "red", "r1": "red", "b0": "blue", "b1": "blue"}
    totals = [
        ranked({"r0": 0, "r1": 1, "b0": 2, "b1": 3}, {(0, 0, 1, 1): 30}, teams=teams),
        ranked({"x": 0, "y": 1, "z": 2}, {(0, 1, None): 10, (0, None, None): 10}),
        ranked({"x": 0, "y": 0}, {(0, 1): 10}),
    ]
    table = ratings(totals, model="openskill")
    assert table[A].rating > table[B].rating > table[C].rating
    assert table.ratings.sum() == pytest.approx(0, abs=1e-5)
    assert len(table) == 4


def test_openskill_gives_the_differences_that_bradley_terry_gives():
    totals = simulate(np.array([0.0, 100, 200, 300]), 300, np.random.default_rng(1))
    one, other = ratings(totals), ratings(totals, model="openskill")
    assert np.abs(one.ratings - other.ratings).max() < 50


@pytest.mark.long
def test_openskill_takes_a_sample_of_many_episodes_and_says_so():
    totals = [total(0, 1, 6 * MAX_UPDATES, 0, 4 * MAX_UPDATES), total(1, 2, 1)]
    table = ratings(totals, model="openskill")
    assert "from a sample of 19,999 of 200,001 episodes" in str(table)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openskill.models", None)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingPackageError, match=r"openskill.*policystore\[league\]"):
        ratings([total(0, 1, 1)], model="openskill")
    with pytest.raises(MissingPackageError, match=r"scipy.*policystore\[league\]"):
        meta_strategy(payoffs([total(0, 1, 1)]))
    with pytest.raises(InvalidInputError, match="takes one anchor"):
        ratings([total(0, 1, 1)], model="openskill", anchor={A: 0, B: 1})
