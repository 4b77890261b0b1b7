from __future__ import annotations

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from policystore import FormatError, InvalidInputError, Spec
from policystore.format.values import Tagged
from policystore.spaces import space_from_json, space_to_json

FULL: dict[str, Any] = {
    "stack": "new",
    "algorithm": "PPO",
    "cls": "ray.rllib.x:Y",
    "observation_space": {"type": "Box"},
    "action_space": {"type": "Discrete"},
    "env_observation_space": {"type": "Dict"},
    "env_action_space": {"type": "Discrete"},
    "config": {"a": (1, 2.5), 3: np.arange(3), "act": Tagged("import", "torch.nn:ReLU")},
    "weights": "inference-only",
    "acting": ["b", "a"],
    "normalize_actions": True,
    "clip_actions": False,
    "connectors": {"env_to_module": [{"class": "x:Y", "args": []}]},
    "omitted": {"optimizer": "not kept"},
}


def test_all_fields_of_a_spec_read_back_unchanged() -> None:
    spec = Spec(**FULL, modules={"p0": Spec(stack="new", algorithm="PPO")})
    for again in (Spec.from_json(spec.to_json()), pickle.loads(pickle.dumps(spec))):
        assert again == spec
        assert hash(again) == hash(spec)
        assert again.to_bytes() == spec.to_bytes()
    assert spec.acting == ("a", "b")
    assert spec.config["a"] == (1, 2.5)
    assert spec.config[3].tolist() == [0, 1, 2]
    assert spec.config["act"] == Tagged("import", "torch.nn:ReLU")
    assert spec.modules == {"p0": Spec(stack="new", algorithm="PPO")}
    for key in ("stack", "algorithm", "cls", "weights", "clip_actions", "connectors", "omitted"):
        assert getattr(spec, key) == FULL[key]


def test_defaults_are_not_written() -> None:
    assert Spec().to_bytes() == b"{}"
    assert Spec(config={}, omitted={}, acting=None, stack="none") == Spec()
    assert Spec(acting=[]) != Spec()


def test_order_of_insertion_does_not_change_the_bytes() -> None:
    left = Spec(config={"a": 1, "b": {"c": 2, "d": 3}})
    right = Spec(config={"b": {"d": 3, "c": 2}, "a": 1})
    assert left.to_bytes() == right.to_bytes()


def test_changes_of_arguments_and_results_do_not_change_a_spec() -> None:
    given = {"a": [1]}
    space = {"type": "Box", "shape": [1]}
    spec = Spec(config=given, observation_space=space, omitted={"a": "b"})
    space["shape"].append(2)
    (spec.observation_space or {})["shape"].append(2)
    spec.omitted["c"] = "d"
    before = spec.to_bytes()
    given["a"].append(2)
    spec.config["a"].append(3)
    spec.to_json()["config"]["a"].append(4)
    with pytest.raises(AttributeError, match="immutable"):
        spec.stack = "new"  # type: ignore[misc]
    assert spec.config == {"a": [1]}
    assert spec.observation_space == {"type": "Box", "shape": [1]}
    assert spec.to_bytes() == before


def test_replace_changes_only_what_is_named() -> None:
    spec = Spec(**FULL)
    changed = spec.replace(algorithm="DQN", acting=None)
    assert (changed.algorithm, changed.acting) == ("DQN", None)
    assert changed.replace(algorithm="PPO", acting=["a", "b"]) == spec
    with pytest.raises(InvalidInputError, match="colour"):
        spec.replace(colour="red")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stack", "tf"),
        ("stack", None),
        ("algorithm", 3),
        ("cls", object),
        ("observation_space", [1]),
        ("config", {"f": lambda: 0}),
        ("config", {"deep": {"a": object()}}),
        ("weights", "some"),
        ("acting", ["a", "a"]),
        ("acting", [1, 2]),
        ("normalize_actions", 1),
        ("connectors", {"x": {1, 2}}),
        ("omitted", {"x": 1}),
        ("modules", {}),
    ],
)
def test_values_that_a_spec_cannot_hold_are_refused_by_field(field: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=field.replace("cls", "class")):
        Spec(**{field: value})


@pytest.mark.parametrize(
    "json",
    [
        None,
        [],
        {"colour": 1},
        {"stack": "none"},
        {"stack": 1},
        {"config": []},
        {"config": {"a": {"~b": 1}}},
        {"acting": ["b", "a"]},
        {"acting": "a"},
        {"modules": {}},
        {"modules": {"a": {"modules": 1}}},
        {"left_out": {"a": None}},
    ],
)
def test_other_json_is_refused(json: Any) -> None:
    with pytest.raises(FormatError, match="spec"):
        Spec.from_json(json)


def test_a_field_of_a_newer_policystore_advises_to_upgrade() -> None:
    with pytest.raises(FormatError, match=r"colour.*[Uu]pgrade"):
        Spec.from_json({"colour": "red"})


PLACES = ("observation_space", "action_space", "env_observation_space", "env_action_space")
SPACES: dict[str, Any] = {
    "Box": lambda: gym.spaces.Box(-1.0, 2.0, (3,), np.float32),
    "Discrete": lambda: gym.spaces.Discrete(3, start=1),
    "Dict": lambda: gym.spaces.Dict({"a": gym.spaces.MultiBinary(2)}),
    "Dict of nothing": lambda: gym.spaces.Dict({}),
    "Tuple": lambda: gym.spaces.Tuple([gym.spaces.Discrete(2), gym.spaces.Text(3)]),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", SPACES)
def test_spaces_are_given_as_spaces_or_as_json(place: str, kind: str) -> None:
    space = SPACES[kind]()
    json = space_to_json(space)
    written = Spec(**{place: json})
    assert Spec(**{place: space}) == written
    assert Spec().replace(**{place: space}) == written
    assert Spec().replace(**{place: json}) == written
    assert space_to_json(space_from_json(getattr(written, place))) == json
    assert Spec(**FULL).replace(**{place: space}).replace(**{place: FULL[place]}) == Spec(**FULL)
    assert written.replace(**{place: None}) == Spec()


class Odd(gym.spaces.Box):
    """A space that would be read back as another one."""


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("value", "match"),
    [
        (Odd(0, 1, (2,)), "is a subclass of Box"),
        (gym.spaces.Tuple([Odd(0, 1, (2,))]), r"spaces\[0\].*is a subclass of Box"),
        (gym.make("CartPole-v1"), "a gymnasium space, its JSON, or None|not a space that can be"),
        ("Discrete(2)", "a gymnasium space, its JSON, or None"),
        (4, "a gymnasium space, its JSON, or None"),
        ((gym.spaces.Discrete(2), gym.spaces.Discrete(2)), "a gymnasium space, its JSON, or None"),
    ],
)
def test_other_values_in_the_place_of_a_space_are_refused(
    place: str, value: Any, match: str
) -> None:
    for make in (Spec, Spec().replace):
        with pytest.raises(InvalidInputError, match=rf"spec\.{place}.*({match})"):
            make(**{place: value})


def test_spaces_that_are_given_later_are_no_longer_listed_as_omitted() -> None:
    notes = {"observation_space": "lost", "env_spaces": "lost", "optimizer": "not kept"}
    spec, space = Spec(omitted=notes), gym.spaces.Discrete(2)
    assert list(spec.replace(observation_space=space).omitted) == ["env_spaces", "optimizer"]
    half = spec.replace(env_observation_space=space)
    assert "env_spaces" in half.omitted
    whole = half.replace(env_action_space=gym.spaces.Dict({}))
    assert "env_spaces" not in whole.omitted
    assert spec.replace(algorithm="PPO").omitted == notes
