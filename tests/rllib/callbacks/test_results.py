"""The metric by which ``publish`` compares copies, out of training results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from policystore.rllib.callbacks.results import Metric

RUNNERS = {"agent_returns/main": 3, "episode_return_mean": 20.5, "num_env_steps_sampled": 7}
RESULT = {"env_runners": RUNNERS, "num_env_steps_sampled_lifetime": 400}


def test_a_key_may_have_slashes_and_the_id_of_the_policy() -> None:
    metric = Metric("env_runners/agent_returns/{policy}")
    assert metric.read(RESULT, "main") == (
        3.0,
        {"env_steps": 400, "env_runners/agent_returns/main": 3.0},
    )


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("env_runners/return", "have agent_returns/main, episode_return_mean, num_env_steps_samp"),
        ("env_runners/episode_return_mean/main", "at that place they have nothing"),
    ],
)
def test_a_metric_that_stays_away_is_told_once(caplog: Any, path: str, words: str) -> None:
    metric = Metric(path)
    for told in (0, 0, 1, 1, 1):
        assert metric.read(RESULT, "main") == (None, {"env_steps": 400})
        assert len(caplog.records) == told
    assert f"no {path!r}" in caplog.text
    assert words in caplog.text


@pytest.mark.parametrize(
    "value", [np.nan, True, "20.5", None, np.zeros(2), pytest.param(10**400, id="a huge integer")]
)
def test_a_value_that_is_no_finite_number_is_no_metric(caplog: Any, value: Any) -> None:
    """RLlib reports NaN until the first episode ends, which needs no warning."""
    metric = Metric("return")
    for _ in range(5):
        assert metric.read({"return": value}, "main") == (None, {})
    assert not caplog.records
