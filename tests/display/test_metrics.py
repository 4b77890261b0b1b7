"""Which metrics a table shows, and how long names are cut."""

from __future__ import annotations

import pytest

from policystore.display.metrics import (
    choose_metrics,
    is_more_better,
    match_metrics,
    rank_metrics,
)
from policystore.display.refs import shorten_names


def imported(step: int) -> dict[str, object]:
    """Return metrics as an import from RLlib has them, in the order of a record."""
    names = [f"async.m{at}" for at in range(90)]
    return {
        **{name: step + at for at, name in enumerate(names)},
        "env_runners.env_step_timer": step * 0.1,
        "env_runners.episode_len_mean": 10.0 + step,
        "env_runners.episode_return_max": 30.0 + step,
        "env_runners.episode_return_mean": 20.0 + step,
        "env_runners.num_episodes_with_return": step,
        "learners.default_policy.vf_loss": 1.0 / step,
        "same_score": 5.0,
        "training_iteration": step,
    }


def test_returns_come_first_and_counters_and_equal_values_last() -> None:
    ranked = rank_metrics([imported(1), imported(2)])

    assert ranked[:3] == [
        "env_runners.episode_return_mean",
        "env_runners.episode_return_max",
        "learners.default_policy.vf_loss",
    ]
    assert set(ranked[-4:]) == {
        "env_runners.env_step_timer",
        "env_runners.num_episodes_with_return",
        "same_score",
        "training_iteration",
    }
    assert ranked == rank_metrics([imported(1), imported(2)])
    assert sorted(ranked) == sorted(imported(1))


def test_named_ones_come_before_annotations_and_these_before_the_own_few() -> None:
    rows = [imported(1) | {"rating": 7}, {"iteration": 1, "gap": 1.0}, {"iteration": 2, "gap": 2.0}]

    ranked = rank_metrics(rows, first=["async.m3", "absent"], noted={"rating"})

    assert ranked[:4] == ["async.m3", "rating", "gap", "env_runners.episode_return_mean"]
    assert ranked.index("iteration") > len(ranked) - 6


def test_the_last_column_is_for_versions_without_the_other_ones() -> None:
    own: list[dict[str, object]] = [{"a": n, "b": n, "c": n} for n in (1, 2)]

    assert choose_metrics([*own, imported(1)], 2) == ["a", "env_runners.episode_return_mean"]
    assert choose_metrics(own, 2) == ["a", "b"]
    assert choose_metrics([], 2) == []


def test_the_end_of_a_nested_name_means_the_metric() -> None:
    known = ["env_runners.return_mean", "return", "x.return"]

    assert match_metrics(known, ["return", "env_runners/return_mean", "return_mean", "mean"]) == {
        "return": ["return"],
        "env_runners/return_mean": ["env_runners.return_mean"],
        "return_mean": ["env_runners.return_mean"],
        "mean": [],
    }


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("return", True), ("eval/win_rate", True), ("Elo", True), ("accuracy", True),
        ("success_rate", True), ("lr", False), ("iteration", False), ("vf_loss", False),
        ("velocity", False), ("window", False), ("return_std", False), ("num_wins", False),
    ],
)  # fmt: skip
def test_only_some_names_say_that_more_is_better(name: str, better: bool) -> None:
    assert is_more_better(name) is better


def trial(number: int, policy: str = "default_policy") -> str:
    return f"grid/PPO_CartPole-v1_a1b2c_{number:05d}_{number}_lr=0.1_2026-11-29_12-05-03/{policy}"


def test_a_long_name_keeps_its_ends_and_a_short_one_stays() -> None:
    short = shorten_names(["soccer/main", trial(1)], 36)

    assert short["soccer/main"] == "soccer/main"
    assert short[trial(1)] == "grid/PPO…-29_12-05-03/default_policy"


def test_names_that_differ_in_the_middle_look_different() -> None:
    names = [trial(number) for number in range(12)] + [trial(1, "p1")]

    short = shorten_names(names, 36)

    assert len(set(short.values())) == len(names)
    assert all(text.startswith("grid/") for text in short.values())
    assert all(text.endswith(name.rpartition("/")[2]) for name, text in short.items())
    assert len(shorten_names([trial(0), trial(1)], 36)[trial(1)]) <= 36
    assert shorten_names([trial(0), trial(1)], 36)[trial(1)] != trial(1)


def test_names_without_segments_and_with_far_differences_stay_different() -> None:
    names = ["a" * 50 + middle + "b" * 50 + end for middle in "xy" for end in ("", "z" * 40)]

    assert len(set(shorten_names(names, 32).values())) == 4
