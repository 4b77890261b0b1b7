"""Calls side by side, in threads that end with the call that needs them.

Whoever asks for several works along, so that nothing waits for a thread that cannot be had: the
threads of a process are counted, also where such calls are made inside of one another. When one
fails, or the user interrupts, the others end with the request that they are at.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

__all__ = ["in_parallel", "raise_if_cancelled", "run_both", "shielded"]

_MOST = 256  # threads of this kind in a process

_In = TypeVar("_In")
_Out = TypeVar("_Out")

_MISSING: Any = object()


class _StoppedError(Exception):
    """Raised in a thread whose result nobody waits for any more; never seen by a caller."""


class _Group:
    """Calls that were asked for together."""

    def __init__(self) -> None:
        self.outer: _Group | None = getattr(_LOCAL, "group", None)
        self.stopped = False

    def is_wanted(self) -> bool:
        group: _Group | None = self
        while group is not None:
            if group.stopped:
                return False
            group = group.outer
        return True


_LOCAL = threading.local()  # group: what the calls of this thread belong to
_LOCK: threading.Lock
_FREE: int


def _renew() -> None:
    # In a forked process, none of the threads are left, and one of them may have held the lock.
    global _LOCK, _FREE
    _LOCK = threading.Lock()
    _FREE = _MOST


_renew()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def raise_if_cancelled() -> None:
    """End this thread's call if nobody waits for it any more; to be called between requests."""
    group: _Group | None = getattr(_LOCAL, "group", None)
    if group is not None and not group.is_wanted():
        raise _StoppedError


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Around what has to be done even so: cleaning up."""
    group, _LOCAL.group = getattr(_LOCAL, "group", None), None
    try:
        yield
    finally:
        _LOCAL.group = group


def in_parallel(call: Callable[[_In], _Out], items: Iterable[_In], *, workers: int) -> list[_Out]:
    """Results in order; of several errors, that of the earliest item is raised.

    After an error or an interrupt no further item is begun, and those under way are waited for as
    long as :func:`check_wanted` lets them go on.
    """
    calls = [partial(call, item) for item in items]
    if len(calls) < 2 or workers < 2:
        return [each() for each in calls]
    return _run(calls, workers - 1)


def run_both(
    main: Callable[[], _In], other: Callable[[], _Out], *, at_once: bool
) -> tuple[_In, _Out]:
    """What two calls return, made at the same time or in this order.

    Both have ended when it returns or raises; an error of ``main`` goes before one of ``other``.
    """
    if not at_once:
        return main(), other()
    first, second = _run([main, other], 1)
    return first, second


def _run(calls: Sequence[Callable[[], Any]], helpers: int) -> list[Any]:
    raise_if_cancelled()
    group = _Group()
    results = [_MISSING] * len(calls)
    errors: dict[int, BaseException] = {}
    left = iter(range(len(calls)))  # next() of it is one step for the interpreter

    def work() -> None:
        outer, _LOCAL.group = getattr(_LOCAL, "group", None), group
        try:
            for index in left:
                if not group.is_wanted():
                    return
                try:
                    results[index] = calls[index]()
                except BaseException as error:
                    errors[index] = error
                    group.stopped = True
                    return
        finally:
            _LOCAL.group = outer

    threads = _started(work, min(helpers, len(calls) - 1))
    try:
        work()
        for thread in threads:
            thread.join()
    except BaseException:  # an interrupt, while waiting
        group.stopped = True
        for thread in threads:
            thread.join()
        raise
    finally:
        _give_back(len(threads))
    raise_if_cancelled()
    if errors:
        try:
            raise _first_error(errors)
        finally:
            errors.clear()  # a traceback holds this frame, and all that the calls were given
    return results


def _first_error(errors: dict[int, BaseException]) -> BaseException:
    """An interrupt, or the error of the earliest call; not of those that were told to end."""
    ordered = [errors[index] for index in sorted(errors)]
    told = [error for error in ordered if type(error) is not _StoppedError]
    return next((error for error in told if not isinstance(error, Exception)), (told or ordered)[0])


def _started(work: Callable[[], None], wanted: int) -> list[threading.Thread]:
    global _FREE
    with _LOCK:
        count = max(0, min(wanted, _FREE))
        _FREE -= count
    threads: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=work, name="policystore", daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError:
        pass  # the system gives no more of them: those that there are do the work
    finally:
        _give_back(count - len(threads))
    return threads


def _give_back(count: int) -> None:
    global _FREE
    with _LOCK:
        _FREE += count
