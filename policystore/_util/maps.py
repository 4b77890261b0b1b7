"""Map files and memory, read-only and without a file descriptor, and fill memory from a file.

``mmap.mmap`` of Python keeps a duplicate of the descriptor as long as the map lives, so a process
could hold only about a thousand maps at the usual limit of 1024 descriptors. The functions here
call ``mmap`` of the C library. An array over such a map cannot be made writeable: the array has no
buffer behind it that numpy could write to, and the pages themselves are protected against writes.

Hashing a file after all of it was read takes the bytes from main memory once more. So each block of
a file is handed out directly after it was read, while it is in the processor's cache. If a core of
the machine is free, another thread reads ahead.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import sys
import threading
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

from policystore._util.concurrency import in_parallel, is_parallel, raise_if_cancelled, run_both
from policystore._util.late import np
from policystore.errors import StorageError

__all__ = ["OnData", "check_memory", "fill", "map_file", "memory_size", "protected_memory"]

OnData: TypeAlias = Callable[[memoryview], object]
"""A function that is called with each piece of a file, in order, and keeps no view of a piece."""

_MOST = 16384  # maps of this module in one process; Linux allows about 65,000 of all kinds
# After these errors the bytes are read instead.
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENODEV, errno.EPERM)
_READ, _WRITE = 1, 2  # PROT_READ, PROT_WRITE
_SHARED, _PRIVATE, _ANONYMOUS = 1, 2, 32  # MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS
_HUGE_PAGES = 14  # MADV_HUGEPAGE
_FAILED = ctypes.c_void_p(-1).value
_PART = 16 << 20  # bytes of a large file that one thread reads
_READERS = 4  # threads that read the parts of one file
_BLOCK = 2 << 20  # bytes that are read and then handed out; they fit into the processor's cache
_MIN_AHEAD = 32 << 20  # bytes; for a smaller file, a thread that reads ahead would come too late
_POLL = 0.05  # seconds between two looks at whether the other thread has failed

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
        fill: writes into a buffer of ``size`` bytes, and returns how many bytes it wrote. After
            it has returned, nothing writes to the buffer. If it raises an error, a thread may still
            use the buffer, as after an interrupt: the memory lives as long as a view of it.

    Returns:
        The bytes that ``fill`` wrote; None if there is no such memory, and ``fill`` was not called,
        so that the caller uses ``bytes`` instead.

    Raises:
        Exception: what ``fill`` raises.
    """
    address = _new_map(size, _READ | _WRITE, _PRIVATE | _ANONYMOUS, -1)
    if address is None:
        return None
    memory = _view(address, size)
    _LIBRARY.madvise(address, size, _HUGE_PAGES)  # without effect where there are no large pages
    buffer = (ctypes.c_char * size).from_address(address)
    buffer.memory = memory  # type: ignore[attr-defined]
    written = fill(memoryview(buffer).cast("B"))
    if _LIBRARY.mprotect(address, size, _READ) != 0:
        return memoryview(bytes(memory[:written]))
    return memory[:written]


@cache
def memory_size() -> int:
    """Return how many bytes of memory this process can use at most, swap space included.

    This is the memory of the machine, or less if the process runs in a container with a limit.
    """
    sizes = re.findall(r"^(?:Mem|Swap)Total: +(\d+) kB$", _text("/proc/meminfo"), re.MULTILINE)
    limits = [sum(map(int, sizes)) << 10] if sizes else [sys.maxsize]  # none on another system
    for place in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroups 2 and 1
        limit = _text(f"/sys/fs/cgroup/{place}").strip()
        limits += [int(limit)] if limit.isdecimal() else []  # "max" stands for no limit
    return min(limits)


def _text(file: str) -> str:
    """Return the text of a file of the system; "" if there is no such file."""
    try:
        return Path(file).read_text(encoding="utf-8")
    except OSError:
        return ""


def check_memory(nbytes: int, label: str) -> None:
    """Refuse to read more bytes into memory than this process can use.

    The bytes may come from storage that others write to. Without this check, the system could end
    the process, because it has no memory for what a record or a server declares.

    Args:
        nbytes: how many bytes would be in memory.
        label: where they come from, for the message.

    Raises:
        StorageError: there is not so much memory.
    """
    if nbytes > memory_size():
        raise StorageError(
            f"{label}: {nbytes} bytes or more do not fit into the {memory_size()} bytes of memory "
            "of this machine or container. Nothing was changed. If the policy is so large, use a "
            "machine with more memory; otherwise the writer of the object, or the server, "
            "gives a wrong size."
        )


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


def fill(descriptor: int, buffer: memoryview, *, on_data: OnData | None = None) -> int:
    """Read a file into a buffer.

    Args:
        descriptor: the open file.
        buffer: the memory, as large as the file was.
        on_data: called with the bytes in pieces, in order. Nothing writes to a piece after that.

    Returns:
        How many bytes the file gave: fewer than the buffer has, if somebody has cut the file.

    Raises:
        OSError: as the operating system raises it.
        Exception: what ``on_data`` raises.
    """
    # Beside threads that read other files, more threads for this file would only be in the way.
    alone = not is_parallel()
    if on_data is None:
        return _fill_parts(descriptor, buffer, min(_READERS, _cores()) if alone else 1)
    reading = _OrderedReading(descriptor, buffer, on_data)
    at_once = alone and buffer.nbytes >= _MIN_AHEAD and _is_core_free()
    return run_both(reading.hand_out, reading.read_ahead, at_once=at_once)[0]


def _fill_parts(descriptor: int, buffer: memoryview, workers: int) -> int:
    """Read a file into a buffer, several parts at once."""
    starts = range(0, buffer.nbytes, _PART)
    ends = in_parallel(
        lambda start: _read_span(descriptor, buffer, start, start + _PART), starts, workers=workers
    )
    # If the file was cut meanwhile, its bytes end where the first part ended early.
    early = (end for start, end in zip(starts, ends, strict=True) if end < start + _PART)
    return next(early, buffer.nbytes)


def _read_span(descriptor: int, buffer: memoryview, start: int, end: int) -> int:
    """Read the bytes of a file from ``start`` to ``end``; return where the bytes that came end."""
    position, end = start, min(end, buffer.nbytes)
    while position < end:
        count = os.preadv(descriptor, [buffer[position:end]], position)
        if not count:  # somebody has cut the file
            break
        position += count
    return position


class _OrderedReading:
    """Read the blocks of a file with one or two threads, and hand the blocks out in order.

    The thread that hands out reads each block that the other thread has not begun to read. So a
    thread that gets no core, or cannot start, holds nothing up.

    Args:
        descriptor, buffer, on_data: as in :func:`fill`.
    """

    def __init__(self, descriptor: int, buffer: memoryview, on_data: OnData) -> None:
        self._descriptor = descriptor
        self._buffer = buffer
        self._on_data = on_data
        # next() is one step of the interpreter, so each block is read by one thread alone.
        self._unread = iter(range(0, buffer.nbytes, _BLOCK))
        self._ends: dict[int, int] = {}  # where the bytes of each block end that was read
        self._arrived = threading.Condition()

    def read_ahead(self) -> None:
        """Read blocks until each is read, or another thread reads it."""
        while self._read_next():
            raise_if_cancelled()

    def hand_out(self) -> int:
        """Call ``on_data`` with each block, in order; return how many bytes the file gave."""
        for start in range(0, self._buffer.nbytes, _BLOCK):
            while start not in self._ends:
                raise_if_cancelled()
                if not self._read_next():
                    with self._arrived:
                        self._arrived.wait_for(partial(self._ends.__contains__, start), _POLL)
            end = self._ends[start]
            self._on_data(self._buffer[start:end])
            if end < start + _BLOCK:
                return end
        return self._buffer.nbytes

    def _read_next(self) -> bool:
        """Read the first block that no thread has begun to read; False if there is none."""
        start = next(self._unread, None)
        if start is None:
            return False
        end = _read_span(self._descriptor, self._buffer, start, start + _BLOCK)
        with self._arrived:
            self._ends[start] = end
            self._arrived.notify()
        return True


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # pragma: no cover - not on Linux


def _is_core_free() -> bool:
    """Return whether another thread would run at once, by the load of the last minute.

    On a machine without a free core, two threads that share the blocks of a file take longer than
    one, because each block moves from the cache of one core to that of another.
    """
    try:
        load = os.getloadavg()[0]
    except OSError:
        return False  # no /proc
    # Half a core less, because the load counts the calling thread, if it has worked for a while.
    return load < _cores() - 0.5
