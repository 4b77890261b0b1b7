"""Map files and memory, read-only and without a file descriptor.

``mmap.mmap`` of Python keeps a duplicate of the descriptor as long as the map lives, so a process
could hold only about a thousand maps at the usual limit of 1024 descriptors. The functions here
call ``mmap`` of the C library. An array over such a map cannot be made writeable: the array has no
buffer behind it that numpy could write to, and the pages themselves are protected against writes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["map_file", "protected_memory"]

_MOST = 16384  # maps of this module in one process; Linux allows about 65,000 of all kinds
# After these errors the bytes are read instead.
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENODEV, errno.EPERM)
_READ, _WRITE = 1, 2  # PROT_READ, PROT_WRITE
_SHARED, _PRIVATE, _ANONYMOUS = 1, 2, 32  # MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS
_HUGE_PAGES = 14  # MADV_HUGEPAGE
_FAILED = ctypes.c_void_p(-1).value

_LIVE: set[int] = set()  # the addresses of the maps


def _load() -> Any:
    """Return the C library with the types of its functions; None where maps are not used."""
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return None
    try:
        library = ctypes.CDLL(None, use_errno=True)
        pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        library.mmap.argtypes = (pointer, size, number, number, number, ctypes.c_long)
        library.mmap.restype = pointer
        library.munmap.argtypes = (pointer, size)
        library.mprotect.argtypes = (pointer, size, number)
        library.madvise.argtypes = (pointer, size, number)
    except (OSError, AttributeError):
        return None
    return library


_LIBRARY = _load()
_UNMAP: Any = None if _LIBRARY is None else _LIBRARY.munmap


class _Map:
    """Pages that nothing can write to. They are freed together with this object.

    An array refers to this object as its base. numpy finds the address by
    ``__array_interface__``, and finds no buffer that it could make writeable.

    Args:
        address: the first byte.
        size: the number of bytes.
    """

    __slots__ = ("_address", "_size")

    def __init__(self, address: int, size: int) -> None:
        self._address, self._size = address, size
        _LIVE.add(address)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {
            "data": (self._address, True),  # True: read-only
            "shape": (self._size,),
            "typestr": "|u1",
            "version": 3,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a map cannot be copied or pickled; copy an array over it")

    # The functions are bound here, because the module may be gone when the interpreter ends.
    def __del__(
        self,
        unmap: Callable[[int, int], object] = _UNMAP,
        forget: Callable[[int], None] = _LIVE.discard,
    ) -> None:
        forget(self._address)
        unmap(self._address, self._size)


def map_file(descriptor: int, size: int) -> memoryview | None:
    """Map the first ``size`` bytes of a file, read-only; the descriptor may be closed afterwards.

    Args:
        descriptor: the open file. Nobody may cut the file while the map lives.
        size: the number of bytes, at least 1.

    Returns:
        The bytes; None if no map could be made, so that the caller reads the file instead: the
        process has as many maps as it may have, or the filesystem has no maps.

    Raises:
        OSError: any other error of the operating system.
    """
    address = _new_map(size, _READ, _SHARED, descriptor)
    return None if address is None else _view(address, size)


def protected_memory(size: int, fill: Callable[[memoryview], int]) -> memoryview | None:
    """Let a function fill new memory, and protect the memory against writes.

    The memory has large pages, where the system allows them. Filling it takes about half the time
    of filling a ``bytes`` object.

    Args:
        size: the number of bytes, at least 1.
        fill: writes into a buffer of ``size`` bytes, and returns how many bytes it wrote. It keeps
            no view of the buffer.

    Returns:
        The bytes that ``fill`` wrote; None if there is no such memory, so that the caller uses
        ``bytes`` instead.

    Raises:
        Exception: what ``fill`` raises.
    """
    address = _new_map(size, _READ | _WRITE, _PRIVATE | _ANONYMOUS, -1)
    if address is None:
        return None
    memory = _view(address, size)
    _LIBRARY.madvise(address, size, _HUGE_PAGES)  # without effect where there are no large pages
    written = fill(memoryview((ctypes.c_char * size).from_address(address)).cast("B"))
    if _LIBRARY.mprotect(address, size, _READ) != 0:
        return None
    return memory[:written]


def _new_map(size: int, protection: int, flags: int, descriptor: int) -> int | None:
    """Return the address of a new map; results and errors as in :func:`map_file`."""
    if _LIBRARY is None or len(_LIVE) >= _MOST:
        return None
    address: int | None = _LIBRARY.mmap(None, size, protection, flags, descriptor, 0)
    if address != _FAILED:
        return address
    code = ctypes.get_errno()
    if code in _FULL:
        return None
    raise OSError(code, os.strerror(code))


def _view(address: int, size: int) -> memoryview:
    """Return a read-only view of a map. The map lives as long as the view or a slice of it."""
    # numpy declares no buffer protocol to type checkers.
    return memoryview(np.asarray(_Map(address, size)))  # type: ignore[arg-type]
