"""Push copies of policies in a thread of their own, so that training never waits for a store.

One thread pushes the copies of a bounded queue, with retries. A copy that could not be pushed is
counted, and the reason is kept until :meth:`Uploader.finish` returns it.
"""

from __future__ import annotations

import atexit
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from policystore._util.log import logger
from policystore.errors import PolicyStoreError, StorageError
from policystore.format.records import Version
from policystore.rllib.callbacks.lineage import Ancestor, Lineage
from policystore.rllib.callbacks.upload_history import Copy, PolicyUploads
from policystore.rllib.callbacks.upload_versions import Pusher
from policystore.store import PolicyStore

__all__ = ["Uploader"]

_TRIES = 6
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds


class Uploader:
    """Pushes copies in a thread of its own, oldest first.

    Args:
        store: the store.
        names: policy id -> name in the store.
        max_pending: number of copies of each policy that may wait. If one more copy is added, the
            oldest waiting copy that is not the best is dropped.
        metrics: policy id -> key in a version's metrics under which the version's value is, for the
            tag ``best``; None: no tag.
        lowest: whether the best value is the lowest one instead of the highest.
        resumes: whether an earlier process may have pushed for this run.
        keep_last: how many of the newest versions of each name to keep; None for all.
        trial_source: returns what the source of each version says of Tune's trial; None while that
            is not known. The first push then waits, as long as no copy has to be dropped.
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
        keep_last: int | None = None,
        trial_source: Callable[[], Mapping[str, Any] | None] = dict,
    ) -> None:
        self._store = store
        self._max_pending = max_pending
        self._uploads = {
            policy: PolicyUploads(name, metrics[policy]) for policy, name in names.items()
        }
        self._changed = threading.Condition()
        self._pusher = Pusher(
            store,
            lowest=lowest,
            resumes=resumes,
            keep_last=keep_last,
            trial_source=trial_source,
            lock=self._changed,
            pause=self._pause_unless_full,
        )
        self._thread: threading.Thread | None = None
        self._under_way: Copy | None = None
        self._deadline: float | None = None
        # Until then a copy may wait for its parent: half of the time of `finish`. The other half is
        # left for the pushes.
        self._patient_until: float | None = None
        self._lost: list[str] = []
        self._fatal: Exception | None = None

    # Called by the training thread ---------------------------------------------------------------

    def put(self, copy: Copy) -> None:
        """Add a copy to the queue, and return at once."""
        with self._changed:
            uploads = self._uploads[copy.policy]
            uploads.waiting.append(copy)
            if len(uploads.waiting) > self._max_pending:
                uploads.waiting.remove(self._droppable(uploads))
                uploads.skipped += 1
            self._deadline = self._patient_until = None
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name="policystore publish", daemon=True
                )
                self._thread.start()
                atexit.register(_say_at_exit, weakref.ref(self), os.getpid())
            self._changed.notify_all()

    def restored(self, iteration: int) -> None:
        """Note that the run continues a lineage of its own from an iteration.

        Later iterations that the run had pushed in that lineage are not pushed twice.
        """
        with self._changed:
            for uploads in self._uploads.values():
                uploads.restored_at, uploads.known_to = iteration, None

    def raise_fatal(self) -> None:
        """Raise an error that cannot be solved by a retry, if there is one; raise it only once."""
        with self._changed:
            error, self._fatal = self._fatal, None
        if error is not None:
            raise error

    def note_lost(self, policy: str, why: str) -> None:
        """Count a copy that could not be made."""
        with self._changed:
            self._lose(self._uploads[policy], why)

    def status(self) -> dict[str, dict[str, Any]]:
        """Return the progress by policy id, in plain values.

        ``pushed`` is the number of the newest version that is known to be in the store.
        """
        with self._changed:
            return {
                policy: {
                    "name": uploads.name,
                    "pushed": None if uploads.pushed is None else uploads.pushed.number,
                    "digest": None if uploads.pushed is None else str(uploads.pushed.digest),
                    "best": None if uploads.best is None else uploads.best.number,
                    "waiting": len(uploads.waiting) + (uploads is self._uploads_under_way()),
                    "skipped": uploads.skipped,
                    "failed": uploads.failed,
                    "error": uploads.error,
                }
                for policy, uploads in self._uploads.items()
            }

    def refs(self) -> dict[str, str]:
        """Return the refs of the newest pushed versions, by text of their acting digest."""
        with self._changed:
            newest = [each.pushed for each in self._uploads.values() if each.pushed is not None]
        return {str(version.acting): version.ref for version in newest}

    def repeated(self) -> dict[str, int]:
        """Count, by policy id, the copies whose iteration the run had pushed before."""
        with self._changed:
            return {policy: uploads.repeated for policy, uploads in self._uploads.items()}

    def newest_copies(self, lineage: Lineage) -> dict[str, list[Ancestor]]:
        """Return the newest copies of each policy in a lineage, pushed or not, newest first."""
        found = {}
        with self._changed:
            under_way = [] if self._under_way is None else [self._under_way]
            for policy, uploads in self._uploads.items():
                copies = [copy for copy in under_way if copy.policy == policy] + uploads.waiting
                waiting = [copy for copy in reversed(copies) if copy.lineage is lineage]
                found[policy] = waiting, lineage.ancestors_of(policy)
        # A digest takes a while to compute, and the other thread may go on in the meantime.
        return {
            policy: [Ancestor(copy.iteration, copy.snap.digest, False) for copy in waiting] + pushed
            for policy, (waiting, pushed) in found.items()
        }

    def finish(self, timeout: float) -> list[str]:
        """Wait until all copies are pushed, ``timeout`` seconds at most, and end the thread.

        Returns:
            A text with the reason, for each copy that could not be pushed since the last call.
        """
        thread = self._thread
        with self._changed:
            self._deadline = time.monotonic() + timeout
            self._patient_until = self._deadline - timeout / 2
            self._changed.notify_all()
        if thread is not None:
            thread.join(min(timeout + 0.1, threading.TIMEOUT_MAX))
        with self._changed:
            left = [copy for uploads in self._uploads.values() for copy in uploads.waiting]
            for uploads in self._uploads.values():
                uploads.waiting.clear()
            if self._under_way is not None:
                left.insert(0, self._under_way)
            lost, self._lost = self._lost, []
        return lost + [f"{copy}: not finished within {timeout:g} s" for copy in left]

    def _uploads_under_way(self) -> PolicyUploads | None:
        return None if self._under_way is None else self._uploads[self._under_way.policy]

    def _droppable(self, uploads: PolicyUploads) -> Copy:
        """Return the oldest waiting copy, but not the one that would be tagged ``best``."""
        best = None if uploads.best is None else uploads.value_of(uploads.best)
        keep = None
        for copy in uploads.waiting:
            if copy.value is not None and self._pusher.is_better(copy.value, best):
                keep, best = copy, copy.value
        return next((c for c in uploads.waiting if c is not keep), uploads.waiting[0])

    # Called by the uploading thread --------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (copy := self._next()):
                    if self._deadline is not None:
                        self._thread = None
                        return
                    self._changed.wait()
                self._under_way = copy
            try:
                self._upload(copy)
            except Exception as error:
                # A retry cannot solve this error, so the next training result raises it.
                with self._changed:
                    self._lose(self._uploads[copy.policy], f"{copy}: {error}")
                    self._fatal = (
                        error.within(f"publish of {copy} in {self._store.url}")
                        if isinstance(error, PolicyStoreError)
                        else error
                    )
            finally:
                with self._changed:
                    self._under_way = None

    def _next(self) -> Copy | None:
        pending = [uploads for uploads in self._uploads.values() if uploads.waiting]
        if not pending:
            return None
        return min(pending, key=lambda uploads: uploads.waiting[0].iteration).waiting.pop(0)

    def _upload(self, copy: Copy) -> None:
        uploads = self._uploads[copy.policy]
        version: Version | None = None
        for attempt in range(1, _TRIES + 1):
            try:
                if version is None:
                    version, is_new = self._pusher.push(uploads, copy)
                    with self._changed:
                        pushed = uploads.pushed
                        if pushed is None or (version.number or 0) > (pushed.number or 0):
                            uploads.pushed = version
                        uploads.repeated += attempt == 1 and not is_new
                self._pusher.tag_if_better(uploads, version)
                with self._changed:
                    uploads.error = None
                self._pusher.prune(uploads)
                return
            except StorageError as error:  # noqa: PERF203 (the loop is of retries)
                pause = min(_FIRST_PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE)
                pause *= random.uniform(0.75, 1.25)  # noqa: S311 (only spreads writers over time)
                last = attempt == _TRIES or not self._may_wait(pause)
                with self._changed:
                    uploads.error = str(error)
                    if last:
                        self._lose(uploads, f"{copy}: {error}")
                logger.warning(
                    "publish of %s in %s failed (%d of %d tries)%s: %s", copy, self._store.url,
                    attempt, _TRIES, "" if last else f", again in {pause:.1f} s", error,
                )  # fmt: skip
                if last:
                    uploads.untagged = version  # the push went well, but setting the tag failed
                    return
                self._wait(pause)

    def _lose(self, uploads: PolicyUploads, why: str) -> None:
        uploads.failed += 1
        uploads.error = why
        self._lost.append(why)

    def _pause_unless_full(self, uploads: PolicyUploads, seconds: float) -> bool:
        """Wait, unless that would cost a copy; return whether it waited."""
        with self._changed:
            is_over = _ends_after(self._patient_until, seconds)
        if len(uploads.waiting) >= self._max_pending or is_over:
            return False
        self._wait(seconds)
        return True

    def _may_wait(self, seconds: float) -> bool:
        with self._changed:
            return not _ends_after(self._deadline, seconds)

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        with self._changed:
            while (left := end - time.monotonic()) > 0 and (self._deadline or end) >= end:
                self._changed.wait(left)

    def waiting(self) -> int:
        """Count the copies that are not pushed yet."""
        with self._changed:
            waiting = sum(len(uploads.waiting) for uploads in self._uploads.values())
            return waiting + (self._under_way is not None)

    def say_at_exit(self) -> None:
        """Log the copies that are lost when Python ends; no caller can get an error then."""
        if self._deadline is None and (count := self.waiting()):
            logger.error(
                "%d copies of policies were not pushed: the process ends, and algorithm.stop(), "
                "which waits for them, was not called",
                count,
            )


def _ends_after(limit: float | None, seconds: float) -> bool:
    """Return whether a pause that begins now ends at a limit or later; False without a limit."""
    return limit is not None and time.monotonic() + seconds >= limit


def _say_at_exit(reference: weakref.ref[Uploader], process: int) -> None:
    # A forked process loses nothing, and another thread may have held the lock at the fork.
    if process == os.getpid() and (uploader := reference()) is not None:
        uploader.say_at_exit()
