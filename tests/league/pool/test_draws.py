"""Who plays is drawn on the env runner: the same place and tables always give the same choice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from policystore.league.pool.messages import Candidate, Draws, DrawTable
from policystore.league.pool.runner.draws import Drawer, Drawn, Place

CANDIDATES = tuple(Candidate(f"heuristic:h{n}", f"h{n}", "", f"h{n}") for n in range(4))
WEIGHTS = (0.1, 0.2, 0.3, 0.4)
EPISODES = 2000


def draws(**changes: Any) -> Draws:
    given: dict[str, Any] = {
        "round": 1,
        "seed": 5,
        "tables": {"main": DrawTable(CANDIDATES, WEIGHTS)},
        "shares": {"main": 1.0},
        "players": {},
    }
    return Draws(**(given | changes))


def anyone(table: Draws, sides: int) -> dict[str, list[int]]:
    return {learner: list(range(sides)) for learner in table.shares}


def drawn(
    table: Draws, place: Place, sides: int = 2, allowed: dict[str, list[int]] | None = None
) -> Drawn:
    allowed = anyone(table, sides) if allowed is None else allowed
    found = Drawer(table).draw(place, allowed, sides)
    assert found is not None
    return found


def many(table: Draws, sides: int = 2) -> list[Drawn]:
    drawer, allowed = Drawer(table), anyone(table, sides)
    places = (Place(False, 1, n % 2, n // 2) for n in range(EPISODES))
    found = [drawer.draw(place, allowed, sides) for place in places]
    return [each for each in found if each is not None]


def assert_shares(counts: Counter[Any], shares: dict[Any, float]) -> None:
    """Check frequencies within 4 standard errors; the seeds are fixed."""
    total = sum(counts.values())
    assert set(counts) == set(shares)
    for value, share in shares.items():
        error = (share * (1 - share) / total) ** 0.5
        assert abs(counts[value] / total - share) < 4 * error, (value, counts)


def test_opponents_come_by_their_weights_and_sides_alike() -> None:
    found = many(draws())
    weights = {f"h{n}": weight for n, weight in enumerate(WEIGHTS)}
    assert_shares(Counter(each.opponents[0].ref for each in found), weights)
    assert_shares(Counter(each.side for each in found), {0: 0.5, 1: 0.5})
    pairs = Counter((each.side, each.opponents[0].ref) for each in found)
    assert_shares(pairs, {(s, ref): w / 2 for s in (0, 1) for ref, w in weights.items()})


def test_opponents_of_one_episode_are_drawn_apart() -> None:
    found = many(draws(), sides=3)
    assert {len(each.opponents) for each in found} == {2}
    pairs = Counter((each.opponents[0].ref, each.opponents[1].ref) for each in found)
    weights = {f"h{n}": weight for n, weight in enumerate(WEIGHTS)}
    assert_shares(pairs, {(a, b): v * w for a, v in weights.items() for b, w in weights.items()})


def test_weights_need_not_add_up_to_one() -> None:
    table = draws(tables={"main": DrawTable(CANDIDATES[:2], (3.0, 1.0))})
    assert_shares(Counter(e.opponents[0].ref for e in many(table)), {"h0": 0.75, "h1": 0.25})


def test_a_candidate_of_weight_zero_is_never_drawn() -> None:
    table = draws(tables={"main": DrawTable(CANDIDATES, (0.0, 0.5, 0.5, 0.0))})
    assert {each.opponents[0].ref for each in many(table)} == {"h1", "h2"}


def test_learners_come_by_their_shares_and_draw_from_their_own_tables() -> None:
    tables = {"main": DrawTable(CANDIDATES[:1], (1.0,)), "foil": DrawTable(CANDIDATES[1:2], (1.0,))}
    found = many(draws(tables=tables, shares={"main": 0.75, "foil": 0.25, "idle": 0.0}))
    assert_shares(Counter(each.learner for each in found), {"main": 0.75, "foil": 0.25})
    pairs = {(each.learner, each.opponents[0].ref) for each in found}
    assert pairs == {("main", "h0"), ("foil", "h1")}


def test_a_learner_plays_the_sides_that_it_may_play() -> None:
    found = {drawn(draws(), Place(False, 0, 0, n), allowed={"main": [1]}).side for n in range(20)}
    assert found == {1}


def test_a_learner_that_no_agent_is_for_leaves_its_share_to_others() -> None:
    table = draws(
        tables=dict.fromkeys(("main", "foil"), DrawTable(CANDIDATES, WEIGHTS)),
        shares={"main": 0.5, "foil": 0.5},
    )
    allowed = {"main": [], "foil": [0]}
    learners = {drawn(table, Place(False, 0, 0, n), allowed=allowed).learner for n in range(20)}
    assert learners == {"foil"}


@pytest.mark.parametrize(
    "place",
    [
        Place(True, 1, 0, 0),
        Place(False, 2, 0, 0),
        Place(False, 1, 1, 0),
        Place(False, 1, 0, 1),
    ],
)
def test_each_place_has_draws_of_its_own(place: Place) -> None:
    def series(start: Place) -> list[Drawn]:
        return [drawn(draws(), start._replace(number=start.number + 50 * n)) for n in range(12)]

    home = Place(False, 1, 0, 0)
    assert series(home) == series(home)
    assert series(place) != series(home)


def test_another_seed_or_round_gives_other_draws() -> None:
    def series(table: Draws) -> list[Drawn]:
        return [drawn(table, Place(False, 1, 0, n)) for n in range(12)]

    assert series(draws(seed=6)) != series(draws())
    assert series(draws(round=2)) != series(draws())
    assert series(draws(seed=-1)) == series(draws(seed=-1))


def test_same_for_all_gives_one_choice_and_both_sides() -> None:
    found = many(draws(same_for_all=True))
    assert len({each.opponents for each in found}) == 1
    assert_shares(Counter(each.side for each in found), {0: 0.5, 1: 0.5})
    place = Place(False, 1, 0, 0)
    rounds = {drawn(draws(same_for_all=True, round=n), place).opponents for n in range(12)}
    assert len(rounds) > 1


def test_a_sequence_is_walked_by_each_sub_environment_from_its_own_start() -> None:
    sequence = (3, 1, 1, 0, 2)
    table = draws(tables={"main": DrawTable(CANDIDATES, (), sequence)})
    starts = set()
    for runner in range(10):
        refs = [drawn(table, Place(False, runner, 0, n)).opponents[0].ref for n in range(10)]
        walked = [f"h{each}" for each in sequence] * 3
        begin = next(at for at in range(5) if walked[at : at + 10] == refs)
        starts.add(begin)
    assert len(starts) > 1
    two = [drawn(table, Place(False, 0, 0, n), sides=3).opponents for n in range(5)]
    one = [drawn(table, Place(False, 0, 0, n)).opponents[0] for n in range(10)]
    assert [each for pair in two for each in pair] == one


def test_a_sequence_for_all_gives_its_first_choice() -> None:
    table = draws(tables={"main": DrawTable(CANDIDATES, (), (2, 0))}, same_for_all=True)
    assert {each.opponents[0].ref for each in many(table)} == {"h2"}


@pytest.mark.parametrize("tables", [{}, {"main": DrawTable(())}])
def test_without_candidates_nothing_is_drawn(tables: Any) -> None:
    assert Drawer(draws(tables=tables)).draw(Place(False, 1, 0, 0), {"main": [0, 1]}, 2) is None
