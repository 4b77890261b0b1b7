"""The fields of a space in JSON: dtypes, numbers, arrays, shapes, keys, and what bounds them.

``docs/spaces.md`` is the normative text. Every function works at a :class:`Place`, which names the
field in messages, counts what has been used of the limits, and knows which error to raise.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np

from policystore.errors import FormatError, InvalidInputError
from policystore.format.arrays import Array
from policystore.format.canonical_json import Json

__all__ = [
    "MAX_DIMENSIONS",
    "MAX_ELEMENTS",
    "MAX_KEY_NESTING",
    "MAX_NESTING",
    "MAX_SPACES",
    "Limits",
    "Place",
    "array_from_json",
    "array_to_json",
    "brief",
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

MAX_NESTING = 24
"""Spaces within spaces. At this depth the JSON has at most 52 levels, so that it still fits into
the 64 of canonical JSON where it stands inside a spec."""

MAX_SPACES = 2**14
"""Spaces in one tree, what gymnasium copies for stacking included."""

MAX_ELEMENTS = 2**24
"""Array elements that the spaces of one tree describe together."""

MAX_DIMENSIONS = 32
"""Axes of one space; numpy 1 has no more."""

MAX_KEY_NESTING = 4
"""Tuples within tuples in one key of a Dict space."""

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

# A big-endian dtype is another dtype than its little-endian twin to gymnasium's ==.
_DTYPES: dict[str, np.dtype[Any]] = {
    **{name: np.dtype(name).newbyteorder("<") for name in _CODES},
    **{
        big.str: big
        for big in (np.dtype(name).newbyteorder(">") for name in _CODES)
        if big.itemsize > 1
    },
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass
class Limits:
    """What one tree of spaces has used, and the error that says it was too much.

    Attributes:
        error: InvalidInputError when writing, FormatError when reading.
        spaces, elements: counted so far.
    """

    error: type[FormatError] | type[InvalidInputError]
    spaces: int = 0
    elements: int = 0


@dataclass(frozen=True)
class Place:
    """Where in a tree of spaces we are.

    Attributes:
        where: how messages name it, such as ``space.spaces['camera'].low``.
        limits: shared by the whole tree.
        level: how many spaces enclose this place, its own one included.
        copies: how often gymnasium holds what stands here.
    """

    where: str
    limits: Limits = field(repr=False)
    level: int = 0
    copies: int = 1

    def at(self, name: str) -> Place:
        """The field ``name`` of this space."""
        return replace(self, where=f"{self.where}.{name}")

    def inner(self, name: str, *, copies: int = 1) -> Place:
        """A space that stands in this one; ``copies`` as gymnasium multiplies it there."""
        return replace(self.at(name), copies=self.copies * copies)

    def enter(self) -> Place:
        """Count one space.

        Raises:
            InvalidInputError, FormatError: nested too deeply, or too many spaces.
        """
        if self.level >= MAX_NESTING:
            self.fail(f"spaces nested more than {MAX_NESTING} deep, or within themselves")
        self.limits.spaces += self.copies
        if self.limits.spaces > MAX_SPACES:
            self.fail(f"more than {MAX_SPACES} spaces in one space")
        return replace(self, level=self.level + 1)

    def fail(self, message: str) -> NoReturn:
        """Raise the error of this direction, naming the place."""
        raise self.limits.error(f"{self.where}: {message}")


def brief(value: object) -> str:
    """A value in a message: short whatever it is, and without recursion into containers."""
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and abs(value) > 2**64:
        return "an integer of more than 64 bits"
    if isinstance(value, str) and len(value) > 60:
        return f"{value[:50]!r}… ({len(value)} characters)"
    text = repr(value)
    return text if len(text) <= 90 else text[:80] + "…"


def typed(value: Json, kind: type, place: Place) -> Any:
    """``value`` if it is exactly of this JSON type, else the error of the place."""
    if type(value) is not kind:
        place.fail(f"expected {kind.__name__}, found {brief(value)}")
    return value


def integer(value: object, place: Place, *, low: int = 0) -> int:
    """A plain or numpy integer in ``[low, 2**63 - 1]`` (not a bool) as an int."""
    if isinstance(value, np.integer) and place.limits.error is InvalidInputError:
        value = int(value)
    if type(value) is not int or not low <= value <= _INT_MAX:
        place.fail(f"expected an integer from {low} to 2**63 - 1, found {brief(value)}")
    return value


def dtype_to_json(dtype: object, place: Place) -> str:
    """The name of a dtype: numpy's own (``float32``), or ``>f4`` and the like if big-endian."""
    name = _NAMES.get(dtype) if isinstance(dtype, np.dtype) else None
    if name is None:
        place.fail(
            f"the dtype {brief(dtype)} cannot be kept; known are {', '.join(_NAMES.values())}"
        )
    return name


def dtype_from_json(value: Json, place: Place) -> np.dtype[Any]:
    """The inverse of :func:`dtype_to_json`."""
    dtype = _DTYPES.get(value) if type(value) is str else None
    if dtype is None:
        place.fail(f"expected one of {', '.join(_DTYPES)}; found {brief(value)}")
    return dtype


def shape_to_json(shape: object, place: Place) -> list[int]:
    """A shape as a list; counts its elements against the limits."""
    if type(shape) is not tuple:
        place.fail(f"expected a tuple of axis lengths, found {brief(shape)}")
    return _count(shape, place)


def shape_from_json(value: Json, place: Place) -> tuple[int, ...]:
    """The inverse of :func:`shape_to_json`; nothing is allocated before this has passed."""
    return tuple(_count(typed(value, list, place), place))


def _count(shape: Sequence[object], place: Place) -> list[int]:
    if len(shape) > MAX_DIMENSIONS:
        place.fail(f"{len(shape)} axes; at most {MAX_DIMENSIONS} are possible")
    sizes = [integer(size, place) for size in shape]
    # An axis of length 0 must not excuse another of length 10**12.
    elements = math.prod(max(1, size) for size in sizes)
    place.limits.elements += elements * place.copies
    if place.limits.elements > MAX_ELEMENTS:
        place.fail(f"the space describes more than {MAX_ELEMENTS} array elements in all")
    return sizes


def owned_array(value: object, dtype: np.dtype[Any], shape: tuple[int, ...], place: Place) -> Array:
    """``value`` if it is an array of this dtype and shape, as gymnasium's constructors make it."""
    if not isinstance(value, (np.ndarray, np.generic)):
        place.fail(f"expected a numpy array, found {brief(value)}")
    if value.dtype != dtype or value.shape != shape:
        place.fail(
            f"expected an array of dtype {dtype} and shape {shape}, found {value.dtype} and "
            f"{value.shape}: the space was changed after it was built. Build it anew."
        )
    return np.asarray(value)


def array_to_json(array: Array) -> Json:
    """An array whose dtype and shape stand beside it.

    Bit for bit equal elements make one scalar, anything else (no elements too) hexadecimal digits
    of all elements, little-endian, in C order.
    """
    little = array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1)
    patterns = little.view(f"<u{little.itemsize}")
    if patterns.size and (patterns == patterns[0]).all():
        return _element_to_json(little[0].tobytes(), array.dtype)
    return little.tobytes().hex()


def array_from_json(
    value: Json, dtype: np.dtype[Any], shape: tuple[int, ...], place: Place
) -> Array:
    """The inverse of :func:`array_to_json`: a new, writable array.

    ``shape`` has passed :func:`shape_from_json`. That ``value`` is the one way of writing this
    array is left to the caller, who writes the whole space again and compares.
    """
    count = math.prod(shape)
    if type(value) is str and len(value) == 2 * dtype.itemsize * count:
        little = np.frombuffer(_unhex(value, dtype, place), dtype.newbyteorder("<"))
        return little.astype(dtype).reshape(shape)
    return np.full(shape, scalar_from_json(value, dtype, place), dtype)


def scalar_to_json(value: object, dtype: np.dtype[Any], place: Place) -> Json:
    """One integer of an integer dtype, which it must fit."""
    if isinstance(value, np.integer):
        value = int(value)
    bounds = np.iinfo(dtype)
    if type(value) is not int or not bounds.min <= value <= bounds.max:
        place.fail(f"expected an integer that fits {dtype}, found {brief(value)}")
    return _element_to_json(struct.pack("<" + _CODES[dtype.name], value), dtype)


def scalar_from_json(value: Json, dtype: np.dtype[Any], place: Place) -> Any:
    """One element as a numpy scalar of the little-endian dtype.

    A JSON boolean, integer or float according to the dtype; what has no such form (an infinity, an
    integer beyond 2**63 - 1) as hexadecimal digits.
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
    """A key of a Dict space: None, bool, int, finite float, str, or a tuple of these (a list)."""
    if isinstance(key, np.integer):
        key = int(key)
    elif type(key) is np.str_:
        key = str(key)
    if type(key) is tuple and depth < MAX_KEY_NESTING:
        return [key_to_json(item, place, depth + 1) for item in key]
    if not _is_plain_key(key):
        place.fail(
            f"the key {brief(key)} of type {type(key).__qualname__} cannot be kept. Keys are None, "
            "bool, 64-bit int, finite float, str without lone surrogates, or tuples of these."
        )
    return key


def key_from_json(value: Json, place: Place, depth: int = 0) -> Any:
    """The inverse of :func:`key_to_json`."""
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
    """Whether a string has a UTF-8 form, which one with lone surrogates has not."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
