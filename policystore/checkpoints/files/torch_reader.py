"""Reads what ``torch.save`` wrote, without torch: a zip of a pickle and the tensors' bytes."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from io import BytesIO
from typing import Any

import ml_dtypes
import numpy as np

from policystore.checkpoints.files.pickle_machine import Machine
from policystore.checkpoints.files.pickle_opcodes import run
from policystore.checkpoints.files.pickle_reader import KNOWN, read_pickle
from policystore.checkpoints.files.placeholders import Calls, Global, UnbuiltObject
from policystore.errors import FormatError

__all__ = ["read_torch"]

_MAX_DIMENSIONS = 32
_MAX_FILES = 100_000
_STORAGES: dict[str, Any] = {
    "DoubleStorage": np.float64, "FloatStorage": np.float32, "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32,
    "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}  # fmt: skip


def read_torch(data: bytes, what: str) -> Any:
    """What is in a file of ``torch.save``, tensors as arrays; also of one that is a plain pickle.

    Arrays are views of the file where its bytes lie as they should.

    Args:
        data: the file.
        what: how messages name it.

    Raises:
        FormatError: another file, a damaged one, or one beyond the bounds.
    """
    if not data.startswith(b"PK"):
        return read_pickle(data, what)
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            read = _reader(archive, data, what)
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1:
                raise FormatError(f"{what} is a zip, but not one that torch.save writes")
            folder = names[0].removesuffix("data.pkl")
            said = f"{folder}byteorder" in archive.NameToInfo
            order = read(f"{folder}byteorder") if said else b"little"
            storages: dict[str, Any] = {}

            def storage(identity: Any) -> Any:
                return _storage(identity, storages, lambda key: read(f"{folder}data/{key}"), order)

            return run(Machine(read(names[0]), what, {**KNOWN, **_CALLS}, storage))
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
        raise FormatError(f"{what} is a damaged zip: {error}") from None


def _reader(archive: zipfile.ZipFile, data: bytes, what: str) -> Callable[[str], bytes]:
    if len(archive.namelist()) > _MAX_FILES:
        raise FormatError(f"{what}: a zip of more than {_MAX_FILES:,} files")
    left = len(data)  # the files of an honest one do not overlap

    def read(name: str) -> bytes:
        nonlocal left
        info = archive.NameToInfo.get(name)
        if info is None:
            raise FormatError(f"{what}: there is no {name[:200]} in it")
        # torch compresses nothing; what is compressed may grow without bounds.
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(data):
            raise FormatError(f"{what}: {name[:200]} is compressed, which torch.save never does")
        left -= info.file_size
        if left < 0:
            raise FormatError(f"{what}: the files in it are more than all of it")
        return archive.read(info)

    return read


def _storage(identity: Any, known: dict[str, Any], read: Any, order: bytes) -> Any:
    """The bytes that tensors lie in, flat; ``("storage", type, key, location, count)``."""
    if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
        raise FormatError("a persistent id that is no storage")
    _, kind, key, _, _ = identity
    if not isinstance(kind, Global) or not isinstance(key, str):
        raise FormatError("a storage without type or key")
    if kind.module not in ("torch", "torch.storage") or kind.name not in _STORAGES:
        return UnbuiltObject(kind, (key,))
    if key not in known:
        known[key] = read(key)
    dtype = np.dtype(_STORAGES[kind.name])
    raw = known[key]
    if len(raw) % dtype.itemsize:
        raise FormatError(f"a storage of {dtype} with {len(raw)} bytes")
    return np.frombuffer(raw, dtype.newbyteorder(">") if order == b"big" else dtype)


def _tensor(args: tuple[Any, ...]) -> Any:
    """``torch._utils._rebuild_tensor_v2``: a strided view of a storage."""
    if len(args) < 4 or not isinstance(args[0], np.ndarray):
        return NotImplemented
    if len(args) > 6 and args[6]:
        return NotImplemented  # bits that say to negate or conjugate it
    flat, offset, shape, strides = args[:4]
    if not (_is_sizes(shape) and _is_sizes(strides) and len(shape) == len(strides)):
        raise FormatError("a tensor without shape or strides")
    if type(offset) is not int or not 0 <= offset <= flat.size or flat.ndim != 1:
        raise FormatError("a tensor that begins outside of its storage")
    count = math.prod(shape)
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    # Where one element stands for many, a few bytes could become any number of them.
    if count and (last >= flat.size or count > flat.size):
        raise FormatError(f"a tensor of shape {shape} in a storage of {flat.size} elements")
    if not count:
        return np.zeros(shape, flat.dtype)
    step = flat.itemsize
    return np.lib.stride_tricks.as_strided(
        flat[offset:], shape, tuple(stride * step for stride in strides), writeable=False
    )


def _is_sizes(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) <= _MAX_DIMENSIONS
        and all(type(size) is int and 0 <= size < 1 << 48 for size in value)
    )


def _parameter(args: tuple[Any, ...]) -> Any:
    return args[0] if args and isinstance(args[0], np.ndarray) else NotImplemented


def _size(args: tuple[Any, ...]) -> Any:
    return args[0] if len(args) == 1 and _is_sizes(args[0]) else NotImplemented


_CALLS: Calls = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): _size,
}
