"""Ratings of the Bradley-Terry model, and their errors."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from policystore.errors import AmbiguousError, InvalidInputError, NotFoundError
from policystore.league.analysis import ratings
from tests.support import ROOT
from tests.support.html_page import HOSTILE, Page
from tests.support.league_totals import player, ranked, simulate, total, two_player_totals

A, B, C, D = map(player, range(4))
ELO = 400 / math.log(10)


@pytest.mark.parametrize(("wins", "draws", "losses"), [(30, 0, 10), (1, 2, 3), (10**12, 5, 1)])
def test_two_players_differ_by_the_logarithm_of_their_scores(wins, draws, losses):
    table = ratings([total(0, 1, wins, draws, losses)], prior=0)

    expected = 400 * math.log10((wins + draws / 2) / (losses + draws / 2))
    assert table.ratings[0] - table.ratings[1] == pytest.approx(expected, abs=2e-6)
    assert table.ratings.sum() == pytest.approx(0, abs=2e-6)


def test_the_error_of_two_players_is_that_of_a_proportion():
    table = ratings([total(0, 1, 30, 0, 10)], prior=0, anchor={B: 1000})

    assert table.ratings[1] == 1000.0
    assert table.errors.tolist() == [pytest.approx(ELO / math.sqrt(40 * 0.75 * 0.25)), 0]
    to_mean = ratings([total(0, 1, 30, 0, 10)], prior=0).errors
    assert to_mean.tolist() == [pytest.approx(table.errors[0] / 2)] * 2


def test_draws_make_the_error_smaller_as_the_spread_of_results_says():
    table = ratings([total(0, 1, 3000, 5000, 2000)], prior=0, anchor={B: 1000})

    spread = np.std(np.repeat([1, 0.5, 0], [3000, 5000, 2000]))
    assert table.errors[0] == pytest.approx(
        ELO * spread / math.sqrt(10_000) / (0.55 * 0.45), rel=1e-4
    )
    # Draws that contradict the anchors leave an error.
    assert ratings([total(0, 1, 0, 50)], anchor={A: 0, B: 900}).errors.tolist() == [0, 0]
    far = ratings([total(0, 1, 0, 50), total(1, 2, 0, 9)], anchor={A: 0, C: 900})
    assert 0 < far.errors[1] < math.inf


def test_the_prior_is_one_draw_between_two_players():
    table = ratings([total(0, 1, 9)])
    assert table.ratings[0] - table.ratings[1] == pytest.approx(
        400 * math.log10(9.5 / 0.5), abs=2e-6
    )
    twice = ratings([total(0, 1, 9)], prior=2)
    assert twice.ratings[0] - twice.ratings[1] == pytest.approx(400 * math.log10(10), abs=2e-6)


def test_players_who_beat_each_other_in_a_circle_are_equal():
    table = ratings([total(0, 1, 9, 0, 1), total(1, 2, 9, 0, 1), total(2, 0, 9, 0, 1)])
    assert table.ratings.tolist() == [0, 0, 0]


def likelihood_maximum(totals, prior):
    """Fit ratings by another algorithm: scipy's BFGS on the formula of the log-likelihood."""
    table = ratings(totals, prior=prior)
    place = {each: index for index, each in enumerate(table.players)}
    games: dict[tuple[int, int], float] = {}
    for each in totals:
        one, other = (place[each.players[role]] for role in sorted(each.players))
        for outcome in each.outcomes:
            left, right = outcome.ranks
            share = 0.5 if left == right else float(left < right)
            games[one, other] = games.get((one, other), 0) + share * outcome.episodes
            games[other, one] = games.get((other, one), 0) + (1 - share) * outcome.episodes
    number = np.zeros(len(place))
    for (one, other), wins in games.items():
        number[one] += wins
        number[other] += wins
    winner, loser = (np.array(column) for column in zip(*games, strict=True))
    wins = np.array(list(games.values()))
    both = np.array([games[pair] + games.get(pair[::-1], 0) for pair in games])
    wins = wins + prior / 4 * both * (1 / number[winner] + 1 / number[loser])

    def loss(theta):
        return (wins * np.logaddexp(0, theta[loser] - theta[winner])).sum() + 1e-9 * (
            theta**2
        ).sum()

    found = minimize(loss, np.zeros(len(place)), method="BFGS", options={"gtol": 1e-9}).x
    return table, (found - found.mean()) * ELO


@pytest.mark.parametrize("prior", [0, 0.5, 1, 5])
def test_another_algorithm_finds_the_same_ratings(prior):
    rng = np.random.default_rng(3)
    totals = simulate(rng.normal(0, 150, 8), 20, rng, draws=0.3)
    table, expected = likelihood_maximum(totals, prior)
    np.testing.assert_allclose(table.ratings, expected, atol=0.01)


def test_a_ladder_with_few_links_is_fitted_link_by_link():
    table = ratings([total(i, i + 1, 4, 0, 6) for i in range(60)], prior=0)
    np.testing.assert_allclose(np.diff(table.ratings), 400 * math.log10(1.5), atol=3e-6)
    with_prior = ratings([total(i, i + 1, 4, 0, 6) for i in range(60)])
    inner = np.diff(with_prior.ratings)[
        1:-1
    ]  # half a draw more for each link, however long the ladder
    np.testing.assert_allclose(inner, 400 * math.log10(6.25 / 4.25), atol=3e-6)


def test_anchors_fix_ratings_and_move_the_others():
    totals = [total(0, 1, 6, 0, 4), total(1, 2, 6, 0, 4), total(2, 3, 6, 0, 4)]
    free = ratings(totals)
    one = ratings(totals, anchor={"soccer/main@1": 1000}, refs={B: "soccer/main@1"})
    np.testing.assert_allclose(one.ratings, free.ratings - free.ratings[1] + 1000, atol=3e-6)
    assert one.errors[1] == 0.0
    assert one.errors[3] > one.errors[2] > 0

    two = ratings(totals, anchor={A: 500, D: -500}, prior=0)
    assert (two[A].rating, two[D].rating) == (500, -500)
    # By symmetry the two in the middle keep apart as the four results want.
    assert two[B].rating == pytest.approx(-two[C].rating, abs=3e-6)
    assert two[A].rating > two[B].rating > two[C].rating > two[D].rating


def test_groups_that_never_met_have_means_of_their_own():
    totals = [total(0, 1, 3, 0, 1), total(2, 3, 1, 0, 1), ranked({"x": 9}, {(0,): 5})]
    table = ratings(totals)

    assert table.groups == ((A, B), (C, D), (player(9),))
    assert table.ratings[0] == -table.ratings[1]
    assert table.ratings[2:].tolist() == [0, 0, 0]
    assert table.errors[4] == math.inf
    assert "3 groups of players that never met (heuristic:00000, heuristic:00001 |" in str(table)

    anchored = ratings(totals, anchor={A: 1000})
    centre = anchored.ratings[:2].mean()
    assert anchored.ratings[2:] == pytest.approx([centre] * 3, abs=2e-6)
    assert anchored.errors[2] == pytest.approx(table.errors[2])


def test_without_a_prior_one_sided_players_are_named():
    totals = [total(0, 1, 3), total(1, 2, 1, 0, 1), total(2, 3, 5)]
    with pytest.raises(InvalidInputError) as caught:
        ratings(totals, prior=0)
    lines = str(caught.value).splitlines()
    assert lines[0] == "prior=0: no finite ratings explain these results:"
    assert lines[1:3] == [
        "  heuristic:00000 never lost to the others",
        "  heuristic:00003 never won against the others",
    ]
    assert all(math.isfinite(each) for each in ratings(totals).ratings)
    assert ratings([*totals, total(3, 0, 0, 1)], prior=0).ratings.shape == (4,)
    # Two groups apart are no reason to refuse.
    assert ratings([total(0, 1, 1, 0, 1), total(2, 3, 0, 2)], prior=0).ratings.tolist() == [0] * 4
    # A rating that is given holds from above and from below.
    assert ratings(totals[:1] + totals[2:], prior=0.1, anchor={A: 0, D: 0})[A].rating == 0


def test_ratings_beyond_every_scale_are_refused():
    totals = [total(i, i + 1, 1, 0, 10**6) for i in range(100)]
    with pytest.raises(InvalidInputError, match="within 100,000 points"):
        ratings(totals, prior=0)


def test_extremes():
    assert ratings([]).to_records() == []
    assert str(ratings([])).startswith("no players")
    (alone,) = ratings([total(0, 0, 5)]).to_records()
    assert alone == {"player": A, "ref": None, "rating": 0.0, "error": math.inf, "episodes": 0}
    draws = ratings([total(0, 1, 0, 10**12), total(1, 2, 0, 7)])
    assert draws.ratings.tolist() == [0, 0, 0]
    assert draws.errors[0] == pytest.approx(draws.errors[1], rel=1e-3)
    wins = ratings([total(0, 1, 10**12), total(1, 2, 10**12)])
    assert wins.ratings[0] > 4000
    # The weights of the pairs differ by twelve digits, and the weak link is still fitted.
    weak = ratings(
        [
            total(0, 1, 6 * 10**11, 0, 4 * 10**11),
            total(2, 3, 10**12, 0, 10**12),
            total(1, 2, 2, 0, 1),
        ],
        prior=0,
    )
    assert weak.ratings[1] - weak.ratings[2] == pytest.approx(400 * math.log10(2), abs=1e-3)
    assert weak.ratings[0] - weak.ratings[1] == pytest.approx(400 * math.log10(1.5), abs=1e-3)


def test_wrong_arguments_are_named():
    totals = [total(0, 1, 3, 0, 1)]
    with pytest.raises(
        InvalidInputError, match="model='elo': expected 'bradley-terry' or 'openskill'"
    ):
        ratings(totals, model="elo")
    for prior in (-1, math.nan, "1", True):
        with pytest.raises(InvalidInputError, match="expected a number of draws"):
            ratings(totals, prior=prior)
    with pytest.raises(
        NotFoundError,
        match=r"anchor: no player of the league has the id or the ref 'soccer/main@2'",
    ):
        ratings(totals, anchor={"soccer/main@2": 1000})
    with pytest.raises(NotFoundError, match="anchor"):
        ratings(totals, anchor={C: 1000})
    with pytest.raises(InvalidInputError, match="the rating 'high'"):
        ratings(totals, anchor={A: "high"})  # type: ignore[dict-item]
    with pytest.raises(AmbiguousError):
        ratings(totals, anchor={"x@1": 0}, refs={A: "x@1", B: "x@1"})
    with pytest.raises(NotFoundError, match="the ratings"):
        ratings(totals)["nobody"]


def test_records_and_tables_have_the_best_first():
    table = ratings(
        [total(0, 1, 1, 0, 3), total(2, 3, 2, 0, 2)], refs={B: "soccer/main@7"}, anchor={A: 1000}
    )
    records = table.to_records()

    assert [each["player"] for each in records] == [B, C, D, A]
    assert records[0] | {"rating": 0, "error": 0} == {
        "player": B, "ref": "soccer/main@7", "rating": 0, "error": 0, "episodes": 4
    }  # fmt: skip
    assert str(table).splitlines()[:2] == [
        "player           rating  error  episodes",
        "soccer/main@7      1147  ± 170         4",
    ]
    assert "given" in str(table)
    assert table["soccer/main@7"].player == B
    page = Page(ratings([total(0, 1, 3)], refs={A: HOSTILE})._repr_html_())
    assert page.has_only_harmless_elements()
    again = pickle.loads(pickle.dumps(table))
    assert again.to_records() == records


@settings(deadline=None)
@given(two_player_totals, st.randoms(use_true_random=False))
def test_no_order_of_the_totals_changes_a_bit(totals, random):
    shuffled = totals.copy()
    random.shuffle(shuffled)
    one, other = ratings(totals), ratings(shuffled)
    assert one.ratings.tobytes() == other.ratings.tobytes()
    assert one.errors.tobytes() == other.errors.tobytes()
    assert np.isfinite(one.ratings).all()
    assert (one.errors >= 0).all()


@settings(deadline=None)
@given(two_player_totals)
def test_one_more_win_never_lowers_a_rating(totals):
    before = ratings([*totals, total(0, 1, 0, 1)], prior=0.5)
    after = ratings([*totals, total(0, 1, 1, 0, 0)], prior=0.5)
    gap = [table[A].rating - table[B].rating for table in (before, after)]
    assert gap[1] > gap[0]


@settings(deadline=None)
@given(two_player_totals)
def test_the_mirrored_league_has_the_opposite_ratings(totals):
    from dataclasses import replace

    from policystore.format.records.matches import Outcome

    mirrored = [
        replace(each, outcomes=tuple(Outcome(o.ranks[::-1], o.episodes) for o in each.outcomes))
        for each in totals
    ]
    np.testing.assert_allclose(ratings(totals).ratings, -ratings(mirrored).ratings, atol=1e-5)


PROGRAM = """
import random, sys
import numpy as np
from policystore.league.analysis import payoffs, ratings
from tests.support.league_totals import simulate
rng = np.random.default_rng(0)
totals = simulate(rng.normal(0, 200, {players}), 10, rng, draws=0.2)
random.Random(int(sys.argv[1])).shuffle(totals)
print(payoffs(totals).low.tobytes().hex())
for anchor in (None, {{"heuristic:00003": 1000.0}}):
    table = ratings(totals, anchor=anchor)
    print(table.ratings.tobytes().hex(), table.errors.tobytes().hex())
"""


def fresh_process(threads: int, order: int, players: int) -> str:
    """Return the bytes of ratings, errors and intervals, computed by another process."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    env = {**os.environ, "PYTHONPATH": str(ROOT), **dict.fromkeys(names, str(threads))}
    # Another kernel of OpenBLAS adds in another order, as another processor would.
    env["OPENBLAS_CORETYPE"] = "Haswell" if order % 2 else "Prescott"
    program = PROGRAM.format(players=players)
    done = subprocess.run(
        [sys.executable, "-c", program, str(order)],
        capture_output=True, text=True, check=True, env=env,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize("players", [40, pytest.param(300, marks=pytest.mark.long)])
def test_processes_with_other_orders_threads_and_kernels_give_the_same_bits(players: int):
    assert fresh_process(1, 1, players) == fresh_process(4, 2, players)
