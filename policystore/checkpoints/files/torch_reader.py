"""Reads the files of ``torch.save`` without torch: a zip of one pickle and the tensors' bytes."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from io import BytesIO

import ml_dtypes
import numpy as np

from policystore.checkpoints.files.pickle_machine import PickleMachine
from policystore.checkpoints.files.pickle_opcodes import run
from policystore.checkpoints.files.pickle_reader import KNOWN_CALLS, NumpyDtype, is_shape
from policystore.checkpoints.files.placeholders import CallTable, Global, UnbuiltObject
from policystore.errors import FormatError

__all__ = ["ZIP_START", "read_torch"]

ZIP_START = b"PK"
"""First bytes of every zip; no pickle of a checkpoint starts with them."""

_MAX_FILES = 100_000
_STORAGE_DTYPES: dict[str, NumpyDtype] = {
    name: np.dtype(scalar)
    for name, scalar in (
        ("DoubleStorage", np.float64), ("FloatStorage", np.float32), ("HalfStorage", np.float16),
        ("BFloat16Storage", ml_dtypes.bfloat16), ("LongStorage", np.int64),
        ("IntStorage", np.int32), ("ShortStorage", np.int16), ("CharStorage", np.int8),
        ("ByteStorage", np.uint8), ("BoolStorage", np.bool_),
    )
}  # fmt: skip


def read_torch(data: bytes, label: str) -> object:
    """Read a file of ``torch.save``, with tensors as arrays.

    Arrays are read-only views of the bytes of their storages; an array without items is new.

    Args:
        data: the file.
        label: names the file in error messages.

    Raises:
        FormatError: not a zip of ``torch.save``, a damaged one, or one beyond the limits.
    """
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            read = _member_reader(archive, data, label)
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise FormatError(f"{label} is a zip, but not one that torch.save writes")
            folder = pickles[0].removesuffix("data.pkl")
            has_order = f"{folder}byteorder" in archive.NameToInfo
            byte_order = read(f"{folder}byteorder") if has_order else b"little"
            storages: dict[str, bytes] = {}

            def storage(identity: object) -> object:
                return _storage(
                    identity, storages, lambda key: read(f"{folder}data/{key}"), byte_order
                )

            pickled = read(pickles[0])
            return run(PickleMachine(pickled, label, {**KNOWN_CALLS, **_TORCH_CALLS}, storage))
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        EOFError,
        ValueError,
        OSError,
        RuntimeError,
        OverflowError,
    ) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{label} is a damaged zip: {error}") from None


def _member_reader(archive: zipfile.ZipFile, data: bytes, label: str) -> Callable[[str], bytes]:
    """Return a function that reads a file of a zip, within limits for all its calls together."""
    if len(archive.namelist()) > _MAX_FILES:
        raise FormatError(f"{label}: a zip of more than {_MAX_FILES:,} files")
    left = len(data)  # the files in a zip of torch.save do not overlap

    def read(name: str) -> bytes:
        nonlocal left
        info = archive.NameToInfo.get(name)
        if info is None:
            raise FormatError(f"{label}: the file {name[:200]} is missing in the zip")
        # torch.save compresses nothing. A compressed file could expand without bounds.
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(data):
            raise FormatError(f"{label}: {name[:200]} is compressed, which torch.save never does")
        left -= info.file_size
        if left < 0:
            raise FormatError(f"{label}: the files in the zip have more bytes than the zip")
        return archive.read(info)

    return read


def _storage(
    identity: object,
    storages: dict[str, bytes],
    read: Callable[[str], bytes],
    byte_order: bytes,
) -> object:
    """Return a storage as a flat array; a placeholder for a type of storage without a numpy dtype.

    Args:
        identity: the persistent id, ``("storage", type, key, location, number of items)``.
        storages: bytes of the storages that were read already, by key; added to.
        read: reads the bytes of a storage by its key.
        byte_order: ``b"little"`` or ``b"big"``.
    """
    if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
        raise FormatError("a persistent id does not name a storage")
    _, storage_type, key, _, _ = identity
    if not isinstance(storage_type, Global) or not isinstance(key, str):
        raise FormatError("a storage has no type or no key")
    dtype = _STORAGE_DTYPES.get(storage_type.name)
    if storage_type.module not in ("torch", "torch.storage") or dtype is None:
        return UnbuiltObject(storage_type, (key,))
    if key not in storages:
        storages[key] = read(key)
    raw = storages[key]
    if len(raw) % dtype.itemsize:
        raise FormatError(f"a storage of {dtype} has {len(raw)} bytes")
    return np.frombuffer(raw, dtype.newbyteorder(">") if byte_order == b"big" else dtype)


def _tensor(args: tuple[object, ...]) -> object:
    """Return the strided view of a storage that ``torch._utils._rebuild_tensor_v2`` makes."""
    flat = args[0] if len(args) >= 4 else None
    if not isinstance(flat, np.ndarray):
        return NotImplemented
    if len(args) > 6 and args[6]:
        return NotImplemented  # its metadata may say that the view is negated or conjugated
    offset, shape, strides = args[1:4]
    if not is_shape(shape) or not is_shape(strides) or len(shape) != len(strides):
        raise FormatError("a tensor has no shape or no strides")
    if type(offset) is not int or not 0 <= offset <= flat.size or flat.ndim != 1:
        raise FormatError("a tensor begins outside of its storage")
    count = math.prod(shape)
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    # With strides of 0, a tensor of a few bytes can have any number of items. Weights have no such
    # strides.
    if count and (last >= flat.size or count > flat.size):
        raise FormatError(f"a tensor of shape {shape} in a storage of {flat.size} items")
    if not count:
        return np.zeros(shape, flat.dtype)
    itemsize = flat.itemsize
    return np.lib.stride_tricks.as_strided(
        flat[offset:], shape, tuple(stride * itemsize for stride in strides), writeable=False
    )


def _parameter(args: tuple[object, ...]) -> object:
    return args[0] if args and isinstance(args[0], np.ndarray) else NotImplemented


def _size(args: tuple[object, ...]) -> object:
    return args[0] if len(args) == 1 and is_shape(args[0]) else NotImplemented


_TORCH_CALLS: CallTable = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): _size,
}
