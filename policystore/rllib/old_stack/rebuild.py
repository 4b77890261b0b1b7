"""Rebuild old-stack policies (``ray.rllib.policy.Policy``) from snapshots."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import ray
import torch
from ray.rllib.connectors.connector import ConnectorContext
from ray.rllib.policy.policy import Policy

from policystore.errors import FormatError, InvalidInputError, MismatchError, PolicyStoreError
from policystore.format.arrays import Weights
from policystore.format.spec import Spec
from policystore.rllib.common.build_guard import building, check_snapshot, lost_config
from policystore.rllib.common.stacks import conversion_advice
from policystore.rllib.common.supplied import check_complete, policy_space, with_classes
from policystore.rllib.common.trust import Trust, listed, resolve
from policystore.rllib.old_stack.config_restore import full_config
from policystore.rllib.old_stack.connectors import attach, make_connectors
from policystore.rllib.old_stack.exploration_state import restore_exploration
from policystore.rllib.old_stack.snapshot import own_weights, policy_weights, torch_model
from policystore.rllib_schema.class_paths import ALGORITHMS
from policystore.rllib_schema.registry_names import NamedClass
from policystore.snapshot import Snapshot
from policystore.torch.tensors import check_fit, load_arrays, unwrapped

__all__ = ["rebuild_policy"]


def rebuild_policy(
    snap: Snapshot,
    *,
    trust: Trust = (),
    observation_space: gym.Space[Any] | None = None,
    action_space: gym.Space[Any] | None = None,
    custom_model: NamedClass | None = None,
    custom_action_dist: NamedClass | None = None,
    custom_preprocessor: NamedClass | None = None,
) -> Policy:
    """Build a new policy that acts as the one in the snapshot did.

    It needs no Algorithm, environment, Ray cluster or CPU slot. The policy is on the CPU, holds
    exactly the snapshot's weights, and has its connectors with their filters' statistics, in
    training mode as RLlib leaves them.

    Args:
        snap: a snapshot of an old-stack policy.
        trust: prefixes of import paths, or classes, that a snapshot may name beside RLlib's own:
            custom policies, models, action distributions, explorations and connectors.
        observation_space, action_space: the spaces that the policy is built for, if the snapshot
            lacks them or they are to be replaced.
        custom_model, custom_action_dist, custom_preprocessor: the classes of the model config, or
            their import paths. Needed for a policy out of a checkpoint that knows such a class only
            by the name under which it was registered. A class given here is trusted.

    Raises:
        InvalidInputError: a snapshot of another kind, one that lacks a part that no argument
            supplies, or one that the installed RLlib cannot build.
        MismatchError: tensors do not fit; the message lists all of them. No policy is returned.
        UntrustedError, NotFoundError: a class that may not or cannot be imported.
        FormatError: a spec or state that is not as snapshots write it.
    """
    trust = listed(trust)
    check_snapshot(snap)
    spec = snap.spec
    if spec.stack != "old" or spec.cls is None:
        other = {"new": "rebuild_module", "torch": "policystore.torch.load_into"}.get(spec.stack)
        raise InvalidInputError(
            f"rebuild_policy takes snapshots of old-stack policies; this one has stack "
            f"{spec.stack!r}"
            + (f": use {other}." if other else ".")
            + conversion_advice(spec.stack, "old")
        )
    snap, trust = with_classes(
        snap,
        trust,
        {
            "custom_model": custom_model,
            "custom_action_dist": custom_action_dist,
            "custom_preprocessor": custom_preprocessor,
        },
    )
    check_complete(snap)
    spec = snap.spec
    observations = policy_space(spec, "observation_space", observation_space, "rebuild_policy")
    actions = policy_space(spec, "action_space", action_space, "rebuild_policy")
    path = spec.cls or ""
    cls = resolve(path, trust)
    if not isinstance(cls, type) or not issubclass(cls, Policy):
        raise FormatError(f"spec.class: {spec.cls} is not a Policy of RLlib's old API stack")
    config = full_config(
        spec.config,
        algorithm=spec.algorithm or ALGORITHMS.get(path),
        normalize_actions=spec.normalize_actions,
        clip_actions=spec.clip_actions,
        trust=trust,
    )
    with building(snap):
        policy = _construct(cls, observations, actions, config, spec)
    _load_weights(policy, snap)
    state = snap.state
    if spec.connectors:
        makers = make_connectors(spec.connectors, state.get("connectors", {}), trust)
        attach(policy, makers, ConnectorContext.from_policy(policy))
    restore_exploration(policy, state.get("exploration", {}), "state.exploration")
    return policy


def _construct(
    cls: Callable[..., Policy],
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    config: dict[str, Any],
    spec: Spec,
) -> Policy:
    """Call the constructor of a policy.

    Raises:
        InvalidInputError: the constructor raised an error of its own, which is the cause. The
            message names what the snapshot's config lacks.
    """
    _use_plain_ints(action_space)
    try:
        return cls(observation_space, action_space, config)
    except PolicyStoreError:
        raise
    except Exception as error:
        lacking = lost_config(spec)
        raise InvalidInputError(
            f"RLlib {ray.__version__} could not build {spec.cls} from the snapshot: "
            f"{type(error).__name__}: {error}"
            + (f". This was left out of its config: {', '.join(lacking)}" if lacking else "")
        ) from error


def _use_plain_ints(space: gym.Space[Any]) -> None:
    """Give the Discrete spaces in an action space a plain int as ``n``.

    gymnasium makes ``n`` a numpy integer. RLlib hands it to torch as the size of the previous
    actions (``models/torch/recurrent_net.py:195``), and torch refuses numpy integers. What the
    policy computes does not change.
    """
    if isinstance(space, gym.spaces.Discrete):
        space.n = int(space.n)
    elif isinstance(space, (gym.spaces.Tuple, gym.spaces.Dict)):
        for inner in space.values() if isinstance(space, gym.spaces.Dict) else space.spaces:
            _use_plain_ints(inner)


def _load_weights(policy: Policy, snap: Snapshot) -> None:
    """Give a policy exactly the weights of a snapshot, and check that it has them.

    Raises:
        MismatchError: tensors that do not fit, or that ``set_weights()`` did not take.
    """
    label = f"{snap!r} into {type(policy).__name__}"
    model = torch_model(policy)
    if model is not None and own_weights(policy) is None:
        load_arrays(model, snap.weights, label, is_new=True)
        _sync_targets(policy, model)
        return
    check_fit(snap.weights, policy_weights(policy, label), label)
    if not snap.weights:
        return
    policy.set_weights({name: np.array(array) for name, array in snap.weights.items()})
    _check_loaded(policy_weights(policy, label), snap.weights, label)


def _sync_targets(policy: Policy, model: torch.nn.Module) -> None:
    """Copy the weights of a model into the policy's target networks.

    ``update_target()`` would mix them with the values that the target networks had before
    (policy/torch_mixins.py:196).
    """
    found = list(getattr(policy, "target_models", {}).values())
    found = found or [getattr(policy, "target_model", None)]
    targets = [target for target in found if isinstance(target, torch.nn.Module)]
    weights = unwrapped(model).state_dict() if targets else {}
    for target in targets:
        target.load_state_dict({name: weights[name] for name in target.state_dict()})


def _check_loaded(loaded: Weights, wanted: Weights, label: str) -> None:
    """Check that a policy's weights equal those that its ``set_weights()`` was called with."""
    changed = {
        name: "the policy holds other values after set_weights()"
        for name in wanted
        if name not in loaded or loaded[name].tobytes() != wanted[name].tobytes()
    }
    if changed:
        raise MismatchError(
            f"{label}: set_weights() did not take what it was called with.", wrong=changed
        )
