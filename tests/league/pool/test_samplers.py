"""Samplers: which opponent a learner plays next."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from policystore.errors import InvalidInputError
from policystore.format.records.matches import Match, Outcome
from policystore.league.analysis import Ratings
from policystore.league.pool import (
    PoolPayoffs,
    anchored,
    by_rating,
    from_strategy,
    in_training,
    latest,
    prioritised,
    uniform,
)
from policystore.league.pool.messages import Candidate
from policystore.league.pool.samplers import anchors_of, choose, probabilities
from policystore.league.pool.standings import Tally
from tests.support.pool_parts import candidate, match, player

LEARNER = player(99)
CANDIDATES = [candidate(1), candidate(2), candidate(3)]
HEURISTIC = Candidate("heuristic:random", "heuristic:random", policy_id="random")
LIVE = Candidate(player(50), "other in training", policy_id="other")
RNG = np.random.default_rng(0)


def payoffs_of(
    *matches: Any, candidates: Any = CANDIDATES, lineage: Any = (LEARNER,), decay: float = 0.5
) -> PoolPayoffs:
    tally = Tally()
    tally.restart([])
    for each in matches:
        tally.add(each)
    return PoolPayoffs.of(tally, "main", lineage, candidates, decay=decay)


def weights(sampler: Any, payoffs: PoolPayoffs) -> list[float]:
    found = probabilities(sampler, payoffs, payoffs.candidates, np.random.default_rng(0))
    assert found.sum() == pytest.approx(1.0)
    return [round(float(each), 6) for each in found]


def test_win_rates_include_one_won_and_one_lost_episode() -> None:
    payoffs = payoffs_of(
        match(LEARNER, player(1), wins=6, draws=2), match(player(2), LEARNER, wins=8)
    )

    assert payoffs.win_rates.tolist() == [8 / 10, 1 / 10, 1 / 2]
    assert payoffs.episodes.tolist() == [8, 8, 0]
    assert payoffs.player == LEARNER


def test_episodes_of_earlier_snapshots_count_less() -> None:
    before = player(98)
    payoffs = payoffs_of(
        match(LEARNER, player(1), losses=2),
        match(before, player(1), wins=8),
        lineage=(LEARNER, before),
        decay=0.25,
    )

    assert payoffs.episodes[0] == 2 + 8 / 4
    assert payoffs.win_rates[0] == (8 / 4 + 1) / (4 + 2)


def test_latest_plays_the_newest_stored_snapshots() -> None:
    payoffs = payoffs_of(candidates=[HEURISTIC, *CANDIDATES, LIVE])

    assert weights(latest(), payoffs) == [0, 0, 0, 1, 0]
    assert weights(latest(2), payoffs) == [0, 0, 0.5, 0.5, 0]
    assert weights(latest(), payoffs_of(candidates=[HEURISTIC])) == [1]


def test_uniform_plays_all_alike() -> None:
    assert weights(uniform(), payoffs_of(candidates=[HEURISTIC, *CANDIDATES])) == [0.25] * 4


def test_prioritised_prefers_hard_opponents_as_in_the_paper() -> None:
    payoffs = payoffs_of(
        match(LEARNER, player(1), wins=8), match(LEARNER, player(2), losses=8)
    )  # win rates 0.9, 0.1 and 0.5
    hard = np.array([0.1, 0.9, 0.5]) ** 2
    var = np.array([0.09, 0.09, 0.25])

    assert weights(prioritised(), payoffs) == (hard / hard.sum()).round(6).tolist()
    assert weights(prioritised(weighting="var"), payoffs) == (var / var.sum()).round(6).tolist()
    power_one = np.array([0.1, 0.9, 0.5]) / 1.5
    assert weights(prioritised(power=1), payoffs) == power_one.round(6).tolist()


def test_by_rating_prefers_opponents_of_the_same_rating() -> None:
    payoffs = payoffs_of(
        match(LEARNER, player(1), wins=50, losses=50),
        match(LEARNER, player(2), wins=90, losses=10),
        match(LEARNER, player(3), wins=10, losses=90),
    )
    known = payoffs.ratings()
    near, weak, strong = weights(by_rating(width=100), payoffs)

    assert near > 0.9
    assert weak == pytest.approx(strong, rel=0.1)
    distance = known[LEARNER] - known[player(2)]
    assert distance == pytest.approx(400 * np.log10(9), rel=0.05)
    assert weak / near == pytest.approx(np.exp(-0.5 * (distance / 100) ** 2), rel=0.05)


def test_by_rating_plays_all_alike_before_the_first_game() -> None:
    assert weights(by_rating(), payoffs_of()) == [round(1 / 3, 6)] * 3


def test_from_strategy_plays_the_nash_strategy_of_the_candidates() -> None:
    # Rock, paper, scissors among the candidates: each plays a third, and the rest is irrelevant.
    payoffs = payoffs_of(
        match(player(1), player(2), wins=20),
        match(player(2), player(3), wins=20),
        match(player(3), player(1), wins=20),
        match(player(4), player(1), losses=20),
        match(player(4), player(2), losses=20),
        match(player(4), player(3), losses=20),
        match(LEARNER, player(1), wins=1000),
        candidates=[*CANDIDATES, candidate(4)],
    )
    found = weights(from_strategy("nash", explore=0.2), payoffs)

    assert found[:3] == pytest.approx([0.8 / 3 + 0.05] * 3, abs=0.02)
    assert found[3] == pytest.approx(0.05, abs=0.02)
    assert weights(from_strategy(), payoffs_of()) == [round(1 / 3, 6)] * 3


def test_from_strategy_takes_pairs_that_never_met_for_equal() -> None:
    # 1 beats 2; nobody has played 3, which ties with both, so 1 and 3 share.
    payoffs = payoffs_of(match(player(1), player(2), wins=20))

    assert weights(from_strategy(explore=0), payoffs) == [0.5, 0, 0.5]
    assert weights(from_strategy("uniform", explore=0), payoffs) == [round(1 / 3, 6)] * 3


def test_from_strategy_halves_the_weight_of_a_player_that_is_two_candidates() -> None:
    live = Candidate(player(1), "1 in training", policy_id="other")
    payoffs = payoffs_of(candidates=[candidate(1), live, candidate(2)])

    assert weights(from_strategy(explore=0), payoffs) == [0.25, 0.25, 0.5]


def test_from_strategy_compares_the_sides_of_games_of_three() -> None:
    players = {"x": player(1), "y": player(2), "z": player(3)}
    three = Match(players, episodes=5, outcomes=(Outcome((0, 1, 2), 5),))
    assert weights(from_strategy(explore=0), payoffs_of(three)) == [1, 0, 0]


def test_ratings_compute_no_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any) -> Any:
        raise AssertionError("errors take the third power of the number of players")

    monkeypatch.setattr(Ratings, "errors", property(refuse))
    payoffs = payoffs_of(match(LEARNER, player(1), wins=1))
    assert set(payoffs.ratings()) == {LEARNER, player(1)}


def test_a_player_that_met_only_itself_has_no_rating() -> None:
    payoffs = payoffs_of(match(LEARNER, player(1), wins=1), match(player(2), player(2), wins=1))
    assert set(payoffs.ratings()) == {LEARNER, player(1)}


def test_anchored_gives_anchors_their_share() -> None:
    payoffs = payoffs_of(candidates=[HEURISTIC, *CANDIDATES])
    sampler = anchored(latest(), {"duo/main@1": 0.25, "heuristic:random": 0.15, player(3): 0.1})

    assert weights(sampler, payoffs) == [0.15, 0.25, 0, 0.6]
    assert anchors_of(sampler) == ["duo/main@1", "heuristic:random", player(3)]
    assert anchors_of(in_training(0.5, sampler)) == anchors_of(sampler)


def test_in_training_gives_policies_in_training_their_share() -> None:
    payoffs = payoffs_of(candidates=[*CANDIDATES, LIVE])

    assert weights(in_training(0.4, uniform()), payoffs) == [0.2, 0.2, 0.2, 0.4]
    assert weights(in_training(0.4, latest()), payoffs_of()) == [0, 0, 1]
    assert weights(in_training(0.4, uniform()), payoffs_of(candidates=[LIVE])) == [1]


def test_own_samplers_return_probabilities_or_a_candidate() -> None:
    payoffs = payoffs_of()

    assert weights(lambda payoffs, candidates, rng: [2, 0, 2], payoffs) == [0.5, 0, 0.5]
    drawn = choose(lambda p, candidates, rng: candidates[1], payoffs, CANDIDATES, RNG)
    assert drawn == 1


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        ([1, 2], "1, 2"),
        ([0, 0, 0], "0, 0, 0"),
        ([1, -1, 1], "-1"),
        ([float("nan"), 1, 1], "nan"),
        ("main", "main"),
        (None, "None"),
        (candidate(7), "no candidate"),
    ],
)
def test_samplers_that_return_something_else_are_refused(returned: Any, found: str) -> None:
    with pytest.raises(InvalidInputError, match=found):
        choose(lambda payoffs, candidates, rng: returned, payoffs_of(), CANDIDATES, RNG)


@pytest.mark.parametrize(
    "make",
    [
        lambda: latest(0),
        lambda: latest(True),
        lambda: prioritised(power=0),
        lambda: prioritised(power=float("nan")),
        lambda: prioritised(weighting="soft"),
        lambda: by_rating(width=-1),
        lambda: from_strategy(explore=2),
        lambda: anchored(uniform, {"a": 0.5}),
        lambda: anchored(uniform(), {}),
        lambda: anchored(uniform(), {"a": 0.7, "b": 0.7}),
        lambda: in_training(1.5, uniform()),
        lambda: in_training(0.5, None),  # type: ignore[arg-type]
    ],
)
def test_arguments_of_the_wrong_form(make: Any) -> None:
    with pytest.raises(InvalidInputError):
        make()


@pytest.mark.parametrize(
    ("sampler", "text"),
    [
        (latest(), "latest()"),
        (latest(3), "latest(3)"),
        (uniform(), "uniform()"),
        (prioritised(), "prioritised(power=2, weighting='hard')"),
        (by_rating(), "by_rating(width=200, model='bradley-terry')"),
        (from_strategy(), "from_strategy('nash', explore=0.1)"),
        (anchored(uniform(), {"a@1": 0.5}), "anchored(uniform(), {'a@1': 0.5})"),
        (in_training(0.5, latest()), "in_training(0.5, latest())"),
    ],
)
def test_samplers_pickle_and_print_as_they_are_made(sampler: Any, text: str) -> None:
    assert repr(pickle.loads(pickle.dumps(sampler))) == text
