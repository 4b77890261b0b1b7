"""Look into the bytes of an ONNX file before onnxruntime gets them.

An ONNX file is one protobuf message (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3). This
module reads the metadata of the message, and finds tensors whose values are in other files. An
exported file has none of these. onnxruntime would read the other files, some releases from any
folder of the machine.

The bytes may come from a hostile source: the time is in proportion to their number.
"""

from __future__ import annotations

from collections.abc import Iterator

from policystore.errors import FormatError

__all__ = ["read_properties"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_ZIP = b"PK\x03\x04"  # the first bytes of a .pt2 file, and of other files of torch
_MAX_NESTING = 8  # graphs within graphs; an export has no graph within its graph
_MAX_FIELD = (1 << 29) - 1

# Message -> number of a field -> the message that the field holds.
_NESTED = {
    "model": {7: "graph", 14: "property", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "training": {1: "graph", 2: "graph"},
}
_GRAPH = 7  # of a model
_KEY, _VALUE = 1, 2  # of a property
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor


def read_properties(data: bytes, label: str) -> dict[str, str]:
    """Return the metadata of an ONNX file, ``metadata_props``, by their keys.

    Args:
        data: the whole file.
        label: how messages name the file.

    Raises:
        FormatError: the bytes are not an ONNX file, a part is missing at the end, or a tensor has
            its values in another file.
    """
    if data.startswith(_ZIP):
        raise FormatError(
            f"{label} is not an ONNX file but a zip archive, as torch writes it. A .pt2 file is "
            "for torch: torch.export.load(file). To play the policy without torch, export the "
            "policy to a file that ends with .onnx"
        )
    properties: dict[str, str] = {}
    view = memoryview(data)
    if not any(number == _GRAPH and kind == _BYTES for number, kind, _ in _fields(view, label)):
        raise FormatError(f"{label} is not an ONNX file: it holds no graph")
    _check_message("model", view, label, properties, 0)
    return properties


def _check_message(
    message: str, data: memoryview, label: str, properties: dict[str, str], depth: int
) -> None:
    """Check a message and those that it holds; add the properties that are in it."""
    if depth > _MAX_NESTING * 3:  # a graph in a graph is an attribute of a node
        raise FormatError(f"{label} has graphs nested more than {_MAX_NESTING} deep")
    if message == "property":
        _add_property(data, label, properties)
        return
    nested = _NESTED.get(message, {})
    for number, kind, value in _fields(data, label):
        if message == "tensor" and (
            number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)
        ):
            raise FormatError(
                f"{label} has a tensor whose values are in another file; policystore never exports "
                "such a file. Nothing was loaded"
            )
        if kind == _BYTES and number in nested and isinstance(value, memoryview):
            _check_message(nested[number], value, label, properties, depth + 1)


def _add_property(data: memoryview, label: str, properties: dict[str, str]) -> None:
    texts = {_KEY: "", _VALUE: ""}
    for number, kind, value in _fields(data, label):
        if kind == _BYTES and number in texts and isinstance(value, memoryview):
            try:
                texts[number] = str(value, "utf-8")
            except UnicodeDecodeError:
                raise FormatError(f"{label} has metadata that are not UTF-8") from None
    if texts[_KEY] in properties:
        raise FormatError(f"{label} has metadata with the same key twice")
    properties[texts[_KEY]] = texts[_VALUE]


def _fields(data: memoryview, label: str) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yield number, wire type and value of each field of a message.

    The encoding is described at https://protobuf.dev/programming-guides/encoding/.
    """
    position, end = 0, len(data)
    while position < end:
        tag, position = _varint(data, position, label)
        number, kind = tag >> 3, tag & 7
        if not 0 < number <= _MAX_FIELD:
            raise _malformed(label)
        if kind == _VARINT:
            value, position = _varint(data, position, label)
            yield number, kind, value
            continue
        if kind == _BYTES:
            size, position = _varint(data, position, label)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise _malformed(label)
        if size > end - position:
            raise _malformed(label)
        yield number, kind, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int, label: str) -> tuple[int, int]:
    """Return an integer of variable length, and the position after it."""
    value = shift = 0
    while position < len(data) and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
        shift += 7
    raise _malformed(label)


def _malformed(label: str) -> FormatError:
    return FormatError(
        f"{label} is not an ONNX file, or a part of the file is missing: copy the file again, or "
        "export the policy again"
    )
