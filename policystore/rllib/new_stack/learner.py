"""Read the contents of RLModules in this process, or in an Algorithm's learner (maybe an actor)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModule

from policystore.errors import InvalidInputError, StorageError
from policystore.format.arrays import Array
from policystore.rllib.common.trust import path_of
from policystore.rllib.worker_code.messages.answers import (
    ModuleContent,
    ModuleLinks,
    MultiModuleContent,
)
from policystore.rllib.worker_code.read_modules import (
    read_ids,
    read_learner,
    read_links,
    read_module,
    read_multi,
)
from policystore.rllib.workers.answers import Answer
from policystore.rllib.workers.calls import Deadline, send
from policystore.rllib.workers.discovery import learners_of
from policystore.torch.tensors import to_numpy

__all__ = [
    "ModuleContents",
    "MultiModuleContents",
    "learner_links",
    "learner_module_ids",
    "read_contents",
    "read_learner_modules",
    "read_multi_contents",
]

# Seconds that a learner has for its updates to end.
_IDLE_TIMEOUT = 60.0
# Seconds that a learner has for its answer: other calls may be before this one.
_ANSWER_TIMEOUT = 3600.0
T = TypeVar("T")


@dataclass(frozen=True)
class ModuleContents:
    """Constructor arguments and weights of one RLModule.

    Attributes:
        cls: the module's class.
        observation_space, action_space, inference_only, learner_only, model_config: the
            constructor's arguments.
        catalog_class: the class of its catalog; None if it has none.
        weights: numpy arrays by name; they share no memory with the module.
        acting: names of the weights that inference uses.
        learner_only_values: values that a Learner holds for the module, outside of it.
    """

    cls: type
    observation_space: Any
    action_space: Any
    inference_only: bool
    learner_only: bool
    model_config: Any
    catalog_class: type | None
    weights: dict[str, Array]
    acting: list[str]
    learner_only_values: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class MultiModuleContents:
    """Constructor arguments of a MultiRLModule, and the contents of its modules by module id."""

    cls: type
    observation_space: Any
    action_space: Any
    inference_only: bool
    model_config: Any
    modules: dict[str, ModuleContents]


def read_contents(module: RLModule) -> ModuleContents:
    """Read one RLModule of this process.

    Raises:
        InvalidInputError: weights that cannot be kept; the message names them.
    """
    return _contents(read_module(module), path_of(type(module)))


def read_multi_contents(
    multi: MultiRLModule, ids: Iterable[str] | None = None
) -> MultiModuleContents:
    """Read a MultiRLModule of this process.

    Args:
        multi: the MultiRLModule.
        ids: the modules to read; None for all.

    Raises:
        InvalidInputError: weights that cannot be kept; the message names them.
    """
    return _multi_contents(read_multi(multi, None if ids is None else list(ids)))


def read_learner_modules(
    algorithm: Algorithm, ids: Iterable[str] | None = None
) -> MultiModuleContents:
    """Read the modules of an Algorithm's learner: the local one, or the first of the remote ones.

    IMPALA and APPO update in a thread of the learner (``algorithms/impala/impala_learner.py:444``);
    their weights are read when no update is under way.

    Args:
        algorithm: a running Algorithm of the new API stack.
        ids: the modules to read; None for all.

    Raises:
        StorageError: the learner is gone, does not answer, or was busy for a whole minute.
        InvalidInputError: weights that cannot be kept; the message names them.
    """
    wanted = None if ids is None else list(ids)
    return _multi_contents(_ask_learner(algorithm, read_learner, wanted, _IDLE_TIMEOUT))


def learner_module_ids(algorithm: Algorithm) -> tuple[tuple[str, ...], bool]:
    """Return an Algorithm's module ids, and whether its MultiRLModule is RLlib's plain one.

    Raises:
        StorageError: the learner is gone or does not answer.
    """
    answer = _ask_learner(algorithm, read_ids)
    # RLlib keeps policies in sets, whose order changes from process to process.
    return tuple(sorted(answer.ids)), answer.plain


def learner_links(algorithm: Algorithm, ids: Iterable[str]) -> dict[str, ModuleLinks]:
    """Return by module id which weights of an Algorithm's learner belong together.

    Raises:
        StorageError: the learner is gone or does not answer.
    """
    return _ask_learner(algorithm, read_links, list(ids))


def _ask_learner(algorithm: Algorithm, function: Callable[..., T], *args: Any) -> T:
    # One learner is enough: after each update all hold the same (learner_group.py:update).
    leader = learners_of(algorithm)[:1]
    if not leader:
        raise StorageError("the Algorithm has no learner left. Nothing was read.")
    calls = send(leader, function, lambda _: args)
    answer: Answer[T] = calls.collect(Deadline(_ANSWER_TIMEOUT))[leader[0]]
    if answer.pending and answer.error:
        raise StorageError(
            f"the learner was busy for {_IDLE_TIMEOUT:g} s without a pause; make the snapshot "
            "between two calls of train(), when no update is under way"
        )
    if answer.pending or answer.unreachable:
        why = answer.unreachable or f"no answer within {_ANSWER_TIMEOUT:g} s"
        raise StorageError(f"the Algorithm's learner does not answer: {why}. Nothing was read.")
    if answer.error:
        raise InvalidInputError(f"reading the modules inside the learner failed: {answer.error}")
    return answer.get()


def _contents(raw: ModuleContent, label: str) -> ModuleContents:
    """Convert what a worker read of one module; messages name the module by ``label``."""
    if raw.names_clash:
        raise InvalidInputError(
            f"{label}: two tensors have the same name once the prefixes of compile and "
            "DistributedDataParallel wrappers are gone"
        )
    if raw.own_get_state:
        raise InvalidInputError(
            f"{label}: {path_of(raw.cls)} has a get_state of its own, so its state is not its "
            "torch state_dict. Keep what it adds in a persistent buffer instead."
        )
    weights = {}
    for name, value in raw.weights.items():
        if not isinstance(name, str):
            raise InvalidInputError(f"{label}: a weight is named {name!r}, which is no string")
        weights[name] = (
            to_numpy(value, f"{label}: {name!r}") if isinstance(value, torch.Tensor) else value
        )
    return ModuleContents(
        cls=raw.cls,
        observation_space=raw.observation_space,
        action_space=raw.action_space,
        inference_only=raw.inference_only,
        learner_only=raw.learner_only,
        model_config=raw.model_config,
        catalog_class=raw.catalog_class,
        weights=weights,
        acting=raw.acting,
        learner_only_values=raw.learner_only_values,
    )


def _multi_contents(raw: MultiModuleContent) -> MultiModuleContents:
    """Convert what a worker read of a MultiRLModule."""
    if raw.outside:
        raise InvalidInputError(
            f"{path_of(raw.cls)} holds {raw.outside} outside of its modules, which RLlib's "
            "own get_state leaves out as well. Make it a module of the MultiRLModule (as the "
            "shared encoder of RLlib's example is)."
        )
    return MultiModuleContents(
        cls=raw.cls,
        observation_space=raw.observation_space,
        action_space=raw.action_space,
        inference_only=raw.inference_only,
        model_config=raw.model_config,
        modules={
            mid: _contents(content, f"module {mid!r}")
            for mid, content in sorted(raw.modules.items())
        },
    )
