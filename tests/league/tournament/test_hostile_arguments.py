"""What clumsy callers give to a tournament; players are functions, so nothing is rebuilt."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore import InvalidInputError, evaluate
from policystore.league import League
from tests.support.tournament import Numbers


def zero(seen: Any) -> int:
    return 0


def one(seen: Any) -> int:
    return 1


class Stuck(Numbers):
    """Cannot be closed."""

    def close(self) -> None:
        raise RuntimeError("the door is stuck")


@pytest.fixture
def league(tmp_path: Path) -> League:
    return League(tmp_path / "store", "guessing")


@pytest.mark.parametrize(
    "change",
    [
        {"max_steps": 0}, {"max_steps": -1}, {"max_steps": "x"}, {"max_steps": 2.5},
        {"max_steps": True}, {"until": "x"}, {"until": True}, {"seed": 2**70}, {"seed": None},
        {"episodes": 1.5}, {"batch_size": True}, {"roles": ["p0"]}, {"roles": {zero: 5}},
        {"teams": ["p0"]}, {"heuristics": ["a"]},
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(league: League, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(change))):
        league.play([zero, one], **{"env": Numbers, "episodes": 2, "progress": False, **change})
    assert league.totals().episodes == 0


def test_numbers_of_numpy_are_numbers(league: League) -> None:
    given: dict[str, Any] = {
        "episodes": np.int64(2), "seed": np.int32(1), "batch_size": np.int8(4),
        "max_steps": np.int64(3),
    }  # fmt: skip
    assert league.play([zero, one], env=Numbers, progress=False, **given).played == 2
    again = {name: int(value) for name, value in given.items()}
    assert league.play([zero, one], env=Numbers, progress=False, **again).played == 0
    played = evaluate(zero, Numbers, others=one, roles="p0", progress=False, **given)
    assert played.lengths.tolist() == [3, 3]
    with pytest.raises(InvalidInputError, match="max_steps"):
        evaluate(zero, Numbers, others=one, roles="p0", episodes=1, max_steps=0)


def test_an_environment_that_cannot_be_closed_loses_nothing(
    league: League, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "policystore"):
        assert league.play([zero, one], env=Stuck, episodes=2, progress=False).played == 2
    assert "the door is stuck" in caplog.text
    assert league.totals().episodes == 2
