"""Canonical safetensors: one set of named arrays, one file. ``docs/format.md`` section 3.

The header is written here rather than by the safetensors library, whose tensor order is a private
detail that changed between releases. What is written, any safetensors reader opens.

Reading is strict: a header is parsed, laid out again and compared, so that any other bytes for the
same content (padded, reordered, with holes, overlaps or repeated keys) are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from policystore.digest import Digest, digest_of
from policystore.errors import FormatError, InvalidInputError
from policystore.format.arrays import CODES, DTYPES, Array, is_shape, raw, size_of, view
from policystore.format.canonical_json import (
    Json,
    JsonObject,
    brief,
    canonical_json,
    parse_canonical,
)

__all__ = [
    "KEY",
    "MAX_HEADER",
    "META",
    "EncodedObject",
    "Layout",
    "Shapes",
    "declared_size",
    "encode_tensors",
    "header_layout",
    "parse_header",
    "parse_shape",
    "parse_shapes",
    "shapes_of",
    "views",
]

MAX_HEADER = 2 << 20
"""Longest header, in bytes: what a hostile file can make a reader parse."""

META = "__metadata__"
KEY = "policystore"

Shapes: TypeAlias = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""Tensor name -> dtype and shape."""


@dataclass(frozen=True)
class EncodedObject:
    """Bytes ready to be stored, in pieces that are views of the arrays, never joined."""

    digest: Digest
    size: int
    chunks: tuple[bytes | memoryview, ...]


@dataclass(frozen=True)
class Layout:
    """Where everything stands in a file."""

    header: bytes  # with its length in front
    offsets: dict[str, tuple[int, int]]  # into the whole file, in file order
    size: int


def header_layout(shapes: Shapes, meta: JsonObject | None) -> Layout:
    """Where every tensor stands: largest items first, so that each is aligned to its own size."""
    header: JsonObject = {}
    if meta is not None:
        header[META] = {KEY: canonical_json(meta).decode("utf-8")}
    ends: dict[str, tuple[int, int]] = {}
    position = 0
    for name in sorted(shapes, key=lambda name: (-shapes[name][0].itemsize, name)):
        dtype, shape = shapes[name]
        end = position + size_of(dtype, shape)
        ends[name] = (position, end)
        header[name] = {
            "dtype": CODES[dtype],
            "shape": list(shape),
            "data_offsets": [position, end],
        }
        position = end
    text = canonical_json(header)
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise InvalidInputError(
            f"the header takes {len(text)} bytes; a policy's names, shapes, spec and state may "
            f"take {MAX_HEADER}. Large values belong into arrays."
        )
    start = 8 + len(text)
    offsets = {name: (start + a, start + b) for name, (a, b) in ends.items()}
    return Layout(len(text).to_bytes(8, "little") + text, offsets, start + position)


def shapes_of(arrays: Mapping[str, Array]) -> Shapes:
    """Dtype and shape of each array."""
    return {name: (array.dtype, array.shape) for name, array in arrays.items()}


def encode_tensors(arrays: Mapping[str, Array], meta: JsonObject | None) -> EncodedObject:
    """The file of these arrays, with metadata under our key if ``meta`` is given."""
    where = header_layout(shapes_of(arrays), meta)
    chunks: tuple[bytes | memoryview, ...] = (
        where.header,
        *(raw(arrays[name]) for name in where.offsets),
    )
    return EncodedObject(digest_of(*chunks), where.size, chunks)


def parse_header(buffer: memoryview, what: str) -> tuple[JsonObject, int]:
    """The header as JSON, and where the data starts.

    Raises:
        FormatError: cut short, too long, or not canonical JSON.
    """
    if buffer.nbytes < 8:
        raise FormatError(f"{what}: {buffer.nbytes} bytes are too few for a safetensors file")
    length = int.from_bytes(buffer[:8], "little")
    if length > MAX_HEADER:
        raise FormatError(
            f"{what}: a header of {length} bytes, where {MAX_HEADER} are allowed: this is no "
            "safetensors file of policystore"
        )
    if 8 + length > buffer.nbytes:
        raise FormatError(
            f"{what}: cut short: the header says {length} bytes, the file has {buffer.nbytes}"
        )
    stripped = bytes(buffer[8 : 8 + length]).rstrip(b" ")
    header = parse_canonical(stripped, f"{what}: header")
    if not isinstance(header, dict):
        raise FormatError(f"{what}: the header is not a JSON object")
    return header, 8 + length


def parse_shape(item: Json, what: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Dtype and shape as a header writes them, or FormatError."""
    dtype = DTYPES.get(item["dtype"]) if isinstance(item["dtype"], str) else None
    shape = item["shape"]
    if dtype is None:
        raise FormatError(f"{what}: unknown dtype {brief(item['dtype'])}")
    if not is_shape(shape, dtype.itemsize):
        raise FormatError(f"{what}: malformed or impossible shape {brief(shape)}")
    return dtype, tuple(shape)


def parse_shapes(header: JsonObject, what: str) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Dtype and shape of every tensor in a header without its metadata, or FormatError."""
    found = {}
    for name, item in header.items():
        if not isinstance(item, dict) or set(item) != {"dtype", "shape", "data_offsets"}:
            raise FormatError(f"{what}: malformed entry {brief(name)} in the header")
        found[name] = parse_shape(item, f"{what}: {brief(name)}")
    return found


def views(
    buffer: memoryview, start: int, shapes: Shapes, meta: JsonObject | None, what: str
) -> dict[str, Array]:
    """Arrays as views of a file, once its header was found to be the one that we would write.

    Raises:
        FormatError: any other header or length.
    """
    try:
        where = header_layout(shapes, meta)
    except InvalidInputError as error:
        raise FormatError(f"{what}: {error}") from None
    if where.header != bytes(buffer[:start]):
        raise FormatError(
            f"{what}: the header is not in canonical form (order, offsets, overlaps or holes). It "
            "was not written by policystore, or was changed since."
        )
    if where.size != buffer.nbytes:
        raise FormatError(
            f"{what}: expected {where.size} bytes, found {buffer.nbytes}: "
            + ("cut short" if buffer.nbytes < where.size else "with bytes behind the end")
        )
    found = {
        name: view(buffer[a:b] if b > a else b"", *shapes[name])
        for name, (a, b) in where.offsets.items()
    }
    for name, array in found.items():
        if array.dtype == np.bool_ and array.size and array.view(np.uint8).max() > 1:
            raise FormatError(f"{what}: {brief(name)} has booleans other than 0 and 1")
    return found


def declared_size(start: bytes, what: str) -> int:
    """How long a file should be by its header, before more than the header is read.

    Args:
        start: the first ``8 + MAX_HEADER`` bytes, or the whole of a shorter file.
        what: how messages name it.

    Raises:
        FormatError: the header is not one.
    """
    header, begin = parse_header(memoryview(start), what)
    ends = [0]
    for name, item in header.items():
        if name != META:
            offsets = item.get("data_offsets") if isinstance(item, dict) else None
            if not isinstance(offsets, list) or not all(type(n) is int for n in offsets):
                raise FormatError(f"{what}: malformed entry {brief(name)} in the header")
            ends += offsets
    return begin + max(ends)
