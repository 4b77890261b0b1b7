"""Keep track of the versions that one training run has pushed, for each policy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from policystore.errors import NotFoundError
from policystore.format.records import Version
from policystore.rllib.callbacks.lineage import Lineage
from policystore.snapshot import Snapshot
from policystore.store import PolicyStore

__all__ = ["Copy", "PolicyUploads", "iteration_of", "read_back"]

# A search for versions of this lineage ends after this many other versions in a row.
_LOOK_BACK, _LOOK_BACK_RESTORED = 100, 500


@dataclass(frozen=True, eq=False)  # comparing snapshots would hash them
class Copy:
    """One policy as it was after one training iteration, to be pushed.

    Attributes:
        policy: id of the policy.
        name: name in the store under which the copy is pushed.
        snap: the snapshot of the policy.
        run: name of the training run, which does not change when the run restarts.
        iteration: the training iteration.
        value: the number by which copies are compared; None if the result had no such number.
        metrics: metrics of the version.
        lineage: the lineage of the run at that iteration.
        message: message of the version.
        source: what the source of the version says beside run, policy and iteration.
        again: whether the copy is pushed although the run has pushed another policy of the same
            iteration and lineage before, as a run does that repeats an iteration after a crash.
    """

    policy: str
    name: str
    snap: Snapshot
    run: str
    iteration: int
    value: float | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    lineage: Lineage = field(default_factory=Lineage)
    message: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)
    again: bool = False

    def __str__(self) -> str:
        return f"policy {self.policy!r} of iteration {self.iteration} to {self.name!r}"


@dataclass
class PolicyUploads:
    """The waiting copies and the pushed versions of one policy.

    Attributes:
        name: name in the store.
        metric: key in a version's metrics under which the version's value is; None: versions are
            not compared, and no version gets the tag ``best``.
        waiting: copies to be pushed, oldest first.
        pushed: the newest version that is known to be in the store.
        best: the version with the tag ``best``, as far as this process knows.
        skipped: number of copies that were dropped while they waited.
        failed: number of copies that could not be pushed.
        error: text of the last error; None after a push that went well.
        repeated: number of copies that were not pushed, because the run had pushed a version of
            the same iteration and lineage before.
        restored_at: iteration of the checkpoint that the run continues from.
        known: versions that this run has pushed, by iteration, newest first; complete up to
            ``known_to``.
        known_to: number of the newest version that was looked at; None: no version was looked at.
        unsure: whether a push failed although its record may be in the store.
        untagged: a version that may lack its tag, because the process that pushed the version may
            have ended before it set the tag.
        unpruned: number of versions that this process has pushed since the last prune.
    """

    name: str
    metric: str | None
    waiting: list[Copy] = field(default_factory=list)
    pushed: Version | None = None
    best: Version | None = None
    skipped: int = 0
    failed: int = 0
    error: str | None = None
    repeated: int = 0
    restored_at: int | None = None
    known: dict[int, list[Version]] = field(default_factory=dict)
    known_to: int | None = None
    unsure: bool = False
    untagged: Version | None = None
    unpruned: int = 0

    def value_of(self, version: Version) -> float | None:
        """Return the number by which a version is compared; None if the version has no number."""
        value = version.metrics.get(self.metric)
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None

    def learn(self, version: Version, iteration: int) -> None:
        """Note that this run has pushed a version."""
        versions = self.known.setdefault(iteration, [])
        if all(version.number != each.number for each in versions):
            versions.append(version)
            versions.sort(key=lambda each: each.number or 0, reverse=True)

    def earlier(self, copy: Copy) -> Version | None:
        """Return the version of a copy's iteration that this run has pushed before.

        A version with the same digest, of any lineage; otherwise the newest version of the copy's
        lineage, unless the copy is pushed ``again``; None if there is none.
        """
        versions = self.known.get(copy.iteration, [])
        same = [each for each in versions if each.digest == copy.snap.digest]
        if same or copy.again:
            return next(iter(same), None)
        of_lineage = (each for each in versions if _lineage_of(each) == copy.lineage.id)
        return next(of_lineage, None)


def read_back(
    store: PolicyStore, uploads: PolicyUploads, copy: Copy, *, resumes: bool
) -> tuple[int, list[Version]]:
    """Find versions of this run in the store that are missing in ``uploads.known``.

    The search begins at the newest version of the name. The search ends at the newest version that
    was looked at before, at a version of this lineage from before the restored checkpoint, or after
    many versions of other lineages or other runs in a row.

    Args:
        store: the store.
        uploads: the uploads of the policy.
        copy: the copy to be pushed next; its run, lineage and policy are searched.
        resumes: whether an earlier process may have pushed for this run.

    Returns:
        The name's newest number (0: no version yet), and versions of this run, newest first.
    """
    known_to = uploads.known_to
    first, restored = known_to is None, uploads.restored_at is not None
    newest, others_in_a_row = 0, 0
    of_this_run: list[Version] = []
    for version in _newest_first(store, copy.name):
        number = version.number or 0
        newest = newest or number
        if number <= (known_to or 0) or (first and not (restored or resumes)):
            break
        iteration = iteration_of(version)
        source = (version.source.get("run"), version.source.get("policy"))
        is_of_run = source == (copy.run, copy.policy) and iteration is not None
        if is_of_run:
            of_this_run.append(version)
        if is_of_run and _lineage_of(version) == copy.lineage.id:
            others_in_a_row = 0
            if first and (iteration or 0) <= (uploads.restored_at or 0):
                break
        else:
            others_in_a_row += 1
            if others_in_a_row == (_LOOK_BACK_RESTORED if restored else _LOOK_BACK):
                break
    return newest, of_this_run


def iteration_of(version: Version) -> int | None:
    """Return the training iteration that a version's source names."""
    iteration = version.source.get("iteration")
    return iteration if isinstance(iteration, int) else None


def _lineage_of(version: Version) -> Any:
    return version.source.get("lineage", "")


def _newest_first(store: PolicyStore, name: str) -> Iterator[Version]:
    """Yield the versions of a name, newest first, in growing batches; none if there is no name."""
    done, limit = 0, 1
    while True:
        try:
            versions = store.log(name, limit=limit)
        except NotFoundError:
            return
        yield from versions[done:]
        if len(versions) < limit:
            return
        done, limit = len(versions), max(8, 4 * limit)
