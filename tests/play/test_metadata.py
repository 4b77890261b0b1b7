"""The metadata of an exported file: one text for one value, and nothing else is read."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from policystore.errors import FormatError, InvalidInputError
from policystore.format.canonical_json import canonical_json
from policystore.play.metadata import (
    MAX_BYTES,
    Metadata,
    StateInfo,
    TensorInfo,
    action_tensors,
    observation_tensors,
)
from policystore.play.spaces import flatten, leaves_of, read_space, unflatten
from policystore.spaces import space_to_json
from tests.support.onnx_files import make_metadata

SPACE = gym.spaces.Dict(
    {
        "a/b~c": gym.spaces.Box(-1.0, 1.0, (3,), np.float32),
        "": gym.spaces.Tuple([gym.spaces.Discrete(4), gym.spaces.MultiBinary((2, 2))]),
    }
)
STATE = StateInfo("state_in/h", "state_out/h", "float32", (8,))
METADATA = make_metadata(SPACE, gym.spaces.Discrete(2), [STATE])


def changed(path: list[Any], value: Any, metadata: Metadata = METADATA) -> str:
    """Return the text of metadata in which one value is another one."""
    written = json.loads(metadata.to_json())
    place = written
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return canonical_json(written).decode()


def test_the_metadata_are_what_was_written() -> None:
    text = METADATA.to_json()
    assert Metadata.from_json(text) == Metadata.from_json(text.encode()) == METADATA
    assert Metadata.from_json(text).to_json() == text
    network = make_metadata(
        SPACE,
        gym.spaces.Discrete(2),
        contents="network",
        algorithm=None,
        outputs=(TensorInfo("action_dist_inputs", (), "float32", (2,)),),
    )
    assert Metadata.from_json(network.to_json()) == network


def test_metadata_are_shown_as_a_table() -> None:
    network = make_metadata(SPACE, gym.spaces.Discrete(2), contents="network", algorithm=None)
    assert repr(METADATA) == f"<Metadata of {METADATA.digest.short}: PPO>"
    assert repr(network) == f"<Metadata of {METADATA.digest.short}>"
    assert str(METADATA).splitlines() == [
        f"Metadata of {METADATA.digest}",
        "contents      player",
        "algorithm     PPO",
        "stack         new",
        "exported by   policystore 0.1.0",
        f"observations  {SPACE}",
        "actions       Discrete(2)",
        "inputs        obs//0 int64[], obs//1 int8[2, 2], obs/a~1b~0c float32[3]",
        "outputs       action int64[]",
        "state         state_in/h float32[8]",
    ]
    assert "algorithm" not in str(network)
    assert "state" not in str(network)


def test_the_tensors_of_a_space_are_named_by_their_keys() -> None:
    tensors = observation_tensors(space_to_json(SPACE))
    assert [(one.name, one.path, one.dtype, one.shape) for one in tensors] == [
        ("obs//0", ("", 0), "int64", ()),
        ("obs//1", ("", 1), "int8", (2, 2)),
        ("obs/a~1b~0c", ("a/b~c",), "float32", (3,)),
    ]
    assert tensors[0].meaning == "Discrete(4)"
    (action,) = action_tensors(space_to_json(gym.spaces.MultiDiscrete([3, 4])))
    assert (action.name, action.dtype, action.shape) == ("action", "int64", (2,))
    big = gym.spaces.Box(0, 1, (2,), np.dtype(">f4"))
    assert observation_tensors(space_to_json(big))[0].dtype == "float32"


def test_a_value_is_taken_apart_and_put_together() -> None:
    space = read_space(space_to_json(SPACE))
    SPACE.seed(1)
    value = SPACE.sample()
    parts = flatten(space, value)
    assert len(parts) == len(leaves_of(space)) == 3
    again = unflatten(space, parts)
    assert again[""] == value[""] or again[""][0] == value[""][0]
    assert again["a/b~c"] is value["a/b~c"]
    with pytest.raises(InvalidInputError, match="2 parts for a space of 3"):
        unflatten(space, parts[:2])
    with pytest.raises(InvalidInputError, match="a dict with the keys"):
        flatten(space, {"": 1})
    with pytest.raises(InvalidInputError, match="a tuple of 2 parts"):
        flatten(space, {**value, "": (1,)})


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (gym.spaces.Text(3), "'Text' is not a space whose values are tensors"),
        (gym.spaces.Dict({7: SPACE["a/b~c"], "7": SPACE["a/b~c"]}), "two keys give tensors of the"),
        (gym.spaces.Dict({(1, 2): SPACE["a/b~c"]}), "not by the key"),
        (gym.spaces.Discrete(2, start=2**63 - 2, dtype=np.uint64), None),
        (gym.spaces.Discrete(3, start=2**63 - 2, dtype=np.uint64), "do not fit int64"),
    ],
)
def test_spaces_without_tensors_are_refused(space: Any, message: str | None) -> None:
    if message is None:
        read_space(space_to_json(space))
        return
    with pytest.raises(FormatError, match=message):
        read_space(space_to_json(space), label="the observation space")


OTHER = [
    (["format"], 2, "wrote this file in format 2, and this release reads format 1"),
    (["format"], "1", "expected 'format': 1"),
    (["format"], True, "expected 'format': 1"),
    (["policystore"], 3, "policystore: expected str"),
    (["policystore"], "", "1 to 1024 characters"),
    (["contents"], "policy", "expected one of player, network"),
    (["digest"], "blake3:12", "digest: a digest is 64"),
    (["digest"], None, "a digest starts with"),
    (["algorithm"], 1, "algorithm: expected str"),
    (["stack"], "torch", "expected one of old, new"),
    (["more"], 1, "are unknown"),
    (["observation_space"], None, "expected dict, found None"),
    (["observation_space"], {"space": "Text"}, "not a space whose values are tensors"),
    (["observation_space", "spaces", 1, "shape"], [3, 3], "expected the tensors"),
    (["action_space"], {"space": "Discrete"}, "the field 'dtype' is missing"),
    (["inputs"], [], "at least one input"),
    (["inputs"], {}, "expected list"),
    (["inputs", 0], 3, r"inputs\[0\]: expected dict"),
    (["inputs", 0, "name"], "obs/other", "inputs: expected the tensors"),
    (["inputs", 0, "name"], "obs/a~1b~0c", "two inputs have the same name"),
    (["inputs", 0, "path"], [[]], "a list of strings and integers"),
    (["inputs", 0, "dtype"], "float32", "inputs: expected the tensors"),
    (["inputs", 0, "dtype"], ">f4", "in the byte order of the machine"),
    (["inputs", 0, "dtype"], "object", "expected one of"),
    (["inputs", 0, "shape"], [-1], "an integer from 0"),
    (["inputs", 0, "shape"], [2**40], "more than"),
    (["inputs", 0, "meaning"], None, "expected str"),
    (["inputs", 0, "more"], 1, "are unknown"),
    (["outputs", 0, "dtype"], "float32", "outputs: expected the tensors"),
    (["state", 0, "input"], "h", "expected names 'state_in/…' and 'state_out/…'"),
    (["state", 0, "output"], "state_out/c", "expected names"),
    (["state", 0, "initial"], "random", "expected 'zeros'"),
    (["state"], [{}] * 5000, "at most 4096"),
]


@pytest.mark.parametrize(("path", "value", "message"), OTHER)
def test_every_other_value_is_refused(path: list[Any], value: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        Metadata.from_json(changed(path, value))


def test_each_key_is_needed() -> None:
    written = json.loads(METADATA.to_json())
    for key in written:
        if key != "format":
            rest = {name: value for name, value in written.items() if name != key}
            with pytest.raises(FormatError, match=f"the keys \\['{key}'\\] are missing"):
                Metadata.from_json(canonical_json(rest))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{}", "expected 'format': 1, found None"),
        ("[1]", "expected dict"),
        ('{"format":NaN}', "NaN is not a JSON number"),
        ("[" * 100_000, "is not JSON"),
        (METADATA.to_json() + " ", "not in canonical form"),
        ("\ud800", "lone surrogate"),
        (" " * (MAX_BYTES + 1), "at most"),
    ],
)
def test_what_is_no_canonical_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        Metadata.from_json(text)


def test_metadata_that_contradict_themselves_are_not_made() -> None:
    with pytest.raises(InvalidInputError, match="outputs: expected the tensors"):
        make_metadata(SPACE, gym.spaces.Discrete(2), outputs=METADATA.inputs)
    with pytest.raises(InvalidInputError, match="expected one of old, new"):
        make_metadata(SPACE, gym.spaces.Discrete(2), stack="torch")
