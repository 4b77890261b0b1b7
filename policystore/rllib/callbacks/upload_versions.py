"""Push copies as versions of a name: once each, with their parent, and the best one tagged."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from policystore._util.log import logger
from policystore.errors import NotFoundError, PolicyStoreError
from policystore.format.records import Version
from policystore.rllib.callbacks.lineage import Ancestor
from policystore.rllib.callbacks.upload_history import (
    Copy,
    PolicyUploads,
    iteration_of,
    read_back,
)
from policystore.store import PolicyStore

__all__ = ["BEST", "PRUNED_AFTER", "Pusher"]

BEST = "best"
PRUNED_AFTER = 10  # pushes of a name
# How long a push waits for its parent, which another process may be pushing at the same time.
_PARENT_PAUSE, _PARENT_PATIENCE = 0.25, 5.0  # seconds
_TRIAL_PAUSE = 0.25  # seconds


class Pusher:
    """Pushes copies of one run, for one thread. Errors of the store are passed on.

    Args:
        store: the store.
        lowest: whether the best value is the lowest one instead of the highest.
        resumes: whether an earlier process may have pushed for this run.
        keep_last: how many of the newest versions of each name to keep; None for all.
        trial_source: returns what the source of each version says of Tune's trial; None while that
            is not known.
        lock: is held while a value is changed that another thread reads.
        pause: waits for a number of seconds, and returns whether it waited.
    """

    def __init__(
        self,
        store: PolicyStore,
        *,
        lowest: bool,
        resumes: bool,
        keep_last: int | None,
        trial_source: Callable[[], Mapping[str, Any] | None],
        lock: threading.Condition,
        pause: Callable[[PolicyUploads, float], bool],
    ) -> None:
        self._store = store
        self._lowest = lowest
        self._resumes = resumes
        self._keep_last = keep_last
        self._trial_source = trial_source
        self._lock = lock
        self._pause = pause

    def push(self, uploads: PolicyUploads, copy: Copy) -> tuple[Version, bool]:
        """Push a copy, unless the run has pushed a version before that stands for the copy.

        Returns:
            The version, and whether this call made it.
        """
        self._find_pushed(uploads, copy)
        version = self._earlier(uploads, copy)
        is_new = version is None
        if version is None:
            uploads.unsure = True
            version = self._push_with_parent(uploads, copy)
            uploads.learn(version, copy.iteration)
            uploads.unpruned += 1
        with self._lock:
            if is_new:
                uploads.unsure = False
                if uploads.known_to is not None:  # None: the run was restored in the meantime
                    uploads.known_to = version.number
            if version.digest == copy.snap.digest:
                ancestor = Ancestor(copy.iteration, version.digest, True)
                copy.lineage.ancestors[copy.policy] = [ancestor]
        return version, is_new

    def _find_pushed(self, uploads: PolicyUploads, copy: Copy) -> None:
        """Find this run's versions, before the first push and after a push of unknown outcome."""
        if uploads.known_to is None or uploads.unsure:
            restored_at, first = uploads.restored_at, uploads.known_to is None
            newest, of_this_run = read_back(self._store, uploads, copy, resumes=self._resumes)
            for version in of_this_run:
                uploads.learn(version, iteration_of(version) or 0)
            if first:
                uploads.untagged = self._best_of(uploads, of_this_run) or uploads.untagged
            with self._lock:
                if uploads.restored_at == restored_at:
                    uploads.known_to, uploads.unsure = newest, False
        if uploads.untagged is not None:
            self.tag_if_better(uploads, uploads.untagged)
            uploads.untagged = None

    def _earlier(self, uploads: PolicyUploads, copy: Copy) -> Version | None:
        """Return the version that stands for a copy, if this run has pushed such a version before.

        An earlier try may have pushed this copy. Or the run had pushed the iteration before it was
        restored, and the new copy is not better.
        """
        earlier = uploads.earlier(copy)
        if earlier is None or earlier.digest == copy.snap.digest:
            return earlier
        return None if self._surpasses(uploads, copy, earlier) else earlier

    def _push_with_parent(self, uploads: PolicyUploads, copy: Copy) -> Version:
        """Push a copy. Its parent is its newest ancestor that is in the store."""
        while (of_trial := self._trial_source()) is None and self._pause(uploads, _TRIAL_PAUSE):
            pass
        end = time.monotonic() + _PARENT_PATIENCE
        while True:
            ancestors = copy.lineage.ancestors_of(copy.policy)
            try:
                return self._store.push(
                    copy.snap,
                    copy.name,
                    message=copy.message,
                    metrics={"iteration": copy.iteration, **copy.metrics},
                    source={
                        "run": copy.run,
                        "policy": copy.policy,
                        "iteration": copy.iteration,
                        **copy.source,
                        **copy.lineage.source(),
                        **(of_trial or {}),
                    },
                    parents=[each.digest for each in ancestors[:1]],
                )
            except NotFoundError:
                if not ancestors:
                    raise
                # The run that saved the checkpoint may be pushing the ancestor at this moment.
                if (
                    ancestors[0].pushed
                    or time.monotonic() > end
                    or not self._pause(uploads, _PARENT_PAUSE)
                ):
                    with self._lock:
                        copy.lineage.ancestors[copy.policy] = ancestors[1:]

    def _best_of(self, uploads: PolicyUploads, versions: Iterable[Version]) -> Version | None:
        """Return the best of some versions, the oldest one of several; None if none has a value."""
        best = None
        for version in sorted(versions, key=lambda each: each.number or 0):
            value = uploads.value_of(version)
            if value is not None and (
                best is None or self.is_better(value, uploads.value_of(best))
            ):
                best = version
        return best

    def _surpasses(self, uploads: PolicyUploads, copy: Copy, earlier: Version) -> bool:
        """Tell whether a copy is better than its iteration's earlier version and the best one."""
        value = copy.value
        if uploads.metric is None or value is None:
            return False
        tags: dict[str, Version] = {}
        with suppress(NotFoundError):  # no version of the name may stand
            tags = self._store.tags(uploads.name)
        uploads.best = best = tags.get(BEST)
        others = [uploads.value_of(version) for version in (best, earlier) if version is not None]
        return all(self.is_better(value, other) for other in others)

    def tag_if_better(self, uploads: PolicyUploads, version: Version) -> None:
        """Tag a version ``best`` if it is better than the tagged version of this or another run."""
        value = uploads.value_of(version)
        if uploads.metric is None or value is None:
            return
        if uploads.best is not None and not self.is_better(value, uploads.value_of(uploads.best)):
            return
        try:
            uploads.best = self._store.tag(
                version,
                BEST,
                when=lambda now: now is None or self.is_better(value, uploads.value_of(now)),
            )
        except NotFoundError as error:
            # Another process has deleted or pruned the version since it was pushed.
            logger.warning("publish does not tag %s %r: %s", version.ref, BEST, error)

    def prune(self, uploads: PolicyUploads) -> None:
        """Prune the name after some pushes, if a number of versions to keep was given.

        A prune only saves space, so a prune that fails is logged and tried again after more pushes.
        """
        if self._keep_last is None or uploads.unpruned < PRUNED_AFTER:
            return
        uploads.unpruned = 0
        try:
            self._store.prune(
                uploads.name,
                keep_last=self._keep_last,
                message=f"publish(keep_last={self._keep_last})",
            )
        except PolicyStoreError as error:
            logger.warning("publish could not prune %s: %s", uploads.name, error)

    def is_better(self, value: float, than: float | None) -> bool:
        """Tell whether a value is better than another value, or than none."""
        return than is None or (value < than if self._lowest else value > than)
