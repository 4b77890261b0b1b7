"""The spaces that hold no other space, as JSON and back; ``docs/spaces.md`` is the normative text.

Each writer gives the fields of its class, and each reader builds the space from fields whose names
have been checked. Both say what does not fit by the error of their :class:`~.space_fields.Place`.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from policystore.format.arrays import Array
from policystore.format.canonical_json import JsonObject
from policystore.spaces import fields
from policystore.spaces.fields import Place

__all__ = [
    "GYMNASIUM",
    "REPEATED",
    "SIMPLEX",
    "box_from_json",
    "box_to_json",
    "build",
    "discrete_from_json",
    "discrete_to_json",
    "multi_binary_from_json",
    "multi_binary_to_json",
    "multi_discrete_from_json",
    "multi_discrete_to_json",
    "simplex_from_json",
    "simplex_to_json",
    "text_from_json",
    "text_to_json",
]

GYMNASIUM = "gymnasium.spaces"
REPEATED = "ray.rllib.utils.spaces.repeated"
SIMPLEX = "ray.rllib.utils.spaces.simplex"
"""Modules that known classes are imported from when one is read; nothing else ever is."""

_INT64 = np.dtype(np.int64)


def build(package: str, name: str, place: Place, **arguments: Any) -> Any:
    """Call the constructor of a known class; the one place where foreign errors are mapped."""
    try:
        cls = getattr(importlib.import_module(package), name)
    except (ImportError, AttributeError) as error:
        place.fail(f"{name} is not in the installed {package.split('.')[0]}: {error}")
    try:
        return cls(**arguments)
    # Whatever gymnasium raises on what passed our own checks, a reader promises one error.
    except Exception as error:
        place.fail(
            f"the installed {package.split('.')[0]} refuses this {name}: "
            f"{type(error).__name__}: {error}. A newer one may build it"
        )


def box_to_json(space: Any, place: Place) -> JsonObject:
    """The fields of a Box: its bounds, and flags of boundedness where they say more."""
    name = fields.dtype_to_json(space.dtype, place.at("dtype"))
    found: JsonObject = {"dtype": name, "shape": fields.shape_to_json(space.shape, place)}
    low = fields.owned_array(space.low, space.dtype, space.shape, place.at("low"))
    high = fields.owned_array(space.high, space.dtype, space.shape, place.at("high"))
    _check_bounds(low, high, place)
    found["low"] = fields.array_to_json(low)
    found["high"] = fields.array_to_json(high)
    for field, usual in _usually_bounded(low, high).items():
        flags = fields.owned_array(getattr(space, field), usual.dtype, usual.shape, place.at(field))
        if not np.array_equal(flags, usual):
            found[field] = fields.array_to_json(flags)
    return found


def box_from_json(found: JsonObject, place: Place) -> Any:
    """A Box from its fields, with bounds and flags bit for bit."""
    dtype = fields.dtype_from_json(found["dtype"], place.at("dtype"))
    shape = fields.shape_from_json(found["shape"], place.at("shape"))
    low = fields.array_from_json(found["low"], dtype, shape, place.at("low"))
    high = fields.array_from_json(found["high"], dtype, shape, place.at("high"))
    _check_bounds(low, high, place)
    space = build(GYMNASIUM, "Box", place, low=low, high=high, dtype=dtype)
    for field, usual in _usually_bounded(low, high).items():
        if field in found:
            flags = fields.array_from_json(found[field], usual.dtype, shape, place.at(field))
            setattr(space, field, flags)
    return space


def _check_bounds(low: Array, high: Array, place: Place) -> None:
    # gymnasium's constructor holds this, and sampling relies on it.
    if np.isnan(low).any() or np.isnan(high).any() or (low > high).any():
        place.fail("a bound is NaN, or low is above high")


def _usually_bounded(low: Array, high: Array) -> dict[str, Array]:
    """The flags that follow from the bounds.

    They differ where a constructor was given an infinity that the dtype lacks (integers: the
    dtype's own limits with a flag that says unbounded, ``gymnasium/spaces/box.py`` ``_cast_low``).
    """
    if low.dtype.kind != "f":
        return {
            "bounded_below": np.ones(low.shape, np.bool_),
            "bounded_above": np.ones(low.shape, np.bool_),
        }
    return {
        "bounded_below": np.asarray(low > -np.inf),
        "bounded_above": np.asarray(high < np.inf),
    }


def _integers(dtype: object, place: Place) -> str:
    name = fields.dtype_to_json(dtype, place.at("dtype"))
    if fields.dtype_from_json(name, place).kind not in "iu":
        place.fail(f"expected an integer dtype, found {name}")
    return name


def discrete_to_json(space: Any, place: Place) -> JsonObject:
    """The fields of a Discrete."""
    return {
        "dtype": _integers(space.dtype, place),
        "n": fields.scalar_to_json(space.n, space.dtype, place.at("n")),
        "start": fields.scalar_to_json(space.start, space.dtype, place.at("start")),
    }


def discrete_from_json(found: JsonObject, place: Place) -> Any:
    """A Discrete from its fields."""
    dtype = fields.dtype_from_json(found["dtype"], place.at("dtype"))
    _integers(dtype, place)
    n = int(fields.scalar_from_json(found["n"], dtype, place.at("n")))
    start = int(fields.scalar_from_json(found["start"], dtype, place.at("start")))
    # Before gymnasium 1.2 there is no dtype here: what needs none is built without it.
    if dtype == _INT64:
        return build(GYMNASIUM, "Discrete", place, n=n, start=start)
    return build(GYMNASIUM, "Discrete", place, n=n, start=start, dtype=dtype)


def multi_discrete_to_json(space: Any, place: Place) -> JsonObject:
    """The fields of a MultiDiscrete of any number of axes."""
    found: JsonObject = {
        "dtype": _integers(space.dtype, place),
        "shape": fields.shape_to_json(space.shape, place),
    }
    for field in ("nvec", "start"):
        array = fields.owned_array(getattr(space, field), space.dtype, space.shape, place.at(field))
        found[field] = fields.array_to_json(array)
    return found


def multi_discrete_from_json(found: JsonObject, place: Place) -> Any:
    """A MultiDiscrete from its fields."""
    dtype = fields.dtype_from_json(found["dtype"], place.at("dtype"))
    _integers(dtype, place)
    shape = fields.shape_from_json(found["shape"], place.at("shape"))
    nvec = fields.array_from_json(found["nvec"], dtype, shape, place.at("nvec"))
    start = fields.array_from_json(found["start"], dtype, shape, place.at("start"))
    return build(GYMNASIUM, "MultiDiscrete", place, nvec=nvec, start=start, dtype=dtype)


def multi_binary_to_json(space: Any, place: Place) -> JsonObject:
    """The field of a MultiBinary: a number or a shape."""
    shape = fields.shape_to_json(space.shape, place)
    # gymnasium keeps whether n was a number or a shape, and == tells them apart.
    return {"n": shape if type(space.n) is tuple else fields.integer(space.n, place.at("n"))}


def multi_binary_from_json(found: JsonObject, place: Place) -> Any:
    """A MultiBinary from its field."""
    n = found["n"]
    shape = fields.shape_from_json(n if type(n) is list else [n], place.at("n"))
    return build(GYMNASIUM, "MultiBinary", place, n=shape if type(n) is list else n)


def text_to_json(space: Any, place: Place) -> JsonObject:
    """The fields of a Text, with its characters in their order."""
    characters = space.character_list
    if not all(type(one) is str and len(one) == 1 for one in characters):
        place.fail("the charset holds something other than single characters")
    charset = "".join(characters)
    _check_charset(charset, place)
    return {
        "min_length": fields.integer(space.min_length, place.at("min_length")),
        "max_length": fields.integer(space.max_length, place.at("max_length")),
        "charset": charset,
    }


def text_from_json(found: JsonObject, place: Place) -> Any:
    """A Text from its fields."""
    charset = fields.typed(found["charset"], str, place.at("charset"))
    _check_charset(charset, place)
    return build(
        GYMNASIUM,
        "Text",
        place,
        min_length=fields.integer(found["min_length"], place.at("min_length")),
        max_length=fields.integer(found["max_length"], place.at("max_length")),
        charset=charset,
    )


def _check_charset(charset: str, place: Place) -> None:
    # One that repeats a character cannot be sampled, and gymnasium 1.4 drops the repetition.
    if len(set(charset)) != len(charset) or not fields.is_text(charset):
        place.fail("the charset holds a character twice, or a lone surrogate")


def simplex_to_json(space: Any, place: Place) -> JsonObject:
    """The fields of RLlib's Simplex (``ray/rllib/utils/spaces/simplex.py:8``)."""
    name = fields.dtype_to_json(space.dtype, place.at("dtype"))
    shape = fields.shape_to_json(space.shape, place)
    inner = place.at("concentration")
    array = space.concentration
    if not isinstance(array, np.ndarray) or array.shape != tuple(shape[-1:]):
        inner.fail(
            f"expected a numpy array of shape {tuple(shape[-1:])}, found {fields.brief(array)}"
        )
    concentration = {"dtype": fields.dtype_to_json(array.dtype, inner)}
    _check_concentration(array, inner)
    concentration["values"] = fields.array_to_json(array)
    return {"dtype": name, "shape": shape, "concentration": concentration}


def simplex_from_json(found: JsonObject, place: Place) -> Any:
    """A Simplex from its fields, which imports RLlib."""
    dtype = fields.dtype_from_json(found["dtype"], place.at("dtype"))
    shape = fields.shape_from_json(found["shape"], place.at("shape"))
    inner = place.at("concentration")
    written = fields.typed(found["concentration"], dict, inner)
    if written.keys() != {"dtype", "values"}:
        inner.fail(
            f"expected the keys dtype and values, found {fields.brief(sorted(written, key=str))}"
        )
    array_dtype = fields.dtype_from_json(written["dtype"], inner)
    array = fields.array_from_json(written["values"], array_dtype, shape[-1:], inner)
    _check_concentration(array, inner)
    return build(SIMPLEX, "Simplex", place, shape=shape, concentration=array, dtype=dtype)


def _check_concentration(array: Array, place: Place) -> None:
    # NaN would make a Simplex unequal to itself (its == is np.allclose).
    if array.dtype.kind == "b" or array.ndim != 1 or np.isnan(array).any():
        place.fail("expected one number, not NaN, for each element of the last axis")
