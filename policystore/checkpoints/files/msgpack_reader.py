"""Reads msgpack as RLlib writes it, with the arrays of msgpack-numpy in it.

The arrays are decoded here and not by msgpack-numpy, which unpickles arrays of objects
(``kind: O``). Such an array becomes a placeholder.
"""

from __future__ import annotations

import numpy as np

from policystore.checkpoints.files.pickle_reader import array_of, dtype_of
from policystore.checkpoints.files.placeholders import UnbuiltObject
from policystore.errors import FormatError, MissingPackageError

__all__ = ["read_msgpack"]

# Items of one list or map: msgpack allocates memory for the length that the file states.
_MAX_ITEMS = 1_000_000


def read_msgpack(data: bytes, label: str) -> object:
    """Read a msgpack file as plain values, arrays and placeholders.

    Args:
        data: the file.
        label: names the file in error messages.

    Raises:
        FormatError: not msgpack, a damaged file, or more than one value.
        MissingPackageError: the package msgpack is not installed.
    """
    try:
        import msgpack  # late: only checkpoints with msgpack files need it
    except ImportError:
        raise MissingPackageError.of(
            f"{label}: a msgpack checkpoint", "msgpack", install="msgpack"
        ) from None
    try:
        return msgpack.unpackb(
            data, strict_map_key=False, object_hook=_decode_map, ext_hook=_decode_extension,
            raw=False, unicode_errors="surrogatepass",
            max_array_len=_MAX_ITEMS, max_map_len=_MAX_ITEMS,
        )  # fmt: skip
    except FormatError as error:
        raise FormatError(f"{label} cannot be read as msgpack: {error}") from None
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise FormatError(f"{label} cannot be read as msgpack: {reason}") from None


def _decode_map(entries: dict[object, object]) -> object:
    """Return a map as it is, or the array or numpy scalar that msgpack-numpy wrote as a map."""
    is_array = entries.get(b"nd", entries.get("nd"))
    if is_array is None:
        return entries
    fields = {str(k, "latin-1") if isinstance(k, bytes) else k: v for k, v in entries.items()}
    code = fields.get("type")
    if fields.get("kind") in (b"O", "O", b"V", "V") or not isinstance(code, (str, bytes)):
        return UnbuiltObject("an array", tuple(entries.values()))
    dtype = dtype_of(code if isinstance(code, str) else str(code, "latin-1"))
    shape = fields.get("shape") if is_array else ()
    if not isinstance(shape, (list, tuple)):
        raise FormatError("an array has no shape")
    value = array_of(fields.get("data"), dtype, tuple(shape))
    return value[()] if not is_array and isinstance(value, np.ndarray) else value


def _decode_extension(code: int, data: bytes) -> UnbuiltObject:
    return UnbuiltObject("a msgpack extension", (code, data))
