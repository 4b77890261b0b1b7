"""Compare the modules of a checkpoint with those of an Algorithm, and add the missing ones."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray.cloudpickle
from pyarrow.fs import FileSelector, FileSystem, FileType
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec
from ray.rllib.policy.policy import PolicySpec

from policystore._util.log import logger
from policystore._util.near import close_names, did_you_mean
from policystore.errors import MismatchError, NotFoundError
from policystore.rllib.live.resync import keep_weights
from policystore.rllib.live.session import Session
from policystore.rllib.live.steering import set_policies
from policystore.rllib.new_stack.snapshot import snapshot_module
from policystore.rllib.worker_code.messages.answers import Spaces
from policystore.rllib.worker_code.messages.requests import MappingRequest
from policystore.rllib.worker_code.policy_mapping import check_mapping
from policystore.snapshot import Snapshot

__all__ = ["add_missing_modules", "without_excluded"]

_MODULES = "learner_group/learner/rl_module"
# Every Checkpointable of RLlib writes its class and arguments to this file.
_ARGUMENTS = RLModule.CLASS_AND_CTOR_ARGS_FILE_NAME
_NOTHING = "Nothing was restored."


def add_missing_modules(
    algo: Algorithm,
    path: Any,
    filesystem: FileSystem | None,
    only: frozenset[str] | None,
    there: list[str],
    timeout: float,
) -> Callable[[], None] | None:
    """Add the modules of a checkpoint that an Algorithm of the new stack lacks.

    Their weights are random until RLlib restores the learners, which is the next step.

    Args:
        algo: the Algorithm.
        path: the folder of the checkpoint, as ``restore_from_path`` takes it.
        filesystem: the filesystem of the folder; None if the path says it.
        only: ids of the modules that may be added; None for all.
        there: ids of the Algorithm's modules.
        timeout: seconds for each call of the workers.

    Returns:
        A function to call after RLlib's restore, if there is something left to do.

    Raises:
        MismatchError: modules cannot be added, or the checkpoint's mapping function names a module
            that is left out.
        NotFoundError: ``only`` names a module that the checkpoint lacks.
    """
    text = path if isinstance(path, str) else path.as_posix()
    if filesystem is None:
        filesystem, text = FileSystem.from_uri(text)
    text = text.rstrip("/")
    saved, stale = _modules_of(filesystem, f"{text}/{_MODULES}")
    if not saved:
        return None  # no checkpoint, or one without learners
    chosen, excluded = _choose(saved, there, only, f"the checkpoint {text}")
    if stale:
        logger.warning(
            "the checkpoint %s has no module %s: folders of an earlier checkpoint at this path are "
            "left there, and they were not restored",
            text,
            ", ".join(map(repr, stale)),
        )
    without = [pid for pid in there if pid not in saved]
    if without:
        logger.warning(
            "the checkpoint %s has no module %s, so that module keeps its present weights",
            text,
            ", ".join(map(repr, without)),
        )
    if chosen:
        with _explained(text, chosen):
            saved_config = _config_of(filesystem, text)
            # All that may fail in this process comes before the first change.
            fresh = {pid: _untrained(filesystem, f"{text}/{_MODULES}/{pid}") for pid in chosen}
        mapping = saved_config.get("policy_mapping_fn")
        if mapping is not None and excluded:
            added = {pid: each.spaces for pid, each in fresh.items()}
            _check_names(Session(algo, timeout), mapping, added, excluded)
        with _explained(text, chosen):
            _add(algo, fresh, saved_config, timeout)
    # RLlib restores each module of the Algorithm that has a folder.
    overwritten = [pid for pid in without if pid in stale]
    return keep_weights(algo, overwritten, timeout=timeout) if overwritten else None


def without_excluded(
    algo: Algorithm, state: Any, only: frozenset[str] | None, there: list[str], timeout: float
) -> Any:
    """Return an old-stack Algorithm's state without the policies that ``only`` leaves out.

    Args:
        algo: the Algorithm, whose ``__setstate__`` adds the policies that it lacks.
        state: the argument of ``__setstate__``.
        only: ids of the policies that may be added; None for all.
        there: ids of the Algorithm's policies.
        timeout: seconds for the workers' check of the mapping function.

    Raises:
        MismatchError: the checkpoint's mapping function names a policy that is left out.
        NotFoundError: ``only`` names a policy that the checkpoint lacks.
    """
    worker = state.get("worker")
    if only is None or not isinstance(worker, dict) or "policy_states" not in worker:
        return state
    states = worker["policy_states"]
    chosen, excluded = _choose(sorted(states), there, only, "the checkpoint")
    if not excluded:
        return state
    mapping = worker.get("policy_mapping_fn")
    if mapping is not None:
        added = {pid: _spaces(states[pid]["policy_spec"]) for pid in chosen}
        _check_names(Session(algo, timeout), mapping, added, excluded)
    kept = {
        "policy_states": {pid: each for pid, each in states.items() if pid not in excluded},
        "policy_ids": [pid for pid in states if pid not in excluded],
        "filters": {k: v for k, v in worker.get("filters", {}).items() if k not in excluded},
    }
    return {**state, "worker": {**worker, **kept}}


def _spaces(spec: Any) -> tuple[Any, Any]:
    spec = PolicySpec.deserialize(spec) if isinstance(spec, dict) else spec
    return spec.observation_space, spec.action_space


def _choose(
    saved: list[str], there: list[str], only: frozenset[str] | None, checkpoint: str
) -> tuple[list[str], list[str]]:
    """Return the policies of a checkpoint to add, and those that are left out.

    Raises:
        NotFoundError: ``only`` names a policy that the checkpoint lacks.
    """
    unknown = sorted((only or frozenset()) - set(saved))
    if unknown:
        raise NotFoundError(
            f"only= names {', '.join(map(repr, unknown))}, and {checkpoint} has "
            f"{', '.join(map(repr, saved))}.{did_you_mean(close_names(unknown[0], saved))} "
            f"{_NOTHING}"
        )
    lacking = [pid for pid in saved if pid not in there]
    excluded = [] if only is None else [pid for pid in lacking if pid not in only]
    if excluded:
        logger.warning(
            "%s also has %s, left out because only= does not name them",
            checkpoint,
            ", ".join(map(repr, excluded)),
        )
    return [pid for pid in lacking if pid not in excluded], excluded


def _modules_of(filesystem: FileSystem, folder: str) -> tuple[list[str], list[str]]:
    """Return the ids of the modules in a checkpoint, and the ids of stale folders.

    Each module has a folder named like its id. RLlib deletes no folder when it saves to the same
    path again, so folders of modules that were removed in between stay there
    (``utils/checkpoints.py:save_to_path``). The arguments of the MultiRLModule name its modules.
    """
    entries = filesystem.get_file_info(FileSelector(folder, allow_not_found=True))
    folders = sorted(each.base_name for each in entries if each.type == FileType.Directory)
    if not folders:
        return [], []
    try:
        _, (_, arguments) = _class_and_arguments(filesystem, folder)
        specs = arguments.get("rl_module_specs")
    except Exception as error:
        # A class that is gone, for example. RLlib's restore does not read this file.
        logger.warning("%s does not tell which modules it has: %r", folder, error)
        specs = None
    if not specs:
        return folders, []
    return [each for each in folders if each in specs], [e for e in folders if e not in specs]


@contextlib.contextmanager
def _explained(path: str, chosen: list[str]) -> Iterator[None]:
    """Raise a MismatchError in place of any error in the block."""
    try:
        yield
    except Exception as error:
        raise MismatchError(
            f"the checkpoint {path} has modules that the Algorithm's config lacks and that could "
            f"not be added: {', '.join(map(repr, chosen))} ({type(error).__name__}: {error}). "
            f"{_NOTHING} Add these modules to the config, or make their classes importable in this "
            "process."
        ) from error


def _config_of(filesystem: FileSystem, path: str) -> dict[str, Any]:
    """Return the state of the config with which the checkpoint's Algorithm would be made."""
    _, config = _class_and_arguments(filesystem, path)
    state = config[0][0]
    return state if isinstance(state, dict) else vars(state)


@dataclass(frozen=True)
class _Untrained:
    """A module of a checkpoint, with random weights.

    Attributes:
        cls: its class.
        spaces: its observation and action space.
        snap: a snapshot of the module.
    """

    cls: type
    spaces: Spaces
    snap: Snapshot


def _untrained(filesystem: FileSystem, folder: str) -> _Untrained:
    """Return a new module like the one in a folder."""
    cls, (_, arguments) = _class_and_arguments(filesystem, folder)
    spec = RLModuleSpec(module_class=cls, **arguments)
    spec.inference_only = False
    return _Untrained(
        cls, (spec.observation_space, spec.action_space), snapshot_module(spec.build())
    )


def _add(
    algo: Algorithm, fresh: dict[str, _Untrained], saved_config: dict[str, Any], timeout: float
) -> None:
    """Add modules with the checkpoint's mapping functions and policies to train, all or none."""
    evaluation = saved_config.get("evaluation_config")
    if not isinstance(evaluation, dict):
        evaluation = {}
    to_train = saved_config.get("policies_to_train")
    if to_train is not None and not callable(to_train):
        known = {*Session(algo, timeout).describe([]).ids, *fresh}
        to_train = [pid for pid in to_train if pid in known]
    set_policies(
        algo,
        add={pid: each.snap for pid, each in fresh.items()},
        policy_mapping_fn=saved_config.get("policy_mapping_fn"),
        evaluation_policy_mapping_fn=evaluation.get("policy_mapping_fn"),
        policies_to_train=to_train or None,
        trust=[each.cls for each in fresh.values()],
        timeout=timeout,
    )


def _check_names(
    session: Session,
    mapping: Callable[..., str],
    added: dict[str, Spaces],
    excluded: list[str],
) -> None:
    """Check that a checkpoint's mapping function names no policy that is left out.

    Raises:
        MismatchError: the function names such a policy, or does not fit for another reason.
    """
    runners = [each for each in session.workers if each.group == "train"]
    request = MappingRequest(mapping, added=added, removed=[])
    for why in session.call(check_mapping, request, workers=runners).failures.values():
        raise MismatchError(
            f"the checkpoint's mapping function does not fit without "
            f"{', '.join(map(repr, excluded))}, which only= leaves out: {why}. {_NOTHING} Add the "
            "policies that the function names to only=."
        )


def _class_and_arguments(filesystem: FileSystem, folder: str) -> tuple[type, Any]:
    """Return the class and the arguments with which RLlib made a part of the checkpoint.

    This function unpickles a file of RLlib. In the same restore, RLlib itself unpickles files of
    this checkpoint, so the file is as trusted as these.
    """
    with filesystem.open_input_stream(f"{folder}/{_ARGUMENTS}") as file:
        made_with = ray.cloudpickle.loads(file.readall())
    return made_with["class"], made_with["ctor_args_and_kwargs"]
