"""Send bytes that are in memory piece by piece."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

__all__ = ["BodyReader", "send_at_once"]

_BLOCK = 256 << 10  # bytes that are copied at once


class BodyReader:
    """Read bytes in memory as a file, so that a client sends them without a copy of all of them.

    If a client gets all bytes at once, asyncio copies the bytes that the connection does not take
    at once (until Python 3.12).

    The client library signs a request by :meth:`read`, and sends the body by ``async for``. If this
    class were a class of :mod:`io`, the library would read the body in threads of an executor.
    Python closes this executor when the main thread ends, while other threads may still push.

    Args:
        pieces: called with a start and a count; yields ``count`` bytes from the start on.
        size: how many bytes there are.
    """

    def __init__(self, pieces: Callable[[int, int], Iterator[memoryview]], size: int) -> None:
        self._pieces, self._size, self._at = pieces, size, 0

    def __len__(self) -> int:
        return self._size

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while block := self.read(_BLOCK):
            yield block

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._at)
        count = left if size is None or size < 0 else min(size, left)
        data = b"".join(self._pieces(self._at, count))
        self._at += len(data)
        return data


def send_at_once(request: Any, **_: Any) -> None:
    """Let a request send its body without asking the server first whether it wants the body.

    The client library calls this function before it sends a request. For each body that is a file,
    the library would ask first, which costs a round.
    """
    request.headers.pop("Expect", None)
