"""How far a push or pull has come, for a callback of the user's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

from policystore.errors import InvalidInputError

__all__ = ["BytesCallback", "Meter", "ObjectProgress", "Progress"]

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes that have moved and those that will have in all."""

BytesCallback: TypeAlias = Callable[[int], None]
"""Told how many more bytes have moved."""


class Meter:
    """Adds up what several threads move.

    Calls come one at a time, from whichever thread has moved something, with numbers that never
    fall; at the end both are the same. What the callback raises ends the push or pull.
    """

    def __init__(self, report: Progress | None) -> None:
        if report is not None and not callable(report):
            raise InvalidInputError(
                "progress is a function of the bytes that have moved and of all, not "
                f"{type(report).__qualname__}"
            )
        self._report = report
        self._lock = threading.Lock()
        self._done = self._total = 0

    def expect(self, nbytes: int) -> None:
        """So many bytes more will move."""
        with self._lock:
            self._total += nbytes

    def moved(self, nbytes: int) -> None:
        """So many of them have."""
        if self._report is not None and nbytes:
            with self._lock:
                self._done += nbytes
                self._report(self._done, self._total)


class ObjectProgress:
    """One object of several, whose mover may or may not tell of its parts."""

    def __init__(self, meter: Meter | None, size: int) -> None:
        self._meter = meter
        self._left = size

    def moved(self, nbytes: int) -> None:
        """A part of it has moved."""
        if self._meter is not None:
            self._left -= nbytes
            self._meter.moved(nbytes)

    def end(self) -> None:
        """All of it is there, with nothing more to be told."""
        self.moved(self._left)
