"""Run many processes in simulated time: generators that yield what they wait for.

A process yields a :class:`Request`, a :class:`Sleep`, an :class:`Acquire` of a lock, or
:class:`Both`: several generators to run at the same time. Nothing depends on the clock of this
machine, and one seeded generator of random numbers serves all, so each run is the same.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeAlias

__all__ = ["Acquire", "Both", "Call", "Engine", "FailedError", "Lock", "Release", "Request",
           "Sleep", "Task"]  # fmt: skip

Call: TypeAlias = Generator[Any, Any, Any]


class FailedError(Exception):
    """A request that failed at all of its tries."""


class Request:
    """One request to the bucket.

    Args:
        operation: GET, HEAD, LIST, PUT, CREATE, COPY or DELETE.
        key: the key.
        nbytes: the bytes of the body, or of the answer.
        value: what a write writes.
    """

    __slots__ = ("key", "nbytes", "operation", "value")

    def __init__(self, operation: str, key: str, nbytes: int = 0, value: Any = None) -> None:
        self.operation, self.key, self.nbytes, self.value = operation, key, nbytes, value

    def __repr__(self) -> str:
        return f"{self.operation} {self.key}"


class Sleep:
    """Wait for some seconds."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Both:
    """Run generators at the same time, at most ``at_once``; the results come as a list."""

    __slots__ = ("at_once", "calls")

    def __init__(self, calls: Sequence[Call], at_once: int = 1 << 30) -> None:
        self.calls, self.at_once = calls, at_once


class Lock:
    """A lock of a file that waiting processes look at in fixed intervals, as filelock does."""

    __slots__ = ("held", "waiting")

    def __init__(self) -> None:
        self.held = False
        self.waiting: list[tuple[float, Task]] = []  # when each began to look


class Acquire:
    """Take a lock; the result is always True."""

    __slots__ = ("lock",)

    def __init__(self, lock: Lock) -> None:
        self.lock = lock


class Release:
    """Give a lock back."""

    __slots__ = ("lock",)

    def __init__(self, lock: Lock) -> None:
        self.lock = lock


class Task:
    """A generator that runs, and the task that waits for its result."""

    __slots__ = ("call", "done", "error", "index", "left", "owner", "parent", "queue", "results")

    def __init__(self, call: Call, owner: Any, parent: Task | None = None, index: int = 0) -> None:
        self.call, self.owner, self.parent, self.index = call, owner, parent, index
        self.done: Callable[[Any, BaseException | None], None] | None = None
        self.left = 0
        self.results: list[Any] = []
        self.queue: list[Task] = []
        self.error: BaseException | None = None


class Engine:
    """Simulated time, and the tasks in it.

    Args:
        seed: of the random numbers.
        lock_poll: seconds between two looks at a lock.

    Attributes:
        now: the present time, in seconds.
        rng: the random numbers.
        send: what makes a request of a task; the bucket sets it.
        events: how many events there were.
    """

    def __init__(self, seed: int, lock_poll: float = 0.02) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)  # noqa: S311
        self.send: Callable[[Request, Task], None] = self._no_bucket
        self.events = 0
        self._lock_poll = lock_poll
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    @staticmethod
    def _no_bucket(request: Request, task: Task) -> None:
        raise RuntimeError("the engine has no bucket")

    def at(self, time: float, call: Callable[..., None], *args: Any) -> None:
        """Make a call at a time."""
        self._count += 1
        heapq.heappush(self._heap, (time, self._count, call, args))

    def start(
        self,
        call: Call,
        owner: Any = None,
        delay: float = 0.0,
        done: Callable[[Any, BaseException | None], None] | None = None,
    ) -> None:
        """Start a generator.

        Args:
            call: the generator.
            owner: the process that it belongs to.
            delay: seconds from now until it starts.
            done: called with the result, or with the error, at the end.
        """
        task = Task(call, owner)
        task.done = done
        self.at(self.now + delay, self.resume, task, None)

    def run(self, until: float = float("inf")) -> None:
        """Run until nothing is left to do, or until a time."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, call, args = heapq.heappop(heap)
            self.events += 1
            call(*args)

    def resume(self, task: Task, value: Any, error: BaseException | None = None) -> None:
        """Go on with a task: the result, or the error, of what it waited for."""
        while True:
            try:
                step = task.call.send(value) if error is None else task.call.throw(error)
            except StopIteration as ended:
                self._finish(task, ended.value, None)
                return
            except FailedError as failed:
                self._finish(task, None, failed)
                return
            value = error = None
            kind = type(step)
            if kind is Request:
                self.send(step, task)
                return
            if kind is Both:
                if step.calls:
                    self._start_all(task, step)
                    return
                value = []
            elif kind is Sleep:
                if step.seconds > 0.0:
                    self.at(self.now + step.seconds, self.resume, task, None)
                    return
            elif kind is Acquire:
                if step.lock.held:
                    step.lock.waiting.append((self.now, task))
                    return
                step.lock.held = value = True
            else:
                self._release(step.lock)

    def _release(self, lock: Lock) -> None:
        """Give a lock to the waiting task that looks at it next."""
        lock.held = False
        if not lock.waiting:
            return
        poll = self._lock_poll
        nexts = [began + (int((self.now - began) / poll) + 1) * poll for began, _ in lock.waiting]
        index = min(range(len(nexts)), key=nexts.__getitem__)
        _, task = lock.waiting.pop(index)
        # Held from now on: only the task that looks first can find the lock free.
        lock.held = True
        self.at(nexts[index], self.resume, task, True)

    def _start_all(self, task: Task, both: Both) -> None:
        task.left, task.results, task.error = len(both.calls), [None] * len(both.calls), None
        children = [Task(call, task.owner, task, n) for n, call in enumerate(both.calls)]
        task.queue = children[both.at_once :]
        task.queue.reverse()
        for child in children[: both.at_once]:
            self.resume(child, None)

    def _finish(self, task: Task, value: Any, error: BaseException | None) -> None:
        parent = task.parent
        if parent is None:
            if task.done is not None:
                task.done(value, error)
            elif error is not None:
                raise error
            return
        parent.results[task.index] = value
        parent.left -= 1
        if error is not None and parent.error is None:
            parent.error = error
            # The calls that have not begun are never made.
            parent.left -= len(parent.queue)
            parent.queue = []
        if parent.queue:
            self.resume(parent.queue.pop(), None)
        elif parent.left == 0:
            self.resume(parent, parent.results, parent.error)
