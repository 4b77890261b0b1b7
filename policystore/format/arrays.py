"""Arrays as the store keeps them: a closed table of dtypes, owned bytes, read-only views.

An array in a snapshot is C-contiguous, little-endian, and backed by memory that nobody can write:
an immutable ``bytes`` object, or a read-only map of a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from policystore.errors import InvalidInputError
from policystore.format.canonical_json import brief

__all__ = [
    "CODES",
    "DTYPES",
    "Array",
    "Arrays",
    "Weights",
    "dtype_code",
    "own",
    "own_weights",
    "raw",
    "view",
]

Array: TypeAlias = npt.NDArray[Any]
Weights: TypeAlias = Mapping[str, Array]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
    "F64": np.dtype("<f8"),
}
"""safetensors code -> numpy dtype, in the order of ``docs/format.md``. The table is closed: these
are the codes that every safetensors release from 0.4 on reads (float8 from 0.4.2 on)."""

CODES: dict[np.dtype[Any], str] = {dtype: code for code, dtype in DTYPES.items()}

MAX_RANK = 32
"""Dimensions of an array: the limit of numpy before its version 2."""

_MAX_BYTES = 2**62

_TORCH_HINT = " A torch tensor comes in through policystore.torch or policystore.rllib."


def dtype_code(dtype: np.dtype[Any], what: str) -> str:
    """The safetensors code of a dtype of either byte order.

    Raises:
        InvalidInputError: the dtype is not in the table (complex, object, text, sub-byte, …).
    """
    code = CODES.get(dtype)
    if code is None and dtype.kind in "iuf":
        code = CODES.get(dtype.newbyteorder("<"))
    if code is None:
        raise InvalidInputError(
            f"{what}: arrays of dtype {dtype} cannot be stored. Storable are: "
            + ", ".join(str(known) for known in CODES)
        )
    return code


def own(value: object, what: str) -> Array:
    """A read-only copy of ``value``: C-contiguous, little-endian, same shape (also ``()``).

    The copy is backed by ``bytes``, so that even ``flags.writeable = True`` is refused on it.

    Args:
        value: a numpy array or numpy scalar, of any memory layout and byte order.
        what: how messages name it.

    Raises:
        InvalidInputError: not an array, or of a dtype outside :data:`DTYPES`.
    """
    if not isinstance(value, (np.ndarray, np.generic)):
        hint = _TORCH_HINT if type(value).__module__.split(".")[0] == "torch" else ""
        raise InvalidInputError(
            f"{what}: expected a numpy array, found {type(value).__module__}."
            f"{type(value).__qualname__}.{hint}"
        )
    if isinstance(value, np.ma.MaskedArray):
        raise InvalidInputError(
            f"{what}: a masked array would lose its mask; store array.filled(…) or its parts"
        )
    array = np.asarray(value)
    dtype = DTYPES[dtype_code(array.dtype, what)]
    if array.ndim > MAX_RANK:
        raise InvalidInputError(f"{what}: {array.ndim} dimensions; at most {MAX_RANK} are stored")
    if array.dtype == np.bool_:
        # Any byte but 0 counts as true to numpy: one value, one byte.
        array = array.view(np.uint8) != 0
    # tobytes() writes C order whatever the strides; astype() turns the byte order round.
    return view(array.astype(dtype, copy=False).tobytes(order="C"), dtype, array.shape)


def view(buffer: bytes | memoryview, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """An array over ``buffer``, read-only if the buffer is; no copy."""
    array: Array = np.ndarray(shape, dtype, buffer=buffer)
    return array


class Arrays(Mapping[str, Array]):
    """Read-only arrays by name, each access a view of its own.

    So setting ``shape`` or ``dtype`` on what was handed out changes nothing that anybody else sees.
    """

    def __init__(self, arrays: dict[str, Array]) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> Array:
        array: Array = self._arrays[name].view()
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        shown = [f"{name!r}: {a.dtype}{list(a.shape)}" for name, a in self._arrays.items()]
        return "{" + ", ".join(shown) + "}"


def raw(array: Array) -> memoryview:
    """The bytes of a C-contiguous array, without a copy (also of 0-d, empty and bf16 ones)."""
    if array.size == 0:
        return memoryview(b"")
    # numpy declares no buffer protocol to type checkers.
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def own_weights(weights: object, what: str = "weights") -> dict[str, Array]:
    """Owned copies of a flat mapping of parameter name to array, in code-point order of names.

    Raises:
        InvalidInputError: not a mapping, or a name or array that cannot be stored.
    """
    if not isinstance(weights, Mapping):
        raise InvalidInputError(
            f"{what}: expected a mapping of parameter name to array, "
            f"found {type(weights).__qualname__}"
        )
    for name in weights:
        check_tensor_name(name, what)
    # A subclass of str, such as an enum, prints in ways of its own: only its text counts.
    return {str.__str__(name): own(weights[name], f"{what}[{name!r}]") for name in sorted(weights)}


def check_tensor_name(name: object, what: str) -> None:
    """Refuse a parameter name that a safetensors file cannot hold or that is ours."""
    if not isinstance(name, str) or name == "":
        raise InvalidInputError(
            f"{what}: a parameter name is a non-empty string; found {name!r}"
            + (". Flatten nested weights to 'outer/inner' names." if name != "" else "")
        )
    if name.startswith("__"):
        raise InvalidInputError(
            f"{what}: the name {brief(name)} starts with '__', which is kept for the format itself"
        )
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidInputError(f"{what}: the name {brief(name)} holds a lone surrogate") from None


def is_shape(shape: object, itemsize: int) -> bool:
    """Whether ``shape`` is a list of dimensions that numpy can index, in bounded time."""
    if not isinstance(shape, list) or len(shape) > MAX_RANK:
        return False
    size = itemsize
    for count in shape:
        if type(count) is not int or not 0 <= count < _MAX_BYTES:
            return False
        size *= max(count, 1)
        if size > _MAX_BYTES:
            return False
    return True


def size_of(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Bytes of an array, in Python integers that cannot overflow."""
    return math.prod(shape) * dtype.itemsize
