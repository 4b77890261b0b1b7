"""New API stack: rebuild RLModules from snapshots, without Ray, Algorithm or environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import ray
import torch
from ray.rllib.core.models.catalog import Catalog
from ray.rllib.core.rl_module.apis import TargetNetworkAPI
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule, MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec

from policystore._util.log import logger
from policystore.errors import FormatError, InvalidInputError, MismatchError, PolicyStoreError
from policystore.format.arrays import Array
from policystore.format.canonical_json import JsonObject
from policystore.format.spec import Spec
from policystore.format.values import Tagged
from policystore.rllib.common.build_guard import building, check_snapshot, guarded, lost_config
from policystore.rllib.common.stacks import conversion_advice
from policystore.rllib.common.supplied import check_complete, policy_space
from policystore.rllib.common.trust import Trust, listed
from policystore.rllib.new_stack.model_config import model_config_from_plain, resolve_class
from policystore.rllib_schema.weight_names import todays_weights
from policystore.snapshot import Snapshot
from policystore.spaces import space_from_json
from policystore.torch.random_numbers import without_own_random_numbers
from policystore.torch.tensors import check_fit, load_arrays, plain_names

__all__ = ["module_spec", "rebuild_module"]


def rebuild_module(
    snap: Snapshot,
    *,
    trust: Trust = (),
    observation_space: gym.Space[Any] | None = None,
    action_space: gym.Space[Any] | None = None,
) -> RLModule:
    """Build the RLModule that a snapshot holds, with its weights.

    Ray is not started, and no Algorithm, environment or cluster is needed. The module has target
    networks if the snapshot has some, and is inference-only if the snapshot is.

    RLlib has changed some networks that only training needs, such as the Q encoders of SAC in Ray
    2.55. If the weights of such a network no longer fit, and all weights that acting needs do, then
    the module is built inference-only: it acts as the original did. A warning names what is left
    out.

    Args:
        snap: a snapshot of one RLModule, or of several that go together (of a custom
            MultiRLModule).
        trust: classes outside of ``ray.rllib`` that may be imported: prefixes (``"mypkg."``) or the
            classes themselves.
        observation_space, action_space: the spaces that the module is built for, if the snapshot
            lacks them or they are to be replaced.

    Returns:
        A new module, on the CPU; a MultiRLModule for modules that go together.

    Raises:
        UntrustedError: a class that the caller does not trust; nothing was built.
        NotFoundError: a class that cannot be imported.
        MismatchError: weights that do not fit the built module; the message lists all of them.
        InvalidInputError: not a snapshot of the new stack, or its class refuses the config.
        FormatError: a spec that is not as snapshots write it.
    """
    trust = listed(trust)
    check_snapshot(snap)
    _check_new_stack(snap)
    return _rebuild(snap, trust, (observation_space, action_space), for_acting=True)


_SuppliedSpaces: TypeAlias = "tuple[gym.Space[Any] | None, gym.Space[Any] | None]"


def _rebuild(
    snap: Snapshot, trust: Trust, spaces: _SuppliedSpaces, *, for_acting: bool
) -> RLModule:
    """Build a snapshot's module; ``for_acting`` allows one without what only training needs."""
    parts = snap.spec.modules
    check_complete(snap)
    with guarded(f"rebuilding {snap!r}"), building(snap):
        if parts is not None:
            return _build_together(snap, parts, trust)
        weights = todays_weights(snap.spec.cls, snap.weights)
        try:
            return _build(snap.spec, weights, trust, spaces)
        except MismatchError:
            module = _built_for_acting(snap.spec, weights, trust, spaces) if for_acting else None
            if module is None:
                raise
            return module


def _built_for_acting(
    spec: Spec, weights: Mapping[str, Array], trust: Trust, spaces: _SuppliedSpaces
) -> RLModule | None:
    """Build one of RLlib's own modules inference-only; None if the weights do not fit that."""
    if spec.weights == "inference-only" or not (spec.cls or "").startswith("ray.rllib."):
        return None
    module = _built(_rl_module_spec(spec.replace(weights="inference-only"), trust, spaces), spec)
    if not isinstance(module, torch.nn.Module):
        return None
    names = set(plain_names(module).values())
    omitted = weights.keys() - names
    try:
        _load(module, {name: weights[name] for name in names & weights.keys()}, f"{spec!r}")
    except MismatchError:
        return None
    logger.warning(
        "%r is rebuilt for acting only: the weights of %s do not fit the networks that Ray %s "
        "makes, and acting does not need these weights",
        spec,
        ", ".join(sorted({name.partition(".")[0] for name in omitted})),
        ray.__version__,
    )
    return module


def _check_new_stack(snap: Snapshot) -> None:
    if snap.spec.stack != "new":
        raise InvalidInputError(
            f"{snap!r} is no RLModule of the new API stack but of stack {snap.spec.stack!r}; "
            "rebuild_policy is for the old stack, policystore.torch.load_into for plain modules."
            + conversion_advice(snap.spec.stack, "new")
        )


def module_spec(snap: Snapshot, trust: Trust = ()) -> RLModuleSpec:
    """Return the RLModuleSpec that RLlib builds a snapshot's module from.

    The module is built once here, with its weights, so that faults of the snapshot raise now.

    Args:
        snap: a snapshot of one RLModule.
        trust: as for :func:`rebuild_module`.

    Raises:
        InvalidInputError: modules that go together, which cannot be added to an Algorithm; or as
            :func:`rebuild_module`.
        MismatchError, UntrustedError, NotFoundError, FormatError: as :func:`rebuild_module`.
    """
    if snap.spec.modules is not None:
        raise InvalidInputError(
            f"{snap!r} holds modules that share parts; they cannot be added to an Algorithm"
        )
    trust = listed(trust)
    check_snapshot(snap)
    _check_new_stack(snap)
    _rebuild(snap, trust, (None, None), for_acting=False)
    return _rl_module_spec(snap.spec, trust)


def _build_together(snap: Snapshot, parts: Mapping[str, Spec], trust: Trust) -> MultiRLModule:
    cls = resolve_class(snap.spec.cls or "", MultiRLModule, "spec.class", trust)
    weights: dict[str, dict[str, Array]] = {module_id: {} for module_id in parts}
    for name, array in snap.weights.items():
        module_id, slash, rest = name.partition("/")
        if not slash or module_id not in weights:
            raise FormatError(
                f"{snap!r}: the weight {name!r} belongs to none of its modules {sorted(parts)}"
            )
        weights[module_id][rest] = array
    spec = MultiRLModuleSpec(
        multi_rl_module_class=cls,
        observation_space=_space(snap.spec.observation_space),
        action_space=_space(snap.spec.action_space),
        inference_only=snap.spec.weights == "inference-only",
        model_config=model_config_from_plain(snap.spec.config.get("model_config"), trust),
        rl_module_specs={
            module_id: _rl_module_spec(part, trust) for module_id, part in parts.items()
        },
    )
    multi: MultiRLModule = _built(spec, snap.spec)
    for module_id in parts:
        _load(multi[module_id], weights[module_id], f"module {module_id!r} of {snap!r}")
    return multi


def _build(
    spec: Spec, weights: Mapping[str, Array], trust: Trust, spaces: _SuppliedSpaces
) -> RLModule:
    module: RLModule = _built(_rl_module_spec(spec, trust, spaces), spec)
    _load(module, weights, f"{spec!r}")
    return module


def _rl_module_spec(
    spec: Spec, trust: Trust, spaces: _SuppliedSpaces = (None, None)
) -> RLModuleSpec:
    config = spec.config
    observations, actions = (
        # A module may have no spaces at all. It has lost one only if its source had one.
        None
        if given is None and getattr(spec, name) is None and name not in spec.omitted
        else policy_space(spec, name, given, "rebuild_module")
        for name, given in zip(("observation_space", "action_space"), spaces, strict=True)
    )
    catalog = config.get("catalog_class")
    return _KeepsConfig(
        module_class=resolve_class(spec.cls or "", RLModule, "spec.class", trust),
        observation_space=observations,
        action_space=actions,
        inference_only=spec.weights == "inference-only",
        learner_only=bool(config.get("learner_only", False)),
        model_config=model_config_from_plain(config.get("model_config"), trust),
        catalog_class=None if catalog is None else _catalog(catalog, trust),
    )


class _KeepsConfig(RLModuleSpec):  # type: ignore[misc]
    """An RLModuleSpec whose build hands the model config on as it is.

    RLlib's own spec turns a dataclass into a dict, but a module that was built directly got the
    dataclass.
    """

    def _get_model_config(self) -> Any:
        return self.model_config


def _catalog(tagged: object, trust: Trust) -> type[Catalog]:
    if not isinstance(tagged, Tagged) or tagged.tag != "import":
        raise FormatError(f"spec.config.catalog_class: expected a class, found {tagged!r}")
    cls: type[Catalog] = resolve_class(tagged.value, Catalog, "spec.config.catalog_class", trust)
    return cls


def _built(recipe: RLModuleSpec | MultiRLModuleSpec, spec: Spec) -> Any:
    """Build a module from RLlib's spec of it; errors of its class become InvalidInputError."""
    try:
        return recipe.build()
    except PolicyStoreError:
        raise
    except Exception as error:
        lost = lost_config(spec)
        hint = f" The snapshot was made with these parts left out: {lost}." if lost else ""
        raise InvalidInputError(
            f"{spec.cls} cannot be built from the recorded config: "
            f"{type(error).__name__}: {error}.{hint} Its class, or Ray, may have changed since."
        ) from error


def _load(module: RLModule, weights: Mapping[str, Array], label: str) -> None:
    """Load weights into a new module, which gets target networks if the weights have them."""
    if not isinstance(module, torch.nn.Module):
        _load_without_torch(module, weights, label)
        return
    entries = module.state_dict()
    names = plain_names(module, entries)
    missing = weights.keys() - set(names.values())
    if missing and isinstance(module, TargetNetworkAPI) and not module.inference_only:
        # Learners add these after building (core/rl_module/apis/target_network_api.py:22).
        module.make_target_networks()
        entries = module.state_dict()
        names = plain_names(module, entries)
    with without_own_random_numbers():
        if not weights.keys() >= set(names.values()):
            weights = {**_constants(module, names), **weights}
        load_arrays(module, weights, label, is_new=True, entries=entries)


def _constants(module: torch.nn.Module, names: Mapping[str, str]) -> dict[str, Array]:
    """Return the buffers of RLlib's heads that hold a number of the config and not of training.

    Weights without these buffers fit too: modules of Ray 2.37 and before have no such buffers
    (core/models/torch/heads.py:66 of Ray 2.60), so snapshots of checkpoints of these versions have
    none. ``names`` are those of :func:`plain_names`.
    """
    return {
        names[name]: buffer.detach().cpu().numpy()
        for name, buffer in module.named_buffers()
        if name.endswith(".log_std_clip_param_const") and name in names
    }


def _load_without_torch(module: RLModule, weights: Mapping[str, Array], label: str) -> None:
    """Load the weights of a module that is not of torch, such as a heuristic; most have none."""
    present = {name: np.asarray(value) for name, value in module.get_state().items()}
    check_fit(weights, present, label)
    if weights:
        module.set_state({name: np.array(array) for name, array in weights.items()})


def _space(value: JsonObject | None) -> gym.Space[Any] | None:
    return None if value is None else space_from_json(value)
