"""Restore Algorithms from checkpoints completely: added modules and the weights of every worker.

RLlib builds an Algorithm from the config, and then restores the checkpoint into this Algorithm. The
checkpoint also has the weights and optimizer states of modules that were added during training. But
``restore_from_path`` silently skips these modules (``core/rl_module/multi_rl_module.py``,
``utils/checkpoints.py``). Evaluation workers keep random weights
(``algorithms/algorithm.py:3377``), and sometimes training workers keep random weights, too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import ray
import ray.cloudpickle
from pyarrow.fs import FileSelector, FileSystem, FileType
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from policystore._util.log import logger
from policystore.errors import MismatchError, PolicyStoreError
from policystore.rllib.api import snapshot
from policystore.rllib.live.check import check_sync
from policystore.rllib.live.policies import add_policy, load_into
from policystore.rllib.live.restart_guard import remembered_policies
from policystore.rllib.live.session import Session
from policystore.rllib.new_stack.snapshot import snapshot_module
from policystore.rllib.worker_code.compat import set_weights_seq
from policystore.rllib.workers.compat import groups_of, is_new_stack
from policystore.snapshot import Snapshot

__all__ = ["block_until_restored", "restore_added_policies"]

_MARK = "_policystore_resuming"
_BLOCKED_METHODS = ("step", "training_step", "evaluate", "save_checkpoint", "save_to_path")
_MODULES = "learner_group/learner/rl_module"
# Every Checkpointable of RLlib writes its class and arguments to this file.
_ARGUMENTS = RLModule.CLASS_AND_CTOR_ARGS_FILE_NAME
_TIMEOUT = 60.0


def restore_added_policies(algorithm: Algorithm, **_: Any) -> None:
    """Make later restores of this Algorithm restore all modules that the checkpoint has.

    Use: ``config.callbacks(on_algorithm_init=restore_added_policies)``, for trials of the new API
    stack that use :func:`~policystore.rllib.add_policy`. The config may also have callback classes
    of the user. (On the old stack RLlib takes no such functions, and restores added policies
    itself.) The callbacks of ``warm_start`` and ``publish`` call this function, too.

    New API stack: modules that the checkpoint has and the config lacks are added, and trained
    modules get their optimizer state. Then the Algorithm also has the checkpoint's mapping function
    and ``policies_to_train``. Both stacks: all workers get the restored weights, evaluation workers
    and workers that restart later included.

    A restore then raises:
        MismatchError: modules of the checkpoint cannot be added; the message names the modules and
            the reason. Nothing was restored.
    """
    if getattr(algorithm, _MARK, False):
        return
    setattr(algorithm, _MARK, True)
    if is_new_stack(algorithm):
        algorithm.restore_from_path = _restoring_new(algorithm, algorithm.restore_from_path)
    else:
        algorithm.__setstate__ = _restoring_old(algorithm, algorithm.__setstate__)


def block_until_restored(algo: Algorithm, error: PolicyStoreError) -> None:
    """Make an Algorithm raise an error when it trains, evaluates or saves, until it is restored."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise error.with_traceback(None)

    for name in _BLOCKED_METHODS:
        setattr(algo, name, refuse)


def _unblock(algo: Algorithm) -> None:
    for name in _BLOCKED_METHODS:
        vars(algo).pop(name, None)


def _restoring_new(algo: Algorithm, restore: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(restore)
    def restore_from_path(path: Any, *args: Any, **kwargs: Any) -> None:
        whole = kwargs.get("component") is None and not args
        if whole:
            _add_missing_modules(algo, path, kwargs.get("filesystem"))
        restore(path, *args, **kwargs)
        if whole:
            _unblock(algo)
            _broadcast_weights(algo)
            _reload_for_restarts(algo)

    return restore_from_path


def _restoring_old(algo: Algorithm, restore: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(restore)
    def restore_state(state: Any) -> None:
        restore(state)
        _unblock(algo)
        _reload_for_restarts(algo)

    return restore_state


def _broadcast_weights(algo: Algorithm) -> None:
    """Send the learners' weights to all env runners.

    RLlib's own restore may reach no env runner, for four reasons. RLlib drops a message to a busy
    runner (``env/env_runner_group.py:807``), and every runner is busy just after it was made. A
    runner ignores weights whose number is lower than its own number
    (``env/multi_agent_env_runner.py:771``), and weights of an older checkpoint have a lower number.
    If the path has a scheme, such as ``file://``, RLlib does not find the learners' folder
    (``algorithms/algorithm.py:3385``). RLlib never sends the weights to the evaluation runners.
    """
    number = Session(algo, _TIMEOUT).describe([]).seq
    learner_state = algo.learner_group.get_state(
        components=f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}", inference_only=True
    )
    state = ray.put(learner_state[COMPONENT_LEARNER][COMPONENT_RL_MODULE])
    for _, group in groups_of(algo):
        group.foreach_env_runner(functools.partial(_set_weights, state, number))
    wrong = [row for row in check_sync(algo, timeout=_TIMEOUT) if row.status == "bad"]
    if wrong:
        logger.error(
            "after the restore these workers hold other weights than the learners:\n%s",
            "\n".join(f"  {row.worker}: {row.policy}: {row.note}" for row in wrong),
        )


def _set_weights(state: Any, number: int | None, runner: Any) -> None:
    """Set weights and their number on an env runner, even if its own number is higher.

    This function runs in actors.
    """
    set_weights_seq(runner, 0)
    runner.set_state({COMPONENT_RL_MODULE: ray.get(state), WEIGHTS_SEQ_NO: number})


def _reload_for_restarts(algo: Algorithm) -> None:
    """Load the restored weights again, so that workers that restart later get these weights."""
    snaps = {
        pid: Snapshot(weights=snap.weights, spec=snap.spec)
        for pid in remembered_policies(algo)
        for snap in [snapshot(algo, pid)]
    }
    if snaps:
        load_into(algo, snaps, timeout=_TIMEOUT)


# Modules that are in a checkpoint and not in the Algorithm ---------------------------------------


def _add_missing_modules(algo: Algorithm, path: Any, filesystem: Any) -> None:
    text = path if isinstance(path, str) else path.as_posix()
    if filesystem is None:
        filesystem, text = FileSystem.from_uri(text)
    text = text.rstrip("/")
    saved = _modules_of(filesystem, f"{text}/{_MODULES}")
    there = Session(algo, _TIMEOUT).describe([]).ids
    lacking = [pid for pid in saved if pid not in there]
    without = [pid for pid in there if pid not in saved]
    if saved and without:
        logger.warning(
            "the checkpoint %s has no module %s, so that module keeps its present weights",
            text,
            ", ".join(map(repr, without)),
        )
    if not lacking:
        return
    try:
        _add(algo, filesystem, text, lacking, there)
    except Exception as error:
        raise MismatchError(
            f"the checkpoint {text} has modules that the Algorithm's config lacks and that could "
            f"not be added: {', '.join(map(repr, lacking))} ({type(error).__name__}: {error}). "
            "Nothing was restored. Add these modules to the config, or make their classes "
            "importable in this process."
        ) from error


def _modules_of(filesystem: FileSystem, folder: str) -> list[str]:
    """List the ids of the modules in a checkpoint; each module has a folder named like its id."""
    entries = filesystem.get_file_info(FileSelector(folder, allow_not_found=True))
    return sorted(each.base_name for each in entries if each.type == FileType.Directory)


def _add(
    algo: Algorithm, filesystem: FileSystem, path: str, lacking: list[str], there: list[str]
) -> None:
    _, config = _class_and_arguments(filesystem, path)
    state = config[0][0]
    state = state if isinstance(state, dict) else vars(state)
    mapping, to_train = state.get("policy_mapping_fn"), state.get("policies_to_train")
    have = list(there)
    for pid in lacking:
        have.append(pid)
        cls, (_, arguments) = _class_and_arguments(filesystem, f"{path}/{_MODULES}/{pid}")
        spec = RLModuleSpec(module_class=cls, **arguments)
        spec.inference_only = False
        # The weights are random until RLlib restores the learners, which is the next step.
        train = to_train
        if to_train is not None and not callable(to_train):
            train = [each for each in to_train if each in have]
        add_policy(
            algo,
            pid,
            snapshot_module(spec.build()),
            policy_mapping_fn=mapping if have[len(there) :] == lacking else None,
            policies_to_train=train,
            trust=[cls],
            timeout=_TIMEOUT,
        )


def _class_and_arguments(filesystem: FileSystem, folder: str) -> tuple[type, Any]:
    """Return the class and the arguments with which RLlib made a part of the checkpoint.

    This function unpickles a file of RLlib. In the same restore, RLlib itself unpickles files of
    this checkpoint, so the file is as trusted as these.
    """
    with filesystem.open_input_stream(f"{folder}/{_ARGUMENTS}") as file:
        made_with = ray.cloudpickle.loads(file.readall())
    return made_with["class"], made_with["ctor_args_and_kwargs"]
