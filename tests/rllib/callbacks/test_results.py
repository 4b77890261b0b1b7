"""The metric by which ``publish`` compares copies, out of training results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from policystore import InvalidInputError, NotFoundError
from policystore.rllib.callbacks.results import Metric
from policystore.rllib.common.missing_metric import Facts

RUNNERS = {"agent_returns/main": 3, "episode_return_mean": 20.5, "num_env_steps_sampled": 7,
           "agent_steps": {"a": 3}}  # fmt: skip
RESULT = {"env_runners": RUNNERS, "num_env_steps_sampled_lifetime": 400}
ENDED = {"env_runners": {**RUNNERS, "num_episodes": 2}}
FACTS = Facts({"main", "foe"}, new_stack=True, evaluates=False)


def test_a_key_may_have_slashes_and_the_id_of_the_policy() -> None:
    metric = Metric("env_runners/agent_returns/{policy}")
    assert metric.read(RESULT, "main") == (
        3.0,
        {"env_steps": 400, "env_runners/agent_returns/main": 3.0},
    )


def test_a_mistake_is_an_error_in_the_first_result_with_an_episode(caplog: Any) -> None:
    metric = Metric("env_runners/episode_retrun_mean")
    for _ in range(3):
        metric.check(RESULT, ["main", "foe"], FACTS)
    assert "so far. Did you mean 'episode_return_mean'" in caplog.text
    assert len(caplog.records) == 1  # told once, at the first result
    with pytest.raises(NotFoundError, match="Did you mean 'env_runners/episode_return_mean'"):
        metric.check(ENDED, ["main", "foe"], FACTS)


def test_each_policy_needs_its_value() -> None:
    metric = Metric("env_runners/agent_returns/{policy}")
    metric.check(ENDED, ["main"], FACTS)
    with pytest.raises(NotFoundError, match="no metric 'env_runners/agent_returns/foe'"):
        metric.check(ENDED, ["main", "foe"], FACTS)


def test_what_was_there_once_may_stay_away(caplog: Any) -> None:
    metric = Metric("score")
    metric.check({"score": float("nan")}, ["main"], FACTS)
    for _ in range(9):
        metric.check(ENDED, ["main"], FACTS)
    assert not caplog.records


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("env_runners/agent_steps/b", "At that place they have a"),
        ("env_runners/num_env_steps_sampled/x", "At that place they have nothing"),
    ],
)
def test_a_metric_that_stays_away_is_told_once(caplog: Any, path: str, words: str) -> None:
    metric = Metric(path)
    for told in (0, 0, 0, 0, 1, 1):
        metric.check(RESULT, ["main"], FACTS)
        assert len(caplog.records) == told
    assert f"no {path!r} so far" in caplog.text
    assert words in caplog.text


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"mean": 3.0, "max": 4}, r"has the numbers 'a/return/max', 'a/return/mean'"),
        ("20.5", "is '20.5' in"),
        (True, "is True in"),
        (np.zeros(2), "is array"),
        ([3.0], "is \\[3.0\\]"),
    ],
)
def test_a_value_that_is_no_number_is_an_error_at_once(value: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=f"metric='a/return' .*{words}"):
        Metric("a/return").check({"a": {"return": value}}, ["main"], FACTS)


@pytest.mark.parametrize("value", [np.nan, None, 10**400, np.float32(3), np.array(2.0), np.inf])
def test_these_are_numbers_or_may_become_one(caplog: Any, value: Any) -> None:
    """The old stack reports NaN until the first episode ends, which needs no warning."""
    metric = Metric("return")
    for _ in range(9):
        metric.check({"return": value}, ["main"], FACTS)
    assert not caplog.records


@pytest.mark.parametrize(
    "value", [np.nan, True, "20.5", None, np.zeros(2), pytest.param(10**400, id="a huge integer")]
)
def test_a_value_that_is_no_finite_number_is_no_metric(value: Any) -> None:
    assert Metric("return").read({"return": value}, "main") == (None, {})
