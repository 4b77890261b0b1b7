"""Meta-strategies: equilibria, alpha-rank, and games that have none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_spiel.python.egt import alpharank as open_spiel

from policystore.errors import InvalidInputError
from policystore.league.analysis import meta_strategy, payoffs
from policystore.league.analysis.alpharank import fixation, stationary_shares
from policystore.league.analysis.nash import equilibrium
from tests.support.html_page import Page
from tests.support.league_totals import player, ranked, returned, total

A, B, C, D = map(player, range(4))
CIRCLE = [total(0, 1, 10), total(1, 2, 10), total(2, 0, 10)]
RPS = np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]]) / 2


@pytest.mark.parametrize("kind", ["nash", "alpharank", "uniform"])
def test_rock_paper_scissors_are_equally_likely(kind):
    mix = meta_strategy(payoffs(CIRCLE), kind=kind)
    assert list(mix.weights) == [A, B, C]
    assert mix.weights == pytest.approx(dict.fromkeys([A, B, C], 1 / 3))
    assert mix.win_rates[""] == pytest.approx(dict.fromkeys([A, B, C], 0.5))
    assert mix.value == 0.5


def test_the_equilibrium_of_a_biased_circle_is_the_one_worked_by_hand():
    # With gains a (A over B), b (B over C), c (C over A) the shares are as b : c : a.
    totals = [total(0, 1, 6, 0, 4), total(1, 2, 7, 0, 3), total(2, 0, 9, 0, 1)]
    mix = meta_strategy(payoffs(totals))
    assert mix.weights == pytest.approx({A: 2 / 7, B: 4 / 7, C: 1 / 7})


def test_the_best_of_a_ladder_takes_all():
    totals = [total(i, j, 6, 0, 4) for i in range(6) for j in range(i + 1, 6)]
    for kind in ("nash", "alpharank"):
        mix = meta_strategy(payoffs(totals), kind=kind)
        assert mix.weights[A] > 0.99
    assert meta_strategy(payoffs(totals)).weights == {
        A: 1.0,
        **{player(i): 0.0 for i in range(1, 6)},
    }
    assert meta_strategy(payoffs(totals)).win_rates[""][B] == 0.4


def test_equal_players_share_what_one_of_them_would_have():
    twins = [*CIRCLE, total(0, 3, 0, 5), total(3, 1, 10), total(2, 3, 10)]
    mix = meta_strategy(payoffs(twins))
    assert mix.weights == pytest.approx({A: 1 / 6, D: 1 / 6, B: 1 / 3, C: 1 / 3})


def test_of_many_equilibria_the_one_of_largest_entropy_is_taken():
    # Two circles that tie with each other: each mixture of their equilibria is an equilibrium, and
    # the entropy is largest where the shares of the circles are as exp(entropy) of each.
    def circle(a, b, c):
        return np.array([[0, a, -c], [-a, 0, b], [c, -b, 0]]), np.array([b, c, a]) / (a + b + c)

    for one, other in [((0.1, 0.1, 0.1), (0.3, 0.3, 0.3)), ((0.1, 0.2, 0.4), (0.05, 0.3, 0.3))]:
        (gains_one, mix_one), (gains_other, mix_other) = circle(*one), circle(*other)
        gains = np.zeros((6, 6))
        gains[:3, :3], gains[3:, 3:] = gains_one, gains_other
        powers = [np.exp(-(mix * np.log(mix)).sum()) for mix in (mix_one, mix_other)]
        expected = np.concatenate((mix_one * powers[0], mix_other * powers[1])) / sum(powers)
        np.testing.assert_allclose(equilibrium(gains)[0], expected, atol=1e-7)


def test_roles_apart_have_strategies_of_their_own():
    # Matching pennies: the first role wants equal players, with a gain that differs.
    totals = [
        total(0, 0, 9, 0, 1),
        total(1, 1, 7, 0, 3),
        total(0, 1, 2, 0, 8),
        total(1, 0, 2, 0, 8),
    ]
    mix = meta_strategy(payoffs(totals, by_role=True))
    assert list(mix.by_role) == ["a", "b"]
    # p * 0.9 + (1 - p) * 0.2 = p * 0.2 + (1 - p) * 0.7
    assert mix.by_role["a"] == pytest.approx({A: 5 / 12, B: 7 / 12})
    assert mix.by_role["b"] == pytest.approx({A: 5 / 12, B: 7 / 12})
    assert mix.value == pytest.approx(0.9 * 5 / 12 + 0.2 * 7 / 12)
    with pytest.raises(InvalidInputError, match="each of the roles a, b"):
        _ = mix.weights
    assert {each["role"] for each in mix.to_records()} == {"a", "b"}
    with pytest.raises(InvalidInputError, match="needs one population"):
        meta_strategy(payoffs(totals, by_role=True), kind="alpharank")


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_nobody_beats_an_equilibrium(size, seed):
    rng = np.random.default_rng(seed)
    gains = np.triu(rng.integers(-3, 4, (size, size)), 1) / 6
    gains = gains - gains.T
    shares, _, _ = equilibrium(gains)
    assert shares.sum() == pytest.approx(1)
    assert (gains @ shares).max() < 1e-6
    assert (equilibrium(gains)[0] == shares).all()
    order = rng.permutation(size)
    np.testing.assert_allclose(
        equilibrium(gains[np.ix_(order, order)])[0], shares[order], atol=1e-4
    )


def test_an_equilibrium_among_two_thousand_players_is_found():
    rng = np.random.default_rng(1)
    skill, style = rng.normal(0, 1, 2000), rng.normal(0, 1, (2, 2000))
    swirl = np.outer(style[0], style[1]) - np.outer(style[1], style[0])
    gains = np.tanh(0.3 * (skill[:, None] - skill) + 0.3 * swirl) / 2
    gains = (gains - gains.T) / 2
    shares, _, _ = equilibrium(gains)
    assert (shares > 0).sum() > 1
    assert (gains @ shares).max() < 1e-9


@pytest.mark.parametrize("alpha", [0.1, 1.0, 5.0, 10.0])
def test_alpharank_is_that_of_openspiel(alpha):
    rng = np.random.default_rng(int(alpha * 10))
    rates = np.triu(rng.uniform(0, 1, (6, 6)), 1)
    rates = rates + np.tril(1 - rates.T, -1) + np.eye(6) / 2
    _, _, expected, _, _ = open_spiel.compute(
        [rates], m=20, alpha=alpha, use_local_selection_model=False
    )
    np.testing.assert_allclose(
        stationary_shares(fixation(rates - 0.5, alpha, 20)), expected, atol=1e-6
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("alpha", [0, 1e-9, 1e3, 1e6, 1e11])
def test_alpharank_is_sound_for_every_alpha(alpha):
    np.testing.assert_allclose(stationary_shares(fixation(RPS * 0.7, alpha, 50)), 1 / 3)
    ladder = (np.arange(5)[None, :] - np.arange(5)[:, None]) / 20
    shares = stationary_shares(fixation(ladder, alpha, 50))
    assert shares.sum() == pytest.approx(1)
    assert (np.diff(shares) <= 1e-15).all()


def test_pairs_that_never_met_are_named_or_filled():
    table = payoffs([total(0, 1, 3), total(1, 2, 3)])
    with pytest.raises(
        InvalidInputError,
        match=r"1 pair never met, among them heuristic:00000 and heuristic:00002.*missing=0.5",
    ):
        meta_strategy(table)
    # C ties A, and A has to be half of the mixture, because B beats C.
    assert meta_strategy(table, missing=0.5).weights == pytest.approx({A: 0.5, B: 0, C: 0.5})
    with pytest.raises(InvalidInputError, match=r"can have 0.5 only"):
        meta_strategy(table, missing=0.4)


def test_games_that_are_not_zero_sum_between_two_are_refused():
    together = payoffs([ranked({"x": 0, "y": 1}, {}, returns={"x": returned(1.0)}, unknown=6)])
    with pytest.raises(
        InvalidInputError, match=r"6 episodes have returns only.*need not be zero-sum"
    ):
        meta_strategy(together)
    three = payoffs([ranked({"x": 0, "y": 1, "z": 2}, {(0, 1, 2): 5})])
    with pytest.raises(InvalidInputError, match="matches of 3 sides"):
        meta_strategy(three)
    assert meta_strategy(three, pairwise=True).weights[A] == 1


def test_wrong_arguments_are_named():
    table = payoffs(CIRCLE)
    with pytest.raises(
        InvalidInputError, match="kind='elo': expected 'nash', 'alpharank', 'uniform'"
    ):
        meta_strategy(table, kind="elo")
    with pytest.raises(InvalidInputError, match="missing=2"):
        meta_strategy(table, missing=2)
    with pytest.raises(InvalidInputError, match="population=1: .* from 2"):
        meta_strategy(table, kind="alpharank", population=1)


def test_extremes_and_tables():
    assert meta_strategy(payoffs([])).weights == {}
    assert str(meta_strategy(payoffs([]))) == "no players"
    for kind in ("nash", "alpharank", "uniform"):
        assert meta_strategy(payoffs([total(0, 0, 3)]), kind=kind).weights == {A: 1.0}
    mix = meta_strategy(
        payoffs([total(0, 1, 3), total(1, 2, 3), total(0, 2, 1)], refs={A: "soccer/main@1"})
    )
    assert str(mix).splitlines() == [
        "player         weight  win rate in %",
        "soccer/main@1   1.000             50",
        "2 players with the weight 0",
    ]
    assert mix.to_records()[0] == {
        "player": A, "ref": "soccer/main@1", "role": "", "weight": 1.0, "win_rate": 0.5
    }  # fmt: skip
    assert Page(mix._repr_html_()).has_only_harmless_elements()
