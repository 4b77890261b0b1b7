"""Which snapshots stay candidates."""

from __future__ import annotations

from typing import Any

import pytest

from policystore.errors import InvalidInputError
from policystore.league.pool import PoolPayoffs, keep_all, keep_best, keep_diverse, keep_last
from policystore.league.pool.candidates import check_keep, kept
from policystore.league.pool.standings import Tally
from tests.support.pool_parts import candidate, match, player

CANDIDATES = [candidate(n) for n in range(1, 6)]


def payoffs_of(*matches: Any) -> PoolPayoffs:
    tally = Tally()
    tally.restart([])
    for each in matches:
        tally.add(each)
    return PoolPayoffs.of(tally, "main", [player(99)], CANDIDATES, decay=0.5)


def numbers(keep: Any, *matches: Any) -> list[int]:
    chosen = kept(keep, payoffs_of(*matches), CANDIDATES)
    return [CANDIDATES.index(each) + 1 for each in chosen]


def test_all_and_the_last_ones() -> None:
    assert numbers(keep_all()) == [1, 2, 3, 4, 5]
    assert numbers(keep_last(2)) == [4, 5]
    assert numbers(keep_last(9)) == [1, 2, 3, 4, 5]


def test_the_best_by_rating_and_those_without_games() -> None:
    games = [
        match(player(1), player(2), wins=9, losses=1),
        match(player(3), player(2), wins=5, losses=5),
        match(player(4), player(2), wins=1, losses=9),
    ]

    assert numbers(keep_best(2), *games) == [1, 5]
    assert numbers(keep_best(3), *games) == [1, 3, 5]
    assert numbers(keep_best(5), *games) == [1, 2, 3, 4, 5]


def test_diverse_ones_win_and_lose_against_others() -> None:
    foes = [player(20), player(21)]
    games = [
        *(match(player(n), foes[0], wins=10) for n in (1, 2, 5)),
        *(match(player(n), foes[1], losses=10) for n in (1, 2, 5)),
        *(match(player(n), foes[0], losses=10) for n in (3, 4)),
        *(match(player(n), foes[1], wins=10) for n in (3, 4)),
    ]

    assert numbers(keep_diverse(1), *games) == [5]
    assert numbers(keep_diverse(2), *games) == [4, 5]  # of 3 and 4 the newer one


def test_own_functions_return_some_of_the_candidates() -> None:
    assert numbers(lambda payoffs, candidates: candidates[::2]) == [1, 3, 5]
    with pytest.raises(InvalidInputError, match="some of the candidates"):
        kept(lambda payoffs, candidates: [candidate(9)], payoffs_of(), CANDIDATES)
    with pytest.raises(InvalidInputError, match="some of the candidates"):
        kept(lambda payoffs, candidates: None, payoffs_of(), CANDIDATES)  # type: ignore


def test_arguments_of_the_wrong_form() -> None:
    for make in (keep_last, keep_best, keep_diverse):
        with pytest.raises(InvalidInputError, match="at least 1"):
            make(0)
    with pytest.raises(InvalidInputError, match="keep_last"):
        check_keep(keep_last)
    with pytest.raises(InvalidInputError, match="function"):
        check_keep(20)
