"""Payoffs: how results are counted, and what the table says of them."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policystore.errors import AmbiguousError, InvalidInputError, NotFoundError
from policystore.format.records.matches import Outcome, Returns
from policystore.league.analysis import payoffs
from policystore.league.analysis.counting import PairCounts, _count, count_pairs
from tests.support.html_page import HOSTILE, Page
from tests.support.league_totals import player, ranked, returned, total, two_player_totals

A, B, C = player(0), player(1), player(2)


def test_results_of_a_pair_are_added_over_roles_and_totals():
    table = payoffs([total(0, 1, 5, 2, 3), total(1, 0, 1, 0, 3)])

    assert table.players == (A, B)
    assert table.wins.tolist() == [[0, 8], [4, 0]]
    assert table.draws.tolist() == [[0, 2], [2, 0]]
    assert table.losses.tolist() == [[0, 4], [8, 0]]
    assert table.episodes.tolist() == [[0, 14], [14, 0]]
    assert table.win_rates[0, 1] == 9 / 14
    assert table.win_rates[1, 0] == 5 / 14
    assert np.isnan(table.win_rates[0, 0])
    assert table.low[0, 1] < 9 / 14 < table.high[0, 1]
    assert table.played.tolist() == [14, 14]


def test_records_have_both_sides_of_each_pair_that_met():
    table = payoffs(
        [total(0, 1, 3, 1, 0, returns={"a": returned(1, 2, 3, 4)}), total(1, 2, 0, 0, 2)],
        refs={A: "soccer/main@1"},
    )

    records = table.to_records()

    assert [(each["player"], each["opponent"]) for each in records] == [
        (A, B),
        (B, A),
        (B, C),
        (C, B),
    ]
    first = records[0]
    assert first | {"low": 0, "high": 0} == {
        "player": A, "ref": "soccer/main@1", "opponent": B, "opponent_ref": None, "episodes": 4, "wins": 3,
        "draws": 1, "losses": 0, "win_rate": 0.875, "low": 0, "high": 0, "mean_return": 2.5, "returns": 4,
    }  # fmt: skip
    assert (first["low"], first["high"]) == (table.low[0, 1], table.high[0, 1])
    assert {type(value) for value in first.values()} == {str, int, float, type(None)}
    assert (records[1]["wins"], records[1]["losses"], records[1]["mean_return"]) == (0, 3, None)


def test_each_pair_of_sides_counts_by_its_ranks():
    table = payoffs([ranked({"x": 0, "y": 1, "z": 2}, {(0, 1, 1): 5, (2, 0, 1): 1})])

    assert table.wins.tolist() == [[0, 5, 5], [1, 0, 1], [1, 0, 0]]
    assert table.draws.tolist() == [[0, 0, 0], [0, 0, 5], [0, 5, 0]]
    assert table.sides == 3


def test_sides_without_a_rank_lost_to_the_others_and_are_not_compared():
    table = payoffs([ranked({"x": 0, "y": 1, "z": 2}, {(0, None, None): 4})])

    assert table.wins[0].tolist() == [0, 4, 4]
    assert table.episodes[1, 2] == 0
    assert np.isnan(table.win_rates[1, 2])


def test_members_of_a_team_meet_the_members_of_the_other_team():
    roles = {"r0": 0, "r1": 1, "b0": 2, "b1": 2}
    teams = {"r0": "red", "r1": "red", "b0": "blue", "b1": "blue"}
    table = payoffs([ranked(roles, {(0, 0, 1, 1): 7}, teams=teams)])

    assert table.wins.tolist() == [[0, 0, 7], [0, 0, 7], [0, 0, 0]]
    assert table.sides == 2
    apart = payoffs([ranked(roles, {(0, 0, 1, 1): 7}, teams=teams)], by_role=True)
    assert apart.players == (A, B, C, C)
    assert apart.roles == ("r0", "r1", "b0", "b1")
    assert apart.wins[0].tolist() == [0, 0, 7, 7]


def test_a_team_with_different_ranks_is_refused():
    with pytest.raises(InvalidInputError, match="r0, r1 are one team"):
        payoffs([ranked({"r0": 0, "r1": 1}, {(0, 1): 1}, teams={"r0": "red", "r1": "red"})])
    broken = replace(ranked({"x": 0, "y": 1}, {(0, 1): 1}), players={"x": A, "y": B, "z": C})
    with pytest.raises(InvalidInputError, match="3 roles has an outcome of 2 ranks"):
        payoffs([broken])
    with pytest.raises(InvalidInputError, match="2 roles has an outcome of 3 ranks"):
        payoffs([replace(total(0, 1, 5), outcomes=(Outcome((0, 1, 2), 5),))])


def test_results_of_a_player_against_itself_are_counted_apart():
    table = payoffs([total(0, 0, 3, 1, 4), total(0, 1, 1)])

    assert table.with_itself == {A: 8}
    assert table.episodes.tolist() == [[0, 1], [1, 0]]
    assert "8 results of players against themselves" in str(table)


def test_roles_are_kept_apart_on_demand_and_may_be_one_players():
    table = payoffs([total(0, 0, 3, 0, 1), total(0, 1, 2), total(1, 0, 0, 0, 5)], by_role=True)

    assert list(zip(table.players, table.roles, strict=True)) == [
        (A, "a"),
        (A, "b"),
        (B, "a"),
        (B, "b"),
    ]
    assert table.wins[table.place(A, "a"), table.place(A, "b")] == 3
    assert table.wins[table.place(A, "b"), table.place(B, "a")] == 5
    assert table.with_itself == {}
    assert table.to_records()[0]["role"] == "a"
    with pytest.raises(NotFoundError, match="in the roles 'a', 'b', and not in the role 'c'"):
        table.place(A, "c")


def test_cooperative_episodes_have_no_results():
    table = payoffs([ranked({"x": 0, "y": 1}, {}, returns={"x": returned(1.0)}, unknown=6)])

    assert table.players == (A, B)
    assert table.unranked == 6
    assert table.to_records() == []
    assert str(table).splitlines()[-2:] == [
        "no results between two players",
        "6 episodes without a known outcome",
    ]


def test_mean_returns_are_those_against_the_opponent():
    huge = Returns(2, returned(1).sum * 2**3000, returned(1).sum * 2**6000)
    table = payoffs(
        [
            total(0, 1, 2, returns={"a": returned(1.5, 2.5), "b": returned(-1.5, -2.5)}),
            total(1, 0, 1, returns={"a": returned(3.0)}),
            total(0, 2, 2, returns={"a": huge}),
        ]
    )

    assert table.mean_returns[0, 1] == 2.0
    assert table.mean_returns[1, 0] == -1 / 3
    assert table.mean_returns[0, 2] == np.inf
    assert np.isnan(table.mean_returns[2, 0])


def test_one_environment_is_chosen_by_id_or_digest():
    totals = [
        total(0, 1, 1, env="soccer"),
        total(0, 1, 0, 0, 9, env="chess"),
        total(0, 1, 5, env=""),
    ]

    assert payoffs(totals, env="soccer").wins[0, 1] == 1
    assert payoffs(totals, env=totals[1].env_digest).wins[1, 0] == 9
    assert payoffs(totals, env="").wins[0, 1] == 5
    assert payoffs(totals, env="soccer").in_other_environments == 14
    text = str(payoffs(totals))
    assert "3 environments together (chess, soccer, unknown): env=… chooses one" in text
    assert "15 episodes in other environments" in str(payoffs(totals, env="go"))


def test_chosen_players_stand_in_the_order_of_the_call_also_without_results():
    new = "blake3:" + "ab" * 32
    table = payoffs(
        [total(0, 1, 3), total(1, 2, 4)],
        refs={C: "soccer/main@2"},
        players=["soccer/main@2", new, B],
    )

    assert table.players == (C, new, B)
    assert table.wins.tolist() == [[0, 0, 0], [0, 0, 0], [4, 0, 0]]
    assert table.place("soccer/main@2") == 0
    assert table.place(new) == 1


def test_wrong_players_and_arguments_are_named():
    totals = [total(0, 1, 3)]
    with pytest.raises(
        NotFoundError,
        match=r"no player of the league has the id or the ref 'soccer/mian@1'.*Did you mean 'soccer/main@1'",
    ):
        payoffs(totals, refs={A: "soccer/main@1"}, players=["soccer/mian@1"])
    with pytest.raises(AmbiguousError, match="2 players have the ref"):
        payoffs(totals, refs={A: "x@1", B: "x@1"}, players=["x@1"])
    with pytest.raises(InvalidInputError, match="named twice"):
        payoffs(totals, players=[A, A])
    with pytest.raises(InvalidInputError, match="in a list"):
        payoffs(totals, players=A)
    with pytest.raises(InvalidInputError, match="between 0 and 1"):
        payoffs(totals, confidence=95)
    with pytest.raises(InvalidInputError, match="mapping of players to refs"):
        payoffs(totals, refs=["x"])  # type: ignore[arg-type]
    with pytest.raises(NotFoundError):
        payoffs(totals).place("nobody")


def test_huge_numbers_are_exact_or_refused():
    table = payoffs([total(0, 1, 10**12, 1, 0)])
    assert table.episodes[0, 1] == 10**12 + 1
    assert table.win_rates[0, 1] == (2 * 10**12 + 1) / (2 * 10**12 + 2)
    with pytest.raises(InvalidInputError, match="cannot be counted exactly"):
        payoffs([total(0, 1, 2**52), total(0, 1, 0, 0, 1)])


def test_matrices_cannot_be_written_and_values_survive_pickling():
    table = payoffs([total(0, 1, 3)])
    for name in (
        "wins",
        "draws",
        "losses",
        "episodes",
        "win_rates",
        "low",
        "high",
        "mean_returns",
        "first",
    ):
        with pytest.raises(ValueError, match="read-only"):
            getattr(table, name)[:] = 0
    assert pickle.loads(pickle.dumps(table)).to_records() == table.to_records()


def test_a_table_of_text_shows_the_players_with_the_most_results():
    table = payoffs([total(0, 1, 3, 0, 1), total(0, 2, 2, 2)], refs={A: "soccer/main@1"})
    assert str(table).splitlines() == [
        "win rate in %    soccer/main@1  heuristic:00001  heuristic:00002  episodes",
        "soccer/main@1                                75               75         8",
        "heuristic:00001             25                                           4",
        "heuristic:00002             25                                           4",
    ]
    many = payoffs([total(0, each, each) for each in range(1, 30)])
    assert "and 20 players more" in str(many)
    assert repr(many) == "<Payoffs: 30 players, 29 pairs, 435 results>"


def test_a_notebook_shows_escaped_texts():
    page = Page(payoffs([total(0, 1, 9)], refs={B: HOSTILE})._repr_html_())
    assert page.has_only_harmless_elements()
    assert any("9 won, 0 drawn, 0 lost" in (value or "") for _, value in page.attributes)
    assert Page(payoffs([])._repr_html_()).texts == ["no results between two players"]


@given(two_player_totals, st.randoms(use_true_random=False))
def test_no_order_of_the_totals_changes_a_bit(totals, random):
    shuffled = totals.copy()
    random.shuffle(shuffled)
    assert payoffs(totals).to_records() == payoffs(shuffled).to_records()


@given(two_player_totals, st.booleans())
def test_two_roles_are_counted_as_any_number_of_roles_is(totals, by_role):
    returns = {"a": returned(1, 2), "b": returned(0.5)}
    totals = [replace(each, returns=returns) if each.episodes > 1 else each for each in totals]
    slowly = PairCounts()
    for each in totals:
        _count(each, by_role, True, slowly)
    assert count_pairs(totals, by_role=by_role) == slowly


@given(two_player_totals)
def test_what_one_player_wins_the_other_loses(totals):
    table = payoffs(totals)
    assert (table.wins == table.losses.T).all()
    assert (table.draws == table.draws.T).all()
    met = table.episodes > 0
    assert np.allclose((table.win_rates + table.win_rates.T)[met], 1, atol=1e-15, rtol=0)
    assert np.allclose((table.low + table.high.T)[met], 1, atol=1e-15, rtol=0)
    assert ((table.low <= table.win_rates) & (table.win_rates <= table.high))[met].all()
    between = sum(each.episodes for each in totals if len(set(each.players.values())) == 2)
    assert table.episodes.sum() == 2 * between
