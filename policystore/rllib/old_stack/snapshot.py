"""Take snapshots of old-stack policies (``ray.rllib.policy.Policy``).

A snapshot holds all weights of the policy's torch model under RLlib's own names, its class, spaces
and config, its connectors with the statistics of filters, and how far its exploration has come. It
does not hold optimizers, adaptive coefficients of losses (PPO's ``current_kl_coeff``) or target
networks: acting does not need these parts, and RLlib does not count them as weights either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ray.rllib.policy.policy import Policy
from ray.rllib.policy.torch_policy import TorchPolicy
from ray.rllib.policy.torch_policy_v2 import TorchPolicyV2

from policystore.errors import InvalidInputError
from policystore.format.arrays import Array
from policystore.format.canonical_json import JsonObject
from policystore.format.spec import Spec
from policystore.rllib.common.runner_states import policy_filter_of_runner, require_merged
from policystore.rllib.common.trust import algorithm_name
from policystore.rllib.old_stack.config import importable_path, recorded_config
from policystore.rllib.old_stack.connectors import connectors_to_spec
from policystore.rllib.old_stack.exploration_state import exploration_state
from policystore.snapshot import Snapshot
from policystore.spaces import space_to_json
from policystore.torch.tensors import state_arrays

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm

__all__ = ["own_weights", "policy_config_of", "policy_weights", "snapshot_policy", "torch_model"]

_TARGET_NETWORKS = (
    "RLlib does not count target networks among a policy's weights; rebuilding copies the "
    "model's weights into them"
)
_TENSORFLOW_MODULES = (
    "ray.rllib.policy.tf_policy",
    "ray.rllib.policy.eager_tf_policy",
    "ray.rllib.policy.eager_tf_policy_v2",
)


def snapshot_policy(
    policy: Policy,
    *,
    algorithm: Algorithm | None = None,
    policy_id: str | None = None,
    omit: Iterable[str] = (),
    from_runner: int | None = None,
) -> Snapshot:
    """Take a snapshot of one old-stack policy as it is at the moment.

    Args:
        policy: a torch policy of any algorithm, or a policy without a network.
        algorithm: the Algorithm that the policy belongs to; only its name is recorded.
        policy_id: the policy's id, for messages.
        omit: names of parts to leave out; ``spec.omitted`` then lists them. A name is a class name
            of a connector, ``"MeanStdFilter"`` for any observation filter, ``"exploration"``, or an
            attribute of the policy that holds a network outside of the policy's model.
        from_runner: number of the rollout worker whose filter statistics are kept; only with
            ``algorithm``.

    Returns:
        A snapshot that shares no memory with the policy. Its ``config`` is plain and complete;
        entries of the config that have no plain form are listed in ``spec.omitted``.

    Raises:
        InvalidInputError: a TensorFlow policy, a class that no other process could import, or
            something stateful that cannot be carried; the message says what to do.
    """
    if isinstance(omit, str):
        raise InvalidInputError(f"omit is a list of names, not one text: [{omit!r}]")
    names = frozenset(omit)
    label = _label(policy, policy_id)
    _refuse_tensorflow(policy, label)
    cls = importable_path(type(policy))
    if cls is None:
        raise InvalidInputError(
            f"{label}: no other process can import its class {type(policy).__qualname__}. Define "
            "it at the top level of a module; for a class made by a function such as "
            "build_policy_class, set its __module__ and __qualname__ to where it is assigned."
        )
    omitted = _omitted_networks(policy, names, label)
    config, omitted_config = recorded_config(policy_config_of(policy), label)
    connectors, states, omitted_connectors = connectors_to_spec(policy, names, label)
    if algorithm is not None and policy_id is not None:
        _take_unmerged(algorithm, policy_id, states, from_runner)
    omitted.update(omitted_config)
    omitted.update(omitted_connectors)
    if "exploration" in names and getattr(policy, "exploration", None) is not None:
        omitted["exploration"] = "left out on request"
    exploration = exploration_state(policy, names, label)
    state = {"connectors": states, "exploration": exploration}
    env_observation_space, env_action_space = _env_spaces(policy, bool(connectors))
    spec = Spec(
        stack="old",
        algorithm=None if algorithm is None else algorithm_name(algorithm),
        cls=cls,
        observation_space=space_to_json(policy.observation_space, label=f"{label}: observations"),
        action_space=space_to_json(policy.action_space, label=f"{label}: actions"),
        env_observation_space=env_observation_space,
        env_action_space=env_action_space,
        config=config,
        normalize_actions=_does(policy, "NormalizeActionsConnector", "normalize_actions"),
        clip_actions=_does(policy, "ClipActionsConnector", "clip_actions"),
        connectors=connectors,
        omitted=omitted,
    )
    return Snapshot(
        weights=policy_weights(policy, label),
        spec=spec,
        state={key: value for key, value in state.items() if value},
    )


def _take_unmerged(
    algorithm: Algorithm, policy_id: str, states: dict[str, Any], from_runner: int | None
) -> None:
    """Put the filter statistics of a rollout worker in place of the local worker's.

    Raises:
        InvalidInputError: RLlib does not merge the statistics, and ``from_runner`` is missing.
        NotFoundError: no such rollout worker; the message lists the numbers.
        StorageError: the rollout worker does not answer.
    """
    filters = {
        name: state for name, state in states.get("agent", {}).items() if "running_stats" in state
    }
    if from_runner is None:
        require_merged(algorithm, ["MeanStdFilter"] if filters else [])
        return
    given = policy_filter_of_runner(algorithm, from_runner, policy_id)
    for name, state in filters.items():
        stats = [{"count": n, "mean": m, "sum_sq_diff": s} for n, m, s in given or ()]
        states["agent"][name] = {**state, "running_stats": stats}


def _label(policy: Policy, policy_id: str | None) -> str:
    """Return how messages name a policy."""
    name = type(policy).__name__
    return name if policy_id is None else f"policy {policy_id!r} ({name})"


def _refuse_tensorflow(policy: object, label: str) -> None:
    """Refuse TensorFlow policies, and anything that is no old-stack policy."""
    if not isinstance(policy, Policy):
        raise InvalidInputError(
            f"expected a policy of RLlib's old API stack, found {type(policy).__qualname__}"
        )
    if any(base.__module__ in _TENSORFLOW_MODULES for base in type(policy).__mro__):
        raise InvalidInputError(
            f"{label}: a TensorFlow policy. policystore keeps torch policies and policies without "
            "a network; train with config.framework('torch')."
        )


def policy_config_of(policy: Policy) -> Mapping[str, Any]:
    """Return the config of a policy as the dict that RLlib reads."""
    config = policy.config
    return config.to_dict() if hasattr(config, "to_dict") else config  # type: ignore[no-any-return]


def _env_spaces(
    policy: Policy, has_connectors: bool
) -> tuple[JsonObject | None, JsonObject | None]:
    """Return the environment's observation and action space as JSON, where the policy knows them.

    A preprocessor leaves the environment's space on the one it makes (models/preprocessors.py:107).
    A policy with connectors but no preprocessor gets observations as they are.
    """
    original = getattr(policy.observation_space, "original_space", None)
    if original is None and not has_connectors:
        return None, None
    space = policy.observation_space if original is None else original
    return space_to_json(space), space_to_json(policy.action_space)


def _does(policy: Policy, connector: str, key: str) -> bool:
    """Return whether a policy has an action connector; without connectors, ask its config."""
    if policy.action_connectors is not None:
        return bool(policy.action_connectors[connector])
    return bool(policy.config.get(key, False))


def torch_model(policy: Policy) -> torch.nn.Module | None:
    """Return the network of a policy, or None if it has none."""
    model = getattr(policy, "model", None)
    return model if isinstance(model, torch.nn.Module) else None


def _omitted_networks(policy: Policy, omit: frozenset[str], label: str) -> dict[str, str]:
    """Return the networks of a policy that are not part of its model, attribute -> reason.

    Raises:
        InvalidInputError: a network that is neither a target network nor named in ``omit``, and the
            policy's class has no ``get_weights()`` of its own.
    """
    model = torch_model(policy)
    parts = {id(part) for part in model.modules()} if model is not None else set()
    parts.add(id(getattr(policy, "unwrapped_model", None)))
    omitted: dict[str, str] = {}
    for name, value in sorted(vars(policy).items()):
        if not isinstance(value, torch.nn.Module) or id(value) in parts:
            continue
        if name == "target_model":
            omitted[name] = _TARGET_NETWORKS
        elif name in omit:
            omitted[name] = "left out on request"
        elif own_weights(policy) is None:
            raise InvalidInputError(
                f"{label}: the network in its attribute {name!r} is not part of policy.model, so "
                "RLlib does not count it among the weights. Make it a submodule of the model, "
                f"define get_weights() and set_weights(), or pass omit=[{name!r}]."
            )
    return omitted


def own_weights(policy: Policy) -> object:
    """Return what a class's own ``get_weights()`` returns, or None.

    None means that the policy's model holds all weights: the class has RLlib's own
    ``get_weights()``, or its own returns an empty mapping or raises NotImplementedError.
    """
    standard = (Policy.get_weights, TorchPolicy.get_weights, TorchPolicyV2.get_weights)
    if type(policy).get_weights in standard:
        return None
    try:
        weights: object = policy.get_weights()
    except NotImplementedError:
        return None
    return weights if not isinstance(weights, Mapping) or weights else None


def policy_weights(policy: Policy, label: str) -> dict[str, Array]:
    """Return copies of all weights, by RLlib's names; ``{}`` of a policy that has none.

    For a torch model, the weights are its ``state_dict``. ``TorchPolicy.get_weights`` returns the
    same names (policy/torch_policy_v2.py:899), but as live views, and it cannot return bfloat16.

    Raises:
        InvalidInputError: weights that are no flat mapping of arrays, or of a dtype that cannot
            be stored.
    """
    weights = own_weights(policy)
    if weights is None:
        model = torch_model(policy)
        return {} if model is None else state_arrays(model)
    if not isinstance(weights, Mapping):
        raise InvalidInputError(
            f"{label}: get_weights() returns a {type(weights).__qualname__}; expected a flat "
            "mapping of names to numpy arrays"
        )
    for name, value in weights.items():
        if not isinstance(value, (np.ndarray, np.generic)):
            raise InvalidInputError(
                f"{label}: get_weights()[{name!r}] is a {type(value).__qualname__}; expected a "
                "numpy array. Put nested weights into one flat dict, under 'outer/inner' names."
            )
    return {name: np.array(value) for name, value in weights.items()}
