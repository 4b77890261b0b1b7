"""Spaces are written as JSON and read back exactly; each has one form; other spaces are refused."""

from __future__ import annotations

import copy
import json
import math
import re
import subprocess
import sys
from collections import OrderedDict
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces as gs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ray.rllib.models.preprocessors import get_preprocessor
from ray.rllib.utils.serialization import space_from_dict, space_to_dict
from ray.rllib.utils.spaces.flexdict import FlexDict
from ray.rllib.utils.spaces.repeated import Repeated
from ray.rllib.utils.spaces.simplex import Simplex

from policystore import Spec
from policystore.errors import FormatError, InvalidInputError
from policystore.format.canonical_json import MAX_DEPTH, canonical_json, parse_canonical
from policystore.spaces import space_from_json, space_to_json
from policystore.spaces.fields import MAX_ELEMENTS
from policystore.spaces.place import MAX_NESTING, MAX_SPACES
from tests.support import ROOT

INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
FLOATS = ["float16", "float32", "float64", ">f2", ">f4", ">f8"]
HAS_DISCRETE_DTYPE = "dtype" in gs.Discrete.__init__.__annotations__
needs_discrete_dtype = pytest.mark.skipif(
    not HAS_DISCRETE_DTYPE, reason="this gymnasium has no dtype in Discrete"
)


def assert_same(one: Any, other: Any) -> None:
    """Compare all attributes, with bits and order; gymnasium's ``==`` compares less."""
    # The flags of a Box of shape () are a numpy scalar or a 0-d array, as its bounds were given.
    if not isinstance(one, np.bool_ | np.ndarray):
        assert type(one) is type(other)
    if isinstance(one, gymnasium.Space):
        # Left out: the state of generators, and two caches of repr() in newer gymnasium.
        own = {"_np_random", "low_repr", "high_repr"}
        left, right = (
            {key: value for key, value in vars(space).items() if key not in own}
            for space in (one, other)
        )
        assert_same(dict(sorted(left.items())), dict(sorted(right.items())))
    elif isinstance(one, dict):
        assert_same(list(one), list(other))
        assert_same(list(one.values()), list(other.values()))
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    elif isinstance(one, (np.ndarray, np.generic)):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()
    else:
        assert one == other


def round_trip(space: Any) -> Any:
    """Write a space as canonical JSON, read it back, and check that it has only one form."""
    text = canonical_json(space_to_json(space))
    back = space_from_json(parse_canonical(text, "space"))
    assert_same(back, space)
    assert canonical_json(space_to_json(back)) == text
    return back


@st.composite
def boxes(draw: st.DrawFn) -> gs.Box:
    dtype = np.dtype(draw(st.sampled_from(["bool", *INTEGERS, *FLOATS])))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    elements = hnp.from_dtype(dtype, allow_nan=False) if dtype.kind == "f" else None
    one, other = (draw(hnp.arrays(dtype, shape, elements=elements)) for _ in range(2))
    swap = one > other
    low = np.where(swap, other, one).astype(dtype)
    return gs.Box(low=low, high=np.where(swap, one, other).astype(dtype), dtype=dtype)


@st.composite
def discretes(draw: st.DrawFn) -> gs.Discrete:
    dtype = np.dtype(draw(st.sampled_from(INTEGERS if HAS_DISCRETE_DTYPE else ["int64"])))
    limits = np.iinfo(dtype)
    n = draw(st.integers(1, int(limits.max)))
    start = draw(st.integers(int(limits.min), int(limits.max)))
    if not HAS_DISCRETE_DTYPE:
        return gs.Discrete(n, start=start)
    return gs.Discrete(n, start=start, dtype=dtype)


@st.composite
def multi_discretes(draw: st.DrawFn) -> gs.MultiDiscrete:
    dtype = np.dtype(draw(st.sampled_from(INTEGERS)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=3))
    nvec = draw(hnp.arrays(dtype, shape, elements=st.integers(1, 100)))
    start = draw(st.none() | hnp.arrays(dtype, shape, elements=st.integers(0, 20)))
    return gs.MultiDiscrete(nvec, dtype=dtype, start=start)


@st.composite
def texts(draw: st.DrawFn) -> gs.Text:
    characters = st.characters(exclude_categories=["Cs"])
    charset = "".join(draw(st.lists(characters, unique=True, max_size=6)))
    low = draw(st.integers(0, 5))
    return gs.Text(low + draw(st.integers(0, 2**40)), min_length=low, charset=charset)


@st.composite
def simplexes(draw: st.DrawFn) -> Simplex:
    shape = draw(hnp.array_shapes(max_dims=3, max_side=4))
    floats = st.floats(0.125, 4, width=16)
    concentration = draw(st.none() | hnp.arrays(np.float32, shape[-1], elements=floats))
    return Simplex(shape, concentration, dtype=draw(st.sampled_from([np.float32, np.float64])))


@st.composite
def with_original(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> gs.Box:
    space = draw(boxes())
    space.original_space = draw(inner)
    return space


LEAVES = st.one_of(
    boxes(),
    discretes(),
    multi_discretes(),
    st.builds(gs.MultiBinary, st.integers(1, 9) | st.lists(st.integers(1, 4), max_size=3)),
    texts(),
    simplexes(),
)
KEYS = st.recursive(
    st.text(max_size=4) | st.integers(-9, 9) | st.booleans() | st.none() | st.floats(1.5, 9.5),
    lambda inner: st.tuples(inner, inner),
    max_leaves=3,
)


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    listed = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.builds(gs.Tuple, listed),
        st.builds(gs.OneOf, listed),
        st.lists(st.tuples(KEYS, inner), max_size=3, unique_by=lambda pair: pair[0]).map(gs.Dict),
        st.builds(gs.Sequence, inner),
        st.builds(gs.Sequence, boxes(), stack=st.just(True)),
        st.builds(gs.Graph, boxes() | discretes(), st.none() | boxes() | discretes()),
        st.builds(Repeated, inner, st.integers(0, 2**40)),
        with_original(inner),
    )


SPACES = st.recursive(LEAVES, nested, max_leaves=6)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SPACES)
def test_any_space_comes_back_exactly(space: Any) -> None:
    round_trip(space)


GOLDEN = [
    (
        lambda: gs.Box(-1, 1, (3,)),
        '{"dtype":"float32","high":1.0,"low":-1.0,"shape":[3],"space":"Box"}',
    ),
    (
        lambda: gs.Box(0, 255, (84, 84, 4), np.uint8),
        '{"dtype":"uint8","high":255,"low":0,"shape":[84,84,4],"space":"Box"}',
    ),
    (
        lambda: gs.Box(-np.inf, np.inf, (2,)),
        '{"dtype":"float32","high":"0000807f","low":"000080ff","shape":[2],"space":"Box"}',
    ),
    (
        lambda: gs.Box(np.array([0, -np.inf], np.float32), np.array([1, np.inf], np.float32)),
        '{"dtype":"float32","high":"0000803f0000807f","low":"00000000000080ff","shape":[2],'
        '"space":"Box"}',
    ),
    (
        lambda: gs.Box(-np.inf, 5, (2,), np.int32),
        '{"bounded_below":false,"dtype":"int32","high":5,"low":-2147483648,"shape":[2],'
        '"space":"Box"}',
    ),
    (
        lambda: gs.Box(-1, 1, (), ">f8"),
        '{"dtype":">f8","high":1.0,"low":-1.0,"shape":[],"space":"Box"}',
    ),
    (
        lambda: gs.Box(0, 2**64 - 1, (1,), np.uint64),
        '{"dtype":"uint64","high":"ffffffffffffffff","low":0,"shape":[1],"space":"Box"}',
    ),
    (
        lambda: gs.Box(np.zeros(2, bool), np.ones(2, bool), dtype=bool),
        '{"dtype":"bool","high":true,"low":false,"shape":[2],"space":"Box"}',
    ),
    (
        lambda: gs.Box(0, 1, (0, 3)),
        '{"dtype":"float32","high":"","low":"","shape":[0,3],"space":"Box"}',
    ),
    (
        lambda: gs.Discrete(4, start=-1),
        '{"dtype":"int64","n":4,"space":"Discrete","start":-1}',
    ),
    (
        lambda: gs.MultiDiscrete([[2, 3]], dtype=np.uint8, start=[[1, 1]]),
        '{"dtype":"uint8","nvec":"0203","shape":[1,2],"space":"MultiDiscrete","start":1}',
    ),
    (lambda: gs.MultiBinary(2), '{"n":2,"space":"MultiBinary"}'),
    (lambda: gs.MultiBinary([2]), '{"n":[2],"space":"MultiBinary"}'),
    (
        lambda: gs.Text(5, min_length=0, charset="zaé"),
        '{"charset":"zaé","max_length":5,"min_length":0,"space":"Text"}',
    ),
    (
        lambda: gs.Tuple([gs.MultiBinary(1), gs.MultiBinary(2)]),
        '{"space":"Tuple","spaces":[{"n":1,"space":"MultiBinary"},{"n":2,"space":"MultiBinary"}]}',
    ),
    (
        lambda: gs.OneOf([gs.MultiBinary(1)]),
        '{"space":"OneOf","spaces":[{"n":1,"space":"MultiBinary"}]}',
    ),
    (
        lambda: gs.Dict(
            [("b", gs.MultiBinary(1)), (0, gs.MultiBinary(2)), ((1, "x"), gs.MultiBinary(3))]
        ),
        '{"keys":["b",0,[1,"x"]],"space":"Dict","spaces":[{"n":1,"space":"MultiBinary"},'
        '{"n":2,"space":"MultiBinary"},{"n":3,"space":"MultiBinary"}]}',
    ),
    (
        lambda: gs.Sequence(gs.MultiBinary(1), stack=True),
        '{"feature_space":{"n":1,"space":"MultiBinary"},"space":"Sequence","stack":true}',
    ),
    (
        lambda: gs.Graph(gs.Box(0, 1, (2,)), None),
        '{"edge_space":null,"node_space":{"dtype":"float32","high":1.0,"low":0.0,"shape":[2],'
        '"space":"Box"},"space":"Graph"}',
    ),
    (
        lambda: Repeated(gs.MultiBinary(1), max_len=10),
        '{"child_space":{"n":1,"space":"MultiBinary"},"max_len":10,"space":"Repeated"}',
    ),
    (
        lambda: Simplex((3, 4)),
        '{"concentration":{"dtype":"int64","values":1},"dtype":"float32","shape":[3,4],'
        '"space":"Simplex"}',
    ),
]


@pytest.mark.parametrize(("build", "text"), GOLDEN, ids=[text[:90] for _, text in GOLDEN])
def test_golden_json(build: Any, text: str) -> None:
    assert canonical_json(space_to_json(build())).decode() == text
    round_trip(build())


@needs_discrete_dtype
def test_discrete_keeps_its_dtype_where_rllib_loses_it() -> None:
    space = gs.Discrete(3, start=2, dtype=np.int16)
    back = round_trip(space)
    assert back.sample().dtype == np.int16
    assert space_from_dict(space_to_dict(space)).dtype != np.int16


def test_multi_discrete_keeps_its_start_where_rllib_loses_it() -> None:
    space = gs.MultiDiscrete([3, 4], start=[5, -6])
    assert round_trip(space) == space
    assert space_from_dict(space_to_dict(space)) != space


def test_spaces_that_rllib_cannot_write_are_kept() -> None:
    box = gs.Box(0, 1, (2,))
    for space in (gs.Sequence(box), gs.Graph(box, gs.Discrete(2)), gs.OneOf([box])):
        with pytest.raises(ValueError, match="Unknown space type"):
            space_to_dict(space)
        round_trip(space)
    for space in (gs.Text(4, charset="xy"), Simplex((2, 3), np.array([1.0, 0.5, 2.0]))):
        with pytest.raises(InvalidInputError):
            canonical_json(space_to_dict(space))
        round_trip(space)


def test_the_original_space_of_a_real_preprocessor_is_kept_where_it_is_nested() -> None:
    original = gs.Dict(OrderedDict(z=gs.Discrete(3), a=gs.Box(-1, 1, (2,), np.float64)))
    flat = get_preprocessor(original)(original).observation_space
    assert_same(round_trip(flat).original_space, original)
    back = round_trip(gs.Tuple([flat, gs.Discrete(2)]))
    assert_same(back[0].original_space, original)


def test_an_original_space_of_an_original_space() -> None:
    inner, middle, outer = (gs.Box(0, high, (high,)) for high in (1, 2, 3))
    middle.original_space = inner
    outer.original_space = middle
    assert round_trip(outer).original_space.original_space.shape == (1,)


def test_the_order_of_dict_keys_is_the_order_of_flattening() -> None:
    space = gs.Dict([("z", gs.Discrete(2)), ("a", gs.Discrete(3))])
    back = round_trip(space)
    assert list(back.spaces) == ["z", "a"]
    value = {"z": 1, "a": 2}
    np.testing.assert_array_equal(gs.flatten(back, value), gs.flatten(space, value))
    assert space_to_json(space) != space_to_json(gs.Dict([*reversed(space.spaces.items())]))


def test_the_order_of_characters_is_the_order_of_flattening() -> None:
    space = gs.Text(3, charset="cab")
    np.testing.assert_array_equal(gs.flatten(round_trip(space), "bc"), gs.flatten(space, "bc"))
    assert space_to_json(space) != space_to_json(gs.Text(3, charset="abc"))
    round_trip(gs.Text(9))


def test_bounds_are_kept_bit_for_bit() -> None:
    low = np.array([-0.0, 0.0, 5e-324, -np.inf])
    back = round_trip(gs.Box(low, np.array([0.0, 0.0, 1.0, -np.inf]), dtype=np.float64))
    assert [math.copysign(1, value) for value in back.low[:2]] == [-1, 1]
    assert math.copysign(1, space_to_json(gs.Box(-0.0, 1, (2,)))["low"]) == -1
    round_trip(gs.Box(np.float32(0.1), np.float32(0.3), (3,)))


def test_an_unbounded_integer_box_stays_unbounded_where_its_bounds_do_not_say_so() -> None:
    space = gs.Box(-np.inf, np.inf, (2,), np.int16)
    back = round_trip(space)
    assert not back.is_bounded("below")
    assert not back.is_bounded("above")
    assert round_trip(gs.Box(space.low, space.high, dtype=np.int16)).is_bounded()
    mixed = gs.Box(np.array([-np.inf, 0.0]), np.array([4.0, np.inf]), dtype=np.int32)
    assert space_to_json(mixed)["bounded_below"] == "0001"
    round_trip(mixed)


def test_a_rebuilt_space_samples_and_contains_the_same_values() -> None:
    space = gs.Dict(
        image=gs.Box(0, 255, (2, 2), np.uint8),
        choice=gs.MultiDiscrete([3, 4], start=[1, 2]),
        one=gs.OneOf([gs.Discrete(3, start=5), gs.Text(4, charset="qx")]),
        many=gs.Sequence(gs.Box(-np.inf, 3, (2,))),
    )
    back = round_trip(space)
    space.seed(7)
    back.seed(7)
    for _ in range(20):
        sample = space.sample()
        assert_same(back.sample(), sample)
        assert sample in back


def test_each_read_builds_a_new_space_without_a_seed() -> None:
    seeded = gs.Box(0, 1, (2,), seed=3)
    written = space_to_json(seeded)
    assert written == space_to_json(gs.Box(0, 1, (2,)))
    first = space_from_json(written)
    first.low[:] = -5
    assert space_from_json(written).low.tolist() == [0, 0]


class BoundedBox(gs.Box):
    """A Box that only this test knows."""


class Own(gymnasium.Space):
    """A space that is a subclass of none of the known classes."""


Box = type("Box", (), {"__module__": "gym.spaces.box"})


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (BoundedBox(0, 1), r"test_spaces\.BoundedBox is a subclass of Box"),
        (
            gs.Tuple([gs.Discrete(2), Own()]),
            r"space\.spaces\[1\]: .*test_spaces\.Own is not a space",
        ),
        (FlexDict({}), r"flexdict\.FlexDict is a subclass of Dict"),
        (Box(), r"gym\.spaces\.box\.Box is a space of the legacy gym package"),
        (None, "NoneType is not a space"),
        (gs.Box, "builtins.type is not a space|type is not a space"),
        (gs.Box(0, 1, (2,), np.longdouble), "dtype dtype.*cannot be kept"),
        (gs.Dict({frozenset("a"): gs.Discrete(2)}), "key .* of type frozenset cannot be kept"),
        (gs.Dict({"\ud800": gs.Discrete(2)}), "lone surrogates"),
        (gs.Text(3, charset="\ud800"), "lone surrogate"),
        (Simplex((2,), np.array([1.0, np.nan])), r"space\.concentration: .*NaN"),
        (Repeated(gs.Discrete(2), max_len=-1), r"space\.max_len: expected an integer from 0"),
    ],
)
def test_a_space_that_cannot_be_kept_is_refused_by_name(space: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        space_to_json(space)


def test_a_space_changed_after_it_was_built_is_refused() -> None:
    space = gs.Box(0, 1, (2,))
    space.low = np.zeros(3, np.float32)
    with pytest.raises(InvalidInputError, match=r"observation\.low: .*shape \(2,\)"):
        space_to_json(space, label="observation")
    for bad in (np.nan, 2.0):
        space = gs.Box(0, 1, (2,))
        space.low[1] = bad
        with pytest.raises(InvalidInputError, match="NaN, or low is above high"):
            space_to_json(space)
    space.original_space = None
    space.low[1] = 0
    with pytest.raises(InvalidInputError, match=r"space\.original_space: .*NoneType"):
        space_to_json(space)


def test_limits_of_writing() -> None:
    space: Any = gs.MultiBinary(1)
    for _ in range(MAX_NESTING - 1):
        space = gs.Dict({((((0,),),),): space})
    round_trip(space)
    assert depth(space_to_json(space)) <= MAX_DEPTH - 12
    with pytest.raises(InvalidInputError, match="nested more than"):
        space_to_json(gs.Tuple([space]))
    loop = gs.Box(0, 1)
    loop.original_space = loop
    with pytest.raises(InvalidInputError, match="within themselves"):
        space_to_json(loop)
    bomb: Any = gs.MultiBinary(1)
    for _ in range(20):
        bomb = gs.Tuple([bomb, bomb])
    with pytest.raises(InvalidInputError, match=f"more than {MAX_SPACES} spaces"):
        space_to_json(bomb)
    with pytest.raises(InvalidInputError, match=f"more than {MAX_ELEMENTS} array elements"):
        space_to_json(gs.Box(0, 1, (MAX_ELEMENTS + 1,), np.uint8))


def depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


BOX = {"space": "Box", "dtype": "float32", "shape": [2], "low": 0.0, "high": 1.0}
INT = {"space": "Discrete", "dtype": "int64", "n": 3, "start": 0}
MANY = {"space": "MultiDiscrete", "dtype": "int64", "shape": [2], "nvec": 3, "start": 0}
TEXT = {"space": "Text", "min_length": 0, "max_length": 3, "charset": "ab"}
DICT = {"space": "Dict", "keys": ["a", "b"], "spaces": [INT, INT]}
SIMPLEX = space_to_json(Simplex((2, 3)))


def wrapped(levels: int, name: str, **more: Any) -> Any:
    inner: Any = BOX
    for _ in range(levels):
        inner = {"space": name, **more, "feature_space": inner}
    return inner


def nested_list(levels: int) -> Any:
    inner: Any = 1
    for _ in range(levels):
        inner = [inner]
    return inner


HOSTILE: dict[str, Any] = {
    "none": None,
    "number": 1,
    "list": [BOX],
    "no class": {},
    "class of another type": {**BOX, "space": ["Box"]},
    "unknown class": {**BOX, "space": "Cube"},
    "base class": {"space": "Space"},
    "attribute of gymnasium": {"space": "utils"},
    "unknown key": {**BOX, "more": 1},
    "key that is no string": {**BOX, 1: 1},
    "missing key": {key: BOX[key] for key in BOX if key != "high"},
    "unknown dtype": {**BOX, "dtype": "float128"},
    "dtype of objects": {**BOX, "dtype": "O"},
    "dtype in another form": {**BOX, "dtype": "<f4"},
    "dtype of another type": {**BOX, "dtype": {"name": "float32"}},
    "huge shape": {**BOX, "shape": [10**12]},
    "huge shape beside an empty axis": {**BOX, "shape": [0, 10**12], "low": "", "high": ""},
    "shape that overflows": {**BOX, "shape": [2**33, 2**33]},
    "many axes": {**BOX, "shape": [1] * 33},
    "negative axis": {**BOX, "shape": [-1]},
    "boolean axis": {**BOX, "shape": [True]},
    "float axis": {**BOX, "shape": [2.0]},
    "shape that is a number": {**BOX, "shape": 2},
    "NaN": {**BOX, "low": math.nan},
    "NaN in hexadecimal": {**BOX, "low": "0000c07f"},
    "infinity as a number": {**BOX, "high": math.inf},
    "integer for a float": {**BOX, "low": 0},
    "float that is too exact": {**BOX, "low": 0.1},
    "float that is too large": {**BOX, "high": 1e300},
    "finite number in hexadecimal": {**BOX, "high": "0000803f"},
    "equal elements in full": {**BOX, "high": "0000803f0000803f"},
    "upper-case digits": {**BOX, "high": "0000807F"},
    "digits with spaces": {**BOX, "high": "00 0 7f"},
    "no digits": {**BOX, "high": "0000xy7f"},
    "other alphabets": {**BOX, "high": "\u0660" * 8},
    "too few digits": {**BOX, "high": "0000"},
    "too many digits": {**BOX, "high": "00" * 12},
    "bound that is a list": {**BOX, "low": [0.0, 0.0]},
    "low above high": {**BOX, "low": 2.0},
    "usual flags": {**BOX, "bounded_below": True},
    "number for a flag": {**BOX, "bounded_below": 0},
    "flags that are no booleans": {**BOX, "bounded_below": "0002"},
    "n of zero": {**INT, "n": 0},
    "n below zero": {**INT, "n": -1},
    "n as a boolean": {**INT, "n": True},
    "n beyond the dtype": {**INT, "n": 2**63},
    "n of 5000 digits": {**INT, "n": 10**5000},
    "float n": {**INT, "n": 3.0},
    "float dtype": {**INT, "dtype": "float32"},
    "nvec of zero": {**MANY, "nvec": 0},
    "nvec of another size": {**MANY, "nvec": "00" * 24},
    "multibinary of nothing": {"space": "MultiBinary", "n": 0},
    "multibinary of a boolean": {"space": "MultiBinary", "n": True},
    "multibinary of much": {"space": "MultiBinary", "n": 10**12},
    "lengths crossed": {**TEXT, "min_length": 4},
    "negative length": {**TEXT, "min_length": -1},
    "charset as a list": {**TEXT, "charset": ["a", "b"]},
    "charset with a repetition": {**TEXT, "charset": "aba"},
    "charset with a surrogate": {**TEXT, "charset": "\ud800"},
    "keys too few": {**DICT, "keys": ["a"]},
    "keys twice": {**DICT, "keys": ["a", "a"]},
    "keys equal in Python": {**DICT, "keys": [1, True]},
    "key that is an object": {**DICT, "keys": ["a", {}]},
    "key nested deeply": {**DICT, "keys": ["a", [[[[[1]]]]]]},
    "key nested very deeply": {**DICT, "keys": ["a", nested_list(100_000)]},
    "infinite key": {**DICT, "keys": ["a", math.inf]},
    "keys as an object": {**DICT, "keys": {"a": 1}},
    "spaces as an object": {"space": "Tuple", "spaces": {"a": INT}},
    "space that is none": {"space": "Tuple", "spaces": [None]},
    "empty OneOf": {"space": "OneOf", "spaces": []},
    "stack that is a number": wrapped(1, "Sequence", stack=1),
    "nested too deeply": wrapped(MAX_NESTING, "Sequence", stack=False),
    "nested very deeply": wrapped(100_000, "Sequence", stack=False),
    "stacks that double": wrapped(20, "Sequence", stack=True),
    "stack of much": {
        "space": "Sequence",
        "stack": True,
        "feature_space": {**BOX, "shape": [2**24]},
    },
    "much in all": {"space": "Tuple", "spaces": [{**BOX, "shape": [2**23]}] * 100},
    "too many spaces": {"space": "Tuple", "spaces": [INT] * (MAX_SPACES + 1)},
    "graph without nodes": {"space": "Graph", "node_space": None, "edge_space": None},
    "original that is none": {**BOX, "original_space": None},
    "original of another form": {**BOX, "original_space": {**BOX, "low": 0}},
    "length that is a float": {"space": "Repeated", "child_space": INT, "max_len": 1.0},
    "negative maximum": {"space": "Repeated", "child_space": INT, "max_len": -1},
    "simplex without axes": {**SIMPLEX, "shape": []},
    "simplex of another form": {**SIMPLEX, "concentration": {"dtype": "int64", "values": "01"}},
    "simplex without a dtype": {**SIMPLEX, "concentration": {"values": 1}},
    "simplex of booleans": {**SIMPLEX, "concentration": {"dtype": "bool", "values": True}},
    "simplex of a number": {**SIMPLEX, "concentration": 1},
    "huge simplex": {**SIMPLEX, "shape": [0, 10**12]},
}


def test_the_base_of_the_hostile_cases_is_valid() -> None:
    for value in (BOX, INT, MANY, TEXT, DICT, SIMPLEX, wrapped(1, "Sequence", stack=False)):
        assert space_to_json(space_from_json(value)) == value


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_json_is_a_format_error(value: Any) -> None:
    with pytest.raises(FormatError) as caught:
        space_from_json(value, label="spec.observation_space")
    assert str(caught.value).startswith("spec.observation_space")
    assert len(str(caught.value)) < 2000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    inside = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    return [(value, key) for key, _ in inside] + [one for _, item in inside for one in places(item)]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SPACES, st.data())
def test_changed_json_is_refused_or_read_as_another_space(space: Any, data: st.DataObject) -> None:
    value = copy.deepcopy(space_to_json(space))
    holder, key = data.draw(st.sampled_from(places(value)))
    others = [found[name] for found, name in places(value)]
    holder[key] = data.draw(JSON | st.sampled_from(others))
    try:
        back = space_from_json(value)
    except FormatError:
        return
    assert canonical_json(space_to_json(back)) == canonical_json(value)


def test_a_class_that_is_not_installed_is_a_format_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.rllib.utils.spaces.simplex", None)
    with pytest.raises(FormatError, match="Simplex is not in the installed ray"):
        space_from_json(SIMPLEX)


PROBE = """
import sys
import policystore.spaces as spaces

heavy = {"gymnasium", "torch", "ray", "gym"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
spaces.space_from_json({"space": "MultiBinary", "n": 2})
assert heavy & set(sys.modules) == {"gymnasium"}, heavy & set(sys.modules)
"""


def test_importing_loads_no_framework_and_reading_only_gymnasium() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_equal_spaces_have_equal_json_in_processes_with_other_hash_seeds() -> None:
    code = (
        "from gymnasium import spaces as s; from policystore.spaces import space_to_json;"
        "from policystore.format.canonical_json import canonical_json;"
        "print(canonical_json(space_to_json(s.Dict(b=s.Text(3, charset='zyx'), a=s.Discrete(2)))))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_every_example_of_the_documentation_is_read_and_every_class_has_one() -> None:
    page = (ROOT / "docs" / "spaces.md").read_text(encoding="utf-8")
    examples = [json.loads(text) for text in re.findall(r"```json\n(.*?)\n```", page)]
    for value in examples:
        assert space_to_json(space_from_json(value)) == value
    assert {value["space"] for value in examples} == {
        json.loads(text)["space"] for _, text in GOLDEN
    }


@pytest.mark.parametrize("space", [Repeated(gs.Discrete(2), max_len=4), Simplex((3,))])
def test_a_spec_takes_rllibs_spaces_too(space: Any) -> None:
    assert Spec(action_space=space) == Spec(action_space=space_to_json(space))
