"""Count the bytes that a push or pull has moved, for the progress callback of the user."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

from policystore.errors import InvalidInputError

__all__ = ["BytesCallback", "Meter", "ObjectProgress", "Progress"]

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes that have moved so far, and with all bytes that will move."""

BytesCallback: TypeAlias = Callable[[int], None]
"""Called with the bytes that have moved since the last call."""


class Meter:
    """Add up the bytes that several threads move, and report the sums.

    The callback is called by the thread that has moved bytes, and by one thread at a time. The two
    numbers never get smaller, and they are equal at the end. If the callback raises, the push or
    pull ends with that error.

    Args:
        callback: the function to call with the sums; None for no calls.

    Raises:
        InvalidInputError: ``callback`` cannot be called.
    """

    def __init__(self, callback: Progress | None) -> None:
        if callback is not None and not callable(callback):
            raise InvalidInputError(
                "progress is a function of two numbers, the bytes that have moved and all bytes, "
                f"not {type(callback).__qualname__}"
            )
        self._callback = callback
        self._lock = threading.Lock()
        self._done = self._total = 0

    def expect(self, nbytes: int) -> None:
        """Add a number of bytes to the total that will move."""
        with self._lock:
            self._total += nbytes

    def add(self, nbytes: int) -> None:
        """Add a number of bytes to the sum that has moved, and call the callback."""
        if self._callback is not None and nbytes:
            with self._lock:
                self._done += nbytes
                self._callback(self._done, self._total)


class ObjectProgress:
    """Count the bytes of one object, whether or not the backend reports parts of it.

    Args:
        meter: the meter of the whole push or pull, if there is one.
        size: the bytes of the object.
    """

    def __init__(self, meter: Meter | None, size: int) -> None:
        self._meter = meter
        self._left = size

    def add(self, nbytes: int) -> None:
        """Count a part of the object."""
        if self._meter is not None:
            self._left -= nbytes
            self._meter.add(nbytes)

    def finish(self) -> None:
        """Count all bytes of the object that were not counted as parts."""
        self.add(self._left)
