"""Imports one checkpoint of a Tune experiment into a store: the unit of work of an import.

A task and its result can be pickled, so that tasks may run in other processes.
"""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from policystore.backends.options import StorageOptions
from policystore.checkpoints.checkpoint import Checkpoint
from policystore.checkpoints.files.folder import open_folder
from policystore.checkpoints.layouts import recognize
from policystore.checkpoints.policy_reader import read_each
from policystore.errors import InvalidInputError, NotFoundError, PolicyStoreError
from policystore.rllib_schema.trials import name_part
from policystore.snapshot import Snapshot
from policystore.store import PolicyStore
from policystore.version_list import VersionList

__all__ = ["ImportTask", "TaskResult", "TrialQueue", "import_checkpoint", "plain_name",
           "select_metrics"]  # fmt: skip

_MAX_METRICS = 12_000  # bytes of JSON; a record takes 16 KiB
_NO_METRICS = ("config", "hist_stats", "done")

Imported: TypeAlias = Mapping[str, frozenset[str]]
"""Name in the store -> checkpoints of the trial that are versions of this name.

Only names that were looked up are in the mapping.
"""


@dataclass(frozen=True)
class ImportTask:
    """One checkpoint of a trial, to be imported.

    Attributes:
        store: the store.
        experiment: path or URL of the experiment, as the caller gave it.
        name: what the names of versions start with.
        trial: path of the trial's folder in the experiment.
        checkpoint: name of the checkpoint's folder.
        path: path or URL of the checkpoint.
        options: options for the filesystem of that URL.
        policy_ids: the policies to import; None: all of them.
        metrics: the numbers to record.
        iteration: the iteration to record.
        params: what the source says of the hyperparameters; see ``plain_params``.
        imported: what is known of the trial's names in the store.
    """

    store: PolicyStore
    experiment: str
    name: str
    trial: str
    checkpoint: str
    path: str
    options: StorageOptions
    policy_ids: tuple[str, ...] | None
    metrics: Mapping[str, float]
    iteration: Any
    params: Mapping[str, Any] = field(default_factory=dict)
    imported: Imported = field(default_factory=dict)


@dataclass(frozen=True)
class TaskResult:
    """The result of a task.

    Attributes:
        added: number of versions that were pushed.
        present: number of versions that the store had already.
        error: why the checkpoint, or the rest of it, was not imported; None if it was.
        store_error: the error of the store, which ends the whole import; None if there was none.
        imported: what is known of the trial's names in the store now.
    """

    added: int = 0
    present: int = 0
    error: str | None = None
    store_error: PolicyStoreError | None = None
    imported: Imported = field(default_factory=dict)


class TrialQueue:
    """The tasks of one trial, which run one after the other so that versions are in order."""

    def __init__(self, tasks: list[ImportTask]) -> None:
        self._tasks = deque(tasks)
        self._imported: dict[str, frozenset[str]] = {}

    def next(self) -> ImportTask | None:
        """Take the next task; None when there are no more."""
        if not self._tasks:
            return None
        return replace(self._tasks.popleft(), imported=self._imported)

    def finish(self, result: TaskResult) -> None:
        """Keep what a task learned of the store, so that later tasks need not read it again."""
        self._imported.update(result.imported)


def import_checkpoint(task: ImportTask) -> TaskResult:
    """Push the policies of a checkpoint that the store does not have yet.

    No PolicyStoreError is raised: errors come back in the result, also from other processes.
    """
    imported = dict(task.imported)
    added = present = 0
    error: str | None = None
    try:
        names = {policy_id: _version_name(task, policy_id) for policy_id in task.policy_ids or ()}
        checkpoint = None
        if task.policy_ids is None or any(_is_new(task, name, imported) for name in names.values()):
            try:
                checkpoint = _open(task)
            except PolicyStoreError as reason:
                return TaskResult(error=str(reason), imported=imported)
            if task.policy_ids is None:
                names = {
                    policy_id: _version_name(task, policy_id)
                    for policy_id in (*checkpoint.entries, *checkpoint.missing)
                }
        new = [policy_id for policy_id, name in names.items() if _is_new(task, name, imported)]
        present = len(names) - len(new)
        if checkpoint is None or not new:
            return TaskResult(present=present, imported=imported)
        try:
            snapshots, unread = read_each(checkpoint, new)
        except PolicyStoreError as reason:
            return TaskResult(present=present, error=str(reason), imported=imported)
        if unread:
            error = "; ".join(f"policy {policy_id!r}: {unread[policy_id]}" for policy_id in unread)
        for policy_id, snapshot in snapshots.items():
            try:
                _push(task, names[policy_id], snapshot)
            except InvalidInputError as reason:  # a name or a result that no record can hold
                error = f"{task.path}: {policy_id!r}: {reason}"
                continue
            imported[names[policy_id]] |= {task.checkpoint}
            added += 1
    except PolicyStoreError as store_error:
        return TaskResult(added, present, error, store_error, imported)
    return TaskResult(added, present, error, None, imported)


def _open(task: ImportTask) -> Checkpoint:
    checkpoint = recognize(open_folder(task.path, task.options))
    if checkpoint is None:
        raise InvalidInputError(f"{task.path} is not a checkpoint of RLlib")
    return checkpoint


def _push(task: ImportTask, name: str, snapshot: Snapshot) -> None:
    source = {"experiment": task.experiment, "trial": task.trial, "checkpoint": task.checkpoint,
              "iteration": task.iteration, **task.params}  # fmt: skip
    task.store.push(snapshot, name, metrics=task.metrics, source=source)


def _is_new(task: ImportTask, name: str, imported: dict[str, frozenset[str]]) -> bool:
    """Return whether a name does not have the task's checkpoint as a version yet.

    Args:
        task: the task.
        name: the name in the store.
        imported: what is known of the store; added to.
    """
    if name not in imported:
        try:
            versions = task.store.log(name)
        except NotFoundError:
            versions = VersionList()
        # The trial is compared too: different trials can have the same name in the store, because
        # fewer characters are allowed in names than in folders.
        sources = (version.source for version in versions)
        checkpoints = (
            source.get("checkpoint") for source in sources if source.get("trial") == task.trial
        )
        imported[name] = frozenset(each for each in checkpoints if isinstance(each, str))
    return task.checkpoint not in imported[name]


def _version_name(task: ImportTask, policy_id: str) -> str:
    """Return a policy's name in the store, NAME/TRIAL/POLICY, with TRIAL as in ``publish``."""
    trial = "/".join(name_part(part) for part in task.trial.split("/"))
    return plain_name(f"{task.name}/{trial}/{policy_id}")


def plain_name(text: str) -> str:
    """Return a text as the segments of a name, with ``_`` for characters that no name can hold.

    Tune's folders of trials may hold commas and equals signs.
    """
    segments = (re.sub(r"[^A-Za-z0-9._-]+", "_", part).strip(".") for part in text.split("/"))
    return "/".join(segment for segment in segments if segment)


def select_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers in a result of Tune, as many as a record can hold.

    Numbers with "return" in their key come first. Nested numbers have slashes between their keys.
    The config is left out, and so is NaN: RLlib has NaN for what an iteration did not measure.
    """
    numbers = sorted(
        _numbers(result, ""), key=lambda item: ("return" not in item[0], item[0].count("/"))
    )
    metrics: dict[str, float] = {}
    size = 0
    for key, value in numbers:
        size += len(json.dumps({key: value}))
        if size > _MAX_METRICS:
            break
        metrics[key] = value
    return metrics


def _numbers(result: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for key, value in result.items():
        if key in _NO_METRICS or not isinstance(key, str):
            continue
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, bool) or (isinstance(value, float) and math.isnan(value)):
            continue
        elif isinstance(value, (int, float)):
            yield prefix + key, value
