from __future__ import annotations

import collections
import enum
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policystore import FormatError, InvalidInputError
from policystore.format.arrays import Array
from policystore.format.canonical_json import canonical_json, parse_canonical
from policystore.format.values import Tagged, decode_value, encode_value

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
KEYS = st.recursive(
    TEXT | st.integers(-(2**63), 2**63 - 1) | st.none() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=2).map(tuple),
    max_leaves=3,
)
LEAVES = (
    TEXT
    | st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.binary(max_size=4)
    | st.sampled_from([Tagged("import", "a.b:C"), Tagged("space", {"x": 1})])
    | st.sampled_from([np.array(1.5), np.arange(3, dtype=np.int16), np.zeros((0, 2), bool)])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray)
            and (a.dtype, a.shape) == (b.dtype, b.shape)
            and a.tobytes() == b.tobytes()
        )
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (
            a == b and math.copysign(1, a) == math.copysign(1, b)
        )
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        kinds = lambda d: sorted((type(key).__name__, repr(key)) for key in d)  # noqa: E731
        return kinds(a) == kinds(b) and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


@given(VALUES, st.booleans())
def test_values_decode_exactly_with_their_types(value: Any, beside: bool) -> None:
    arrays: list[Array] | None = [] if beside else None
    text = canonical_json(encode_value(value, "test", arrays))
    found = parse_canonical(text, "test")
    again = decode_value(found, "test", arrays)
    assert same(again, value)
    second: list[Array] | None = [] if beside else None
    assert canonical_json(encode_value(again, "test", second)) == text
    if beside:
        assert arrays is not None
        assert second is not None
        assert all(map(same, arrays, second))


def test_insertion_order_does_not_change_the_json() -> None:
    keys = ["b", 2, "a", 1, None, (1, "x"), 1.5, "~c"]
    forward = {key: np.array(index) for index, key in enumerate(keys)}
    backward = dict(reversed(forward.items()))
    left: list[Array] = []
    right: list[Array] = []
    assert encode_value(forward, "t", left) == encode_value(backward, "t", right)
    assert [a.tolist() for a in left] == [a.tolist() for a in right]


def test_the_json_is_fixed() -> None:
    value = {"t": (1, [2]), "m": {0: True, "0": None}, "f": -math.inf, "b": b"\x00\xff"}
    assert canonical_json(encode_value(value, "t")) == (
        b'{"b":{"~bytes":"00ff"},"f":{"~float":"-inf"},'
        b'"m":{"~map":[["0",null],[0,true]]},"t":{"~tuple":[1,[2]]}}'
    )
    inline = encode_value(np.array([1, 2], np.uint8), "t")
    assert canonical_json(inline) == b'{"~array":{"data":"0102","dtype":"U8","shape":[2]}}'


class Colour(enum.IntEnum):
    RED = 1


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        1j,
        Colour.RED,
        Point(1, 2),
        np.array([1j]),
        np.array([None]),
        np.array(["text"]),
        {"a": {b"bytes": 1}},
        {frozenset(): 1},
        lambda: 0,
        np.ma.masked_array([1, 2], [True, False]),
    ],
)
def test_values_that_would_decode_differently_are_refused_by_place(value: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"root\['key'\]\[1\]"):
        encode_value({"key": [0, value]}, "root", [])


def test_a_value_within_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(InvalidInputError, match="within itself"):
        encode_value(value, "root")


@pytest.mark.parametrize(
    "json",
    [
        {"~nothing": 1},
        {"~tuple": 1},
        {"~tuple": [], "x": 1},
        {"~map": {"a": 1}},
        {"~map": [[1]]},
        {"~map": [[[1], 2]]},
        {"~map": [[1, 2], [True, 3]]},
        {"~map": [[2, 3], [1, 3]]},
        {"~map": [[1, 2], [1, 3]]},
        {"~map": [["a", 1]]},
        {"~float": "1.5"},
        {"~float": 1},
        {"~bytes": "0"},
        {"~bytes": "FF"},
        {"~bytes": "0 0"},
        {"~array": 1},
        {"~array": -1},
        {"~array": True},
        {"~array": {"dtype": "F32", "shape": [1], "data": ""}},
        {"~import": 3},
        {"~space": "Box"},
    ],
)
def test_other_json_is_refused(json: Any) -> None:
    with pytest.raises(FormatError, match="root"):
        decode_value(json, "root", [np.zeros(1)])


def test_the_number_of_keys_that_may_share_a_hash_is_bounded() -> None:
    """A dict of n keys with the same hash needs n² comparisons, so writer and reader limit n."""
    many = {(0, number): None for number in range(513)}
    with pytest.raises(InvalidInputError, match="512"):
        encode_value(many, "root")
    few = dict(list(many.items())[:512])
    json = encode_value(few, "root")
    assert decode_value(json, "root") == few
    pairs = [[{"~tuple": [0, number]}, None] for number in range(513)]
    pairs.sort(key=lambda pair: canonical_json(pair[0]))
    with pytest.raises(FormatError, match="512"):
        decode_value({"~map": pairs}, "root")


@pytest.mark.parametrize(
    "json",
    [
        {"dtype": "C64", "shape": [0], "data": ""},
        {"dtype": "F32", "shape": [2**40, 2**40], "data": ""},
        {"dtype": "F32", "shape": [-1], "data": ""},
        {"dtype": "F32", "shape": [True], "data": "00000000"},
        {"dtype": "F32", "shape": [1], "data": "00000000", "more": 1},
        {"dtype": ["F32"], "shape": [1], "data": "00000000"},
        [],
        7,
    ],
)
def test_other_arrays_are_refused(json: Any) -> None:
    with pytest.raises(FormatError, match="root"):
        decode_value({"~array": json}, "root")
