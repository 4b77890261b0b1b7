"""What an RLModule holds, read where it lives: here, or inside a learner actor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from policystore.errors import InvalidInputError, NotFoundError, StorageError
from policystore.format.arrays import Array
from policystore.rllib.common.trust import path_of
from policystore.rllib.worker_code.answers import ModuleContent, MultiModuleContent
from policystore.rllib.worker_code.read_modules import (
    read_ids,
    read_learner,
    read_module,
    read_multi,
)
from policystore.rllib.workers.answers import Answer
from policystore.rllib.workers.calls import Deadline, send
from policystore.rllib.workers.discovery import learners_of
from policystore.torch.tensors import to_numpy

__all__ = ["ModuleFacts", "MultiFacts", "describe", "describe_multi", "learner_modules"]

# Seconds for a learner's updates to end, and for its answer: it may have others to do before.
_REST = 60.0
_ANSWER = 3600.0
T = TypeVar("T")


@dataclass(frozen=True)
class ModuleFacts:
    """One RLModule: what its constructor was given, and its weights as numpy arrays."""

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
class MultiFacts:
    """A MultiRLModule: its own constructor arguments and what it holds, by module id."""

    cls: type
    observation_space: Any
    action_space: Any
    inference_only: bool
    model_config: Any
    modules: dict[str, ModuleFacts]


def describe(module: Any) -> ModuleFacts:
    """Read one RLModule of this process.

    Raises:
        InvalidInputError: its weights cannot be kept; named.
    """
    return _facts(read_module(module), path_of(type(module)))


def describe_multi(multi: Any, ids: Iterable[str] | None = None) -> MultiFacts:
    """Read a MultiRLModule of this process, or of it only the modules of ``ids``.

    Raises:
        InvalidInputError: weights that cannot be kept; named.
    """
    return _multi_facts(read_multi(multi, None if ids is None else list(ids)))


def learner_modules(algorithm: Any, ids: Iterable[str] | None = None) -> MultiFacts:
    """Read an Algorithm's learner: the local one, or the first of the remote ones.

    IMPALA and APPO update in a thread of the learner (``algorithms/impala/impala_learner.py:444``);
    their weights are read once it has come to rest.

    Raises:
        StorageError: the learner is gone, or never stood still.
        InvalidInputError: weights that cannot be kept; named.
    """
    wanted = None if ids is None else list(ids)
    return _multi_facts(_ask_learner(algorithm, read_learner, wanted, _REST))


def learner_module_ids(algorithm: Any) -> tuple[tuple[str, ...], bool]:
    """Module ids of an Algorithm's learner, and whether its MultiRLModule is RLlib's plain one."""
    found = _ask_learner(algorithm, read_ids)
    # RLlib keeps policies in sets, whose order changes from process to process.
    return tuple(sorted(found.ids)), found.plain


def _ask_learner(algorithm: Any, function: Callable[..., T], *args: Any) -> T:
    # One learner is enough: after each update all hold the same (learner_group.py:update).
    leader = learners_of(algorithm)[:1]
    if not leader:
        raise StorageError("the Algorithm has no learner left. Nothing was read.")
    answer: Answer[T] = send(leader, function, lambda _: args).collect(Deadline(_ANSWER))[leader[0]]
    if answer.pending and answer.error:
        raise StorageError(
            f"the learner was at work for {_REST:g} s without a pause; make the snapshot between "
            "two calls of train(), when no update is under way"
        )
    if answer.pending or answer.unreachable:
        why = answer.unreachable or f"no answer within {_ANSWER:g} s"
        raise StorageError(f"the Algorithm's learner does not answer: {why}. Nothing was read.")
    if answer.error:
        raise InvalidInputError(f"reading the modules inside the learner failed: {answer.error}")
    return answer.get()


def _facts(raw: ModuleContent, what: str) -> ModuleFacts:
    import torch

    if raw.names_clash:
        raise InvalidInputError(
            f"{what}: two tensors have the same name once the prefixes of compile and "
            "DistributedDataParallel wrappers are gone"
        )
    if raw.own_get_state:
        raise InvalidInputError(
            f"{what}: {path_of(raw.cls)} has a get_state of its own, so its state is not its "
            "torch state_dict. Keep what it adds in a persistent buffer instead."
        )
    weights = {}
    for name, value in raw.weights.items():
        if not isinstance(name, str):
            raise InvalidInputError(f"{what}: a weight is named {name!r}, which is no string")
        weights[name] = (
            to_numpy(value, f"{what}: {name!r}") if isinstance(value, torch.Tensor) else value
        )
    return ModuleFacts(
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


def _multi_facts(raw: MultiModuleContent) -> MultiFacts:
    if raw.outside:
        raise InvalidInputError(
            f"{path_of(raw.cls)} holds {raw.outside} outside of its modules, which RLlib's "
            "own get_state leaves out as well. Make it a module of the MultiRLModule (as the "
            "shared encoder of RLlib's example is)."
        )
    return MultiFacts(
        cls=raw.cls,
        observation_space=raw.observation_space,
        action_space=raw.action_space,
        inference_only=raw.inference_only,
        model_config=raw.model_config,
        modules={
            mid: _facts(content, f"module {mid!r}") for mid, content in sorted(raw.modules.items())
        },
    )


def known_module(
    ids: Iterable[str], module_id: str | None, where: str, kind: str = "module"
) -> str:
    """The module that is meant: the given one, or the only one.

    Raises:
        NotFoundError: no such module; lists those there are.
        InvalidInputError: none was given and there are several.
    """
    known = sorted(ids)
    if module_id is None:
        if len(known) == 1:
            return known[0]
        kinds = "policies" if kind == "policy" else f"{kind}s"
        raise InvalidInputError(
            f"{where} has {len(known)} {kinds}, so say which one: {', '.join(map(repr, known))}"
        )
    if module_id not in known:
        raise NotFoundError(
            f"{where} has no {kind} {module_id!r}; it has {', '.join(map(repr, known))}"
        )
    return module_id
