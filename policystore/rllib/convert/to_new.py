"""Convert snapshots of the old API stack to the new one."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.core.models.catalog import Catalog
from ray.rllib.core.rl_module.apis import TargetNetworkAPI
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec
from ray.rllib.utils.typing import AgentID

from policystore.errors import InvalidInputError
from policystore.rllib.common.build_guard import building, check_snapshot, guarded
from policystore.rllib.common.supplied import check_complete, policy_space
from policystore.rllib.convert.env_to_new import env_interface_of_policy, listed_agents
from policystore.rllib.convert.kinds import (
    TANH_SAC,
    Kind,
    check_stack,
    kind_of_policy,
    no_counterpart,
)
from policystore.rllib.convert.layers import check_known, copy_weights
from policystore.rllib.convert.networks import is_convolutional, new_network, old_network
from policystore.rllib.convert.new_config import lstm_reading_channels_last, module_config
from policystore.rllib.convert.old_config import read_old_config
from policystore.rllib.convert.spaces import check_actions
from policystore.rllib.new_stack.model_config import resolve_class
from policystore.rllib.new_stack.snapshot import snapshot_module
from policystore.snapshot import Snapshot

__all__ = ["to_new_stack"]


def to_new_stack(
    snap: Snapshot, *, omit: Iterable[str] = (), agent_ids: Iterable[AgentID] | None = None
) -> Snapshot:
    """Convert a snapshot of an old-stack policy to the new API stack.

    The result is like a snapshot of a learner's module, target networks included. The module
    computes the same action distribution and the same value, and a player of the result takes the
    same deterministic actions: preprocessors become connectors, and the statistics of filters are
    copied exactly. The networks of RLlib's default models of PPO, APPO, IMPALA, MARWIL, DQN
    and SAC convert. Of SAC only the actor does: ``spec.omitted`` names the Q networks, and the
    result is inference-only.

    Args:
        snap: a snapshot of an old-stack policy, of a live one or of a checkpoint.
        omit: names of parts to leave out, because the new stack has no place for them:
            ``"exploration"``, class names of connectors, ``"MeanStdFilter"`` for the filter.
            ``spec.omitted`` then lists these parts.
        agent_ids: for a multi-agent Algorithm of the new stack, the agents that act through the
            module: filters of the new stack belong to agents, and each agent gets the policy's
            statistics. Leave ``agent_ids`` out for a single-agent Algorithm.

    Returns:
        A snapshot of the new stack. The same snapshot gives the same digest each time.

    Raises:
        InvalidInputError: not an old-stack policy, or a policy with a tensor, setting or connector
            that has no counterpart; the message names the first such part.
    """
    check_snapshot(snap)
    check_stack(snap, "old")
    names = omitted_names(omit)
    agents = listed_agents(agent_ids)
    kind = kind_of_policy(snap)
    refuse = functools.partial(no_counterpart, snap)
    check_complete(snap)
    with guarded(f"converting {snap!r}"):
        config = read_old_config(snap, kind, names)
        policy_space(snap.spec, "observation_space", None, "to_new_stack")
        action_space = policy_space(snap.spec, "action_space", None, "to_new_stack")
        check_actions(snap, action_space)
        interface, observation_space = env_interface_of_policy(snap, config, names, agents)
        source = old_network(snap.weights.keys(), kind, has_lstm=config.has_lstm)
        check_known(snap.weights, source, refuse)
        module = _built(
            snap,
            kind,
            observation_space,
            action_space,
            module_config(snap, kind, config, source, observation_space, action_space, names),
        )
        weights = dict(snap.weights)
        if config.has_lstm and is_convolutional(weights):
            weights = lstm_reading_channels_last(weights, config, observation_space)
        state = module.state_dict()
        copied = copy_weights(
            weights,
            source,
            {name: tuple(tensor.shape) for name, tensor in state.items()},
            new_network(state.keys(), kind),
            refuse,
        )
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in copied.items()}
        module.load_state_dict({**state, **tensors})
        if isinstance(module, TargetNetworkAPI) and not module.inference_only:
            module.make_target_networks()
        made = snapshot_module(module)
    omitted = {
        name.rstrip("."): reason
        for name, reason in source.idle.items()
        if any(other.startswith(name) for other in snap.weights)
    }
    if "exploration" in names and snap.state.get("exploration"):
        omitted["exploration"] = "left out on request"
    spec = made.spec.replace(
        algorithm=kind.algorithm, **interface.fields({**made.spec.omitted, **omitted})
    )
    return made.replace(spec=spec, state=interface.state)


def omitted_names(omit: Iterable[str]) -> frozenset[str]:
    """Return ``omit`` as a set.

    Raises:
        InvalidInputError: one text instead of a list of names.
    """
    if isinstance(omit, str):
        raise InvalidInputError(f"omit is a list of names, not one text: [{omit!r}]")
    return frozenset(omit)


def _built(
    snap: Snapshot,
    kind: Kind,
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    model_config: dict[str, Any],
) -> RLModule:
    """Build the new stack's module, with random weights."""
    is_sac = kind.algorithm == "SAC"
    squashes = is_sac and isinstance(action_space, gym.spaces.Box)
    spec = RLModuleSpec(
        module_class=resolve_class(
            TANH_SAC if squashes else kind.module, RLModule, "the module of the new stack"
        ),
        observation_space=observation_space,
        action_space=action_space,
        inference_only=is_sac,
        model_config=model_config,
        catalog_class=resolve_class(kind.catalog, Catalog, "the catalog of the new stack"),
    )
    with building(snap):
        return spec.build()
