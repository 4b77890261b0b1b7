"""Take snapshots of old-stack policies (``ray.rllib.policy.Policy``).

Kept: all weights of the policy's torch model under RLlib's own names, its class, spaces and config,
its connectors with the statistics of filters, and how far its exploration has come. Not kept,
because acting does not need it and RLlib does not count it among the weights either: optimizers,
adaptive coefficients of losses (PPO's ``current_kl_coeff``) and target networks.
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
from policystore.format.spec import Spec
from policystore.rllib.common.trust import algorithm_name
from policystore.rllib.old_stack.config import lasting_path, recorded_config
from policystore.rllib.old_stack.connectors import connectors_to_spec
from policystore.rllib.old_stack.exploration import exploration_state
from policystore.snapshot import Snapshot
from policystore.spaces import space_to_json
from policystore.torch.tensors import state_arrays

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm

__all__ = ["own_weights", "policy_config_of", "policy_weights", "snapshot_policy", "torch_model"]

_TARGETS = (
    "RLlib does not count target networks among a policy's weights; rebuilding copies the "
    "model's weights into them"
)


_TENSORFLOW = (
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
) -> Snapshot:
    """Keep one old-stack policy as it is now.

    Args:
        policy: a torch policy of any algorithm, or a policy without a network.
        algorithm: the Algorithm that it belongs to; only its name is recorded.
        policy_id: for messages.
        omit: what not to carry, each then listed in ``spec.omitted``: class names of
            connectors, ``"MeanStdFilter"`` for any observation filter, ``"exploration"``, or
            attributes of the policy that hold networks beside its model.

    Returns:
        A snapshot that shares no memory with the policy. Its ``config`` is plain and complete; what
        of it has no plain form is listed in ``spec.omitted``.

    Raises:
        InvalidInputError: a TensorFlow policy, a class that no other process could import, or
            something stateful that cannot be carried; the message says what to do.
    """
    if isinstance(omit, str):
        raise InvalidInputError(f"omit is a list of names, not one text: [{omit!r}]")
    skipped = frozenset(omit)
    what = _named(policy, policy_id)
    _refuse_tensorflow(policy, what)
    cls = lasting_path(type(policy))
    if cls is None:
        raise InvalidInputError(
            f"{what}: no other process can import its class {type(policy).__qualname__}. Define it "
            "at the top level of a module; for a class made by a function such as "
            "build_policy_class, set its __module__ and __qualname__ to where it is assigned."
        )
    omitted = _without_other_networks(policy, skipped, what)
    config, missing = recorded_config(policy_config_of(policy), what)
    connectors, states, unconnected = connectors_to_spec(policy, skipped, what)
    omitted.update(missing)
    omitted.update(unconnected)
    if "exploration" in skipped and getattr(policy, "exploration", None) is not None:
        omitted["exploration"] = "left out on request"
    exploration = exploration_state(policy, skipped, what)
    state = {"connectors": states, "exploration": exploration}
    env_obs, env_act = _env_spaces(policy, bool(connectors))
    spec = Spec(
        stack="old",
        algorithm=None if algorithm is None else algorithm_name(algorithm),
        cls=cls,
        observation_space=space_to_json(policy.observation_space, label=f"{what}: observations"),
        action_space=space_to_json(policy.action_space, label=f"{what}: actions"),
        env_observation_space=env_obs,
        env_action_space=env_act,
        config=config,
        normalize_actions=_handled(policy, "NormalizeActionsConnector", "normalize_actions"),
        clip_actions=_handled(policy, "ClipActionsConnector", "clip_actions"),
        connectors=connectors,
        omitted=omitted,
    )
    return Snapshot(
        weights=policy_weights(policy, what),
        spec=spec,
        state={key: value for key, value in state.items() if value},
    )


def _named(policy: Policy, policy_id: str | None) -> str:
    name = type(policy).__name__
    return name if policy_id is None else f"policy {policy_id!r} ({name})"


def _refuse_tensorflow(policy: Policy, what: str) -> None:
    if not isinstance(policy, Policy):
        raise InvalidInputError(
            f"expected a policy of RLlib's old API stack, found {type(policy).__qualname__}"
        )
    if any(base.__module__ in _TENSORFLOW for base in type(policy).__mro__):
        raise InvalidInputError(
            f"{what}: a TensorFlow policy. policystore keeps torch policies and policies without "
            "a network; train with config.framework('torch')."
        )


def policy_config_of(policy: Policy) -> Mapping[str, Any]:
    """The config of a policy as the dict that RLlib reads."""
    config = policy.config
    return config.to_dict() if hasattr(config, "to_dict") else config  # type: ignore[no-any-return]


def _env_spaces(policy: Policy, connected: bool) -> tuple[Any, Any]:
    """The environment's side, where the policy knows it.

    A preprocessor leaves the environment's space on the one it makes (models/preprocessors.py:107).
    A policy with connectors but no preprocessor gets observations as they are.
    """
    original = getattr(policy.observation_space, "original_space", None)
    if original is None and not connected:
        return None, None
    space = policy.observation_space if original is None else original
    return space_to_json(space), space_to_json(policy.action_space)


def _handled(policy: Policy, connector: str, key: str) -> bool:
    if policy.action_connectors is not None:
        return bool(policy.action_connectors[connector])
    return bool(policy.config.get(key, False))


def torch_model(policy: Policy) -> torch.nn.Module | None:
    """The network of a policy, if it has one."""
    model = getattr(policy, "model", None)
    return model if isinstance(model, torch.nn.Module) else None


def _without_other_networks(policy: Policy, skipped: frozenset[str], what: str) -> dict[str, str]:
    """Networks that are no part of the model: target nets are known, others are refused."""
    model = torch_model(policy)
    known = {id(part) for part in model.modules()} if model is not None else set()
    known.add(id(getattr(policy, "unwrapped_model", None)))
    omitted: dict[str, str] = {}
    for name, value in sorted(vars(policy).items()):
        if not isinstance(value, torch.nn.Module) or id(value) in known:
            continue
        if name == "target_model":
            omitted[name] = _TARGETS
        elif name in skipped:
            omitted[name] = "left out on request"
        elif own_weights(policy) is None:
            raise InvalidInputError(
                f"{what}: the network in its attribute {name!r} is no part of policy.model, so "
                "RLlib does not count it among the weights. Make it a submodule of the model, "
                f"define get_weights() and set_weights(), or pass omit=[{name!r}]."
            )
    return omitted


def own_weights(policy: Policy) -> Any:
    """What a class that defines ``get_weights()`` itself says; None if its model says it."""
    standard = (Policy.get_weights, TorchPolicy.get_weights, TorchPolicyV2.get_weights)
    if type(policy).get_weights in standard:
        return None
    try:
        weights = policy.get_weights()
    except NotImplementedError:
        return None
    return weights if not isinstance(weights, Mapping) or weights else None


def policy_weights(policy: Policy, what: str) -> dict[str, Array]:
    """Copies of all weights, by RLlib's names; ``{}`` of a policy that has none.

    A torch model gives its ``state_dict``: ``TorchPolicy.get_weights`` has the same names
    (policy/torch_policy_v2.py:899), but live views and no bfloat16.

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
            f"{what}: get_weights() gives a {type(weights).__qualname__}; expected a flat mapping "
            "of names to numpy arrays"
        )
    for name, value in weights.items():
        if not isinstance(value, (np.ndarray, np.generic)):
            raise InvalidInputError(
                f"{what}: get_weights()[{name!r}] is a {type(value).__qualname__}; expected a "
                "numpy array. Nested weights go flat, under 'outer/inner' names."
            )
    return {name: np.array(value) for name, value in weights.items()}
