"""Read a safetensors file of plain weights, which another program wrote.

``Snapshot.load`` takes only files that policystore has written. This reader takes every safetensors
file whose dtypes a snapshot can hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from policystore._util import files
from policystore._util.messages import brief
from policystore.errors import FormatError, InvalidInputError
from policystore.format.arrays import DTYPES, Array, view
from policystore.format.safetensors import KEY, META
from policystore.snapshot import Snapshot

__all__ = ["is_file", "read_file"]

_MAX_HEADER = 100 << 20  # as the safetensors library


def is_file(path: Path) -> bool:
    """Return whether a path is a file that can be read.

    Raises:
        StorageError: the system cannot tell, such as for a name that is too long.
    """
    with files.mapped_errors(f"looking at {path}"):
        return path.is_file()


def read_file(path: Path) -> Snapshot:
    """Read a safetensors file as a snapshot: of policystore, or of plain weights.

    Raises:
        NotFoundError: no such file.
        FormatError: not a safetensors file, or a damaged file of policystore.
        InvalidInputError: the file has tensors that a snapshot cannot hold.
        StorageError: the file cannot be read.
    """
    with files.mapped_errors(f"reading {path}"):
        data = memoryview(files.read_file(path))
    header, start = _header(data, str(path))
    meta = header.pop(META, {})
    if isinstance(meta, Mapping) and KEY in meta:
        return Snapshot.load(path)
    weights = {name: _tensor(data[start:], name, item, path) for name, item in header.items()}
    if not weights:
        raise InvalidInputError(
            f"{path} holds no tensors, and a policy has at least one. Give another file"
        )
    return Snapshot(weights=weights)


def _header(data: memoryview, label: str) -> tuple[dict[str, Any], int]:
    """Return the JSON of the header, and where the tensors begin."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(_MAX_HEADER, len(data) - 8):
        raise FormatError(
            f"{label} is no safetensors file, or was cut short: its header does not fit into its "
            f"{len(data):,} bytes"
        )
    try:
        header = json.loads(bytes(data[8 : 8 + size]))
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{label} is no safetensors file: its header is no JSON: {error}"
        ) from None
    if not isinstance(header, dict):
        raise FormatError(
            f"{label} is no safetensors file: expected a JSON object in its header, found "
            f"{brief(header)}"
        )
    return header, 8 + size


def _tensor(body: memoryview, name: str, item: object, path: Path) -> Array:
    """Return one tensor of a file."""
    label = f"{path}: tensor {brief(name)}"
    try:
        code, shape, (begin, end) = (
            item["dtype"], item["shape"], item["data_offsets"]  # type: ignore[index]
        )  # fmt: skip
        dtype = DTYPES.get(code)
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (KeyError, TypeError, ValueError):
        raise FormatError(
            f"{label}: expected dtype, shape and data_offsets in the header, found {brief(item)}"
        ) from None
    if dtype is None:
        raise InvalidInputError(f"{label}: a snapshot cannot hold the dtype {brief(code)}")
    if not whole or end > len(body) or end - begin != prod(shape) * dtype.itemsize:
        raise FormatError(
            f"{label}: its bytes {brief([begin, end])} do not fit its shape or the file"
        )
    try:
        return view(bytes(body[begin:end]), dtype, tuple(shape))
    except (ValueError, OverflowError) as error:  # more dimensions, or elements, than numpy has
        raise FormatError(f"{label}: {error}") from None
