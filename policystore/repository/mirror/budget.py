"""Limit how many bytes are in memory at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Budget"]


class Budget:
    """A number of bytes that threads share.

    Args:
        nbytes: how many bytes may be held at once. A single larger piece is held alone.
    """

    def __init__(self, nbytes: int) -> None:
        self._whole = self._free = nbytes
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, nbytes: int) -> Iterator[None]:
        """Wait until so many bytes are free, and hold them during the ``with`` block."""
        share = min(nbytes, self._whole)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= share)
            self._free -= share
        try:
            yield
        finally:
            with self._changed:
                self._free += share
                self._changed.notify_all()
