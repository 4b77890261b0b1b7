"""What clumsy callers give to a league is refused by name, and leaves the league readable."""

from __future__ import annotations

import datetime
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore import FormatError, InvalidInputError, NotFoundError
from policystore.format.records.match_batch import MatchBatch, parse_list_record
from policystore.format.records.matches import normal_match
from policystore.league import League, Match, Outcome
from policystore.league.analysis import meta_strategy, payoffs, ratings, scores
from policystore.league.env_identity import identify_env

RED, BLUE = "heuristic:red", "heuristic:blue"


@pytest.fixture
def league(tmp_path: Path) -> League:
    return League(tmp_path / "store", "soccer", author="ann")


def duel(**more: Any) -> dict[str, Any]:
    return {"players": {"red": RED, "blue": BLUE}, "episodes": 4, **more}


@pytest.mark.parametrize("ranks", [(False, True), (np.int8(0), np.int8(1)), (0.0, 1.0)])
def test_ranks_of_other_types_are_recorded_as_ints(ranks: tuple[Any, Any]) -> None:
    match = normal_match(Match({"a": RED, "b": BLUE}, 1, (Outcome(ranks, 1),)))
    assert [type(rank) for rank in match.outcomes[0].ranks] == [int, int]


def test_a_record_with_ranks_of_another_type_is_no_record(league: League) -> None:
    league.record([duel(wins={"red": 4})])
    batch = MatchBatch(
        league="soccer", epoch=1, writer="0" * 32, number=1, nonce="1" * 32, previous=None,
        time=datetime.datetime.now(datetime.timezone.utc), author="eve",
        matches=tuple(replace(each, time="", writer="") for each in league.matches()),
    )  # fmt: skip
    data = batch.to_bytes()
    assert parse_list_record(data, "it").matches  # type: ignore[attr-defined]
    for other in (b"[true,false]", b"[1.0,0.0]"):
        assert b"[1,0]" in data
        with pytest.raises(FormatError, match="outcomes"):
            parse_list_record(data.replace(b"[1,0]", other), "it")


def test_texts_without_utf8_are_refused_where_they_are_given(league: League) -> None:
    for given in (
        {"players": {"\ud800": RED}, "episodes": 1},
        duel(env="\udfff"),
        duel(teams={"red": "\ud800", "blue": "\ud800"}),
    ):
        with pytest.raises(InvalidInputError, match=r"match 0: .*lone surrogate"):
            league.record([given])
    for reason, episodes in (("\ud800", 1), ("x", 2**70), ("x", 1.5), ("x", "1")):
        with pytest.raises(InvalidInputError):
            league.unknown(reason, episodes)  # type: ignore[arg-type]
    league.unknown("lost", np.int64(2))
    league.record([duel()])  # nothing that was refused stays behind
    assert league.totals().unknown == {"lost": 2}


def test_more_reasons_than_one_batch_holds_take_several(league: League) -> None:
    for number in range(3_000):
        league.unknown(f"{number} {'x' * 500}")
    assert league.record([duel()]).batches > 1
    assert len(league.totals().unknown) == 3_000
    assert league.totals().matches == 1


def test_a_set_is_no_list_of_returns(league: League) -> None:
    with pytest.raises(InvalidInputError, match="expected a list, found a set"):
        league.record([duel(returns={"red": {1.0, 2.0}})])


def test_wrong_arguments_of_matches(league: League) -> None:
    league.record([duel()])
    now = datetime.datetime.now()
    for since in ("yesterday", 5, now, now.date(), datetime.timedelta(days=-1)):
        with pytest.raises(InvalidInputError, match="since"):
            league.matches(since=since)  # type: ignore[arg-type]
    for limit in (-1, True, "3", 1.5, 10**30):
        with pytest.raises(InvalidInputError, match="limit"):
            league.matches(limit=limit)  # type: ignore[arg-type]
    for player in (5, "", "heuristic:ö"):
        with pytest.raises(InvalidInputError):
            league.matches(player=player)  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match=r"^no name 'nobody'"):
        league.matches(player="nobody")
    assert len(list(league.matches(since=datetime.timedelta(days=1)))) == 1
    assert len(list(league.matches(limit=np.int64(1)))) == 1


def test_wrong_arguments_of_the_analysis(league: League) -> None:
    league.record([duel(wins={"red": 3}, env="Soccer-v0")])
    for env in (5, ["Soccer-v0"], b"Soccer-v0"):
        for call in (league.payoffs, league.ratings):
            with pytest.raises(InvalidInputError, match="env="):
                call(env=env)  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="env="):
            scores([], env=env)  # type: ignore[arg-type]
    for anchor in ([RED], RED, 5, {RED: math.nan}, {RED: "9"}, {5: 1.0}):
        with pytest.raises(InvalidInputError, match="anchor"):
            league.ratings(anchor=anchor)  # type: ignore[arg-type]
    assert league.ratings(anchor={RED: np.float32(7)})[RED].rating == 7.0
    wrong_players: tuple[Any, ...] = (5, RED, [[]], [5])
    for players in wrong_players:
        with pytest.raises(InvalidInputError, match="players"):
            league.payoffs(players=players)
    wrong_totals: tuple[Any, ...] = (None, [None], league, league.totals(), [5])
    for totals in wrong_totals:
        for count in (payoffs, ratings, scores):
            with pytest.raises(InvalidInputError, match=r"league.totals\(\).matchups"):
                count(totals)
    found = league.payoffs()
    for wrong in ({"missing": "x"}, {"missing": True}, {"missing": math.nan}, {"alpha": "x"},
                  {"population": "x"}):  # fmt: skip
        with pytest.raises(InvalidInputError, match=next(iter(wrong))):
            meta_strategy(found, **wrong)
    with pytest.raises(InvalidInputError, match="Payoffs"):
        meta_strategy(None)  # type: ignore[arg-type]


def test_the_identity_of_an_environment_names_it_in_the_analysis(league: League) -> None:
    env = identify_env("Soccer-v0", {"size": 3})
    league.record([duel(wins={"red": 3}, env=env), duel(wins={"blue": 4}, env="Soccer-v0")])
    assert league.payoffs(env=env).pair_wins.tolist() == [0]  # type: ignore[arg-type]
    assert league.payoffs(env=env).pair_losses.tolist() == [3]  # type: ignore[arg-type]
    assert league.ratings(env=env)[RED].episodes == 3  # type: ignore[arg-type]
