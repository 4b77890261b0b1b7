"""Run several calls at once, in threads that end before the call that started them returns.

The calling thread runs calls as well. So a process that cannot start another thread is only slower.
The number of threads is limited for the whole process, including the threads of nested calls. When
one call fails, each other call ends after its current request.

After an interrupt, such as Ctrl-C, the threads are given half a second to end. A thread that still
waits for a request then goes on by itself, and ends after this request: the user does not wait for
a server that does not answer.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

__all__ = [
    "in_parallel",
    "is_parallel",
    "raise_if_cancelled",
    "raise_if_interrupted",
    "run_both",
    "shielded",
    "wait_for",
]

_MAX_THREADS = 256  # the most threads of this module in one process
_GRACE = 0.5  # seconds that threads have to end after an interrupt
# Seconds between two checks for an interrupt: in the main thread, in a thread that waits for other
# threads, and in a thread that waits for an event, which an interrupt sets. If hundreds of threads
# checked often, the checks would take much of the time of a processor.
_POLL, _JOIN_POLL, _EVENT_POLL = 0.05, 0.2, 5.0

_In = TypeVar("_In")
_Out = TypeVar("_Out")

_MISSING: Any = object()


class _CancelledError(Exception):
    """End a call whose result is not needed any more. No caller ever sees this error."""


class _InterruptedError(BaseException):
    """End a request, because the user interrupted the call around it; as _CancelledError."""


class _Group:
    """Calls that run together: if one fails, all of them are cancelled.

    Attributes:
        outer: the group that the thread which made this group belongs to.
        cancelled: whether this group alone is cancelled.
        leave_at: when to stop waiting for the threads of this group, because of an interrupt.
        cause: the interrupt; a thread that is no longer waited for may have raised the interrupt.
    """

    def __init__(self) -> None:
        self.outer: _Group | None = getattr(_LOCAL, "group", None)
        self.cancelled = False
        self.leave_at: float | None = None
        self.cause: BaseException | None = None

    def interrupt(self, cause: BaseException) -> None:
        """Cancel this group and the groups around it, which the interrupt will end as well."""
        leave_at = time.monotonic() + _GRACE
        group: _Group | None = self
        while group is not None:
            group.cancelled = True
            if group.leave_at is None:
                group.leave_at = leave_at
            if group.cause is None and type(cause) is not _InterruptedError:
                group.cause = cause
            group = group.outer
        for event in list(_WAITED):
            event.set()

    def interrupted_until(self) -> float | None:
        """Return when to stop waiting; None if neither this group nor one around is interrupted."""
        group: _Group | None = self
        while group is not None:
            if group.leave_at is not None:
                return group.leave_at
            group = group.outer
        return None

    def is_cancelled(self) -> bool:
        """Return whether this group, or a group around it, is cancelled."""
        group: _Group | None = self
        while group is not None:
            if group.cancelled:
                return True
            group = group.outer
        return False


_LOCAL = threading.local()  # group: the group that the calls of this thread belong to
_LOCK: threading.Lock
_FREE: int  # how many more threads may be started
_WAITED: dict[threading.Event, None]  # events for which threads wait; an interrupt sets them all


def _reset_after_fork() -> None:
    # A forked process has none of the threads, and one of them may have held a lock.
    global _LOCK, _FREE, _WAITED
    _LOCK = threading.Lock()
    _WAITED = {}
    _FREE = _MAX_THREADS


_reset_after_fork()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


def raise_if_cancelled() -> None:
    """End the call of this thread if its result is not needed any more.

    Long calls use this function between requests.
    """
    group: _Group | None = getattr(_LOCAL, "group", None)
    if group is not None and group.is_cancelled():
        raise _CancelledError


def raise_if_interrupted() -> None:
    """End the call of this thread if the user has interrupted the call that it is a part of.

    Calls use this function while they wait for a request. After an ordinary error the request is
    awaited instead, because its effect would be unknown.
    """
    group: _Group | None = getattr(_LOCAL, "group", None)
    if group is not None and group.interrupted_until() is not None:
        raise _InterruptedError


def wait_for(is_done: Callable[[], bool], event: threading.Event) -> None:
    """Wait until ``is_done`` returns true.

    Args:
        is_done: returns whether the wait is over.
        event: an event of this wait alone, which is set after ``is_done`` has become true. An
            interrupt sets the event as well.

    Raises:
        BaseException: the wait ends as by :func:`raise_if_interrupted`.
    """
    poll = _POLL if _is_main() else _EVENT_POLL
    _WAITED[event] = None  # before the first look, so that no interrupt comes between the two
    try:
        while not is_done():
            raise_if_interrupted()
            event.wait(poll)
            event.clear()  # before the next look, which sees what has set the event
    finally:
        _WAITED.pop(event, None)


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def is_parallel() -> bool:
    """Return whether the call of this thread is one of several that run at once."""
    return getattr(_LOCAL, "group", None) is not None


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Protect the calls of a ``with`` block from being cancelled, for cleaning up."""
    group, _LOCAL.group = getattr(_LOCAL, "group", None), None
    try:
        yield
    finally:
        _LOCAL.group = group


def in_parallel(call: Callable[[_In], _Out], items: Iterable[_In], *, workers: int) -> list[_Out]:
    """Call a function with each item, several at once, and return the results in order.

    After an error or an interrupt, no further call starts. This function waits for the running
    calls until they return or reach :func:`raise_if_cancelled`.

    Args:
        call: the function.
        items: its arguments, one for each call.
        workers: how many calls may run at once, including the call of the calling thread.

    Raises:
        Exception: what ``call`` raises. If several calls fail, the error of the earliest item.
    """
    calls = [partial(call, item) for item in items]
    if len(calls) < 2 or workers < 2:
        return [each() for each in calls]
    return _run(calls, workers - 1)


def run_both(
    main: Callable[[], _In], other: Callable[[], _Out], *, at_once: bool
) -> tuple[_In, _Out]:
    """Make two calls and return both results.

    Both calls have ended when this function returns or raises.

    Args:
        main: the first call. If both calls fail, the error of ``main`` is raised.
        other: the second call.
        at_once: True to make both calls at the same time, False to make ``main`` before ``other``.
    """
    if not at_once:
        return main(), other()
    first, second = _run([main, other], 1)
    return first, second


def _run(calls: Sequence[Callable[[], Any]], helpers: int) -> list[Any]:
    """Make all calls, in this thread and in up to ``helpers`` others."""
    raise_if_cancelled()
    group = _Group()
    results = [_MISSING] * len(calls)
    errors: dict[int, BaseException] = {}
    indices = iter(range(len(calls)))  # next() is one step of the interpreter, so no lock is needed

    def work() -> None:
        outer, _LOCAL.group = getattr(_LOCAL, "group", None), group
        try:
            for index in indices:
                if group.is_cancelled():
                    return
                try:
                    results[index] = calls[index]()
                except BaseException as error:
                    errors[index] = error
                    group.cancelled = True
                    if not isinstance(error, Exception):
                        group.interrupt(error)
                    return
        finally:
            _LOCAL.group = outer

    threads = _start_threads(work, min(helpers, len(calls) - 1))
    try:
        try:
            work()
            _join(threads, group)
        except BaseException as interrupt:  # while this thread waits
            group.interrupt(interrupt)
            _join(threads, group)
            raise
        if errors or group.cause is not None:
            # A copy, because a thread that was left may still add its error.
            raise _first_error(dict(errors), group.cause)
        raise_if_cancelled()
        return results
    finally:
        # A traceback holds this frame, and all arguments of the calls.
        errors.clear()
        group.cause = None


def _join(threads: Sequence[threading.Thread], group: _Group) -> None:
    """Wait for the threads of a group; after an interrupt, only until the time that it sets."""
    poll = _POLL if _is_main() else _JOIN_POLL
    for thread in threads:
        while thread.is_alive():
            leave_at = group.interrupted_until()
            if leave_at is None:
                thread.join(poll)
            elif (left := leave_at - time.monotonic()) > 0:
                thread.join(left)
            else:
                return


def _first_error(errors: dict[int, BaseException], cause: BaseException | None) -> BaseException:
    """Return the error to raise: an interrupt, or else the error of the earliest call.

    The errors of cancelled and interrupted calls count only if there is no other error.

    Args:
        errors: the errors of the calls that have ended, by index.
        cause: the interrupt of a call that may not have ended; None without an interrupt.
    """
    ordered = [errors[index] for index in sorted(errors)]
    own = [error for error in ordered if type(error) not in (_CancelledError, _InterruptedError)]
    for error in [*own, cause]:
        if error is not None and not isinstance(error, Exception):
            return error
    return (own or ordered)[0]


def _start_threads(work: Callable[[], None], wanted: int) -> list[threading.Thread]:
    """Start up to ``wanted`` threads, or as many as this process and the system allow."""
    global _FREE

    def work_and_release() -> None:
        try:
            work()
        finally:
            _release(1)

    with _LOCK:
        count = max(0, min(wanted, _FREE))
        _FREE -= count
    threads: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=work_and_release, name="policystore", daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError:
        pass  # the system allows no more threads: those that were started do the work
    finally:
        _release(count - len(threads))
    return threads


def _release(count: int) -> None:
    """Note that ``count`` threads have ended, or were not started."""
    global _FREE
    with _LOCK:
        _FREE += count
