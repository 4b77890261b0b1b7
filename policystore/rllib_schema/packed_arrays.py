"""Read the texts into which RLlib packs arrays: base64 of zlib of ``.npy``.

RLlib writes such a text with ``_serialize_ndarray`` and reads it with
``np.load(allow_pickle=True)`` (``ray/rllib/utils/serialization.py:64-94``), so that a hostile text
can run any code. The functions of this module parse the ``.npy`` bytes themselves. They read arrays
of numbers only, in bounded time and memory.
"""

from __future__ import annotations

import ast
import base64
import binascii
import math
import re
import zlib

import numpy as np

from policystore.errors import FormatError
from policystore.format.arrays import Array

__all__ = ["MAX_PACKED_BYTES", "is_packed_array", "unpack_array"]

MAX_PACKED_BYTES = 1 << 26
"""Bytes of one unpacked array and its header: more than any observation has."""

_MAX_HEADER_BYTES = 10_000
_MAX_DIMENSIONS = 32
_MAX_COUNT = 1 << 48
_MAGIC = re.compile(rb"\x93NUMPY([\x01-\x03])\x00")
_NUMBERS = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248]|c(?:8|16))")


def unpack_array(text: str, where: str) -> Array:
    """Read one array of numbers from a text that RLlib's ``_serialize_ndarray`` wrote.

    Args:
        text: base64 of zlib of ``.npy``.
        where: how messages name the text.

    Returns:
        The array, with the dtype, byte order and shape of the header. The caller must not change
        the array.

    Raises:
        FormatError: another text, an array of objects, texts or times, or one of more than
            :data:`MAX_PACKED_BYTES`.
    """
    try:
        packed = base64.b64decode(text, validate=True)
        inflater = zlib.decompressobj()
        npy = inflater.decompress(packed, MAX_PACKED_BYTES)
    except (binascii.Error, TypeError, ValueError, zlib.error) as error:
        raise FormatError(f"{where}: not an array as RLlib packs it: {error}") from None
    if inflater.unconsumed_tail:
        raise FormatError(f"{where}: an array of more than {MAX_PACKED_BYTES:,} bytes")
    return _parse_npy(npy, where)


def is_packed_array(text: str | bytes) -> bool:
    """Return whether RLlib's decoder would pass ``text`` on to ``np.load``.

    This function accepts as much as that decoder: ``base64.b64decode`` skips characters that are
    not base64. A text that unpacks to more than :data:`MAX_PACKED_BYTES` counts as an array, and is
    not unpacked to its end.
    """
    try:
        packed = base64.b64decode(text)
        inflater = zlib.decompressobj()
        npy = inflater.decompress(packed, MAX_PACKED_BYTES)
    except (binascii.Error, ValueError, zlib.error):
        return False
    return bool(npy) and (inflater.eof or bool(inflater.unconsumed_tail))


def _parse_npy(npy: bytes, where: str) -> Array:
    """Read an array from the bytes of a ``.npy`` file (numpy's ``numpy/lib/format.py``)."""
    magic = _MAGIC.match(npy)
    width = 2 if magic and magic[1] == b"\x01" else 4
    length = int.from_bytes(npy[8 : 8 + width], "little")
    if not magic or length > _MAX_HEADER_BYTES:
        raise FormatError(f"{where}: not an array as RLlib packs it")
    header, data = npy[8 + width : 8 + width + length], npy[8 + width + length :]
    try:
        fields = ast.literal_eval(header.decode("latin-1").strip())
        code, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        raise FormatError(f"{where}: an array with a damaged header") from None
    if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
        raise FormatError(f"{where}: an array of {str(code)[:200]}, not of numbers")
    dtype = np.dtype(code)
    if not _is_shape(shape) or math.prod(shape) * dtype.itemsize != len(data):
        raise FormatError(f"{where}: an array whose shape and {len(data):,} bytes do not fit")
    flat = np.frombuffer(data, dtype) if data else np.zeros(0, dtype)
    array: Array = flat.reshape(shape, order="F" if fortran is True else "C")
    return array


def _is_shape(shape: object) -> bool:
    return (
        isinstance(shape, tuple)
        and len(shape) <= _MAX_DIMENSIONS
        and all(type(count) is int and 0 <= count < _MAX_COUNT for count in shape)
    )
