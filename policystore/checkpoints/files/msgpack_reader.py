"""Reads msgpack as RLlib writes it, with msgpack-numpy's arrays in it; decoded here, never by it.

msgpack-numpy unpickles what it finds under ``kind: O``; this does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from policystore.checkpoints.files.pickle_reader import array_of, dtype_of
from policystore.checkpoints.files.placeholders import UnbuiltObject
from policystore.errors import FormatError, InvalidInputError

__all__ = ["read_msgpack"]

_MOST = 1_000_000  # items of one list, for which memory is taken before they are read


def read_msgpack(data: bytes, what: str) -> Any:
    """What a msgpack file says, as plain values, arrays and stand-ins.

    Args:
        data: the file.
        what: how messages name it.

    Raises:
        FormatError: no msgpack, a damaged one, or more than one value.
        InvalidInputError: the package msgpack is not installed.
    """
    try:
        import msgpack  # late: only such checkpoints need it
    except ImportError:
        raise InvalidInputError(
            f"{what}: msgpack checkpoints need the package msgpack, which is not installed: "
            "pip install msgpack"
        ) from None
    try:
        return msgpack.unpackb(
            data, strict_map_key=False, object_hook=_hook, ext_hook=_ext, raw=False,
            unicode_errors="surrogatepass", max_array_len=_MOST, max_map_len=_MOST,
        )  # fmt: skip
    except FormatError as error:
        raise FormatError(f"{what} is not a msgpack file that can be read: {error}") from None
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        said = f"{type(error).__name__}: {error}"[:200]
        raise FormatError(f"{what} is not a msgpack file that can be read: {said}") from None


def _hook(found: dict[Any, Any]) -> Any:
    is_array = found.get(b"nd", found.get("nd"))
    if is_array is None:
        return found
    get = {str(k, "latin-1") if isinstance(k, bytes) else k: v for k, v in found.items()}.get
    code = get("type")
    kind = get("kind")
    if kind in (b"O", "O", b"V", "V") or not isinstance(code, (str, bytes)):
        return UnbuiltObject("an array", tuple(found.values()))
    dtype = dtype_of(code if isinstance(code, str) else str(code, "latin-1"))
    shape = get("shape") if is_array else ()
    if not isinstance(shape, (list, tuple)):
        raise FormatError("an array without a shape")
    value = array_of(get("data"), dtype, tuple(shape))
    return value[()] if not is_array and isinstance(value, np.ndarray) else value


def _ext(code: int, data: bytes) -> Any:
    return UnbuiltObject("a msgpack extension", (code, data))
