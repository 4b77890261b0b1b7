"""Canonical safetensors: a set of named arrays has one file. ``docs/format.md`` section 3.

This module writes the header itself, because the order of tensors in the safetensors library is a
private detail that changed between releases. Any safetensors reader opens the files.

Reading is strict. A header is parsed, built again and compared. So other bytes for the same content
are refused: padding, another order, holes, overlaps or repeated keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from policystore._util.late import np
from policystore._util.messages import brief
from policystore.digest import Digest, digest_of
from policystore.errors import FormatError, InvalidInputError
from policystore.format.arrays import CODES, DTYPES, Array, is_shape, raw, size_of, view
from policystore.format.canonical_json import Json, JsonObject, canonical_json, parse_canonical

__all__ = [
    "KEY",
    "MAX_HEADER",
    "META",
    "EncodedObject",
    "HeaderLayout",
    "Shapes",
    "canonical_layout",
    "cut",
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
"""The longest header, in bytes. With this limit, a hostile file cannot make a reader parse more."""

META = "__metadata__"
"""Key of the metadata in a safetensors header."""

KEY = "policystore"
"""The key in the metadata under which policystore keeps its canonical JSON."""

Shapes: TypeAlias = "Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]"
"""Tensor name -> dtype and shape."""


@dataclass(frozen=True)
class EncodedObject:
    """Bytes ready to be stored, in pieces. Pieces are views of arrays where possible, not copies.

    Attributes:
        digest: the digest of all bytes.
        size: how many bytes there are.
        chunks: the pieces, in order.
    """

    digest: Digest
    size: int
    chunks: tuple[bytes | memoryview, ...]


@dataclass(frozen=True)
class HeaderLayout:
    """The header of a file and the place of each tensor.

    Attributes:
        header: the bytes of the header, including the 8 bytes in front that hold its length.
        offsets: tensor name -> begin and end (exclusive) in the whole file, in file order.
        size: bytes of the whole file.
    """

    header: bytes
    offsets: dict[str, tuple[int, int]]
    size: int


def header_layout(shapes: Shapes, meta: JsonObject | None) -> HeaderLayout:
    """Build the header and place the tensors by descending item size.

    This order aligns each tensor to the size of its items without padding.

    Args:
        shapes: dtype and shape of each tensor.
        meta: the metadata under the key :data:`KEY`; None for a file without metadata.

    Raises:
        InvalidInputError: the header is longer than :data:`MAX_HEADER`.
    """
    header: JsonObject = {}
    if meta is not None:
        header[META] = {KEY: canonical_json(meta).decode("utf-8")}
    places: dict[str, tuple[int, int]] = {}
    position = 0
    for name in sorted(shapes, key=lambda name: (-shapes[name][0].itemsize, name)):
        dtype, shape = shapes[name]
        end = position + size_of(dtype, shape)
        places[name] = (position, end)
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
            f"take {MAX_HEADER}. Put large values into arrays."
        )
    start = 8 + len(text)
    offsets = {name: (start + begin, start + end) for name, (begin, end) in places.items()}
    return HeaderLayout(len(text).to_bytes(8, "little") + text, offsets, start + position)


def shapes_of(arrays: Mapping[str, Array]) -> Shapes:
    """Return the dtype and shape of each array."""
    return {name: (array.dtype, array.shape) for name, array in arrays.items()}


def encode_tensors(arrays: Mapping[str, Array], meta: JsonObject | None) -> EncodedObject:
    """Encode arrays as one file; ``meta`` becomes the metadata under the key :data:`KEY`.

    Raises:
        InvalidInputError: the header is longer than :data:`MAX_HEADER`.
    """
    layout = header_layout(shapes_of(arrays), meta)
    chunks: tuple[bytes | memoryview, ...] = (
        layout.header,
        *(raw(arrays[name]) for name in layout.offsets),
    )
    return EncodedObject(digest_of(*chunks), layout.size, chunks)


def parse_header(buffer: memoryview, label: str) -> tuple[JsonObject, int]:
    """Parse the header of a file.

    Args:
        buffer: the file, or at least its first ``8 + MAX_HEADER`` bytes.
        label: how messages name the file.

    Returns:
        The header as JSON, and the offset at which the data starts.

    Raises:
        FormatError: the file is cut short, or its header is too long or not canonical JSON.
    """
    if buffer.nbytes < 8:
        raise FormatError(f"{label}: {buffer.nbytes} bytes are too few for a safetensors file")
    length = int.from_bytes(buffer[:8], "little")
    if length > MAX_HEADER:
        raise FormatError(
            f"{label}: a header of {length} bytes, but at most {MAX_HEADER} are allowed: this is "
            "not a safetensors file of policystore"
        )
    if 8 + length > buffer.nbytes:
        raise FormatError(
            f"{label}: cut short: the header says {length} bytes, the file has {buffer.nbytes}"
        )
    stripped = bytes(buffer[8 : 8 + length]).rstrip(b" ")
    header = parse_canonical(stripped, f"{label}: header")
    if not isinstance(header, dict):
        raise FormatError(f"{label}: the header is not a JSON object")
    return header, 8 + length


def parse_shape(item: Json, label: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Parse the dtype and shape of one entry of a header.

    Raises:
        FormatError: an unknown dtype or an impossible shape.
    """
    dtype = DTYPES.get(item["dtype"]) if isinstance(item["dtype"], str) else None
    shape = item["shape"]
    if dtype is None:
        raise FormatError(f"{label}: unknown dtype {brief(item['dtype'])}")
    if not is_shape(shape, dtype.itemsize):
        raise FormatError(f"{label}: malformed or impossible shape {brief(shape)}")
    return dtype, tuple(shape)


def parse_shapes(
    header: JsonObject, label: str
) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Parse the dtype and shape of every tensor in a header without its :data:`META` entry.

    Raises:
        FormatError: a malformed entry.
    """
    shapes = {}
    for name, item in header.items():
        if not isinstance(item, dict) or set(item) != {"dtype", "shape", "data_offsets"}:
            raise FormatError(f"{label}: malformed entry {brief(name)} in the header")
        shapes[name] = parse_shape(item, f"{label}: {brief(name)}")
    return shapes


def views(
    buffer: memoryview, start: int, shapes: Shapes, meta: JsonObject | None, label: str
) -> dict[str, Array]:
    """Return the tensors of a file as views, after a check that its header is canonical.

    Args:
        buffer: the whole file.
        start: the offset at which the data starts.
        shapes, meta: the content of the parsed header, from which the header is built again.
        label: how messages name the file.

    Raises:
        FormatError: the header or the length is not what :func:`encode_tensors` writes, or a
            boolean is stored as another byte than 0 or 1.
    """
    return cut(buffer, canonical_layout(bytes(buffer[:start]), shapes, meta, label), shapes, label)


def canonical_layout(
    header: bytes, shapes: Shapes, meta: JsonObject | None, label: str
) -> HeaderLayout:
    """Return the places of the tensors, after a check that a header is canonical.

    Args:
        header: the bytes of the header.
        shapes, meta: the content of the parsed header, from which the header is built again.
        label: how messages name the file.

    Raises:
        FormatError: the header is not what :func:`encode_tensors` writes.
    """
    try:
        layout = header_layout(shapes, meta)
    except InvalidInputError as error:
        raise FormatError(f"{label}: {error}") from None
    if layout.header != header:
        raise FormatError(
            f"{label}: the header is not in canonical form (order, offsets, overlaps or holes). It "
            "was not written by policystore, or was changed since."
        )
    return layout


def cut(buffer: memoryview, layout: HeaderLayout, shapes: Shapes, label: str) -> dict[str, Array]:
    """Return the tensors of a file as views.

    Args:
        buffer: the whole file.
        layout: the places of the tensors, by the header of the file.
        shapes: dtype and shape of each tensor.
        label: how messages name the file.

    Raises:
        FormatError: the file has another length than its header says, or a boolean is stored as
            another byte than 0 or 1.
    """
    if layout.size != buffer.nbytes:
        raise FormatError(
            f"{label}: expected {layout.size} bytes, found {buffer.nbytes}: "
            + ("cut short" if buffer.nbytes < layout.size else "with bytes behind the end")
        )
    arrays = {
        name: view(buffer[begin:end] if end > begin else b"", *shapes[name])
        for name, (begin, end) in layout.offsets.items()
    }
    for name, array in arrays.items():
        if array.dtype == np.bool_ and array.size and array.view(np.uint8).max() > 1:
            raise FormatError(f"{label}: {brief(name)} has booleans other than 0 and 1")
    return arrays


def declared_size(start: bytes, label: str) -> int:
    """Return the length of a file in bytes, as its header declares it.

    A reader that uses this length as a limit reads no more of a hostile file than its header
    declares.

    Args:
        start: the first ``8 + MAX_HEADER`` bytes, or the whole of a shorter file.
        label: how messages name the file.

    Raises:
        FormatError: the header is cut short, too long, malformed or not canonical JSON.
    """
    header, begin = parse_header(memoryview(start), label)
    ends = [0]
    for name, item in header.items():
        if name != META:
            offsets = item.get("data_offsets") if isinstance(item, dict) else None
            if not isinstance(offsets, list) or not all(type(n) is int for n in offsets):
                raise FormatError(f"{label}: malformed entry {brief(name)} in the header")
            ends += offsets
    return begin + max(ends)
