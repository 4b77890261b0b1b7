"""Stop the retries of a request at a time that the caller sets, by a clock that counts sleep."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

__all__ = ["Clock", "LateError", "boottime", "deadline", "raise_if_late"]

Clock: TypeAlias = Callable[[], float]
"""Returns a time in seconds that never goes back. The times have no fixed start."""


class LateError(Exception):
    """Say that a request was not made, because its deadline had passed.

    The code that sets a deadline catches this error. A caller of policystore never sees it.
    """


_LOCAL = threading.local()  # deadline: the time and the clock of the deadline of this thread


def boottime() -> float:
    """Return the seconds since this machine was started, with the time that it was suspended.

    On systems without such a clock, the time of a suspended machine is not counted.
    """
    clock: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@contextlib.contextmanager
def deadline(at: float, clock: Clock = boottime) -> Iterator[None]:
    """Let no request of this thread begin after a given time, until the ``with`` block ends.

    Args:
        at: the last time at which a request may begin.
        clock: the clock of that time.

    Raises:
        LateError: the time has passed already.
    """
    before, _LOCAL.deadline = getattr(_LOCAL, "deadline", None), (at, clock)
    try:
        raise_if_late()
        yield
    finally:
        _LOCAL.deadline = before


def raise_if_late() -> None:
    """End the call of this thread if its deadline has passed.

    Backends use this function before each try of a request.

    Raises:
        LateError: the deadline has passed.
    """
    current: tuple[float, Clock] | None = getattr(_LOCAL, "deadline", None)
    if current is not None:
        at, clock = current
        if clock() > at:
            raise LateError
