"""Algorithms that are restored from a checkpoint: whole, or not at all.

RLlib restores into what the config makes. Of modules that were added since, a checkpoint has the
weights and the optimizer's state, and ``restore_from_path`` skips them silently
(``core/rl_module/multi_rl_module.py``, ``utils/checkpoints.py``); evaluation workers keep random
weights (``algorithms/algorithm.py:3377``), and training ones too, now and then.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, NoReturn

import ray
import ray.cloudpickle
from pyarrow.fs import FileSelector, FileSystem, FileType
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from policystore.errors import MismatchError, PolicyStoreError
from policystore.rllib.api import snapshot
from policystore.rllib.live.add_remove import add_policy
from policystore.rllib.live.load import check_sync, load_into
from policystore.rllib.live.restart_guard import remembered_policies
from policystore.rllib.live.session import Session
from policystore.rllib.new_stack.snapshot import snapshot_module
from policystore.rllib.worker_code.compat import set_weights_seq
from policystore.rllib.workers.compat import groups_of, is_new_stack
from policystore.snapshot import Snapshot

__all__ = ["block_until_restored", "restore_added_policies"]

_MARK = "_policystore_resuming"
_HELD = ("step", "training_step", "evaluate", "save_checkpoint", "save_to_path")
_MODULES = "learner_group/learner/rl_module"
# core/rl_module: the file that every Checkpointable writes its class and arguments to.
_ARGUMENTS = RLModule.CLASS_AND_CTOR_ARGS_FILE_NAME
_TIMEOUT = 60.0


def restore_added_policies(algorithm: Algorithm, **_: Any) -> None:
    """From now on, restoring this Algorithm brings back all that the checkpoint has.

    ``config.callbacks(on_algorithm_init=restore_added_policies)``, for trials of the new API stack that use
    :func:`~policystore.rllib.add_policy`; beside the user's own callback classes. (On
    the old stack RLlib takes no such functions, and brings added policies back by itself.) The
    callbacks of ``warm_start`` and ``publish`` do it as well.

    New API stack: modules of the checkpoint that the config does not have are added, trained ones
    with their optimizer's state, and the checkpoint's mapping function and ``policies_to_train``
    with them. Both stacks: all workers get what was restored, evaluation too, and so do those that
    restart later.

    Raises (where the Algorithm is restored):
        MismatchError: modules of the checkpoint that cannot be added; names them and says why.
            Nothing was restored.
    """
    if getattr(algorithm, _MARK, False):
        return
    setattr(algorithm, _MARK, True)
    if is_new_stack(algorithm):
        algorithm.restore_from_path = _restoring_new(algorithm, algorithm.restore_from_path)
    else:
        algorithm.__setstate__ = _restoring_old(algorithm, algorithm.__setstate__)


def block_until_restored(algo: Algorithm, error: PolicyStoreError) -> None:
    """Let an Algorithm neither train, evaluate nor be saved, but raise, unless it is restored."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise error.with_traceback(None)

    for name in _HELD:
        setattr(algo, name, refuse)


def _let_go(algo: Algorithm) -> None:
    for name in _HELD:
        vars(algo).pop(name, None)


def _restoring_new(algo: Algorithm, restore: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(restore)
    def restore_from_path(path: Any, *args: Any, **kwargs: Any) -> None:
        whole = kwargs.get("component") is None and not args
        if whole:
            _bring_back(algo, path, kwargs.get("filesystem"))
        restore(path, *args, **kwargs)
        if whole:
            _let_go(algo)
            _hand_out(algo)
            _renew(algo)

    return restore_from_path


def _restoring_old(algo: Algorithm, restore: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(restore)
    def restore_state(state: Any) -> None:
        restore(state)
        _let_go(algo)
        _renew(algo)

    return restore_state


def _hand_out(algo: Algorithm) -> None:
    """Give all env runners what the learners hold now.

    RLlib's own restore may reach none of them. A message to a runner that is still busy is dropped
    (``env/env_runner_group.py:807``), as all are just after they were made; so is one with a lower
    number than the runner's, from an older checkpoint (``env/multi_agent_env_runner.py:757``); and
    of a path with a scheme it does not see that there are learners in it
    (``algorithms/algorithm.py:3385``). Evaluation is left out.
    """
    number = Session(algo, _TIMEOUT).describe([]).seq
    held = algo.learner_group.get_state(
        components=f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}", inference_only=True
    )
    state = ray.put(held[COMPONENT_LEARNER][COMPONENT_RL_MODULE])
    for _, group in groups_of(algo):
        group.foreach_env_runner(functools.partial(_take, state, number))
    wrong = [row for row in check_sync(algo, timeout=_TIMEOUT) if row.status == "bad"]
    if wrong:
        logging.getLogger("policystore").error(
            "after the restore these hold other weights than the learners:\n%s",
            "\n".join(f"  {row.worker}: {row.policy}: {row.note}" for row in wrong),
        )


def _take(state: Any, number: int | None, runner: Any) -> None:
    """On an env runner: these weights and this number, whatever it has."""
    set_weights_seq(runner, 0)
    runner.set_state({COMPONENT_RL_MODULE: ray.get(state), WEIGHTS_SEQ_NO: number})


def _renew(algo: Algorithm) -> None:
    """What workers that restart are given is to be what was restored, not what came before."""
    given = {
        pid: Snapshot(weights=snap.weights, spec=snap.spec)
        for pid in remembered_policies(algo)
        for snap in [snapshot(algo, pid)]
    }
    if given:
        load_into(algo, given, timeout=_TIMEOUT)


# Modules that are in a checkpoint and not in the Algorithm ---------------------------------------


def _bring_back(algo: Algorithm, path: Any, filesystem: Any) -> None:
    text = path if isinstance(path, str) else path.as_posix()
    if filesystem is None:
        filesystem, text = FileSystem.from_uri(text)
    text = text.rstrip("/")
    saved = _modules_of(filesystem, f"{text}/{_MODULES}")
    there = Session(algo, _TIMEOUT).describe([]).ids
    lacking = [pid for pid in saved if pid not in there]
    without = [pid for pid in there if pid not in saved]
    if saved and without:
        logging.getLogger("policystore").warning(
            "the checkpoint %s has no module %s: there the Algorithm keeps what it has",
            text,
            ", ".join(map(repr, without)),
        )
    if not lacking:
        return
    try:
        _add(algo, filesystem, text, lacking, there)
    except Exception as error:
        raise MismatchError(
            f"the checkpoint {text} has modules that the Algorithm's config lacks, and which could "
            f"not be added: {', '.join(map(repr, lacking))} ({type(error).__name__}: {error}). "
            "Nothing was restored. Give the config these modules, or make what they are built of "
            "importable here."
        ) from error


def _modules_of(filesystem: FileSystem, folder: str) -> list[str]:
    """Ids of the modules in a checkpoint, each a folder."""
    found = filesystem.get_file_info(FileSelector(folder, allow_not_found=True))
    return sorted(each.base_name for each in found if each.type == FileType.Directory)


def _add(
    algo: Algorithm, filesystem: FileSystem, path: str, lacking: list[str], there: list[str]
) -> None:
    _, config = _made_of(filesystem, path)
    state = config[0][0]
    state = state if isinstance(state, dict) else vars(state)
    mapping, to_train = state.get("policy_mapping_fn"), state.get("policies_to_train")
    have = list(there)
    for pid in lacking:
        have.append(pid)
        cls, (_, arguments) = _made_of(filesystem, f"{path}/{_MODULES}/{pid}")
        spec = RLModuleSpec(module_class=cls, **arguments)
        spec.inference_only = False
        # Its weights are random: what counts comes next, when RLlib restores the learners.
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


def _made_of(filesystem: FileSystem, folder: str) -> tuple[type, Any]:
    """The class and arguments that a part of the checkpoint was made with.

    RLlib's own pickle, of the very checkpoint that RLlib unpickles in this call.
    """
    with filesystem.open_input_stream(f"{folder}/{_ARGUMENTS}") as file:
        found = ray.cloudpickle.loads(file.readall())
    return found["class"], found["ctor_args_and_kwargs"]
