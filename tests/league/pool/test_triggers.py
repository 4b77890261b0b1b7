"""When a learner becomes a member of its pool."""

from __future__ import annotations

from typing import Any

import pytest

from policystore.errors import InvalidInputError
from policystore.league.pool import Progress, every, when_better
from policystore.league.pool.triggers import check_trigger


def progress(**more: Any) -> Progress:
    return Progress(**{
        "learner": "main", "iteration": 9, "since": 3, "episodes": 40.0, "win_rate": 0.75,
        "win_rates": {"duo/main@1": 0.9, "duo/main@2": 0.6}, **more,
    })  # fmt: skip


def test_every_so_many_iterations() -> None:
    assert [bool(every(3)(progress(since=since))) for since in (2, 3, 4)] == [False, True, True]


def test_when_better_needs_the_win_rate_and_the_episodes() -> None:
    assert when_better(0.7)(progress()) == "win rate 0.750 against the pool in 40 episodes"
    assert not when_better(0.8)(progress())
    assert not when_better(0.7, episodes=41)(progress())
    assert not when_better(0.4, episodes=1)(progress(episodes=0.0, win_rate=0.5, win_rates={}))


def test_when_better_than_each_opponent() -> None:
    assert not when_better(0.7, worst=True)(progress())
    assert when_better(0.6, worst=True)(progress()) == (
        "win rate 0.600 against each opponent in 40 episodes"
    )


def test_after_a_longest_time_in_any_case() -> None:
    assert not when_better(0.9, at_most=4)(progress())
    assert when_better(0.9, at_most=3)(progress()) == "3 iterations after the last snapshot"


@pytest.mark.parametrize(
    "make",
    [
        lambda: every(0),
        lambda: every(1.5),  # type: ignore[arg-type]
        lambda: when_better(0),
        lambda: when_better(70),
        lambda: when_better(0.7, episodes=0),
        lambda: when_better(0.7, at_most=0),
        lambda: check_trigger(every),
        lambda: check_trigger(10),
    ],
)
def test_arguments_of_the_wrong_form(make: Any) -> None:
    with pytest.raises(InvalidInputError):
        make()
