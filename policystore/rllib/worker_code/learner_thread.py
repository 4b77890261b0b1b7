"""Learners that update in a thread of their own. Runs there; sent by value (``worker_side.py``)."""

from __future__ import annotations

import sys
import time
from typing import Any

__all__ = ["forget_queued_states", "wait_until_idle"]


def wait_until_idle(owner: Any, timeout: float) -> bool:
    """Wait until an asynchronous learner has nothing left to do; False if it did not in time.

    IMPALA and APPO update in a thread, in place and without a lock
    (``algorithms/impala/impala_learner.py:444``). Calls of an actor run one after the other, so
    while this one runs nobody gives the thread new batches: it comes to rest, and stays so.

    Args:
        owner: a learner of the new stack, or an Algorithm of the old one.
        timeout: seconds.
    """
    thread = getattr(owner, "_learner_thread", None)
    if thread is None or not thread.is_alive():
        return True
    loaders = list(getattr(owner, "_gpu_loader_threads", ())) + list(
        getattr(thread, "_loaders", None) or getattr(thread, "_loader_threads", None) or ()
    )
    everyone = [*loaders, thread]
    deadline = time.monotonic() + timeout
    calm = 0
    while True:
        # Loaders first: what they hold goes to the learner thread next.
        rests = [_rests(each) for each in everyone]
        if all(rest == "surely" for rest in rests):
            return True
        calm = calm + 1 if all(rests) else 0
        if calm > 20:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001 if calm == 0 else 0.005)


def _rests(thread: Any) -> str:
    """``surely``: blocked on an empty queue; ``perhaps``: not seen at work; else empty."""
    queue: Any = getattr(thread, "_in_queue", None)
    if queue is None:
        queue = getattr(thread, "inqueue", None)
    size = queue.qsize() if hasattr(queue, "qsize") else len(queue or ())
    frame = sys._current_frames().get(thread.ident)
    inner = []
    while frame is not None and frame.f_code.co_name not in ("step", "_step", "run"):
        inner.append(frame)
        frame = frame.f_back
    names = [each.f_code.co_name for each in inner]
    if size or any("update" in name or "learn" in name or "state" in name for name in names):
        return ""
    if names and names[-1] == "get":
        if names[0] == "wait":  # queue.Queue.get
            return "surely"
        # CircularBuffer.get (algorithms/appo/utils.py:122) picks idx once there is something.
        if hasattr(queue, "iterations_per_batch") and "idx" not in inner[-1].f_locals:
            return "surely"
    return "perhaps" if not names or names[-1] == "get" else ""


def forget_queued_states(learner: Any) -> None:
    """States that wait in an asynchronous learner to be sent to runners: of before the load."""
    waiting = getattr(learner, "_learner_state_queue", None)
    while waiting is not None and not waiting.empty():
        waiting.get_nowait()
    if getattr(learner, "_learner_state", None) is not None:
        learner._learner_state = None
