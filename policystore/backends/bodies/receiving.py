"""Receive the body of an answer, a large one directly into the memory in which it stays."""

from __future__ import annotations

import time
from typing import Any, TypeAlias

import numpy as np

from policystore._util.maps import check_memory
from policystore.errors import StorageError

__all__ = ["Memory", "memory_for", "receive"]

_BLOCK = 1 << 20
_SLOW_START = 30.0  # seconds in which an answer may be slower than _MIN_SPEED
_MIN_SPEED = 8 << 10  # bytes per second

Memory: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"


def memory_for(size: int, label: str) -> Memory:
    """Return memory for the bytes of an object.

    Args:
        size: how many bytes the object has.
        label: how messages name the read.

    Raises:
        StorageError: there is not enough memory.
    """
    check_memory(size, label)
    try:
        return np.empty(size, np.uint8)
    except MemoryError:
        raise StorageError(
            f"{label}: not enough memory for {size} bytes. Free some memory, or raise the limits "
            "of this process."
        ) from None


async def receive(
    body: Any, *, count: int | None, limit: int | None, into: Memory | None
) -> bytes | memoryview | None:
    """Read the body of an answer, block by block.

    Args:
        body: the body, with a coroutine ``read``.
        count: how many bytes to read at most; further bytes are not read.
        limit: how many bytes the body may have at most.
        into: memory for the bytes; bytes that do not fit into the memory are dropped. If the array
            owns its memory, the array is made read-only, so that no view of the array can be made
            writeable again. None: the bytes are joined at the end.

    Returns:
        The bytes; None if there are more than ``limit``.

    Raises:
        ConnectionError: the body comes too slowly.
    """
    # Joined to bytes at the end: an array over a bytearray could be made writeable.
    blocks, read, began = [], 0, time.monotonic()
    while (count is None or read < count) and (block := await body.read(_BLOCK)):
        if into is None:
            blocks.append(block)
        else:
            fitting = block[: max(0, len(into) - read)]
            into[read : read + len(fitting)] = np.frombuffer(fitting, np.uint8)
        read += len(block)
        # Each read has its own time-out. A server that sends tiny pieces never reaches it.
        if time.monotonic() - began > _SLOW_START + read / _MIN_SPEED:
            raise ConnectionError(
                f"{read} bytes in {time.monotonic() - began:.0f} s: too slow to go on"
            )
        if limit is not None and read > limit:
            return None
    if into is None:
        return b"".join(blocks)[:count]
    if into.base is None:
        into.flags.writeable = False
    return into[:read].data
