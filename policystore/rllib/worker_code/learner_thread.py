"""Wait for learners that update in a thread of their own. Runs in actors, sent by value."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from policystore.rllib.worker_code.compat import (
    in_queue,
    learner_thread,
    loader_threads,
    lock_for_reading,
)
from policystore.rllib.worker_code.messages.wire import BusyError

if TYPE_CHECKING:
    from policystore.rllib.worker_code.messages.wire import AnyWorker

__all__ = ["require_idle", "updates_paused", "wait_until_idle"]


def wait_until_idle(owner: Any, timeout: float) -> bool:
    """Wait until an asynchronous learner has nothing left to do.

    IMPALA and APPO update in a thread, in place and without a lock
    (``algorithms/impala/impala_learner.py:444``). An actor runs its calls one after the other. So
    while this call runs, the thread gets no new batches: the thread comes to rest and stays at
    rest.

    Args:
        owner: a learner of the new stack, or an Algorithm of the old one.
        timeout: seconds.

    Returns:
        Whether there is no thread, or it is at rest: idle, or 20 times in a row not seen busy.
        False if the time was not enough.
    """
    thread = learner_thread(owner)
    if thread is None or not thread.is_alive():
        return True
    # Loaders first: what they hold goes to the learner thread next.
    threads = [*loader_threads(owner), thread]
    deadline = time.monotonic() + timeout
    rounds_at_rest = 0
    while True:
        states = [_state_of(each) for each in threads]
        if all(state == "idle" for state in states):
            return True
        rounds_at_rest = 0 if "busy" in states else rounds_at_rest + 1
        if rounds_at_rest > 20:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001 if rounds_at_rest == 0 else 0.005)


def require_idle(owner: Any, timeout: float) -> None:
    """Wait as :func:`wait_until_idle`.

    Raises:
        BusyError: the thread did not come to rest in time.
    """
    if not wait_until_idle(owner, timeout):
        raise BusyError("updates were under way all the time")


@contextlib.contextmanager
def updates_paused(worker: AnyWorker, timeout: float) -> Iterator[None]:
    """Run a block while a learner's own thread is at rest and its lock for reading is held.

    Raises:
        BusyError: the thread did not come to rest in time.
    """
    require_idle(worker, timeout)
    with lock_for_reading(worker):
        yield


def _state_of(thread: threading.Thread) -> str:
    """Return ``idle`` (waits at an empty queue), ``perhaps idle`` (not seen busy) or ``busy``."""
    queue: Any = in_queue(thread)
    size = queue.qsize() if hasattr(queue, "qsize") else len(queue or ())
    frame = sys._current_frames().get(thread.ident or 0)
    inner = []
    while frame is not None and frame.f_code.co_name not in ("step", "_step", "run"):
        inner.append(frame)
        frame = frame.f_back
    names = [each.f_code.co_name for each in inner]
    if size or any("update" in name or "learn" in name or "state" in name for name in names):
        return "busy"
    if names and names[-1] == "get":
        if names[0] == "wait":  # queue.Queue.get
            return "idle"
        # CircularBuffer.get (algorithms/appo/utils.py:122) sets idx as soon as there is a batch.
        if hasattr(queue, "iterations_per_batch") and "idx" not in inner[-1].f_locals:
            return "idle"
    return "perhaps idle" if not names or names[-1] == "get" else "busy"
