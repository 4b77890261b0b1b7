"""Reads pickles as plain values, numpy arrays and stand-ins.

Here are the calls whose meaning is plain data: Python's containers and numpy's arrays. Each is done
by the few lines here, on arguments that were checked; no function of numpy gets an array's dtype or
state as the file has it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import numpy as np

from policystore.checkpoints.files.pickle_machine import Machine
from policystore.checkpoints.files.pickle_opcodes import run
from policystore.checkpoints.files.placeholders import (
    Calls,
    Global,
    PendingValue,
    UnbuiltObject,
    why_no_key,
)
from policystore.errors import FormatError

__all__ = ["KNOWN", "array_of", "dtype_of", "read_pickle"]

# Kinds and sizes that weights and statistics come in. Objects are never among them: their arrays
# hold pickles of their own. Text and times stay stand-ins.
_SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16)}
_MAX_DIMENSIONS = 32


class _Dtype(PendingValue):
    """A numpy dtype on its way: the byte order comes as its state."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.value = dtype_of(code)

    def built(self, state: Any) -> Any:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.value = dtype_of(state[1] + self.code)
            return self.value
        raise FormatError("a dtype with a state that is none")


class _Array(PendingValue):
    """A numpy array on its way: all of it comes as its state."""

    def built(self, state: Any) -> Any:
        if not isinstance(state, tuple) or len(state) != 5:
            raise FormatError("an array with a state that is none")
        _, shape, dtype, fortran, raw = state
        self.value = array_of(raw, dtype, shape, "F" if fortran is True else "C")
        return self.value


def dtype_of(code: Any) -> Any:
    """A numpy dtype of numbers by its code, such as ``<f4``; of others a stand-in."""
    if isinstance(code, str) and code:
        order, rest = (code[0], code[1:]) if code[:1] in "<>|=" else ("=", code)
        if rest[:1] in _SIZES and rest[1:] in map(str, _SIZES[rest[0]]):
            return np.dtype((order if order != "|" else "=") + rest)
    return UnbuiltObject("a dtype", (code,))


def array_of(raw: Any, dtype: Any, shape: Any, order: str = "C") -> Any:
    """An array over bytes, not copied; a stand-in where its dtype is one.

    Raises:
        FormatError: another number of bytes than its shape needs.
    """
    if isinstance(dtype, PendingValue):
        dtype = dtype.value
    if not isinstance(dtype, np.dtype):
        return UnbuiltObject("an array", (raw, dtype, shape))
    if isinstance(shape, int) and not isinstance(shape, bool):
        shape = (shape,)
    if not isinstance(raw, (bytes, bytearray)) or not _is_shape(shape):
        raise FormatError("an array without bytes or shape")
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise FormatError(f"an array of shape {shape}, {dtype}, in {len(raw)} bytes")
    flat = np.frombuffer(bytes(raw), dtype) if raw else np.zeros(0, dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, tuple)
        and len(shape) <= _MAX_DIMENSIONS
        and all(type(count) is int and 0 <= count < 1 << 48 for count in shape)
    )


def _dtype(args: tuple[Any, ...]) -> Any:
    return _Dtype(args[0]) if args and isinstance(args[0], str) else NotImplemented


def _reconstruct(args: tuple[Any, ...]) -> Any:
    wanted = Global("numpy", "ndarray")
    return _Array() if args and args[0] == wanted else NotImplemented


def _frombuffer(args: tuple[Any, ...]) -> Any:
    if len(args) not in (4, 5):
        return NotImplemented
    raw, dtype, shape, order = args[:4]
    if len(args) == 4 or args[4] is None:
        return array_of(raw, dtype, shape, order if isinstance(order, str) else "C")
    # numpy 2.4 and later: the bytes of an array whose axes are in another order.
    axes = args[4]
    found = array_of(raw, dtype, shape)
    if not isinstance(found, np.ndarray):
        return found
    if not isinstance(axes, (list, tuple)) or sorted(map(_index, axes)) != list(range(found.ndim)):
        raise FormatError("an array whose axes have no order")
    return found.transpose(tuple(axes))


def _index(axis: Any) -> int:
    """A number of an axis; -1 for what is none."""
    return axis if type(axis) is int else -1


def _scalar(args: tuple[Any, ...]) -> Any:
    if len(args) != 2:
        return NotImplemented
    found = array_of(args[1], args[0], ())
    return found[()] if isinstance(found, np.ndarray) else found


def _encode(args: tuple[Any, ...]) -> Any:
    # How protocol 2 writes bytes.
    if len(args) == 2 and isinstance(args[0], str) and args[1] in ("latin1", "latin-1"):
        try:
            return args[0].encode("latin-1")
        except UnicodeEncodeError:
            raise FormatError("bytes that are none") from None
    return NotImplemented


def _ordered_dict(args: tuple[Any, ...]) -> Any:
    # Pairs come behind it, as items; older ones had them as lists of two.
    pairs = args[0] if args else []
    if len(args) > 1 or not isinstance(pairs, (list, tuple)):
        return NotImplemented
    if not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str)
        for pair in pairs
    ):
        return NotImplemented
    return OrderedDict((key, value) for key, value in pairs)


def _default_dict(args: tuple[Any, ...]) -> Any:
    return {} if len(args) < 2 else NotImplemented


def _set(args: tuple[Any, ...]) -> Any:
    items = args[0] if args else []
    if len(args) > 1 or not isinstance(items, (list, tuple)):
        return NotImplemented
    unfit = next(filter(None, map(why_no_key, items)), None)
    if unfit is not None:
        raise FormatError(unfit)
    return set(items)


def _frozenset(args: tuple[Any, ...]) -> Any:
    found = _set(args)
    return found if found is NotImplemented else frozenset(found)


def _bytearray(args: tuple[Any, ...]) -> Any:
    if not args:
        return bytearray()
    if len(args) == 2 and isinstance(args[0], str):
        found = _encode((args[0], args[1]))
        return found if found is NotImplemented else bytearray(found)
    return bytearray(args[0]) if isinstance(args[0], bytes) else NotImplemented


def _bytes(args: tuple[Any, ...]) -> Any:
    return b"" if not args else NotImplemented  # how protocol 2 writes none


def _complex(args: tuple[Any, ...]) -> Any:
    if len(args) == 2 and all(type(part) is float for part in args):
        return complex(*args)
    return NotImplemented


KNOWN: Calls = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("collections", "defaultdict"): _default_dict,
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _dtype,
    **{
        (f"numpy.{core}.{module}", name): call
        for core in ("core", "_core")
        for module, name, call in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
    **{
        (builtins, name): call
        for builtins in ("builtins", "__builtin__")
        for name, call in (
            ("set", _set), ("frozenset", _frozenset), ("bytes", _bytes), ("bytearray", _bytearray),
            ("complex", _complex),
        )
    },
}  # fmt: skip
"""What a call of these names means, whatever the version of Python and numpy that wrote it."""


def read_pickle(data: bytes | memoryview, what: str) -> Any:
    """What a pickle says, as plain values, arrays and stand-ins.

    Args:
        data: the file.
        what: how messages name it.

    Raises:
        FormatError: no pickle, a damaged one, or one beyond the bounds.
    """
    return run(Machine(data, what, KNOWN))
