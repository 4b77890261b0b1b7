"""Arrays as the store keeps them: a fixed table of dtypes, bytes of their own, read-only views.

An array in a snapshot is C-contiguous and little-endian. Its memory cannot be written: it is an
immutable ``bytes`` object, or a read-only map of a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from policystore._util.late import LateTable, ml_dtypes, np
from policystore._util.messages import brief
from policystore.errors import InvalidInputError

if TYPE_CHECKING:
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[Any]
else:
    Array = Any  # to import numpy.typing imports numpy

__all__ = [
    "CODES",
    "DTYPES",
    "Array",
    "Arrays",
    "Weights",
    "check_tensor_name",
    "dtype_code",
    "is_shape",
    "own",
    "own_weights",
    "raw",
    "size_of",
    "view",
]

Weights: TypeAlias = Mapping[str, Array]


def _dtypes() -> dict[str, np.dtype[Any]]:
    return {
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


DTYPES = LateTable(_dtypes)
"""safetensors code -> numpy dtype, in the order of ``docs/format.md``. No other dtype can be kept.
Every safetensors release from 0.4 on reads these codes (float8 from 0.4.2 on)."""

CODES: LateTable[np.dtype[Any], str] = LateTable(
    lambda: {dtype: code for code, dtype in DTYPES.items()}
)

_MAX_RANK = 32  # dimensions of an array: the limit of numpy before its version 2

_MAX_BYTES = 2**62

_TORCH_HINT = " For torch tensors use policystore.torch or policystore.rllib."


def dtype_code(dtype: np.dtype[Any], label: str) -> str:
    """Return the safetensors code of a dtype of either byte order.

    Raises:
        InvalidInputError: the dtype is not in the table (complex, object, text, sub-byte, …).
    """
    code = CODES.get(dtype)
    if code is None and dtype.kind in "iuf":
        code = CODES.get(dtype.newbyteorder("<"))
    if code is None:
        raise InvalidInputError(
            f"{label}: arrays of dtype {dtype} cannot be stored. Storable are: "
            + ", ".join(str(known) for known in CODES)
        )
    return code


def own(value: object, label: str) -> Array:
    """Return a read-only copy of ``value``: C-contiguous, little-endian, of the same shape.

    The memory of the copy is a ``bytes`` object. So numpy also refuses to set ``flags.writeable``
    on the copy.

    Args:
        value: a numpy array or numpy scalar, of any memory layout and byte order.
        label: how messages name the value.

    Raises:
        InvalidInputError: not an array, or of a dtype outside :data:`DTYPES`.
    """
    if not isinstance(value, (np.ndarray, np.generic)):
        hint = _TORCH_HINT if type(value).__module__.split(".")[0] == "torch" else ""
        if isinstance(value, Mapping):
            hint = f" Weights are not nested: give {label} alone, or the names 'outer/inner'."
        raise InvalidInputError(
            f"{label}: expected a numpy array, found {type(value).__module__}."
            f"{type(value).__qualname__}.{hint}"
        )
    if isinstance(value, np.ma.MaskedArray):
        raise InvalidInputError(
            f"{label}: a masked array would lose its mask; store array.filled(…) or its parts"
        )
    array = np.asarray(value)
    dtype = DTYPES[dtype_code(array.dtype, label)]
    if array.ndim > _MAX_RANK:
        raise InvalidInputError(f"{label}: {array.ndim} dimensions; at most {_MAX_RANK} are stored")
    if array.dtype == np.bool_:
        # To numpy, each byte except 0 is true. Here True is always stored as the byte 1.
        array = array.view(np.uint8) != 0
    # tobytes() writes C order for all strides, and astype() changes the byte order.
    return view(array.astype(dtype, copy=False).tobytes(order="C"), dtype, array.shape)


def view(buffer: bytes | memoryview, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Return an array over ``buffer`` without a copy; the array is read-only if the buffer is."""
    array: Array = np.ndarray(shape, dtype, buffer=buffer)
    return array


class Arrays(Mapping[str, Array]):
    """Read-only arrays by name; each access returns a new view.

    A caller who sets ``shape`` or ``dtype`` on a view changes that view alone.
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
    """Return the bytes of a C-contiguous array without a copy; 0-d, empty and bf16 arrays work."""
    if array.size == 0:
        return memoryview(b"")
    # numpy declares no buffer protocol to type checkers.
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def own_weights(weights: object, label: str = "weights") -> dict[str, Array]:
    """Return owned copies of parameter name -> array, in code-point order of the names.

    Raises:
        InvalidInputError: not a mapping, or a name or array that cannot be stored.
    """
    if not isinstance(weights, Mapping):
        raise InvalidInputError(
            f"{label}: expected a mapping of parameter name to array, "
            f"found {type(weights).__qualname__}"
        )
    for name in weights:
        check_tensor_name(name, label)
    # A subclass of str, such as an enum, may print another text than the one it holds.
    return {str.__str__(name): own(weights[name], f"{label}[{name!r}]") for name in sorted(weights)}


def check_tensor_name(name: object, label: str) -> None:
    """Check that a safetensors file can hold a parameter name, and the format does not reserve it.

    Raises:
        InvalidInputError: the name is no string or empty, starts with ``__``, or has no UTF-8 form.
    """
    if not isinstance(name, str) or name == "":
        raise InvalidInputError(
            f"{label}: a parameter name is a non-empty string; found {name!r}"
            + (". Flatten nested weights to 'outer/inner' names." if name != "" else "")
        )
    if name.startswith("__"):
        raise InvalidInputError(
            f"{label}: the name {brief(name)} starts with '__', which is reserved for the format"
        )
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidInputError(f"{label}: the name {brief(name)} holds a lone surrogate") from None


def is_shape(shape: object, itemsize: int) -> bool:
    """Return whether ``shape`` is a list of dimensions that numpy can index.

    Args:
        shape: any value, such as one parsed from a hostile file; the check takes bounded time.
        itemsize: bytes of one element.
    """
    if not isinstance(shape, list) or len(shape) > _MAX_RANK:
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
    """Return the size of an array in bytes, computed with Python integers, which never overflow."""
    return math.prod(shape) * dtype.itemsize
