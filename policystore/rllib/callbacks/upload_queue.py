"""Copies of policies on their way to a store, beside the thread that made them.

One thread, a bounded queue, retries. Whoever hands over a copy never waits. What was not pushed is
counted and kept as a text, and told to whoever asks next.
"""

from __future__ import annotations

import atexit
import math
import random
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from policystore._util.log import logger
from policystore.errors import NotFoundError, PolicyStoreError, StorageError
from policystore.format.records import Version
from policystore.snapshot import Snapshot
from policystore.store import PolicyStore

__all__ = ["BEST", "Copy", "Uploader"]

BEST = "best"
_TRIES = 6
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds
_LOOK_BACK, _LOOK_BACK_RESTORED = 100, 500  # versions of others in a row


@dataclass(frozen=True, eq=False)  # comparing snapshots takes hashing them
class Copy:
    """One policy at one moment."""

    policy: str  # its id
    name: str  # where it goes
    snap: Snapshot
    run: str  # of which training
    iteration: int  # of that training
    value: float | None = None  # by which it is compared; None where there is no such number
    metrics: Mapping[str, Any] = field(default_factory=dict)  # what is kept with it

    def __str__(self) -> str:
        return f"policy {self.policy!r} of iteration {self.iteration} to {self.name!r}"


@dataclass
class _Line:
    """What there is to know of one policy."""

    name: str
    metric: str | None
    waiting: list[Copy] = field(default_factory=list)
    pushed: Version | None = None
    best: Version | None = None
    skipped: int = 0
    failed: int = 0
    error: str | None = None
    restored_at: int | None = None
    # What this run has pushed, by iteration; all of it up to the version of that number.
    known: dict[int, Version] = field(default_factory=dict)
    known_to: int | None = None
    unsure: bool = False  # a push failed, and its record may stand all the same
    untagged: Version | None = None  # pushed by a process that may have ended before the tag

    def value_of(self, version: Version) -> float | None:
        """By which it is compared."""
        found = version.metrics.get(self.metric)
        return float(found) if isinstance(found, (int, float)) and math.isfinite(found) else None


class Uploader:
    """Pushes copies in a thread of its own, oldest first.

    Args:
        store: where to.
        names: policy id -> name.
        max_pending: so many copies of each policy may wait. One more, and the oldest of them gives way
            that is not the best.
        metrics: policy id -> what a version's metrics have its value under, for the tag ``best``;
            None: no tag.
        lowest: the best is the lowest value, not the highest.
        resumes: whether the run may have pushed before, in a process that is gone.
    """

    def __init__(
        self,
        store: PolicyStore,
        names: Mapping[str, str],
        *,
        max_pending: int,
        metrics: Mapping[str, str | None],
        lowest: bool,
        resumes: bool = False,
    ) -> None:
        self._store = store
        self._resumes = resumes
        self._max_pending = max_pending
        self._lowest = lowest
        self._lines = {policy: _Line(name, metrics[policy]) for policy, name in names.items()}
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._under_way: Copy | None = None
        self._deadline: float | None = None
        self._lost: list[str] = []
        self._fatal: Exception | None = None

    # In the training thread ----------------------------------------------------------------------

    def put(self, copy: Copy) -> None:
        """Hand over a copy; returns at once."""
        with self._change:
            line = self._lines[copy.policy]
            line.waiting.append(copy)
            if len(line.waiting) > self._max_pending:
                line.waiting.remove(self._least(line))
                line.skipped += 1
            self._deadline = None
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name="policystore publish", daemon=True
                )
                self._thread.start()
                atexit.register(_say_at_exit, weakref.ref(self))
            self._change.notify_all()

    def restored(self, iteration: int) -> None:
        """The training goes on from an iteration; what it pushed since is not pushed again."""
        with self._change:
            for line in self._lines.values():
                line.restored_at, line.known_to = iteration, None

    def raise_fatal(self) -> None:
        """Raise, once, what no retry would mend."""
        with self._change:
            error, self._fatal = self._fatal, None
        if error is not None:
            raise error

    def note_lost(self, policy: str, why: str) -> None:
        """A copy that could not even be made."""
        with self._change:
            self._lose(self._lines[policy], why)

    def status(self) -> dict[str, dict[str, Any]]:
        """By policy, in plain values; ``pushed`` is the newest version that surely stands."""
        with self._change:
            return {
                policy: {
                    "name": line.name,
                    "pushed": None if line.pushed is None else line.pushed.number,
                    "digest": None if line.pushed is None else str(line.pushed.digest),
                    "best": None if line.best is None else line.best.number,
                    "waiting": len(line.waiting) + (line is self._under_way_line()),
                    "skipped": line.skipped,
                    "failed": line.failed,
                    "error": line.error,
                }
                for policy, line in self._lines.items()
            }

    def finish(self, timeout: float) -> list[str]:
        """Wait until all is pushed, for so many seconds at most, and end the thread.

        Returns:
            What was not pushed since the last call, and why, a text for each.
        """
        thread = self._thread
        with self._change:
            self._deadline = time.monotonic() + timeout
            self._change.notify_all()
        if thread is not None:
            thread.join(min(timeout + 0.1, threading.TIMEOUT_MAX))
        with self._change:
            left = [copy for line in self._lines.values() for copy in line.waiting]
            for line in self._lines.values():
                line.waiting.clear()
            if self._under_way is not None:
                left.insert(0, self._under_way)
            lost, self._lost = self._lost, []
        return lost + [f"{copy}: the {timeout:g} s to finish were over" for copy in left]

    def _under_way_line(self) -> _Line | None:
        return None if self._under_way is None else self._lines[self._under_way.policy]

    def _least(self, line: _Line) -> Copy:
        """The oldest copy in the queue that is not the best, of it and of what stands."""
        best = None if line.best is None else line.value_of(line.best)
        keep = None
        for copy in line.waiting:
            if copy.value is not None and self._better(copy.value, best):
                keep, best = copy, copy.value
        return next((c for c in line.waiting if c is not keep), line.waiting[0])

    # In the uploading thread ---------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._change:
                while not (copy := self._next()):
                    if self._deadline is not None:
                        self._thread = None
                        return
                    self._change.wait()
                self._under_way = copy
            try:
                self._upload(copy)
            except Exception as error:
                # Nothing that a retry would mend, or a fault of ours: the training hears of it.
                with self._change:
                    self._lose(self._lines[copy.policy], f"{copy}: {error}")
                    self._fatal = (
                        error.within(f"publish of {copy} in {self._store.url}")
                        if isinstance(error, PolicyStoreError)
                        else error
                    )
            finally:
                with self._change:
                    self._under_way = None

    def _next(self) -> Copy | None:
        lines = [line for line in self._lines.values() if line.waiting]
        if not lines:
            return None
        return min(lines, key=lambda line: line.waiting[0].iteration).waiting.pop(0)

    def _upload(self, copy: Copy) -> None:
        line = self._lines[copy.policy]
        version: Version | None = None
        for attempt in range(1, _TRIES + 1):
            try:
                if version is None:
                    self._look(line, copy)
                    version = self._pushed(line, copy)
                    with self._change:
                        if line.pushed is None or (version.number or 0) > (line.pushed.number or 0):
                            line.pushed = version
                self._offer(line, version)
                with self._change:
                    line.error = None
                return
            except StorageError as error:  # noqa: PERF203 (the loop is of retries)
                pause = min(_FIRST_PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE)
                pause *= random.uniform(0.75, 1.25)  # noqa: S311 (spreads writers, hides nothing)
                last = attempt == _TRIES or not self._may_wait(pause)
                with self._change:
                    line.error = str(error)
                    if last:
                        self._lose(line, f"{copy}: {error}")
                logger.warning(
                    "publish of %s in %s failed (%d of %d tries)%s: %s", copy, self._store.url,
                    attempt, _TRIES, "" if last else f", again in {pause:.1f} s", error,
                )  # fmt: skip
                if last:
                    line.untagged = version  # then the tag is what failed
                    return
                self._wait(pause)

    def _look(self, line: _Line, copy: Copy) -> None:
        """Learn what this run has pushed already: at first, and where a push may have gone well."""
        if line.known_to is None or line.unsure:
            restored_at, first = line.restored_at, line.known_to is None
            newest, found = self._read_back(line, copy)
            line.known |= found
            valued = [
                (v, at) for at, each in found.items() if (v := line.value_of(each)) is not None
            ]
            if first and valued:
                line.untagged = found[(min if self._lowest else max)(valued)[1]]
            with self._change:
                if line.restored_at == restored_at:
                    line.known_to, line.unsure = newest, False
        if line.untagged is not None:
            self._offer(line, line.untagged)
            line.untagged = None

    def _read_back(self, line: _Line, copy: Copy) -> tuple[int, dict[int, Version]]:
        """The newest number of a name, and what of this run was not known, by iteration."""
        known_to = line.known_to
        first, restored = known_to is None, line.restored_at is not None
        newest, of_others, found = 0, 0, dict[int, Version]()
        for version in self._newest_first(copy.name):
            number = version.number or 0
            newest = newest or number
            if number <= (known_to or 0) or (first and not (restored or self._resumes)):
                break
            iteration = version.source.get("iteration")
            of_run = (version.source.get("run"), version.source.get("policy"))
            if of_run == (copy.run, copy.policy) and isinstance(iteration, int):
                of_others = 0
                found.setdefault(iteration, version)
                if first and iteration <= (line.restored_at or 0):
                    break
            else:
                of_others += 1
                if of_others == (_LOOK_BACK_RESTORED if restored else _LOOK_BACK):
                    break
        return newest, found

    def _newest_first(self, name: str) -> Iterator[Version]:
        done, limit = 0, 1
        while True:
            try:
                versions = self._store.log(name, limit=limit)
            except NotFoundError:
                return
            yield from versions[done:]
            if len(versions) < limit:
                return
            done, limit = len(versions), max(8, 4 * limit)

    def _pushed(self, line: _Line, copy: Copy) -> Version:
        """The version of this copy: one that is there, or a new one."""
        found = line.known.get(copy.iteration)
        if found is not None and (
            found.digest == copy.snap.digest or not self._surpasses(line, copy, found)
        ):
            # Of a try before, or trained anew after a restore, from where this one came from too.
            return found
        line.unsure = True
        version = self._store.push(
            copy.snap,
            copy.name,
            metrics={"iteration": copy.iteration, **copy.metrics},
            source={"run": copy.run, "policy": copy.policy, "iteration": copy.iteration},
        )
        line.known[copy.iteration] = version
        with self._change:
            line.unsure = False
            if line.known_to is not None:  # else it was restored meanwhile
                line.known_to = version.number
        return version

    def _surpasses(self, line: _Line, copy: Copy, found: Version) -> bool:
        """Whether a copy is better than the one of its iteration that stands, and than the best."""
        value = copy.value
        if line.metric is None or value is None:
            return False
        line.best = best = self._store.tags(line.name).get(BEST)
        others = [line.value_of(version) for version in (best, found) if version is not None]
        return all(self._better(value, other) for other in others)

    def _offer(self, line: _Line, version: Version) -> None:
        """Tag it, if it is better than what is tagged; of several trainings the best stays."""
        value = line.value_of(version)
        if line.metric is None or value is None:
            return
        if line.best is not None and not self._better(value, line.value_of(line.best)):
            return
        stands = self._store.tag(
            version,
            BEST,
            when=lambda now: now is None or self._better(value, line.value_of(now)),
        )
        line.best = stands

    def _better(self, value: float, than: float | None) -> bool:
        return than is None or (value < than if self._lowest else value > than)

    def _lose(self, line: _Line, why: str) -> None:
        line.failed += 1
        line.error = why
        self._lost.append(why)

    def _may_wait(self, seconds: float) -> bool:
        with self._change:
            return self._deadline is None or time.monotonic() + seconds < self._deadline

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        with self._change:
            while (left := end - time.monotonic()) > 0 and (self._deadline or end) >= end:
                self._change.wait(left)

    def waiting(self) -> int:
        """How many copies are not pushed yet."""
        with self._change:
            lines = self._lines.values()
            return sum(len(line.waiting) for line in lines) + (self._under_way is not None)

    def say_at_exit(self) -> None:
        """Python's end takes the thread with it; nobody is left to raise to."""
        if self._deadline is None and (count := self.waiting()):
            logger.error(
                "%d copies of policies were not pushed: the process ends, and algorithm.stop(), "
                "which waits for them, was not called",
                count,
            )


def _say_at_exit(reference: weakref.ref[Uploader]) -> None:
    if (uploader := reference()) is not None:
        uploader.say_at_exit()
