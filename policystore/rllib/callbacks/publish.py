"""Policies pushed while training goes on, by a line in the config, on both API stacks."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.callbacks import DefaultCallbacks

from policystore._util.log import logger
from policystore.errors import InvalidInputError, NotFoundError, PolicyStoreError, StorageError
from policystore.format.refs import check_name
from policystore.rllib.api import snapshot
from policystore.rllib.callbacks.factory import CallbackFactory, report
from policystore.rllib.callbacks.restore import block_until_restored, restore_added_policies
from policystore.rllib.callbacks.upload_queue import Copy, Uploader
from policystore.store import PolicyStore

__all__ = ["publish"]

_TRIAL, _POLICY = "{trial}", "{policy}"
_OUTSIDE_OF_NAMES = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST_TRIAL = 60  # of the 100 characters that a part of a name may have
_TIME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")
_STEPS = ("num_env_steps_sampled_lifetime", "num_env_steps_sampled")
_PATIENCE = 3  # copies without the metric, until that is remarked on


def publish(
    store: PolicyStore | str | os.PathLike[str],
    policies: Mapping[str, str],
    *,
    interval: int = 1,
    metric: str | None = None,
    mode: str = "max",
    keep_best: bool = True,
    max_pending: int = 4,
    timeout: float = 60.0,
    callbacks: Callable[[], Any] | Iterable[Callable[[], Any]] = (),
) -> CallbackFactory:
    """Callbacks that push policies while they are trained.

    ``config.callbacks(publish("s3://team/policies", {"main": "soccer/main"}, interval=10))``. After
    each so-many-th training iteration a copy of each policy is taken in the training thread, and
    pushed by a thread beside it: training never waits for the store. A slow or absent bucket ends
    no training. A push is tried up to 6 times, over some 15 s. Where copies come faster than they
    are pushed, the oldest that waits gives way, but not the best.

    Training results say how it stands, under ``policystore/publish/<policy id>``: ``pushed`` (the
    newest version that surely stands), ``digest``, ``best``, ``waiting``, ``skipped``, ``failed``
    and ``error``. What no retry would mend (a store that refuses writes) is raised by the next
    ``train()``. At the end ``algorithm.stop()`` waits for what is under way; what was not pushed
    is logged, each with its reason, and raised as StorageError after everything was stopped. (In
    Tune it is logged only: errors of a trial's end reach nobody there.)

    Versions have the iteration, the metric and the number of environment steps as ``metrics``, and
    run, policy and iteration as ``source``. A trial that Tune starts again, from a checkpoint or
    from the beginning, does not push iterations again that stand already, unless they came out
    better than the best. (From the beginning only where the name of the experiment's or the
    trial's folder has a time in it, as Tune makes them: others may be those of another run.)

    Args:
        store: a store, its folder or URL, which every node that runs a trial can reach.
        policies: id of a policy or module of the config -> name in the store. ``{trial}`` in a
            name stands for the trial, as Tune calls its folder; a long one is cut, and ends with
            digits of its hash.
        interval: iterations from one copy to the next.
        metric: where results have what counts, such as ``"env_runners/episode_return_mean"``.
            ``{policy}`` stands for the policy's id:
            ``"env_runners/module_episode_returns_mean/{policy}"``.
        mode: ``"max"`` or ``"min"``: which values are better.
        keep_best: tag the best version of each name ``best``; needs ``metric``. Several trials
            that push to one name share the tag, and it ends on the best of all.
        max_pending: so many copies of each policy may wait.
        timeout: seconds to wait for pushes at the end.
        callbacks: callback classes of the user's own, as for
            :func:`warm_start <policystore.rllib.callbacks.warm_start.warm_start>`; called before these, so
            that ``metric`` may be one of theirs.

    Raises:
        InvalidInputError: an argument of the wrong form, or a name that cannot be one.
        ReadOnlyError: the store was opened to read only.

    The Algorithm raises where it is built (in Tune from the trial's first ``train()``):
        NotFoundError: its config has no such policy.
        InvalidInputError: a policy that cannot be kept; says what to do.
    and from its first ``train()``, unless it is restored:
        StorageError, FormatError: the store cannot be reached, or is none.
    """
    if not isinstance(store, PolicyStore):
        store = PolicyStore(store)
    if not isinstance(policies, Mapping) or not policies:
        raise InvalidInputError(
            "publish takes names by policy id: publish(store, {'main': 'soccer/main'}), not "
            f"{policies!r}"
        )
    for policy_id, name in policies.items():
        if not isinstance(policy_id, str) or not isinstance(name, str):
            raise InvalidInputError(f"policy ids and names are texts: {policy_id!r}: {name!r}")
        check_name(name.replace(_TRIAL, "t" * _LONGEST_TRIAL))
    names = list(policies.values())
    if len(set(names)) < len(names):
        raise InvalidInputError(f"several policies under one name: {dict(policies)}")
    _check_number("interval", interval, 1)
    _check_number("max_pending", max_pending, 1)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise InvalidInputError(f"timeout is a number of seconds, not {timeout!r}")
    if mode not in ("max", "min"):
        raise InvalidInputError(f"mode is 'max' or 'min', not {mode!r}")
    if metric is not None and (not isinstance(metric, str) or not metric):
        raise InvalidInputError(
            f"metric is where results have it, 'env_runners/episode_return_mean', not {metric!r}"
        )
    store._check_writable("publish")
    settings = {
        "store": store,
        "policies": dict(policies),
        "interval": interval,
        "metric": metric,
        "mode": mode,
        "keep_best": keep_best,
        "max_pending": max_pending,
        "timeout": float(timeout),
    }
    # After the others, which may put the metric into the result.
    return CallbackFactory(Publish, settings, callbacks, last=True)


class Publish(DefaultCallbacks):  # type: ignore[misc]
    """What :func:`publish` makes. In env runners it does nothing."""

    def __init__(
        self,
        store: PolicyStore,
        policies: Mapping[str, str],
        interval: int,
        metric: str | None,
        mode: str,
        keep_best: bool,
        max_pending: int,
        timeout: float,
    ) -> None:
        super().__init__()
        self._store = store
        self._policies = policies
        self._interval = interval
        self._metric = metric
        self._lowest = mode == "min"
        self._keep_best = keep_best
        self._max_pending = max_pending
        self._timeout = timeout
        self._uploader: Uploader | None = None
        self._run = ""
        self._names: dict[str, str] = {}
        self._without_metric = 0

    def on_algorithm_init(self, *, algorithm: Algorithm, **_: Any) -> None:
        """After the workers were made, and before anything is sampled or restored."""
        restore_added_policies(algorithm)
        experiment, trial = _trial_of(algorithm)
        self._run = f"{experiment}/{trial}" if trial else uuid.uuid4().hex
        said = _in_a_name(trial or self._run)
        names = {pid: name.replace(_TRIAL, said) for pid, name in self._policies.items()}
        self._names = names
        self._uploader = Uploader(
            self._store,
            names,
            max_pending=self._max_pending,
            metrics={pid: self._metric_of(pid) if self._keep_best else None for pid in names},
            lowest=self._lowest,
            # Of two runs of one name it could not tell which one has pushed.
            resumes=bool(trial and _TIME.search(self._run)),
        )
        try:
            for policy_id in self._names:
                snapshot(algorithm, policy_id)
        except PolicyStoreError as error:
            found = error.within(self._what())
            if not trial:
                raise found from error
            block_until_restored(
                algorithm, found
            )  # in Tune an error here would arrive as ActorDiedError
            return
        try:
            for name in self._names.values():
                self._look(name)
        except PolicyStoreError as error:
            # A trial that resumes goes on without; there the uploads say it.
            block_until_restored(algorithm, error.within(self._what()))
        algorithm.cleanup = self._ending(algorithm.cleanup, in_tune=bool(trial))

    def on_checkpoint_loaded(self, *, algorithm: Algorithm, **_: Any) -> None:
        """What was pushed after this checkpoint is not to be pushed again."""
        if self._uploader is not None and _trial_of(algorithm)[1]:  # else it knows all of its run
            self._uploader.restored(algorithm.iteration)

    def on_train_result(self, *, algorithm: Algorithm, result: dict[str, Any], **_: Any) -> None:
        """Take the copies, and say how it stands."""
        uploader = self._uploader
        if uploader is None:
            return
        uploader.raise_fatal()
        iteration = int(result.get("training_iteration", algorithm.iteration))
        if iteration % self._interval == 0:
            for policy_id, name in self._names.items():
                value, metrics = self._metrics(result, policy_id)
                try:
                    snap = snapshot(algorithm, policy_id)
                except StorageError as error:
                    why = f"policy {policy_id!r} of iteration {iteration}: {error}"
                    uploader.note_lost(policy_id, why)
                    logger.warning("no copy was made of %s", why)
                    continue
                uploader.put(Copy(policy_id, name, snap, self._run, iteration, value, metrics))
        report(result, "publish", uploader.status())

    def _look(self, name: str) -> None:
        with contextlib.suppress(NotFoundError):  # the first push makes the name, and the store
            self._store.log(name, limit=1)

    def _what(self) -> str:
        wanted = ", ".join(f"{pid!r} to {name!r}" for pid, name in self._names.items())
        return f"publish of {wanted} in {self._store.url}"

    def _metric_of(self, policy_id: str) -> str | None:
        return None if self._metric is None else self._metric.replace(_POLICY, policy_id)

    def _metrics(
        self, result: Mapping[str, Any], policy_id: str
    ) -> tuple[float | None, dict[str, Any]]:
        found: dict[str, Any] = {}
        steps = next((result[key] for key in _STEPS if key in result), None)
        if steps is not None and _is_number(steps):
            found["env_steps"] = int(steps)
        metric = self._metric_of(policy_id)
        if metric is None:
            return None, found
        value, known = _looked_up(result, metric)
        if not _is_number(value):
            self._without_metric += 1
            if self._without_metric == _PATIENCE and known is not None:
                logger.warning(
                    "publish: results have no %r; there they have %s",
                    metric,
                    ", ".join(sorted(map(str, known))[:30]) or "nothing",
                )
            return None, found
        found[metric] = float(value)
        return float(value), found

    def _ending(self, cleanup: Callable[[], None], *, in_tune: bool) -> Callable[[], None]:
        def flush_after_cleanup() -> None:
            try:
                cleanup()
            finally:
                lost = self._flush()
            if lost and not in_tune:
                raise StorageError(lost)

        return flush_after_cleanup

    def _flush(self) -> str:
        lost = self._uploader.finish(self._timeout) if self._uploader is not None else []
        if not lost:
            return ""
        text = f"{self._what()}: {len(lost)} copies were not pushed:\n" + "\n".join(
            f"  {each}" for each in lost[-20:]
        )
        logger.error("%s", text)
        return text


def _trial_of(algorithm: Algorithm) -> tuple[str, str]:
    """Names of an experiment's and a trial's folder, the same over restarts; none outside of Tune.

    RLlib does not hand on the trial's id (``Algorithm.trial_id`` is "default").
    """
    storage = getattr(algorithm, "_storage", None)
    found = (getattr(storage, f"{what}_dir_name", None) for what in ("experiment", "trial"))
    experiment, trial = (str(name or "") for name in found)
    return experiment, trial


def _in_a_name(trial: str) -> str:
    """A trial's folder, which may tell all of its parameters, as a part of a name in the store."""
    safe = _OUTSIDE_OF_NAMES.sub("_", trial)
    if len(safe) <= _LONGEST_TRIAL:
        return safe
    digits = hashlib.blake2s(trial.encode(), digest_size=5).hexdigest()
    return f"{safe[: _LONGEST_TRIAL - len(digits) - 1]}-{digits}"


def _looked_up(result: Mapping[str, Any], path: str) -> tuple[Any, Iterable[Any] | None]:
    """What is at a path; or None, and the keys there are at the place where it ends."""
    here: Any = result
    rest = path
    while rest:
        if not isinstance(here, Mapping):
            return None, []
        key = next((k for k in _heads(rest) if k in here), None)
        if key is None:
            return None, here.keys()
        here, rest = here[key], rest[len(key) + 1 :]
    return here, None


def _heads(path: str) -> Iterable[str]:
    """``a/b/c`` as one key, ``a/b``, ``a``: keys may have slashes themselves."""
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(len(parts), 0, -1))


def _is_number(value: Any) -> bool:
    if isinstance(value, (bool, str, bytes)):
        return False
    try:
        return math.isfinite(value)
    except (TypeError, ValueError, OverflowError):  # an array, say, or an int beyond all floats
        return False


def _check_number(what: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidInputError(f"{what} is a whole number from {least} on, not {value!r}")
