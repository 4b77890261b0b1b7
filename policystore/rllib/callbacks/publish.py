"""Push policies to a store while they are trained, on both API stacks."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.callbacks import DefaultCallbacks

from policystore._util.log import logger
from policystore.errors import InvalidInputError, NotFoundError, PolicyStoreError, StorageError
from policystore.rllib.api import snapshot
from policystore.rllib.callbacks.factory import CallbackFactory, CallbackMaker
from policystore.rllib.callbacks.lineage import Ancestor, Lineage, Restore, Tracker, start_of
from policystore.rllib.callbacks.publish_settings import checked_settings
from policystore.rllib.callbacks.restore import block_until_restored, restore_added_policies
from policystore.rllib.callbacks.results import IterationResult, Metric, add_to_result, facts_of
from policystore.rllib.callbacks.trial import TRIAL, TrialParams, trial_of
from policystore.rllib.callbacks.upload_history import Copy
from policystore.rllib.callbacks.upload_queue import Uploader
from policystore.rllib.live.checks.filters import AgentIds
from policystore.rllib.live.session import remember_refs
from policystore.rllib_schema.trials import name_part
from policystore.snapshot import Snapshot
from policystore.store import PolicyStore

__all__ = ["publish"]

_TIME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")


def publish(
    store: PolicyStore | str | os.PathLike[str],
    policies: Mapping[str, str],
    *,
    agent_ids: AgentIds = None,
    omit: Iterable[str] = (),
    from_runner: int | None = None,
    interval: int = 1,
    metric: str | None = None,
    mode: str = "max",
    keep_best: bool = True,
    keep_last: int | None = None,
    max_pending: int = 4,
    timeout: float = 60.0,
    callbacks: CallbackMaker | Iterable[CallbackMaker] = (),
) -> CallbackFactory:
    """Make callbacks that push policies while they are trained.

    Use: ``config.callbacks(publish("s3://team/policies", {"main": "soccer/main"}, interval=10))``.
    Every ``interval`` training iterations, the training thread copies each policy, and a second
    thread pushes the copies. Training never waits for the store, and a slow or absent bucket does
    not stop the training. A push is tried up to 6 times, over about 15 s. If copies are made
    faster than the store takes them, the oldest waiting copy is dropped, but never the best copy.

    Training results show the progress, under ``policystore/publish/<policy id>``: ``store``,
    ``name``, ``run``, ``pushed`` (the number of the newest version that is known to be in the
    store), ``digest``, ``best``, ``waiting``, ``skipped``, ``failed``, ``error``, ``repeated``,
    ``lineage`` and ``restored_from``. :func:`~policystore.rllib.published` finds the versions of a
    result. If an error cannot be solved by a retry, such as a store that refuses writes, the next
    ``train()`` raises the error.

    ``algorithm.stop()`` copies the last iteration if no copy was made of it, and waits for the
    remaining pushes. The end of a trial in Tune does the same. If the process is killed, nothing
    more is pushed. Each copy that was not pushed within ``timeout`` is logged with the reason.
    After the workers were stopped, ``algorithm.stop()`` raises StorageError for these copies. (In
    Tune the copies are only logged, because Tune ignores errors at the end of a trial.)

    Each version has the iteration, the metric and the number of environment steps as ``metrics``,
    and the run, the policy and the iteration as ``source``. In Tune, ``source`` also has the
    hyperparameters that Tune has chosen, as ``params``. ``parents`` has the digest of the policy
    from which the version was trained: the previous version of the same lineage, or for the first
    version the policy of the ``warm_start``. Without a warm start, the first version has no parent.

    A restore from a checkpoint of the same run continues the checkpoint's lineage. The run does not
    push an iteration that is already in the store for a second time, unless the new copy is better
    than the best version. ``repeated`` counts the iterations that were not pushed again. The same
    holds for a trial that Tune starts again from the beginning, if the folder name of the
    experiment or the trial has a time in it, as Tune's own names do. (A folder without a time in
    its name may belong to another run.)

    Any other restore begins a new lineage, in Tune or by hand: population based training, for
    example, continues a trial from another trial's checkpoint. All copies of a new lineage are
    pushed, also those of iterations that the run had pushed before the restore. Their ``source``
    has the ``lineage``, and ``restored_from`` with the run and iteration of the checkpoint. The
    parent of the first of these versions is the newest version, published by the other run, from
    which the checkpoint's policy was trained. If the store has no such version, there is no parent.
    For these facts, each checkpoint of the Algorithm has a record of plain values.

    Args:
        store: a store, or the folder or URL of a store; every node that runs a trial has to reach
            the store.
        policies: policy id or module id of the config -> name in the store. New-stack modules that
            share parts make one snapshot, with the id ``"__all_modules__"``. ``{trial}`` in a name
            stands for the name of the trial's folder; a long folder name is cut, and gets digits of
            its hash at the end.
        agent_ids: policy id -> the agents whose filters and spaces the snapshots of that module
            get, as for :func:`~policystore.rllib.snapshot`; for a single policy also only the
            agents. Only for multi-agent Algorithms of the new stack.
        omit: names of parts that the snapshots leave out, as for ``snapshot``.
        from_runner: number of the env runner whose filter statistics the snapshots get, as for
            ``snapshot``.
        interval: training iterations from one copy to the next.
        metric: path of the value to compare by in training results, such as
            ``"env_runners/episode_return_mean"``. ``{policy}`` stands for the policy's id:
            ``"env_runners/module_episode_returns_mean/{policy}"``.
        mode: ``"max"`` or ``"min"``: which values are better.
        keep_best: whether the best version of each name gets the tag ``best``; needs ``metric``.
            Several trials that push to one name share the tag, which at the end names the best
            version of all trials.
        keep_last: how many of the newest versions of each name to keep; None to keep all. After
            every 10th push to a name, ``store.prune`` deletes older versions that have no tag.
            Trials that push to one name share this number. A prune that fails is only logged.
        max_pending: number of copies of each policy that may wait.
        timeout: seconds that ``algorithm.stop()`` waits for the remaining pushes.
        callbacks: callback classes of the user, as for :func:`~policystore.rllib.warm_start`.
            The user's callbacks are called before the callbacks of ``publish``, so ``metric`` may
            name a value that the user's callbacks add.

    Raises:
        InvalidInputError: an argument of the wrong form, or a text that cannot be a name.
        ReadOnlyError: the store was opened read-only.

    The Algorithm raises these while it is built (in Tune: in the trial's first ``train()``):
        NotFoundError: the config has no such policy, or no such agent or part.
        InvalidInputError: a policy that cannot be kept, or ``agent_ids`` where they have no
            meaning; the message says what to do.
    and in its first ``train()``, unless it is restored from a checkpoint:
        StorageError, FormatError: the store cannot be reached, or the folder is no store.
        ReadOnlyError: the store exists, and this user may not write to its storage.
    and in the first ``train()`` after which an episode has ended:
        NotFoundError: no training result will have the metric; the message lists similar ones.
        InvalidInputError: the metric is not a number.
    """
    settings = checked_settings(
        store=store,
        policies=policies,
        agent_ids=agent_ids,
        omit=omit,
        from_runner=from_runner,
        interval=interval,
        metric=metric,
        mode=mode,
        keep_best=keep_best,
        keep_last=keep_last,
        max_pending=max_pending,
        timeout=timeout,
    )
    # Ours come last: the user's callbacks may add the metric to the result.
    return CallbackFactory(Publish, settings, callbacks, last=True)


class Publish(DefaultCallbacks):  # type: ignore[misc]
    """Callbacks that copy and push policies, see :func:`publish`; without effect in env runners."""

    def __init__(
        self,
        store: PolicyStore,
        policies: Mapping[str, str],
        agent_ids: Mapping[str, list[Any]],
        omit: tuple[str, ...],
        from_runner: int | None,
        interval: int,
        metric: str | None,
        mode: str,
        keep_best: bool,
        keep_last: int | None,
        max_pending: int,
        timeout: float,
    ) -> None:
        super().__init__()
        self._store = store
        self._policies = policies
        self._agent_ids = agent_ids
        self._omit = omit
        self._from_runner = from_runner
        self._interval = interval
        self._metric = Metric(metric)
        self._lowest = mode == "min"
        self._keep_best = keep_best
        self._keep_last = keep_last
        self._max_pending = max_pending
        self._timeout = timeout
        self._uploader: Uploader | None = None
        self._run = ""
        self._lineage = Lineage()
        self._uncopied: IterationResult | None = None
        self._restored_from: str | None = None
        self._names: dict[str, str] = {}

    def on_algorithm_init(self, *, algorithm: Algorithm, **_: Any) -> None:
        """Start the uploader after the workers were made, before they sample or are restored."""
        restore_added_policies(algorithm)
        experiment, trial = trial_of(algorithm)
        tracker = Tracker.of(algorithm, f"{experiment}/{trial}" if trial else uuid.uuid4().hex)
        self._run = tracker.run
        run_part = name_part(trial or self._run)
        names = {pid: name.replace(TRIAL, run_part) for pid, name in self._policies.items()}
        self._names = names
        self._lineage = Lineage(start=start_of(algorithm))
        self._uploader = Uploader(
            self._store,
            names,
            max_pending=self._max_pending,
            metrics={pid: self._metric.path(pid) if self._keep_best else None for pid in names},
            lowest=self._lowest,
            keep_last=self._keep_last,
            # Without a time in the folder name, versions may come from another run of that name.
            resumes=bool(trial and _TIME.search(self._run)),
            trial_source=TrialParams(algorithm).source,
        )
        tracker.follow(self)
        algorithm.step = self._forgetting(algorithm.step)
        algorithm.cleanup = self._flushing(algorithm, in_tune=bool(trial))
        try:
            for policy_id in self._names:
                self._check_snapshot(algorithm, policy_id)
        except PolicyStoreError as error:
            described = error.within(self._description())
            if not trial:
                raise described from error
            # In Tune an error raised here would be reported as ActorDiedError.
            block_until_restored(algorithm, described)
            return
        try:
            self._store._check_storage()
            for name in self._names.values():
                self._check_reachable(name)
        except PolicyStoreError as error:
            # A restored trial continues without the store, and its uploads report the error.
            block_until_restored(algorithm, error.within(self._description()))

    # Called by the Tracker -----------------------------------------------------------------------

    def newest_copies(self) -> dict[str, list[Ancestor]]:
        """Return the copies from which the next versions descend, for a checkpoint's record."""
        return {} if self._uploader is None else self._uploader.newest_copies(self._lineage)

    def restored(self, algorithm: Algorithm, restore: Restore) -> None:
        """Continue with the lineage of a restored checkpoint."""
        lineage = self._lineage = restore.lineage
        self._restored_from = str(restore)
        self._uncopied = None
        if self._uploader is not None and restore.own:
            self._uploader.restored(restore.iteration)
        for policy_id in self._names:
            if policy_id not in lineage.ancestors:  # the checkpoint says nothing of this policy
                digest = self._snapshot(algorithm, policy_id).digest
                lineage.ancestors[policy_id] = [Ancestor(restore.iteration, digest, pushed=True)]

    # ---------------------------------------------------------------------------------------------

    def on_train_result(self, *, algorithm: Algorithm, result: dict[str, Any], **_: Any) -> None:
        """Copy the policies and add the uploader's progress to the result."""
        uploader = self._uploader
        if uploader is None:
            return
        uploader.raise_fatal()
        try:
            self._metric.check(result, self._names, facts_of(algorithm, self._names))
        except PolicyStoreError as error:
            raise error.within(self._description()) from None
        iteration = int(result.get("training_iteration", algorithm.iteration))
        trained = IterationResult(
            iteration, {pid: self._metric.read(result, pid) for pid in self._names}
        )
        if iteration % self._interval == 0:
            self._copy(algorithm, uploader, trained)
        else:
            self._uncopied = trained
        remember_refs(algorithm, uploader.refs())
        repeated = uploader.repeated()
        shared = {
            "store": self._store.url,
            "run": self._run,
            "lineage": self._lineage.id,
            "restored_from": self._restored_from,
        }
        add_to_result(
            result,
            "publish",
            {
                policy_id: {**status, "repeated": repeated[policy_id], **shared}
                for policy_id, status in uploader.status().items()
            },
        )

    def _copy(self, algorithm: Algorithm, uploader: Uploader, trained: IterationResult) -> None:
        """Copy all policies, and add the copies to the queue."""
        for policy_id, name in self._names.items():
            value, metrics = trained.metrics[policy_id]
            try:
                snap = self._snapshot(algorithm, policy_id)
            except StorageError as error:
                self._note_lost(uploader, policy_id, trained, error)
                continue
            copy = Copy(
                policy_id, name, snap, self._run, trained.iteration, value, metrics, self._lineage
            )
            uploader.put(copy)

    def _note_lost(
        self, uploader: Uploader, policy_id: str, trained: IterationResult, error: Exception
    ) -> None:
        reason = f"policy {policy_id!r} of iteration {trained.iteration}: {error}"
        uploader.note_lost(policy_id, reason)
        logger.warning("no copy was made of %s", reason)

    def _copy_last(self, algorithm: Algorithm) -> None:
        """Copy the policies of the last iteration, if no copy was made of it."""
        trained, self._uncopied = self._uncopied, None
        uploader = self._uploader
        if trained is None or uploader is None:
            return
        try:
            self._copy(algorithm, uploader, trained)
        except Exception as error:  # whatever it is, the workers have to be stopped
            for policy_id in self._names:
                self._note_lost(uploader, policy_id, trained, error)

    def _snapshot(self, algorithm: Algorithm, policy_id: str) -> Snapshot:
        """Copy a policy. All copies that are published are made here."""
        agents = self._agent_ids.get(policy_id)
        return snapshot(
            algorithm,
            policy_id,
            agent_ids=agents,
            omit=self._omit,
            from_runner=self._from_runner,
        )

    def _check_snapshot(self, algorithm: Algorithm, policy_id: str) -> None:
        try:
            self._snapshot(algorithm, policy_id)
        except InvalidInputError as error:
            if len(self._names) == 1:
                raise
            raise InvalidInputError(
                f"policy {policy_id!r}: {error} (for several policies, agent_ids is a dict by "
                f"policy: agent_ids={{{policy_id!r}: […], …}})"
            ) from None

    def _check_reachable(self, name: str) -> None:
        with contextlib.suppress(NotFoundError):  # the first push makes the name and the store
            self._store.log(name, limit=1)

    def _description(self) -> str:
        wanted = ", ".join(f"{pid!r} to {name!r}" for pid, name in self._names.items())
        return f"publish of {wanted} in {self._store.url}"

    def _forgetting(self, step: Callable[[], Any]) -> Callable[[], Any]:
        """Return a ``step`` that forgets the last iteration first.

        If ``step`` raises an error, the weights belong to no iteration, and no last copy is made.
        """

        @functools.wraps(step)
        def forget_and_step() -> Any:
            self._uncopied = None
            return step()

        return forget_and_step

    def _flushing(self, algorithm: Algorithm, *, in_tune: bool) -> Callable[[], None]:
        """Return a ``cleanup`` that makes the last copy, and waits until all copies are pushed."""
        cleanup: Callable[[], None] = algorithm.cleanup

        def copy_clean_and_flush() -> None:
            self._copy_last(algorithm)
            try:
                cleanup()
            finally:
                lost = self._flush()
            if lost and not in_tune:
                raise StorageError(lost)

        return copy_clean_and_flush

    def _flush(self) -> str:
        lost = self._uploader.finish(self._timeout) if self._uploader is not None else []
        if not lost:
            return ""
        text = f"{self._description()}: {len(lost)} copies were not pushed:\n" + "\n".join(
            f"  {each}" for each in lost[-20:]
        )
        logger.error("%s", text)
        return text
