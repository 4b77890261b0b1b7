"""Seeds, lineups, groups and pairings."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from policystore.league.tournament.pairings import against_anchors, round_robin, swiss_round
from policystore.league.tournament.plan import Plan, group_episodes
from policystore.league.tournament.playing.outcomes import judge_of
from policystore.league.tournament.playing.seeds import derive_seed

SEEDS = (719355917, 815246044)
TWO = (("red",), ("blue",))


def test_seeds_are_those_of_all_releases() -> None:
    """Golden numbers: a tournament of last year is known, and goes on."""
    assert derive_seed("match", 0, False, None, ["a", "b"], 0) == SEEDS[0]
    assert derive_seed("evaluate", 0, 7) == SEEDS[1]
    many = {derive_seed("match", seed, number) for seed in range(40) for number in range(40)}
    assert len(many) == 1600
    assert 0 <= min(many) < max(many) < 2**31


def test_a_seed_does_not_depend_on_the_other_episodes() -> None:
    plan = Plan(3, TWO)
    assert plan.episodes(("a", "b"), range(9))[4:] == plan.episodes(("a", "b"), range(4, 9))


def test_each_player_sits_on_each_side_equally_often() -> None:
    for count in (2, 3, 4, 5):
        sides = tuple((f"r{side}",) for side in range(count))
        lineups = Plan(0, sides).lineups(tuple("abcde"[:count]))
        for role in lineups[0]:
            assert len(set(Counter(lineup[role] for lineup in lineups).values())) == 1
    few = Plan(0, (("x",), ("y",), ("z",))).lineups(("a", "b"))
    assert [tuple(each.values()) for each in few] == [("a", "b", "a"), ("b", "a", "b")]


def test_groups_have_one_lineup_and_every_episode_once() -> None:
    plan = Plan(0, TWO)
    groups = group_episodes(plan.episodes(("a", "b"), range(21)), 4)
    assert sorted(len(group.seeds) for group in groups) == [3, 3, 3, 4, 4, 4]
    assert sorted(n for group in groups for n in group.numbers) == list(range(21))
    for group in groups:
        assert len({number % 2 for number in group.numbers}) == 1


def test_round_robin_and_anchors() -> None:
    assert round_robin("cab", 2) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert against_anchors("ab", "bx", 2) == [("a", "b"), ("a", "x"), ("b", "x")]


def test_a_swiss_tournament_finds_the_order_without_second_meetings() -> None:
    players = [f"p{number}" for number in range(9)]
    met: dict[frozenset[str], int] = {}
    byes: dict[str, int] = {}
    points = dict.fromkeys(players, 0.0)
    for number in range(5):
        pairs, rest = swiss_round(players, points, met, byes, size=2, number=number, seed=1)
        assert sorted([*itertools.chain(*pairs), *rest]) == players
        for pair in pairs:
            assert frozenset(pair) not in met
            met[frozenset(pair)] = 1
            points[min(pair)] += 1  # the lower number is the better player
        (resting,) = rest
        assert byes.get(resting, 0) == 0
        byes[resting] = 1
    assert max(points, key=lambda each: points[each]) == "p0"


def test_a_swiss_tournament_meets_again_only_when_it_must() -> None:
    met: dict[frozenset[str], int] = {}
    for number in range(6):
        pairs, _ = swiss_round("abcd", {}, met, {}, size=2, number=number, seed=0)
        for pair in pairs:
            met[frozenset(pair)] = met.get(frozenset(pair), 0) + 1
    assert set(met.values()) == {2}
    assert len(met) == 6


@pytest.mark.parametrize(
    ("returns", "teams", "ranks"),
    [
        ({"a": 1.0, "b": 0.0}, {}, (0, 1)),
        ({"a": 1.0, "b": 1.0}, {}, (0, 0)),
        ({"a": 1.0, "b": 3.0, "c": 1.0}, {}, (1, 0, 1)),
        ({"a": 1.0, "b": 3.0, "c": 2.5}, {"a": "x", "c": "x"}, (0, 1, 0)),
    ],
)
def test_the_higher_return_wins(returns: dict[str, float], teams: dict[str, str],
                                ranks: tuple[int, ...]) -> None:  # fmt: skip
    assert judge_of("returns", teams).ranks(returns, {}) == ranks
