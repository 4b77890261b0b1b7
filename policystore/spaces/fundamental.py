"""Write and read the spaces that hold no other space. ``docs/spaces.md`` is the normative text.

Each writer returns the fields of its class. Each reader builds the space from fields whose names
the caller has checked. For a value that does not fit, both raise the error of their
:class:`~policystore.spaces.place.Place`.

Writers take ``Any``: they check attributes that may have other types than their class declares, and
the declared types differ between releases of gymnasium.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from policystore._util.messages import brief
from policystore.errors import MissingPackageError
from policystore.format.arrays import Array
from policystore.format.canonical_json import JsonObject
from policystore.spaces import fields
from policystore.spaces.place import Place

if TYPE_CHECKING:
    from gymnasium.spaces import Space

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
"""The modules that define the known classes. A reader imports these and no other module."""

_INT64 = np.dtype(np.int64)


def build(package: str, name: str, place: Place, **arguments: object) -> Space[Any]:
    """Call the constructor of a known class; if that fails, raise the error of ``place``.

    Args:
        package: the module that defines the class.
        name: the class.
        place: the place of the space.
        arguments: keyword arguments of the constructor, read and checked.

    Raises:
        MissingPackageError: gymnasium, or for RLlib's own spaces Ray, is not installed.
    """
    distribution = package.split(".")[0]
    try:
        cls: Callable[..., Space[Any]] = getattr(importlib.import_module(package), name)
    except (ImportError, AttributeError) as error:
        if not _is_installed(distribution):
            install = "'policystore[rllib]'" if distribution == "ray" else distribution
            raise MissingPackageError.of(
                f"{place.where}: a space object of class {name}", distribution, install=install
            ) from None
        place.fail(f"{name} is not in the installed {distribution}: {error}")
    try:
        return cls(**arguments)
    # A reader promises one kind of error, whatever gymnasium raises for the checked fields.
    except Exception as error:
        place.fail(
            f"the installed {package.split('.')[0]} refuses this {name}: "
            f"{type(error).__name__}: {error}. A newer one may build it"
        )


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a module that was put into sys.modules by hand has no spec
        return package in sys.modules


def box_to_json(space: Any, place: Place) -> JsonObject:
    """Write the fields of a Box; the bounded flags only if they differ from its bounds."""
    name = fields.dtype_to_json(space.dtype, place.at("dtype"))
    written: JsonObject = {"dtype": name, "shape": fields.shape_to_json(space.shape, place)}
    low = fields.owned_array(space.low, space.dtype, space.shape, place.at("low"))
    high = fields.owned_array(space.high, space.dtype, space.shape, place.at("high"))
    _check_bounds(low, high, place)
    written["low"] = fields.array_to_json(low)
    written["high"] = fields.array_to_json(high)
    for field, usual in _usually_bounded(low, high).items():
        flags = fields.owned_array(getattr(space, field), usual.dtype, usual.shape, place.at(field))
        if not np.array_equal(flags, usual):
            written[field] = fields.array_to_json(flags)
    return written


def box_from_json(written: JsonObject, place: Place) -> Space[Any]:
    """Read a Box, with bounds and flags bit for bit."""
    dtype = fields.dtype_from_json(written["dtype"], place.at("dtype"))
    shape = fields.shape_from_json(written["shape"], place.at("shape"))
    low = fields.array_from_json(written["low"], dtype, shape, place.at("low"))
    high = fields.array_from_json(written["high"], dtype, shape, place.at("high"))
    _check_bounds(low, high, place)
    space = build(GYMNASIUM, "Box", place, low=low, high=high, dtype=dtype)
    for field, usual in _usually_bounded(low, high).items():
        if field in written:
            flags = fields.array_from_json(written[field], usual.dtype, shape, place.at(field))
            setattr(space, field, flags)
    return space


def _check_bounds(low: Array, high: Array, place: Place) -> None:
    # gymnasium's constructor checks the same, and sampling relies on it.
    if np.isnan(low).any() or np.isnan(high).any() or (low > high).any():
        place.fail("a bound is NaN, or low is above high")


def _usually_bounded(low: Array, high: Array) -> dict[str, Array]:
    """Return the flags ``bounded_below`` and ``bounded_above`` that follow from the bounds.

    A Box has other flags if its constructor got an infinity and an integer dtype. Then gymnasium
    stores the limit of the dtype as the bound, and a flag False (``gymnasium/spaces/box.py``
    ``_cast_low``).
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


def _integer_dtype(dtype: object, place: Place) -> str:
    name = fields.dtype_to_json(dtype, place.at("dtype"))
    if fields.dtype_from_json(name, place).kind not in "iu":
        place.fail(f"expected an integer dtype, found {name}")
    return name


def discrete_to_json(space: Any, place: Place) -> JsonObject:
    """Write the fields of a Discrete."""
    return {
        "dtype": _integer_dtype(space.dtype, place),
        "n": fields.scalar_to_json(space.n, space.dtype, place.at("n")),
        "start": fields.scalar_to_json(space.start, space.dtype, place.at("start")),
    }


def discrete_from_json(written: JsonObject, place: Place) -> Space[Any]:
    """Read a Discrete."""
    dtype = fields.dtype_from_json(written["dtype"], place.at("dtype"))
    _integer_dtype(dtype, place)
    n = int(fields.scalar_from_json(written["n"], dtype, place.at("n")))
    start = int(fields.scalar_from_json(written["start"], dtype, place.at("start")))
    # The constructor has the argument dtype only from gymnasium 1.2 on, so the default dtype is not
    # passed.
    if dtype == _INT64:
        return build(GYMNASIUM, "Discrete", place, n=n, start=start)
    return build(GYMNASIUM, "Discrete", place, n=n, start=start, dtype=dtype)


def multi_discrete_to_json(space: Any, place: Place) -> JsonObject:
    """Write the fields of a MultiDiscrete of any number of axes."""
    written: JsonObject = {
        "dtype": _integer_dtype(space.dtype, place),
        "shape": fields.shape_to_json(space.shape, place),
    }
    for field in ("nvec", "start"):
        array = fields.owned_array(getattr(space, field), space.dtype, space.shape, place.at(field))
        written[field] = fields.array_to_json(array)
    return written


def multi_discrete_from_json(written: JsonObject, place: Place) -> Space[Any]:
    """Read a MultiDiscrete."""
    dtype = fields.dtype_from_json(written["dtype"], place.at("dtype"))
    _integer_dtype(dtype, place)
    shape = fields.shape_from_json(written["shape"], place.at("shape"))
    nvec = fields.array_from_json(written["nvec"], dtype, shape, place.at("nvec"))
    start = fields.array_from_json(written["start"], dtype, shape, place.at("start"))
    return build(GYMNASIUM, "MultiDiscrete", place, nvec=nvec, start=start, dtype=dtype)


def multi_binary_to_json(space: Any, place: Place) -> JsonObject:
    """Write the field of a MultiBinary: a number or a shape."""
    shape = fields.shape_to_json(space.shape, place)
    # gymnasium remembers whether n was a number or a shape, and its == distinguishes the two.
    return {"n": shape if type(space.n) is tuple else fields.integer(space.n, place.at("n"))}


def multi_binary_from_json(written: JsonObject, place: Place) -> Space[Any]:
    """Read a MultiBinary."""
    n = written["n"]
    shape = fields.shape_from_json(n if type(n) is list else [n], place.at("n"))
    return build(GYMNASIUM, "MultiBinary", place, n=shape if type(n) is list else n)


def text_to_json(space: Any, place: Place) -> JsonObject:
    """Write the fields of a Text, with its characters in their order."""
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


def text_from_json(written: JsonObject, place: Place) -> Space[Any]:
    """Read a Text."""
    charset = fields.typed(written["charset"], str, place.at("charset"))
    _check_charset(charset, place)
    return build(
        GYMNASIUM,
        "Text",
        place,
        min_length=fields.integer(written["min_length"], place.at("min_length")),
        max_length=fields.integer(written["max_length"], place.at("max_length")),
        charset=charset,
    )


def _check_charset(charset: str, place: Place) -> None:
    # A Text that repeats a character cannot be sampled; gymnasium 1.4 drops the repetition.
    if len(set(charset)) != len(charset) or not fields.is_text(charset):
        place.fail("the charset holds a character twice, or a lone surrogate")


def simplex_to_json(space: Any, place: Place) -> JsonObject:
    """Write the fields of RLlib's Simplex (``ray/rllib/utils/spaces/simplex.py:8``)."""
    name = fields.dtype_to_json(space.dtype, place.at("dtype"))
    shape = fields.shape_to_json(space.shape, place)
    inner = place.at("concentration")
    array = space.concentration
    if not isinstance(array, np.ndarray) or array.shape != tuple(shape[-1:]):
        inner.fail(f"expected a numpy array of shape {tuple(shape[-1:])}, found {brief(array)}")
    concentration = {"dtype": fields.dtype_to_json(array.dtype, inner)}
    _check_concentration(array, inner)
    concentration["values"] = fields.array_to_json(array)
    return {"dtype": name, "shape": shape, "concentration": concentration}


def simplex_from_json(written: JsonObject, place: Place) -> Space[Any]:
    """Read a Simplex, which imports RLlib."""
    dtype = fields.dtype_from_json(written["dtype"], place.at("dtype"))
    shape = fields.shape_from_json(written["shape"], place.at("shape"))
    inner = place.at("concentration")
    written = fields.typed(written["concentration"], dict, inner)
    if written.keys() != {"dtype", "values"}:
        inner.fail(f"expected the keys dtype and values, found {brief(sorted(written, key=str))}")
    array_dtype = fields.dtype_from_json(written["dtype"], inner)
    array = fields.array_from_json(written["values"], array_dtype, shape[-1:], inner)
    _check_concentration(array, inner)
    return build(SIMPLEX, "Simplex", place, shape=shape, concentration=array, dtype=dtype)


def _check_concentration(array: Array, place: Place) -> None:
    # A Simplex with NaN is not equal to itself, because its == is np.allclose.
    if array.dtype.kind == "b" or array.ndim != 1 or np.isnan(array).any():
        place.fail("expected one number, not NaN, for each element of the last axis")
