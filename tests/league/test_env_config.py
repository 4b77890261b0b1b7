"""Configs of environments in matches: exact again, or said to be missing; hostile ones refused."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from policystore.errors import FormatError, InvalidInputError
from policystore.format.canonical_json import canonical_json
from policystore.league.env_config import missing_values, read_config, write_config


@pytest.mark.parametrize(
    "config",
    [
        {"size": 5, "name": "Zürich", "wind": 0.1, "flags": [True, None, -0.0]},
        {"place": (1, (2.5, "x")), "empty": {}, "none": ()},
        {"z": 1, "a": {"y": 2, "b": 3}},
        {"~tuple": [1], "of": {2: "two", None: 1, "1": 0}},
        {"far": float("inf"), "near": float("-inf"), "raw": b"\x00\xff", "$set": 1},
    ],
)
def test_a_config_comes_back_in_its_order(config: dict[Any, Any]) -> None:
    again = read_config(write_config(config))
    assert again == config
    assert repr(again) == repr(config)  # types, and the order of the keys


def test_the_config_itself_may_be_any_mapping_and_ordered_dicts_are_dicts() -> None:
    inner = OrderedDict(z=1, a=2)
    for config in (defaultdict(int, of=inner), MappingProxyType({"of": inner})):
        again = read_config(write_config(config))
        assert repr(again) == "{'of': {'z': 1, 'a': 2}}"


def test_arrays_come_back_and_can_be_written_into() -> None:
    again = read_config(write_config({"map": np.arange(6, dtype=np.int16).reshape(2, 3)}))["map"]
    assert again.dtype == np.int16
    assert again.tolist() == [[0, 1, 2], [3, 4, 5]]
    again[0, 0] = 9


class Wind:
    """An object of a program's own."""


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"a": {"wind": Wind()}}, "config['a']['wind'], an object of the class "),
        ({"z": 1, "f": [0, lambda x: x]}, "config['f'][1], the function "),
        ({"kind": (Wind,)}, "config['kind'][0], the class "),
        ({"set": {1, 2}}, "config['set'], an object of the class builtins:set"),
        ({"of": {(1, 2): 3}}, "config['of'], a dict with a key that"),
        ({"of": {2**70: 3}}, "config['of'], a dict with a key that"),
        ({"big": 2**70}, "config['big'], an object of the class builtins:int"),
        ({"f32": np.float32(0.1)}, "config['f32'], an object of the class numpy:float32"),
        ({"map": np.zeros(10**6)}, "config['map'], an array of 8,000,000 bytes"),
        ({"map": np.zeros(40_000, np.int8)}, "config['map'], an array of 40,000 bytes"),
        ({"text": "x" * 70_000}, "config['text'], a text of 70,000 characters"),
        ({"of": {"x" * 70_000: 1}}, "config['of'], a dict with a key that"),
        ({"raw": b"x" * 40_000}, "config['raw'], 40,000 bytes"),
        ({"a": "x" * 40_000, "b": "x" * 40_000}, "the config, which takes 80,015 characters"),
        ({"of": defaultdict(int)}, "config['of'], an object of the class collections:defaultdict"),
        ({"of": [Counter("a")]}, "config['of'][0], an object of the class collections:Counter"),
        ({"of": MappingProxyType({})}, "config['of'], an object of the class builtins:mappingpr"),
        ({"half": "\ud800"}, "the config, which has no JSON form"),
    ],
)
def test_what_has_no_form_is_named(config: dict[Any, Any], words: str) -> None:
    text = write_config(config)
    assert len(text) < 1000
    (missing,) = missing_values(text)
    assert missing.startswith(words)
    with pytest.raises(InvalidInputError, match="does not hold"):
        read_config(text)


@pytest.mark.parametrize(
    "document",
    [
        [], 3, None, {"~tuple": [1]}, {"a": {"~import": "os:system"}}, {"a": {"~tuple": 3}},
        {"a": {"~dict": [[[], 1]]}}, {"a": {"~dict": [[1, 1], [1, 2]]}}, {"a": {"~dict": 3}},
        {"a": {"~float": ["nan"]}}, {"a": {"~float": "1e9"}}, {"a": {"~bytes": "zz"}},
        {"a": {"~array": {"dtype": "F32", "shape": [2**40], "data": ""}}}, {"a": {"~array": 0}},
        {"a": {"~tuple": [], "b": 1}}, {"~new": 1},
    ],
)  # fmt: skip
def test_other_texts_are_refused(document: Any) -> None:
    with pytest.raises(FormatError):
        read_config(canonical_json(document).decode())


def test_texts_that_are_no_canonical_json_are_refused() -> None:
    for text in ("{", '{"b":1,"a":2}', "[" * 70 + "]" * 70, '{"a":1e999}'):
        with pytest.raises(FormatError):
            read_config(text)
    (missing,) = missing_values('{"a":{"~missing":"\\u001b[2J\\n' + "x" * 9000 + '"}}')
    assert missing.isprintable()
    assert len(missing) < 400
