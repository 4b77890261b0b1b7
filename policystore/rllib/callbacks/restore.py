"""Restore Algorithms from checkpoints completely: added modules and the weights of every worker.

RLlib builds an Algorithm from the config, and then restores the checkpoint into this Algorithm. The
checkpoint also has the weights and optimizer states of modules that were added during training. But
``restore_from_path`` silently skips these modules (``core/rl_module/multi_rl_module.py``,
``utils/checkpoints.py``). Evaluation workers keep random weights
(``algorithms/algorithm.py:3377``), and sometimes training workers keep older weights, too
(``live/resync.py`` says when).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER_GROUP
from ray.rllib.utils.checkpoints import Checkpointable

from policystore._util.log import logger
from policystore.errors import InvalidInputError, PolicyStoreError
from policystore.rllib.callbacks.restore_modules import add_missing_modules, without_excluded
from policystore.rllib.live.resync import resync
from policystore.rllib.live.session import Session
from policystore.rllib.worker_code.learner_thread import wait_until_idle
from policystore.rllib.worker_code.raw_weights import release_weights, restart_old_episodes
from policystore.rllib.workers.compat import is_new_stack

__all__ = ["block_until_restored", "restore_added_policies"]

_SETTINGS = "_policystore_restores"
_BLOCKED_BY = "_policystore_blocked_by"  # the error; None after a restore
_BLOCKED_METHODS = ("step", "training_step", "evaluate", "save_checkpoint", "save_to_path")
_TIMEOUT = 60.0
_ADVICE = (
    "check_sync(algorithm) shows what each worker holds. Restore the checkpoint again, or load "
    "snapshots with load_into(), which reaches all workers or raises an error."
)


@dataclass
class _Settings:
    """How an Algorithm is restored.

    Attributes:
        only: ids of the modules that a restore may add; None for all modules of the checkpoint.
        under_way: whether a restore is under way. RLlib's ``restore_from_path`` calls
            ``set_state``, which then only sets the state.
    """

    only: frozenset[str] | None = None
    under_way: bool = False


def restore_added_policies(
    algorithm: Algorithm, *, only: Iterable[str] | None = None, **_: Any
) -> None:
    """Make later restores of this Algorithm restore all modules that the checkpoint has.

    Use: ``config.callbacks(on_algorithm_init=restore_added_policies)``, for trials of the new API
    stack that use :func:`~policystore.rllib.add_policy`. The config may also have callback classes
    of the user. (On the old stack RLlib takes no such functions, and restores added policies
    itself.) The callbacks of ``warm_start`` and ``publish`` call this function, too.

    New API stack: modules that the checkpoint has and the config lacks are added, and trained
    modules get their optimizer state. Then the Algorithm also has the checkpoint's mapping function
    and ``policies_to_train``. A folder that an earlier checkpoint at the same path has left behind
    counts as no module, and a warning names it. Both stacks: all workers get the restored weights
    and filters before their next sample, evaluation workers and workers that restart later
    included. If a worker does not take them, the restore goes on, and the log says which worker.

    Args:
        algorithm: a new Algorithm of either API stack.
        only: ids of the modules that a restore may add; other modules of the checkpoint are left
            out, and the log names them. Use ``functools.partial(restore_added_policies,
            only=["main", "p2"])`` in a config. None, the default, adds all modules, or keeps the
            choice of an earlier call.

    Raises:
        InvalidInputError: ``only`` is no list of ids.

    A restore then raises these errors, and has restored nothing:
        MismatchError: modules of the checkpoint cannot be added; the message names the modules and
            the reason. Or the checkpoint's mapping function names a module that ``only`` leaves
            out.
        NotFoundError: ``only`` names a module that the checkpoint lacks; the message lists the
            modules of the checkpoint.
    """
    chosen = _checked(only)
    settings: _Settings | None = getattr(algorithm, _SETTINGS, None)
    if settings is not None:
        settings.only = settings.only if chosen is None else chosen
        return
    settings = _Settings(chosen)
    setattr(algorithm, _SETTINGS, settings)
    if is_new_stack(algorithm):
        algorithm.restore_from_path = _restoring_path(algorithm, settings)
        algorithm.set_state = _restoring_state(algorithm, algorithm.set_state, settings)
    else:
        algorithm.__setstate__ = _restoring_state(algorithm, algorithm.__setstate__, settings)


def _checked(only: object) -> frozenset[str] | None:
    if only is None:
        return None
    if isinstance(only, (str, bytes)) or not isinstance(only, Iterable):
        raise InvalidInputError(f"only is a list of ids: only=[{only!r}]")
    ids = list(only)
    if not all(isinstance(pid, str) for pid in ids):
        raise InvalidInputError(f"only is a list of ids, which are strings, not {ids!r}")
    return frozenset(ids)


def block_until_restored(algo: Algorithm, error: PolicyStoreError) -> None:
    """Make an Algorithm raise an error when it trains, evaluates or saves, until it is restored."""
    is_gated = _BLOCKED_BY in vars(algo)
    setattr(algo, _BLOCKED_BY, error)
    if not is_gated:
        for name in _BLOCKED_METHODS:
            setattr(algo, name, _gated(algo, getattr(algo, name)))


def _gated(algo: Algorithm, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def refuse_or_call(*args: Any, **kwargs: Any) -> Any:
        error: PolicyStoreError | None = getattr(algo, _BLOCKED_BY)
        if error is not None:
            raise error.with_traceback(None)
        return method(*args, **kwargs)

    return refuse_or_call


def _unblock(algo: Algorithm) -> None:
    if _BLOCKED_BY in vars(algo):
        setattr(algo, _BLOCKED_BY, None)


def _restoring_path(algo: Algorithm, settings: _Settings) -> Callable[..., None]:
    """Return a ``restore_from_path`` that restores modules and workers completely."""
    restore: Callable[..., None] = algo.restore_from_path
    if algo.env_runner_group is None:
        # After the same steps, RLlib's own method asks for this group, which offline algorithms do
        # not have, and raises AttributeError (algorithms/algorithm.py:3390).
        restore = functools.partial(Checkpointable.restore_from_path, algo)

    @functools.wraps(algo.restore_from_path)
    def restore_from_path(path: Any, *args: Any, **kwargs: Any) -> None:
        whole = kwargs.get("component") is None and not args

        def prepare(there: list[str]) -> Callable[[], None] | None:
            if not whole:
                return None
            filesystem = kwargs.get("filesystem")
            return add_missing_modules(algo, path, filesystem, settings.only, there, _TIMEOUT)

        _restore(algo, settings, prepare, lambda: restore(path, *args, **kwargs), whole=whole)

    return restore_from_path


def _restoring_state(
    algo: Algorithm, restore: Callable[[Any], None], settings: _Settings
) -> Callable[[Any], None]:
    """Return a ``set_state`` or, on the old stack, ``__setstate__`` that restores all workers."""
    old = not is_new_stack(algo)

    def restart_episodes() -> None:
        Session(algo, _TIMEOUT).call(restart_old_episodes)

    @functools.wraps(restore)
    def restore_state(state: Any) -> None:
        if settings.under_way:  # restore_from_path sets the part of the state that has no folder
            restore(state)
            return
        chosen = [state]

        def prepare(there: list[str]) -> Callable[[], None] | None:
            if not old:
                if COMPONENT_LEARNER_GROUP in state:
                    _accept_any_number(algo)
                return None
            chosen[0] = without_excluded(algo, state, settings.only, there, _TIMEOUT)
            return restart_episodes

        _restore(algo, settings, prepare, lambda: restore(chosen[0]), whole=old)

    return restore_state


def _accept_any_number(algo: Algorithm) -> None:
    """Let learners take weights of any number: they drop a state of a lower number than their own.

    ``core/learner/learner.py:1304``.
    """
    session = Session(algo, _TIMEOUT)
    arguments = (0, False, session.deadline.left())
    session.call(release_weights, *arguments, workers=session.learners)


def _restore(
    algo: Algorithm,
    settings: _Settings,
    prepare: Callable[[list[str]], Callable[[], None] | None],
    restore: Callable[[], None],
    *,
    whole: bool,
) -> None:
    """Restore an Algorithm, then give all its workers what was restored.

    Args:
        algo: the Algorithm.
        settings: the settings of this Algorithm.
        prepare: a function of the ids of the Algorithm's policies, called before the restore. It
            may return a function that is called after the restore.
        restore: RLlib's own restore.
        whole: whether the whole Algorithm is restored, so that it can train again.
    """
    # No update may be under way: it would change the restored weights.
    wait_until_idle(algo, _TIMEOUT)
    before = Session(algo, _TIMEOUT).describe([])
    settings.under_way = True
    try:
        finish = prepare(before.ids)
        restore()
    finally:
        settings.under_way = False
    if whole:
        _unblock(algo)
    try:
        if finish is not None:
            finish()
        report = resync(algo, above=before.seq or 0, timeout=_TIMEOUT)
    except Exception as error:
        # The restore itself is done, and a trial of Tune must not end here.
        logger.error(
            "after the restore, the env runners did not get the restored weights (%s: %s). %s",
            type(error).__name__,
            error,
            _ADVICE,
        )
        return
    wrong = [row for row in report if row.status in ("bad", "pending")]
    if wrong:
        logger.error(
            "after the restore these workers hold other weights than the learners:\n%s\n%s",
            "\n".join(f"  {row.worker}: {row.policy}: {row.note}" for row in wrong[:20]),
            _ADVICE,
        )
