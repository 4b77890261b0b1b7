"""Names and paths that a caller may have meant."""

from __future__ import annotations

import pytest

from policystore._util.near import close_names, close_paths, did_you_mean, number_paths


@pytest.mark.parametrize(
    ("name", "close"),
    [("mian", ["main", "Mainz"]), ("MAIN", ["main", "Mainz"]), ("foo", ["foe"]), ("xyz", [])],
)
def test_names(name: str, close: list[str]) -> None:
    assert close_names(name, ["main", "foe", "Mainz", "other"]) == close


def test_at_most_some_names() -> None:
    assert close_names("p1", [f"p{n}" for n in range(2, 9)], count=2, cutoff=0.5) == ["p8", "p7"]


@pytest.mark.parametrize(
    ("close", "text"),
    [([], ""), (["a"], " Did you mean 'a'?"), (["a", "b", "c", "d"], " Did you mean 'a' or 'b' or 'c'?")],
)  # fmt: skip
def test_the_question(close: list[str], text: str) -> None:
    assert did_you_mean(close) == text


PATHS = ["env_runners/episode_return_mean", "evaluation/env_runners/episode_return_mean",
         "env_runners/episode_len_mean", "learners/main/total_loss", "score"]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "close"),
    [
        ("episode_return_mean", PATHS[:2]),
        ("episode_reward_mean", PATHS[:2]),  # the word before Ray 2.10
        ("evaluation/episode_return_mean", [PATHS[1], PATHS[0]]),
        ("env_runners/epsode_len_mean", [PATHS[2]]),
        ("learner/main/total_los", [PATHS[3]]),
        ("learners/main/total_loss/x", [PATHS[3]]),
        ("scores", ["score"]),
        ("env_runners/xyz", []),
    ],
)
def test_paths(path: str, close: list[str]) -> None:
    assert close_paths(path, PATHS)[: len(close) or 1] == close


def test_the_paths_of_all_numbers() -> None:
    result = {
        "a": {"b": 1, "text": "x", "deep": {"c": 2.5}},
        "config": {"lr": 1},
        "done": True,
        3: 4,
    }
    assert number_paths(result) == ["a/b", "a/deep/c"]
