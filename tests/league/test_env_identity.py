"""The identity of an environment: the same in every process, another one for another config."""

from __future__ import annotations

import dataclasses
import enum
import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from policystore.errors import InvalidInputError
from policystore.league.env_identity import EnvIdentity, identify_env


class Field(gym.Env[Any, Any]):
    """A class to name."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    def make(self) -> None:
        """A method to name."""

    @classmethod
    def small(cls, config: Any) -> Field:
        """A class method to name."""
        return cls()


class Colour(enum.Enum):
    """A value of configs."""

    RED = "red"


@dataclasses.dataclass
class Options:
    """A value of configs."""

    size: int
    names: tuple[str, ...] = ()


def make_field(config: Any, other: Any = None) -> Field:
    """A function to name."""
    return Field()


def closure(size: int) -> Any:
    """Return a function without an import path."""
    return lambda config: size


CONFIG = {
    "size": 3,
    "ratio": 0.5,
    "inf": float("inf"),
    "big": 2**70,
    "names": ("a", "b"),
    "set": {"x", "y", "z", 1, 2.5},
    "colour": Colour.RED,
    "options": Options(1, ("a",)),
    "array": np.arange(6, dtype=np.float32).reshape(2, 3),
    "space": gym.spaces.Box(0.0, 1.0, (2,)),
    "class": Field,
    "function": make_field,
    "lambda": closure(2),
    "partial": functools.partial(make_field, 3, other=None),
    "bytes": b"\x00\xff",
    "agents": {0: "red", 1: "blue"},
    "path": Path("maps/one"),
}

ENVS = ["CartPole-v1", Field, make_field, Field.small, closure(3), functools.partial(Field, 1)]


def test_the_same_identities_in_another_process() -> None:
    program = (
        "from tests.league.test_env_identity import CONFIG, ENVS\n"
        "from policystore.league.env_identity import identify_env\n"
        "for env in ENVS: print(identify_env(env, CONFIG))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert ran.stdout.splitlines() == [repr(identify_env(env, CONFIG)) for env in ENVS]


def test_each_value_of_a_config_is_a_part_of_the_digest() -> None:
    digests = {identify_env("Env", {}).digest}
    for key, value in CONFIG.items():
        digests.add(identify_env("Env", {key: value}).digest)
        digests.add(identify_env("Env", {key: [value]}).digest)
    assert len(digests) == 1 + 2 * len(CONFIG)


def test_ids_are_names_and_import_paths() -> None:
    here = "tests.league.test_env_identity"
    assert identify_env("CartPole-v1").id == "CartPole-v1"
    assert identify_env(Field).id == f"{here}:Field"
    assert identify_env(make_field).id == f"{here}:make_field"
    assert identify_env(Field.small).id == f"{here}:Field.small"
    assert identify_env(functools.partial(Field, 1)).id == f"{here}:Field"
    assert identify_env(closure(3)).id.startswith(f"{here}:closure.<locals>.<lambda>#")
    assert identify_env(gym.spec("CartPole-v1")).id == "CartPole-v1"
    assert identify_env(None) == EnvIdentity("", "")


def test_what_makes_no_difference() -> None:
    assert identify_env("E") == identify_env("E", None) == identify_env("E", {})
    assert identify_env("E", {"a": 1, "b": 2}) == identify_env("E", {"b": 2, "a": 1})
    assert identify_env("E", {"a": (1, 2)}) == identify_env("E", {"a": [1, np.int64(2)]})
    turned = np.asfortranarray(CONFIG["array"])
    assert identify_env("E", {"a": turned}) == identify_env("E", {"a": CONFIG["array"]})
    assert identify_env(closure(3)) == identify_env(closure(3))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("E", {"a": 1}), ("E", {"a": 1.0})),
        (("E", {"a": 1}), ("E", {"a": True})),
        (("E", {"a": {"$path": "x:y"}}), ("E", {"a": {"b": "x:y"}})),
        (("E", {"a": {"$path": f"{__name__}:Field"}}), ("E", {"a": Field})),
        (("E", {"a": {0: 1}}), ("E", {"a": {"0": 1}})),
        (("E", {"a": np.zeros(2)}), ("E", {"a": np.zeros((2, 1))})),
        ((closure(3), {}), (closure(4), {})),
        ((lambda config: 1, {}), (lambda config: 2, {})),
        ((functools.partial(Field, 1), {}), (functools.partial(Field, 2), {})),
        ((Field, {}), (functools.partial(Field), {})),
        (("E", {}), ("F", {})),
    ],
)
def test_what_makes_a_difference(one: Any, other: Any) -> None:
    assert identify_env(*one).digest != identify_env(*other).digest


class Opaque:
    """A value that only this process knows."""

    def method(self) -> None:
        """A method of an object."""


@pytest.mark.parametrize(
    ("env", "config", "named"),
    [
        ("E", {"teams": [{"coach": Opaque()}]}, r"config\['teams'\]\[0\]\['coach'\]"),
        ("E", {"f": Opaque().method}, r"config\['f'\]"),
        ("E", {"f": [].append}, r"config\['f'\]"),
        (Field(), None, "give the class"),
        (3, None, "expected the id"),
        ("", None, "empty"),
        ("E", [1], "expected a dict"),
        (closure(Opaque()), None, "the variable size"),  # type: ignore[arg-type]
    ],
)
def test_what_has_no_identity_is_named(env: Any, config: Any, named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        identify_env(env, config)


def test_a_config_that_contains_itself_is_refused() -> None:
    config: dict[str, Any] = {}
    config["again"] = config
    with pytest.raises(InvalidInputError, match="deeper"):
        identify_env("E", config)
