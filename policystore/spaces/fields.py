"""The fields of a space in JSON: dtypes, numbers, arrays, shapes and keys, with their limits.

``docs/spaces.md`` is the normative text. Every function takes a
:class:`~policystore.spaces.place.Place`, which names the field in messages, counts against the
limits, and raises the error.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from policystore._util.messages import brief
from policystore.errors import InvalidInputError
from policystore.format.arrays import Array
from policystore.format.canonical_json import Json
from policystore.spaces.place import Place

__all__ = [
    "MAX_DIMENSIONS",
    "MAX_ELEMENTS",
    "MAX_KEY_NESTING",
    "array_from_json",
    "array_to_json",
    "dtype_from_json",
    "dtype_to_json",
    "integer",
    "is_text",
    "key_from_json",
    "key_to_json",
    "owned_array",
    "scalar_from_json",
    "scalar_to_json",
    "shape_from_json",
    "shape_to_json",
    "typed",
]

MAX_ELEMENTS = 2**24
"""How many array elements all spaces of one tree may have together."""

MAX_DIMENSIONS = 32
"""How many axes one space may have; arrays of numpy 1 have no more."""

MAX_KEY_NESTING = 4
"""How many levels of tuples one key of a Dict space may have."""

_INT_MAX = 2**63 - 1

_CODES = {
    "bool": "?",
    "int8": "b",
    "uint8": "B",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
    "float16": "e",
    "float32": "f",
    "float64": "d",
}
"""Name in JSON -> code of :mod:`struct`, which reads and writes one element exactly."""

# To gymnasium's ==, a big-endian dtype differs from the same dtype in little-endian order.
_DTYPES: dict[str, np.dtype[Any]] = {
    **{name: np.dtype(name).newbyteorder("<") for name in _CODES},
    **{
        big.str: big
        for big in (np.dtype(name).newbyteorder(">") for name in _CODES)
        if big.itemsize > 1
    },
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def typed(value: Json, kind: type, place: Place) -> Any:
    """Return ``value`` if its type is exactly ``kind``; else raise the error of ``place``."""
    if type(value) is not kind:
        place.fail(f"expected {kind.__name__}, found {brief(value)}")
    return value


def integer(value: object, place: Place, *, low: int = 0) -> int:
    """Return an integer of ``[low, 2**63 - 1]`` as an int; else raise the error of ``place``.

    A bool is refused. When a space is written, numpy integers are accepted, too.
    """
    if isinstance(value, np.integer) and place.limits.error is InvalidInputError:
        value = int(value)
    if type(value) is not int or not low <= value <= _INT_MAX:
        place.fail(f"expected an integer from {low} to 2**63 - 1, found {brief(value)}")
    return value


def dtype_to_json(dtype: object, place: Place) -> str:
    """Return the name of a dtype, such as ``float32``, or ``>f4`` for a big-endian dtype."""
    name = _NAMES.get(dtype) if isinstance(dtype, np.dtype) else None
    if name is None:
        place.fail(
            f"the dtype {brief(dtype)} cannot be kept; known are {', '.join(_NAMES.values())}"
        )
    return name


def dtype_from_json(value: Json, place: Place) -> np.dtype[Any]:
    """Return the dtype of a name that :func:`dtype_to_json` wrote."""
    dtype = _DTYPES.get(value) if type(value) is str else None
    if dtype is None:
        place.fail(f"expected one of {', '.join(_DTYPES)}; found {brief(value)}")
    return dtype


def shape_to_json(shape: object, place: Place) -> list[int]:
    """Return a shape as a list, and count its elements against the limits."""
    if type(shape) is not tuple:
        place.fail(f"expected a tuple of axis lengths, found {brief(shape)}")
    return _count(shape, place)


def shape_from_json(value: Json, place: Place) -> tuple[int, ...]:
    """Read a shape and count its elements against the limits, before anything is allocated."""
    return tuple(_count(typed(value, list, place), place))


def _count(shape: Sequence[object], place: Place) -> list[int]:
    if len(shape) > MAX_DIMENSIONS:
        place.fail(f"{len(shape)} axes; at most {MAX_DIMENSIONS} are possible")
    sizes = [integer(size, place) for size in shape]
    # Without max(1, …), an axis of length 0 would hide another axis of length 10**12.
    elements = math.prod(max(1, size) for size in sizes)
    place.limits.elements += elements * place.copies
    if place.limits.elements > MAX_ELEMENTS:
        place.fail(f"the space describes more than {MAX_ELEMENTS} array elements in all")
    return sizes


def owned_array(value: object, dtype: np.dtype[Any], shape: tuple[int, ...], place: Place) -> Array:
    """Return ``value`` if it is an array of this dtype and shape; else raise ``place``'s error.

    gymnasium's constructors make such arrays. Another value was set after the construction.
    """
    if not isinstance(value, (np.ndarray, np.generic)):
        place.fail(f"expected a numpy array, found {brief(value)}")
    if value.dtype != dtype or value.shape != shape:
        place.fail(
            f"expected an array of dtype {dtype} and shape {shape}, found {value.dtype} and "
            f"{value.shape}: the space was changed after it was built. Build it anew."
        )
    return np.asarray(value)


def array_to_json(array: Array) -> Json:
    """Write the elements of an array, whose dtype and shape are other fields.

    If all elements are equal bit for bit, the result is one element: a number, a bool, or
    hexadecimal digits for an element that JSON cannot hold. Otherwise, and for an array without
    elements, the result is the bytes of all elements in hexadecimal, little-endian, in C order.
    """
    little = array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1)
    patterns = little.view(f"<u{little.itemsize}")
    if patterns.size and (patterns == patterns[0]).all():
        return _element_to_json(little[0].tobytes(), array.dtype)
    return little.tobytes().hex()


def array_from_json(
    value: Json, dtype: np.dtype[Any], shape: tuple[int, ...], place: Place
) -> Array:
    """Read what :func:`array_to_json` wrote, into a new, writable array.

    This function does not check that ``value`` is the canonical form of the array; the caller
    writes the whole space again and compares.

    Args:
        value: the JSON.
        dtype: the dtype of the array.
        shape: a shape from :func:`shape_from_json`, which has counted its elements.
        place: the field.
    """
    count = math.prod(shape)
    if type(value) is str and len(value) == 2 * dtype.itemsize * count:
        little = np.frombuffer(_unhex(value, dtype, place), dtype.newbyteorder("<"))
        return little.astype(dtype).reshape(shape)
    return np.full(shape, scalar_from_json(value, dtype, place), dtype)


def scalar_to_json(value: object, dtype: np.dtype[Any], place: Place) -> Json:
    """Write one integer, which must fit an integer dtype."""
    if isinstance(value, np.integer):
        value = int(value)
    bounds = np.iinfo(dtype)
    if type(value) is not int or not bounds.min <= value <= bounds.max:
        place.fail(f"expected an integer that fits {dtype}, found {brief(value)}")
    return _element_to_json(struct.pack("<" + _CODES[dtype.name], value), dtype)


def scalar_from_json(value: Json, dtype: np.dtype[Any], place: Place) -> Any:
    """Read one element, as a numpy scalar of the little-endian dtype.

    The JSON is a boolean, integer or float according to the dtype. An element without such a form
    (an infinity, or an integer beyond 2**63 - 1) is written as hexadecimal digits.
    """
    if type(value) is str:
        if len(value) != 2 * dtype.itemsize:
            place.fail(
                f"expected a number or hexadecimal digits of one or all elements of {dtype}, "
                f"found {brief(value)}"
            )
        data = _unhex(value, dtype, place)
    else:
        data = _element_from_json(value, dtype, place)
    return np.frombuffer(data, dtype.newbyteorder("<"))[0]


def _element_to_json(data: bytes, dtype: np.dtype[Any]) -> Json:
    (value,) = struct.unpack("<" + _CODES[dtype.name], data)
    if isinstance(value, float):
        return value if math.isfinite(value) else data.hex()
    return value if value <= _INT_MAX else data.hex()


def _element_from_json(value: Json, dtype: np.dtype[Any], place: Place) -> bytes:
    kind = {"b": bool, "i": int, "u": int, "f": float}[dtype.kind]
    code = "<" + _CODES[dtype.name]
    try:
        data = struct.pack(code, typed(value, kind, place))
        exact = struct.unpack(code, data)[0] == value
    except (struct.error, OverflowError):
        exact = False
    if not exact:
        place.fail(f"{brief(value)} is not a number of dtype {dtype}")
    return data


def _unhex(value: str, dtype: np.dtype[Any], place: Place) -> bytes:
    try:
        data = bytes.fromhex(value)
    except ValueError:
        data = b""
    if data.hex() != value:
        place.fail(f"expected lower-case hexadecimal digits, found {brief(value)}")
    if dtype.kind == "b" and data.strip(b"\0\1"):
        place.fail(f"a boolean is 00 or 01, found {brief(value)}")
    return data


def key_to_json(key: object, place: Place, depth: int = 0) -> Json:
    """Write a key of a Dict space: None, bool, int, finite float, str, or a tuple of these.

    A tuple becomes a list; numpy integers and strings become plain ones.
    """
    if isinstance(key, np.integer):
        key = int(key)
    elif type(key) is np.str_:
        key = str(key)
    if type(key) is tuple and depth < MAX_KEY_NESTING:
        return [key_to_json(item, place, depth + 1) for item in key]
    if not _is_plain_key(key):
        place.fail(
            f"the key {brief(key)} of type {type(key).__qualname__} cannot be kept. Keys are "
            "None, bool, 64-bit int, finite float, str without lone surrogates, or tuples of these."
        )
    return key


def key_from_json(value: Json, place: Place, depth: int = 0) -> Any:
    """Read a key that :func:`key_to_json` wrote."""
    if type(value) is list and depth < MAX_KEY_NESTING:
        return tuple(key_from_json(item, place, depth + 1) for item in value)
    if not _is_plain_key(value):
        place.fail(f"{brief(value)} is not a key of a Dict space")
    return value


def _is_plain_key(key: object) -> bool:
    if type(key) is int:
        return -_INT_MAX - 1 <= key <= _INT_MAX
    if type(key) is float:
        return math.isfinite(key)
    if type(key) is str:
        return is_text(key)
    return key is None or type(key) is bool


def is_text(value: str) -> bool:
    """Return whether a string has a UTF-8 form; a string with a lone surrogate has none."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
