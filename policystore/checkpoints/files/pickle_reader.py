"""Reads a pickle as plain values, numpy arrays and placeholders.

This module holds the table of known calls: those of Python's containers and numpy's arrays, whose
results are plain data. For each known call, a short function here checks the arguments and makes
the result. numpy's own unpickling functions are never called with a dtype or state from a file.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TypeAlias, TypeGuard

import numpy as np

from policystore.checkpoints.files.pickle_machine import PickleMachine
from policystore.checkpoints.files.pickle_opcodes import run
from policystore.checkpoints.files.placeholders import (
    CallTable,
    Global,
    PendingValue,
    UnbuiltObject,
    unhashable_reason,
)
from policystore.errors import FormatError
from policystore.format.arrays import Array

__all__ = ["KNOWN_CALLS", "NumpyDtype", "array_of", "dtype_of", "is_shape", "read_pickle"]

# Kinds of dtypes and their item sizes in bytes, as weights and statistics have them. Arrays of
# objects are never among them, because they hold pickles of their own. Arrays of texts and times
# become placeholders.
_ITEM_SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16)}
_MAX_DIMENSIONS = 32
_MAX_LENGTH = 1 << 48  # of one dimension

NumpyDtype: TypeAlias = "np.dtype[np.generic]"
"""Any dtype of numpy."""

_Args: TypeAlias = tuple[object, ...]


class _PendingDtype(PendingValue):
    """A numpy dtype, whose byte order comes as its state."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.value = dtype_of(code)

    def build(self, state: object) -> object:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.value = dtype_of(state[1] + self.code)
            return self.value
        raise FormatError("the state of a dtype has no byte order")


class _PendingArray(PendingValue):
    """A numpy array; its shape, dtype and bytes come as its state."""

    def build(self, state: object) -> object:
        if not isinstance(state, tuple) or len(state) != 5:
            raise FormatError("the state of an array does not have 5 parts")
        _, shape, dtype, fortran, raw = state
        self.value = array_of(raw, dtype, shape, "F" if fortran is True else "C")
        return self.value


def dtype_of(code: object) -> NumpyDtype | UnbuiltObject:
    """Return the numpy dtype of a code such as ``<f4``; a placeholder if it is not numeric."""
    if isinstance(code, str) and code:
        order, rest = (code[0], code[1:]) if code[:1] in "<>|=" else ("=", code)
        if rest[:1] in _ITEM_SIZES and rest[1:] in map(str, _ITEM_SIZES[rest[0]]):
            return np.dtype((order if order != "|" else "=") + rest)
    return UnbuiltObject("a dtype", (code,))


def array_of(raw: object, dtype: object, shape: object, order: str = "C") -> Array | UnbuiltObject:
    """Return an array over bytes from a file; a placeholder if the dtype is a placeholder.

    Args:
        raw: the bytes; ``bytes`` are not copied.
        dtype: a numpy dtype, or the placeholder or pending value that stands for a dtype.
        shape: a tuple of lengths, or one length.
        order: ``"C"`` or ``"F"``, the order of the items.

    Raises:
        FormatError: not bytes, not a shape, or another number of bytes than the shape needs.
    """
    if isinstance(dtype, PendingValue):
        dtype = dtype.value
    if not isinstance(dtype, np.dtype):
        return UnbuiltObject("an array", (raw, dtype, shape))
    if isinstance(shape, int) and not isinstance(shape, bool):
        shape = (shape,)
    if not isinstance(raw, (bytes, bytearray)) or not is_shape(shape):
        raise FormatError("an array has no bytes or no shape")
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise FormatError(f"an array of shape {shape} and dtype {dtype} has {len(raw)} bytes")
    flat = np.frombuffer(bytes(raw), dtype) if raw else np.zeros(0, dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def is_shape(value: object) -> TypeGuard[tuple[int, ...]]:
    """Return whether a value is a tuple of lengths or strides as an array can have them."""
    return (
        isinstance(value, tuple)
        and len(value) <= _MAX_DIMENSIONS
        and all(type(length) is int and 0 <= length < _MAX_LENGTH for length in value)
    )


# Known calls. Each returns NotImplemented for arguments that do not give plain data.


def _dtype(args: _Args) -> object:
    return _PendingDtype(args[0]) if args and isinstance(args[0], str) else NotImplemented


def _reconstruct(args: _Args) -> object:
    ndarray = Global("numpy", "ndarray")
    return _PendingArray() if args and args[0] == ndarray else NotImplemented


def _frombuffer(args: _Args) -> object:
    if len(args) not in (4, 5):
        return NotImplemented
    raw, dtype, shape, order = args[:4]
    if len(args) == 4 or args[4] is None:
        return array_of(raw, dtype, shape, order if isinstance(order, str) else "C")
    # numpy 2.4 and later: the bytes of an array whose axes are in another order.
    axes = args[4]
    array = array_of(raw, dtype, shape)
    if not isinstance(array, np.ndarray):
        return array
    if not isinstance(axes, (list, tuple)) or sorted(map(_axis, axes)) != list(range(array.ndim)):
        raise FormatError("the axes of an array are not an order of all its axes")
    return array.transpose(tuple(axes))


def _axis(value: object) -> int:
    """Return the number of an axis; -1 for a value that is not an integer."""
    return value if type(value) is int else -1


def _scalar(args: _Args) -> object:
    if len(args) != 2:
        return NotImplemented
    array = array_of(args[1], args[0], ())
    return array[()] if isinstance(array, np.ndarray) else array


def _encode(args: _Args) -> object:
    # Protocols up to 2 write bytes as a text that is encoded back.
    if len(args) == 2 and isinstance(args[0], str) and args[1] in ("latin1", "latin-1"):
        try:
            return args[0].encode("latin-1")
        except UnicodeEncodeError:
            raise FormatError("the text of bytes is not latin-1") from None
    return NotImplemented


def _ordered_dict(args: _Args) -> object:
    # Entries follow as items of the object; Python 2 passed them as a list of pairs.
    pairs = args[0] if args else []
    if len(args) > 1 or not isinstance(pairs, (list, tuple)):
        return NotImplemented
    if not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str)
        for pair in pairs
    ):
        return NotImplemented
    return OrderedDict((key, value) for key, value in pairs)


def _default_dict(args: _Args) -> object:
    return {} if len(args) < 2 else NotImplemented


def _set(args: _Args) -> object:
    items = args[0] if args else []
    if len(args) > 1 or not isinstance(items, (list, tuple)):
        return NotImplemented
    reason = next(filter(None, map(unhashable_reason, items)), None)
    if reason is not None:
        raise FormatError(reason)
    return set(items)


def _frozenset(args: _Args) -> object:
    items = _set(args)
    return frozenset(items) if isinstance(items, set) else NotImplemented


def _bytearray(args: _Args) -> object:
    if not args:
        return bytearray()
    if len(args) == 2 and isinstance(args[0], str):
        encoded = _encode((args[0], args[1]))
        return bytearray(encoded) if isinstance(encoded, bytes) else NotImplemented
    return bytearray(args[0]) if isinstance(args[0], bytes) else NotImplemented


def _bytes(args: _Args) -> object:
    return b"" if not args else NotImplemented  # protocol 2 writes empty bytes this way


def _class_setstate(args: _Args) -> object:
    """Give the placeholder of a class that was pickled by value the names of its module.

    cloudpickle makes such a class in two calls: one with the class's name and bases, and this one
    with its attributes. Only the texts that name the class are kept of the attributes.
    """
    if len(args) != 2:
        return NotImplemented
    cls, state = args
    if not isinstance(cls, UnbuiltObject):
        return NotImplemented
    attributes = state[0] if isinstance(state, tuple) and state else state
    if isinstance(attributes, dict) and cls.state is None:
        names = {name: attributes.get(name) for name in ("__module__", "__qualname__")}
        cls.state = {name: text for name, text in names.items() if isinstance(text, str)}
    return cls


def _complex(args: _Args) -> object:
    if len(args) != 2:
        return NotImplemented
    real, imaginary = args
    if type(real) is float and type(imaginary) is float:
        return complex(real, imaginary)
    return NotImplemented


KNOWN_CALLS: CallTable = {
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
        (f"{package}cloudpickle.{module}", name): _class_setstate
        for package in ("", "ray.")
        for module in ("cloudpickle", "cloudpickle_fast")
        # Before cloudpickle 1.5, the second name.
        for name in ("_class_setstate", "_rehydrate_skeleton_class")
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
"""The calls whose results are plain data, under the names that each version of Python and numpy
writes."""


def read_pickle(data: bytes | memoryview, label: str) -> object:
    """Read a pickle as plain values, arrays and placeholders.

    Args:
        data: the file.
        label: names the file in error messages.

    Raises:
        FormatError: not a pickle, a damaged one, or one beyond the limits.
    """
    return run(PickleMachine(data, label, KNOWN_CALLS))
