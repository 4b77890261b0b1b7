"""Convert snapshots of the new API stack to the old one."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.connectors.connector import ConnectorContext
from ray.rllib.policy.policy import Policy
from ray.rllib.utils.typing import AgentID

from policystore.format.arrays import Array
from policystore.format.values import Tagged
from policystore.rllib.common.build_guard import building, check_snapshot, guarded
from policystore.rllib.common.supplied import check_complete, policy_space
from policystore.rllib.common.trust import resolve
from policystore.rllib.convert.env_to_old import OldInterface, interface_of_module
from policystore.rllib.convert.kinds import Kind, check_stack, kind_of_module, no_counterpart
from policystore.rllib.convert.layers import Network, check_known, copy_weights
from policystore.rllib.convert.module_settings import (
    lstm_reading_channels_first,
    policy_config,
    read_model_config,
)
from policystore.rllib.convert.networks import (
    is_convolutional,
    new_network,
    old_network,
    with_heads_in_encoders,
)
from policystore.rllib.convert.old_config import default_config
from policystore.rllib.convert.spaces import check_vectors
from policystore.rllib.convert.to_new import omitted_names
from policystore.rllib.old_stack.config_restore import full_config
from policystore.rllib.old_stack.connectors import attach, default_connectors, make_connectors
from policystore.rllib.old_stack.snapshot import snapshot_policy
from policystore.rllib_schema.weight_names import todays_weights
from policystore.snapshot import Snapshot

__all__ = ["to_old_stack"]


def to_old_stack(
    snap: Snapshot, *, omit: Iterable[str] = (), agent: AgentID | None = None
) -> Snapshot:
    """Convert a snapshot of a new-stack module to the old API stack.

    The result is like a snapshot of an old-stack policy. The policy computes the same action
    distribution and the same value, and a player of the result takes the same deterministic
    actions. The default networks of PPO, APPO, IMPALA, MARWIL and DQN convert where the old stack
    can build the same layers. The result has no target networks, as all snapshots of the old stack.

    Args:
        snap: a snapshot of one new-stack module.
        omit: class names of connectors to leave out, because the old stack has no counterpart;
            ``spec.omitted`` then lists these connectors.
        agent: the agent whose filter statistics the policy gets. Needed if the snapshot has
            different statistics of several agents.

    Returns:
        A snapshot of the old stack. The same snapshot gives the same digest each time.

    Raises:
        InvalidInputError: not a new-stack module, or a module with a tensor, setting or connector
            that has no counterpart; the message names the first such part.
        NotFoundError: the snapshot has no filter statistics of ``agent``.
    """
    check_snapshot(snap)
    check_stack(snap, "new")
    names = omitted_names(omit)
    kind = kind_of_module(snap)
    check_complete(snap)
    with guarded(f"converting {snap!r}"):
        observation_space = policy_space(snap.spec, "observation_space", None, "to_old_stack")
        action_space = policy_space(snap.spec, "action_space", None, "to_old_stack")
        check_vectors(snap, observation_space, action_space)
        settings = read_model_config(snap, kind)
        interface = interface_of_module(snap, names, agent)
        weights: Mapping[str, Array] = todays_weights(snap.spec.cls, snap.weights)
        network = new_network(weights.keys(), kind)
        check_known(weights, network, functools.partial(no_counterpart, snap))
        if kind.is_actor_critic:
            network = with_heads_in_encoders(network)
        config = {
            "exploration_config": default_config(kind)["exploration_config"],
            **policy_config(snap, kind, settings, network, observation_space),
        }
        policy = _built(snap, kind, interface.observation_space, action_space, config)
        _load(policy, weights, network, kind, snap)
        if interface.has_connectors:
            _attach(policy, interface, snap)
        if kind.algorithm == "DQN":
            # A module does not know how far its exploration has come, and explores as at the end.
            policy.global_timestep = policy.exploration.epsilon_schedule.endpoints[-1][0]
        made = snapshot_policy(policy)
    spec = made.spec.replace(
        algorithm=kind.algorithm,
        env_observation_space=snap.spec.env_observation_space,
        env_action_space=snap.spec.env_action_space,
        normalize_actions=snap.spec.normalize_actions,
        clip_actions=snap.spec.clip_actions,
        omitted={**made.spec.omitted, **interface.omitted},
    )
    return made.replace(spec=spec)


def _built(
    snap: Snapshot,
    kind: Kind,
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    config: dict[str, Any],
) -> Any:
    """Build the old stack's policy, with random weights."""
    if isinstance(observation_space, gym.spaces.Box) and not hasattr(
        observation_space, "original_space"
    ):
        config = {**config, "preprocessor_pref": None}
    full = full_config(
        config,
        algorithm=kind.algorithm,
        normalize_actions=snap.spec.normalize_actions,
        clip_actions=snap.spec.clip_actions,
        trust=(),
    )
    with building(snap):
        return resolve(kind.policy)(observation_space, action_space, full)


def _load(
    policy: Policy, weights: Mapping[str, Array], network: Network, kind: Kind, snap: Snapshot
) -> None:
    """Give the policy the module's weights, and zeros where no computation reads them."""
    model = policy.model
    state = model.state_dict()
    if "lstm" in network.layers and is_convolutional(state):
        last = network.layers["encoder"][-1]
        weights = lstm_reading_channels_first(
            weights, len(weights[f"{last}.weight"]), f"{network.layers['lstm'][0]}.weight_ih_l0"
        )
    copied = copy_weights(
        weights,
        network,
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        old_network(state.keys(), kind, has_lstm="lstm" in network.layers),
        functools.partial(no_counterpart, snap),
    )
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in copied.items()}
    model.load_state_dict(
        {name: tensors.get(name, torch.zeros_like(old)) for name, old in state.items()}
    )


def _attach(policy: Policy, interface: OldInterface, snap: Snapshot) -> None:
    """Give a policy the connectors of the converted env interface."""
    makers = default_connectors(
        preprocess=interface.preprocess,
        normalize_actions=bool(snap.spec.normalize_actions),
        clip_actions=bool(snap.spec.clip_actions),
    )
    recorded: dict[str, list[dict[str, Tagged]]] = {**interface.connectors, "action": []}
    agent = make_connectors(recorded, interface.state, ())["agent"]
    attach(policy, {**makers, "agent": agent}, ConnectorContext.from_policy(policy))
