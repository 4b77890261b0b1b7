"""New API stack: snapshots of RLModules, MultiRLModules and running Algorithms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.metrics import ALL_MODULES

from policystore.errors import InvalidInputError
from policystore.format.arrays import Array
from policystore.format.spec import Spec
from policystore.format.values import Tagged
from policystore.rllib.common.trust import algorithm_name, is_importable, path_of
from policystore.rllib.new_stack.env_interface import read_env_side
from policystore.rllib.new_stack.learner import (
    ModuleFacts,
    MultiFacts,
    describe,
    describe_multi,
    known_module,
    learner_module_ids,
    learner_modules,
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
    """Keep one RLModule: its weights and what its constructor was given.

    A module knows nothing of the environment's side; of connectors, filters and action
    normalising this snapshot has nothing, and a player must be given them.

    Args:
        module: of torch, or a heuristic without weights; also wrapped for distributed training.

    Returns:
        A snapshot of all that the module holds; ``spec.weights`` is ``"inference-only"`` if it was
        built so.

    Raises:
        InvalidInputError: weights or a class that cannot be kept; named.
    """
    if isinstance(module, MultiRLModule):
        return snapshot_multi_module(module)
    return _single(describe(module), None, EnvInterface())


def snapshot_multi_module(module: MultiRLModule, module_id: str | None = None) -> Snapshot:
    """Keep one module of a MultiRLModule, or all of one whose modules share parts.

    Args:
        module: RLlib's MultiRLModule, or a subclass; the modules of a subclass go together.
        module_id: which one; may be left out where there is only one.

    Raises:
        NotFoundError: no such module; lists those there are.
        InvalidInputError: none named though there are several, or one named of those that go
            together.
    """
    multi = module.unwrapped()
    if type(multi) is MultiRLModule:
        module_id = known_module(multi.keys(), module_id, "the MultiRLModule")
        return _single(describe(multi[module_id]), None, EnvInterface())
    _refuse_part(path_of(type(multi)), multi.keys(), module_id)
    return _together(describe_multi(multi), None, EnvInterface())


def module_ids(algorithm: Any) -> tuple[str, ...]:
    """Ids of the modules that an Algorithm's learner holds; one small call, no weights."""
    return learner_module_ids(algorithm)[0]


def snapshot_from_algorithm(
    algorithm: Any,
    module_id: str | None = None,
    *,
    agent_ids: Iterable[Any] | None = None,
    omit: Iterable[str] = (),
) -> Snapshot:
    """Keep one module of a running Algorithm: full learner weights, environment's side, filters.

    Args:
        algorithm: of the new API stack, with local or remote learners and env runners.
        module_id: which module; may be left out where there is only one. Modules of a custom
            MultiRLModule may share parts and go together: then leave it out.
        agent_ids: in a multi-agent Algorithm, ids of the agents whose filter state and spaces
            belong to the module. Needed where a connector keeps state.
        omit: names of connectors that cannot or should not be kept; the spec records it.

    Returns:
        A snapshot that shares no memory with the Algorithm.

    Raises:
        NotFoundError: no such module or agent; lists those there are.
        InvalidInputError: an argument is missing, or something that has no form in a snapshot.
        StorageError: the learner does not answer.
    """
    ids, plain = learner_module_ids(algorithm)
    side = read_env_side(algorithm, agent_ids, omit)
    if plain:
        module_id = known_module(ids, module_id, "the Algorithm")
        facts = learner_modules(algorithm, [module_id]).modules[module_id]
        return _single(facts, algorithm_name(algorithm), side)
    _refuse_part("the Algorithm's MultiRLModule", ids, module_id)
    return _together(learner_modules(algorithm), algorithm_name(algorithm), side)


def snapshots_from_algorithm(
    algorithm: Any,
    *,
    agent_ids: Mapping[str, Iterable[Any]] | None = None,
    omit: Iterable[str] = (),
) -> dict[str, Snapshot]:
    """Keep all modules of a running Algorithm, read in one go, by module id.

    Args:
        algorithm: as for :func:`snapshot_from_algorithm`.
        agent_ids: module id -> agents.
        omit: as for :func:`snapshot_from_algorithm`.

    Returns:
        Module id -> snapshot; of modules that go together, one under ``"__all_modules__"``.
    """
    if agent_ids is not None and not isinstance(agent_ids, Mapping):
        raise InvalidInputError(
            f"of all modules at once, agent_ids is a dict by module id: agent_ids={{'main': {agent_ids!r}}}"
        )
    multi = learner_modules(algorithm)
    name = algorithm_name(algorithm)
    wanted = dict(agent_ids or {})
    if multi.cls is not MultiRLModule:
        both = [agent for of_module in wanted.values() for agent in of_module]
        side = read_env_side(algorithm, both or None, omit)
        return {ALL_MODULES: _together(multi, name, side)}
    for module_id in wanted:
        known_module(multi.modules, module_id, "the Algorithm")
    kept = list(omit)
    found = {}
    for module_id, facts in multi.modules.items():
        try:
            side = read_env_side(algorithm, wanted.get(module_id), kept)
        except InvalidInputError as error:
            raise InvalidInputError(
                f"module {module_id!r}: {error} (of all modules at once, agent_ids is a dict by "
                f"module id: agent_ids={{{module_id!r}: […], …}})"
            ) from None
        found[module_id] = _single(facts, name, side)
    return found


def _refuse_part(where: str, ids: Iterable[str], module_id: str | None) -> None:
    if module_id is not None:
        known_module(ids, module_id, where)
        raise InvalidInputError(
            f"{where} is not RLlib's plain one: its modules may share parts (such as an encoder), "
            f"so {module_id!r} alone would not work. Leave the module id out: {sorted(ids)} make "
            "one snapshot together."
        )


def _single(facts: ModuleFacts, algorithm: str | None, side: EnvInterface) -> Snapshot:
    return Snapshot(
        weights=facts.weights,
        spec=_module_spec(facts, algorithm, side, f"module of {path_of(facts.cls)}"),
        state=side.state,
    )


def _together(facts: MultiFacts, algorithm: str | None, side: EnvInterface) -> Snapshot:
    bad = [module_id for module_id in facts.modules if "/" in module_id]
    if bad:
        raise InvalidInputError(
            f"module ids {bad}: names of weights are 'id/parameter', so an id has no '/'"
        )
    weights: dict[str, Array] = {
        f"{module_id}/{name}": array
        for module_id, module in facts.modules.items()
        for name, array in module.weights.items()
    }
    omitted = dict(side.omitted)
    config = model_config_to_plain(facts.model_config, has_catalog=False, omitted=omitted)
    spec = Spec(
        stack="new",
        algorithm=algorithm,
        cls=_class_path(facts.cls),
        observation_space=_space(facts.observation_space),
        action_space=_space(facts.action_space),
        config={"model_config": config},
        weights="inference-only" if facts.inference_only else "full",
        acting=_acting(
            weights,
            [f"{mid}/{name}" for mid, module in facts.modules.items() for name in module.acting],
        ),
        modules={
            module_id: _module_spec(
                module, None, EnvInterface(), f"module {module_id!r}", part=True
            )
            for module_id, module in facts.modules.items()
        },
        **side.fields(omitted),
    )
    return Snapshot(weights=weights, spec=spec, state=side.state)


def _module_spec(
    facts: ModuleFacts, algorithm: str | None, side: EnvInterface, what: str, *, part: bool = False
) -> Spec:
    omitted = dict(side.omitted)
    config: dict[str, Any] = {
        "model_config": model_config_to_plain(
            facts.model_config,
            has_catalog=facts.catalog_class is not None,
            omitted=omitted,
        )
    }
    if facts.catalog_class is not None:
        config["catalog_class"] = Tagged("import", _class_path(facts.catalog_class))
    if facts.learner_only:
        config["learner_only"] = True
    for value in facts.learner_only_values:
        omitted[f"learner.{value}"] = (
            "a value of the Learner, not of the module; training that starts from this snapshot "
            "starts it anew"
        )
    return Spec(
        stack="new",
        algorithm=algorithm,
        cls=_class_path(facts.cls),
        observation_space=_space(facts.observation_space),
        action_space=_space(facts.action_space),
        config=config,
        weights="inference-only" if facts.inference_only else "full",
        acting=None if part else _acting(facts.weights, facts.acting),
        **side.fields(omitted),
    )


def _acting(weights: Mapping[str, Array], names: Iterable[str]) -> list[str] | None:
    found = sorted(names)
    return None if found == sorted(weights) else found


def _space(space: Any) -> Any:
    return None if space is None else space_to_json(space)


def _class_path(cls: type) -> str:
    if not is_importable(cls):
        raise InvalidInputError(
            f"{cls.__qualname__} is defined inside a function, so no other process could find it; "
            "define it at the top of a module"
        )
    return path_of(cls)
