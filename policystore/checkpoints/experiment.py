"""Imports a whole Tune experiment into a store."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import Any

from policystore._util.messages import printable
from policystore.backends.options import StorageOptions
from policystore.checkpoints.files.folder import open_folder
from policystore.checkpoints.import_runners import (
    Run,
    run_here,
    run_in_processes,
    run_on_ray,
)
from policystore.checkpoints.import_task import (
    ImportTask,
    TrialQueue,
    plain_name,
    select_metrics,
)
from policystore.checkpoints.reader import as_policy_ids
from policystore.checkpoints.trial_params import TrialParams
from policystore.checkpoints.tune import find_checkpoints
from policystore.errors import InvalidInputError, NotFoundError
from policystore.store import PolicyStore

__all__ = ["ImportProgress", "ImportReport", "import_experiment"]


@dataclass(frozen=True)
class ImportProgress:
    """The result for one checkpoint, and the progress of the whole import.

    Attributes:
        done: number of checkpoints that are finished, this one included.
        total: number of all checkpoints.
        trial: path of the trial's folder in the experiment; empty where a trial was imported.
        checkpoint: name of the checkpoint's folder.
        added: number of versions that were pushed.
        present: number of versions that the store had already.
        error: why the checkpoint, or a part of it, was not imported; None if it was.
    """

    done: int
    total: int
    trial: str
    checkpoint: str
    added: int
    present: int
    error: str | None


@dataclass
class ImportReport:
    """What an import did.

    Attributes:
        added: number of versions that were pushed.
        present: number of versions that the store had already.
        errors: why checkpoints were not imported, by their path or URL.
    """

    added: int = 0
    present: int = 0
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every checkpoint was imported, now or earlier."""
        return not self.errors

    def __str__(self) -> str:
        head = f"{self.added} versions added, {self.present} there already"
        if self.errors:
            head += f", {len(self.errors)} checkpoints not imported"
        return "\n".join([head, *(printable(f"  {error}") for error in self.errors.values())])


def import_experiment(
    experiment: str | PathLike[str],
    store: PolicyStore,
    *,
    name: str | None = None,
    policy_ids: Iterable[str] | None = None,
    workers: int = 1,
    ray_address: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[ImportProgress], None] | None = None,
) -> ImportReport:
    """Push every checkpoint of a Tune experiment: a version for each checkpoint of each policy.

    A policy gets the name ``NAME/TRIAL/POLICY``, with ``_`` for characters that no name can hold,
    and its checkpoints become the versions of that name in their order. TRIAL is what ``{trial}``
    means for ``policystore.rllib.publish``: the name of the trial's folder, also with ``_`` for
    dots, and cut to 60 characters. The metrics in a version's record are the numbers that Tune
    reported, without NaN: as many as a record can hold, those with "return" in their key first. The
    source in the record has ``experiment``, ``trial``, ``checkpoint`` and ``iteration``, and as
    ``params`` the hyperparameters that Tune has chosen for the trial. (``params_omitted`` has the
    reasons why values were left out.)

    Guarantees: a checkpoint is not pushed again if its name has a version with the same trial and
    checkpoint in the source. So after an interrupted or killed import, the same call imports the
    rest, and after a complete import it adds nothing. A checkpoint that cannot be read does not end
    the import; the report lists it, and the next call tries it again. Nothing in the checkpoints is
    executed, as in :func:`read_checkpoint`, and the experiment is never changed. Two imports into
    the same names at the same time may both push the same checkpoints.

    Args:
        experiment: the folder of an experiment or of one trial, or a URL that fsspec knows.
        store: the store. A store that does not exist is made.
        name: the first part of all names; None: the name of the experiment's folder.
        policy_ids: the policies to import; None: all of them.
        workers: number of processes. Each process imports whole trials, so more processes than
            trials are of no use. With 1, everything runs in the calling process. With more, the
            calling script needs ``if __name__ == "__main__":``, as for ``multiprocessing``. Secrets
            in the storage options of ``store`` or ``experiment`` are not passed to the processes:
            the processes take credentials from the environment or a profile.
        ray_address: run on a Ray cluster instead, at this address as ``ray.init`` takes it
            (``"auto"``, ``"local"``, …). Paths must be valid, credentials available, and
            policystore installed on each node. If this process is connected to a cluster already,
            that cluster is used. Ray is imported only for this argument.
        storage_options: options for the filesystem of ``experiment``, if it is a URL.
        progress: called after each checkpoint, in the calling thread. An exception that it raises
            ends the import.

    Returns:
        The numbers of versions added and present, and the errors.

    Raises:
        NotFoundError: there is no such folder, or no checkpoint of a trial in it.
        InvalidInputError: a wrong argument, or Ray is not installed.
        ReadOnlyError, StorageError, FormatError: the store, the listing of the experiment, a
            process or the cluster failed. Versions that were pushed before stay.
    """
    if not isinstance(store, PolicyStore):
        raise InvalidInputError(f"store is a PolicyStore, not {type(store).__qualname__}")
    if type(workers) is not int or workers < 1:
        raise InvalidInputError(f"workers is a number of processes from 1 on, not {workers!r}")
    if progress is not None and not callable(progress):
        raise InvalidInputError(f"progress is a function, not {type(progress).__qualname__}")
    queues, total = _plan(experiment, store, name, policy_ids, storage_options)
    if ray_address is None and (workers == 1 or len(queues) == 1):
        finished = run_here(queues)
    elif store.url.startswith("memory://") or str(experiment).startswith("memory://"):
        raise InvalidInputError(
            "what is kept in memory:// is in this process alone: import with workers=1"
        )
    elif ray_address is None:
        finished = run_in_processes(queues, workers)
    else:
        finished = run_on_ray(queues, ray_address)
    with contextlib.closing(finished):
        return _collect(finished, total, progress)


def _plan(
    experiment: str | PathLike[str],
    store: PolicyStore,
    name: str | None,
    policy_ids: Iterable[str] | None,
    storage_options: Mapping[str, Any] | None,
) -> tuple[list[TrialQueue], int]:
    """Return the tasks of an import by trial, and their number."""
    options = StorageOptions(storage_options)
    folder = open_folder(experiment, options)
    wanted = None if policy_ids is None else tuple(as_policy_ids(policy_ids))
    if name is None:
        name = str(folder).rpartition("/")[2]
    if not isinstance(name, str) or not plain_name(name):
        raise InvalidInputError(
            f"name={name!r}: a name has letters, digits, '.', '_' or '-' between slashes; give "
            "what the names of the versions start with"
        )
    checkpoints = find_checkpoints(folder)
    if not checkpoints:
        raise NotFoundError(
            f"{folder} holds no checkpoints of a Tune trial or experiment (folders such as "
            "checkpoint_000000). A single checkpoint is imported by read_checkpoint and push."
        )
    params = TrialParams(folder)
    by_trial: dict[str, list[ImportTask]] = {}
    for each in checkpoints:
        task = ImportTask(
            store=store,
            experiment=fspath(experiment).rstrip("/"),
            name=name,
            trial=each.trial,
            checkpoint=each.name,
            path=each.path,
            options=options,
            policy_ids=wanted,
            metrics=select_metrics(each.result),
            iteration=each.result.get("training_iteration"),
            params=params.source(each),
        )
        by_trial.setdefault(each.trial, []).append(task)
    return [TrialQueue(tasks) for tasks in by_trial.values()], len(checkpoints)


def _collect(
    finished: Run,
    total: int,
    progress: Callable[[ImportProgress], None] | None,
) -> ImportReport:
    """Return the report of an import; raise the error of the store, if there is one."""
    report = ImportReport()
    for done, (task, result) in enumerate(finished, 1):
        report.added += result.added
        report.present += result.present
        if result.error is not None:
            report.errors[task.path] = result.error
        if result.store_error is not None:
            raise result.store_error
        if progress is not None:
            progress(
                ImportProgress(
                    done, total, task.trial, task.checkpoint, result.added, result.present,
                    result.error,
                )
            )  # fmt: skip
    return report
