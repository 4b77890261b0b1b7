"""Ages, sizes, metrics and spaces in words."""

from __future__ import annotations

import datetime
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from policystore.display.words import named, show_age, show_metrics, show_size, show_time
from policystore.spaces import space_to_json
from policystore.spaces.words import space_in_words

NOW = datetime.datetime(2026, 11, 29, 12, tzinfo=datetime.timezone.utc)


def test_a_name_has_the_algorithm_only_if_it_is_known():
    assert named("Player", "blake3:ab", "PPO") == "Player of blake3:ab: PPO"
    assert named("Player", "blake3:ab", "") == named("Player", "blake3:ab", None)
    assert named("Player", "blake3:ab", None) == "Player of blake3:ab"
    assert named("Player", "blake3:ab", "P\nO") == "Player of blake3:ab: P\\nO"


def test_ages_and_sizes_are_short():
    seconds = (-5, 0, 59, 60, 3_599, 7_200, 86_399, 40 * 86_400)
    ages = [show_age(datetime.timedelta(seconds=each)) for each in seconds]

    assert ages == ["0s", "0s", "59s", "1m", "59m", "2h", "23h", "40d"]
    sizes = [show_size(each) for each in (0, 999, 1_000, 45_600_000)]
    assert sizes == ["0 B", "999 B", "1.0 KB", "45.6 MB"]


def test_a_time_says_its_zone():
    zone = datetime.timezone(datetime.timedelta(hours=2))

    assert show_time(NOW.astimezone(zone)) == "2026-11-29 12:00:00 UTC"


def test_metrics_are_short_and_printable():
    metrics = {"return": 21.51234, "n": 3, "bad": float("nan"), "x\n": "\x1b[31m" + "y" * 100,
               "nested": {"a": 1}}  # fmt: skip

    words = show_metrics(metrics)

    assert words.startswith("return=21.51 n=3 bad=nan x\\n=\\x1b[31myyy")
    assert words.isprintable()
    assert "nested" not in words


BOX = gym.spaces.Box(-1.0, 1.0, (4,))
SPACES = [
    BOX,
    gym.spaces.Box(-np.inf, np.inf, (2, 3), np.float64),
    gym.spaces.Box(0, 255, (84, 84, 4), np.uint8),
    gym.spaces.Discrete(2),
    gym.spaces.Discrete(4, start=-1),
    gym.spaces.MultiBinary(3),
    gym.spaces.MultiBinary([3, 2]),
    gym.spaces.Tuple((gym.spaces.Discrete(2), BOX)),
    gym.spaces.Dict({"b": BOX, "a": gym.spaces.Discrete(3)}),
    gym.spaces.Sequence(gym.spaces.Discrete(2)),
    gym.spaces.Graph(BOX, gym.spaces.Discrete(3)),
    gym.spaces.Graph(BOX, None),
    gym.spaces.OneOf((gym.spaces.Discrete(2), BOX)),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_is_written_as_gymnasium_prints_it(space: gym.Space[Any]):
    assert space_in_words(space_to_json(space)) == str(space)


def test_many_bounds_are_their_least_and_greatest():
    few = gym.spaces.Box(np.array([-1, -2], np.float32), np.array([0.5, np.inf], np.float32))
    many = gym.spaces.Box(np.arange(10, dtype=np.float32) - 20, np.arange(10, dtype=np.float32))

    assert space_in_words(space_to_json(few)) == "Box([-1.0 -2.0], [0.5 inf], (2,), float32)"
    assert (
        space_in_words(space_to_json(many)) == "Box([-20.0 .. -11.0], [0.0 .. 9.0], (10,), float32)"
    )


def test_other_spaces():
    assert space_in_words(None) == "none"
    multi = gym.spaces.MultiDiscrete([3, 2])
    assert space_in_words(space_to_json(multi)) == "MultiDiscrete([3, 2])"
    text = space_to_json(gym.spaces.Text(8, charset="ab"))
    assert space_in_words(text) == "Text(1, 8, charset='ab')"


@pytest.mark.parametrize(
    "written",
    [
        {}, [], "Box", {"space": "Sphere"}, {"space": ["Box"]},
        {"space": "Box", "dtype": "float32", "shape": [2], "low": "zz", "high": 1.0},
        {"space": "Box", "dtype": "float32", "shape": [10**12], "low": 0.0, "high": 1.0},
        {"space": "Dict", "keys": 1, "spaces": []},
        {"space": "Discrete", "dtype": "int64"},
    ],
    ids=str,
)  # fmt: skip
def test_json_that_is_no_space_is_said_to_be_none(written: object):
    words = space_in_words(written)

    assert words.startswith("a space that this release cannot read")
    assert words.isprintable()


def test_a_deep_or_long_space_is_bounded():
    space: dict[str, Any] = {"space": "MultiBinary", "n": 2}
    for _ in range(100):
        space = {"space": "Tuple", "spaces": [space]}
    wide = {"space": "Tuple", "spaces": [{"space": "MultiBinary", "n": 2}] * 1000}

    assert "24 deep" in space_in_words(space)
    assert len(space_in_words(wide)) == 400
