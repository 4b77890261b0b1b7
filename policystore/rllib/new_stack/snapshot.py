"""New API stack: make snapshots of RLModules, MultiRLModules and running Algorithms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium as gym
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.metrics import ALL_MODULES
from ray.rllib.utils.typing import AgentID

from policystore.errors import InvalidInputError
from policystore.format.arrays import Array
from policystore.format.canonical_json import JsonObject
from policystore.format.spec import Spec
from policystore.format.values import Tagged
from policystore.rllib.common.ids import pick_id
from policystore.rllib.common.trust import algorithm_name, is_importable, path_of
from policystore.rllib.new_stack.env_interface import read_env_interface
from policystore.rllib.new_stack.learner import (
    ModuleContents,
    MultiModuleContents,
    learner_module_ids,
    read_contents,
    read_learner_modules,
    read_multi_contents,
)
from policystore.rllib.new_stack.model_config import model_config_to_plain
from policystore.rllib_schema.env_interface import EnvInterface
from policystore.snapshot import Snapshot
from policystore.spaces import space_to_json

__all__ = [
    "module_ids",
    "snapshot_from_algorithm",
    "snapshot_module",
    "snapshot_multi_module",
    "snapshots_from_algorithm",
]


def snapshot_module(module: RLModule) -> Snapshot:
    """Make a snapshot of one RLModule: its weights and its constructor's arguments.

    A module alone does not know its env interface: the snapshot has no environment spaces,
    connectors, filters or handling of actions. A player of such a snapshot must be given these
    parts as arguments.

    Args:
        module: a module of torch, or a heuristic without weights; it may be wrapped for
            distributed training. A MultiRLModule is taken as by :func:`snapshot_multi_module`.

    Returns:
        A snapshot of all that the module holds; ``spec.weights`` is ``"inference-only"`` if the
        module was built so.

    Raises:
        InvalidInputError: weights or a class that cannot be kept; the message names them.
    """
    if isinstance(module, MultiRLModule):
        return snapshot_multi_module(module)
    return _single(read_contents(module), None, EnvInterface())


def snapshot_multi_module(module: MultiRLModule, module_id: str | None = None) -> Snapshot:
    """Make a snapshot of one module of a MultiRLModule, or of all modules that share parts.

    Args:
        module: RLlib's MultiRLModule, or a subclass; the modules of a subclass go together.
        module_id: the module to keep; may be left out where there is only one.
            ``"__all_modules__"`` means all modules of a subclass.

    Returns:
        A snapshot as from :func:`snapshot_module`.

    Raises:
        NotFoundError: no such module; the message lists the modules.
        InvalidInputError: no id although there are several modules, or an id although the modules
            go together; or as :func:`snapshot_module`.
    """
    multi = module.unwrapped()
    if type(multi) is MultiRLModule:
        module_id = pick_id(multi.keys(), module_id, "the MultiRLModule")
        return _single(read_contents(multi[module_id]), None, EnvInterface())
    _refuse_part(path_of(type(multi)), multi.keys(), module_id)
    return _together(read_multi_contents(multi), None, EnvInterface())


def module_ids(algorithm: Algorithm) -> tuple[str, ...]:
    """Return the ids of the modules that an Algorithm's learner holds, by one small call.

    Raises:
        StorageError: the learner does not answer.
    """
    return learner_module_ids(algorithm)[0]


def snapshot_from_algorithm(
    algorithm: Algorithm,
    module_id: str | None = None,
    *,
    agent_ids: Iterable[AgentID] | None = None,
    omit: Iterable[str] = (),
    from_runner: int | None = None,
) -> Snapshot:
    """Make a snapshot of one module of a running Algorithm: full weights and env interface.

    Args:
        algorithm: an Algorithm of the new API stack, with local or remote learners and env runners.
        module_id: the module to keep; may be left out where there is only one. Modules of a custom
            MultiRLModule may share parts and go together: then leave the id out, or give
            ``"__all_modules__"``.
        agent_ids: in a multi-agent Algorithm, ids of the agents whose filter state and spaces
            belong to the module. Needed where a connector keeps state.
        omit: names of connectors that cannot or should not be kept; the spec records them.
        from_runner: number of the env runner whose connector states are kept.

    Returns:
        A snapshot that shares no memory with the Algorithm.

    Raises:
        NotFoundError: no such module, agent or connector; the message lists the ones that exist.
        InvalidInputError: an argument is missing, or something has no form in a snapshot.
        StorageError: the learner does not answer.
    """
    ids, plain = learner_module_ids(algorithm)
    interface = read_env_interface(algorithm, agent_ids, omit, from_runner)
    if plain:
        module_id = pick_id(ids, module_id, "the Algorithm")
        module = read_learner_modules(algorithm, [module_id]).modules[module_id]
        return _single(module, algorithm_name(algorithm), interface)
    _refuse_part("the Algorithm's MultiRLModule", ids, module_id)
    return _together(read_learner_modules(algorithm), algorithm_name(algorithm), interface)


def snapshots_from_algorithm(
    algorithm: Algorithm,
    *,
    agent_ids: Mapping[str, Iterable[AgentID]] | None = None,
    omit: Iterable[str] = (),
    from_runner: int | None = None,
) -> dict[str, Snapshot]:
    """Make snapshots of all modules of a running Algorithm, by one read of its learner.

    Args:
        algorithm: as for :func:`snapshot_from_algorithm`.
        agent_ids: ids of agents by module id, see :func:`snapshot_from_algorithm`.
        omit, from_runner: as for :func:`snapshot_from_algorithm`.

    Returns:
        Snapshots by module id. Modules that go together make one snapshot, under
        ``"__all_modules__"``.

    Raises:
        NotFoundError, InvalidInputError, StorageError: as :func:`snapshot_from_algorithm`.
    """
    if agent_ids is not None and not isinstance(agent_ids, Mapping):
        raise InvalidInputError(
            "for all modules at once, agent_ids is a dict by module id: "
            f"agent_ids={{'main': {agent_ids!r}}}"
        )
    multi = read_learner_modules(algorithm)
    name = algorithm_name(algorithm)
    agents_by_module = dict(agent_ids or {})
    if multi.cls is not MultiRLModule:
        agents = [agent for of_module in agents_by_module.values() for agent in of_module]
        interface = read_env_interface(algorithm, agents or None, omit, from_runner)
        return {ALL_MODULES: _together(multi, name, interface)}
    for module_id in agents_by_module:
        pick_id(multi.modules, module_id, "the Algorithm")
    omit = omit if isinstance(omit, str) else list(omit)
    snapshots = {}
    for module_id, module in multi.modules.items():
        try:
            agents_of = agents_by_module.get(module_id)
            interface = read_env_interface(algorithm, agents_of, omit, from_runner)
        except InvalidInputError as error:
            raise InvalidInputError(
                f"module {module_id!r}: {error} (for all modules at once, agent_ids is a dict by "
                f"module id: agent_ids={{{module_id!r}: […], …}})"
            ) from None
        snapshots[module_id] = _single(module, name, interface)
    return snapshots


def _refuse_part(owner: str, ids: Iterable[str], module_id: str | None) -> None:
    """Refuse to keep one of several modules that go together."""
    if module_id not in (None, ALL_MODULES):
        pick_id(ids, module_id, owner)
        raise InvalidInputError(
            f"{owner} has a class of its own: its modules may share parts (such as an encoder), so "
            f"{module_id!r} alone would not work. {sorted(ids)} make one snapshot together: leave "
            f"the module id out, or give {ALL_MODULES!r}."
        )


def _single(module: ModuleContents, algorithm: str | None, interface: EnvInterface) -> Snapshot:
    return Snapshot(
        weights=module.weights,
        spec=_module_spec(module, algorithm, interface),
        state=interface.state,
    )


def _together(
    multi: MultiModuleContents, algorithm: str | None, interface: EnvInterface
) -> Snapshot:
    with_slash = [module_id for module_id in multi.modules if "/" in module_id]
    if with_slash:
        raise InvalidInputError(
            f"module ids {with_slash}: names of weights are 'id/parameter', so an id has no '/'"
        )
    weights: dict[str, Array] = {
        f"{module_id}/{name}": array
        for module_id, module in multi.modules.items()
        for name, array in module.weights.items()
    }
    omitted = dict(interface.omitted)
    config = model_config_to_plain(multi.model_config, has_catalog=False, omitted=omitted)
    spec = Spec(
        stack="new",
        algorithm=algorithm,
        cls=_class_path(multi.cls),
        observation_space=_space(multi.observation_space),
        action_space=_space(multi.action_space),
        config={"model_config": config},
        weights="inference-only" if multi.inference_only else "full",
        acting=_acting(
            weights,
            [
                f"{module_id}/{name}"
                for module_id, module in multi.modules.items()
                for name in module.acting
            ],
        ),
        modules={
            module_id: _module_spec(module, None, EnvInterface(), part=True)
            for module_id, module in multi.modules.items()
        },
        **interface.fields(omitted),
    )
    return Snapshot(weights=weights, spec=spec, state=interface.state)


def _module_spec(
    module: ModuleContents, algorithm: str | None, interface: EnvInterface, *, part: bool = False
) -> Spec:
    """Build the spec of one module; ``part`` says that it is one of several that go together."""
    omitted = dict(interface.omitted)
    config: dict[str, Any] = {
        "model_config": model_config_to_plain(
            module.model_config,
            has_catalog=module.catalog_class is not None,
            omitted=omitted,
        )
    }
    if module.catalog_class is not None:
        config["catalog_class"] = Tagged("import", _class_path(module.catalog_class))
    if module.learner_only:
        config["learner_only"] = True
    for value in module.learner_only_values:
        omitted[f"learner.{value}"] = (
            "a value of the Learner, not of the module; training that starts from this snapshot "
            "starts it anew"
        )
    return Spec(
        stack="new",
        algorithm=algorithm,
        cls=_class_path(module.cls),
        observation_space=_space(module.observation_space),
        action_space=_space(module.action_space),
        config=config,
        weights="inference-only" if module.inference_only else "full",
        acting=None if part else _acting(module.weights, module.acting),
        **interface.fields(omitted),
    )


def _acting(weights: Mapping[str, Array], names: Iterable[str]) -> list[str] | None:
    """Return what a spec records as acting weights: None if all weights are."""
    acting = sorted(names)
    return None if acting == sorted(weights) else acting


def _space(space: gym.Space[Any] | None) -> JsonObject | None:
    return None if space is None else space_to_json(space)


def _class_path(cls: type) -> str:
    """Return a class's import path.

    Raises:
        InvalidInputError: no other process could import the class.
    """
    if not is_importable(cls):
        raise InvalidInputError(
            f"{cls.__qualname__} is defined inside a function, so no other process could find it; "
            "define it at the top of a module"
        )
    return path_of(cls)
