"""Kinds of policies on both API stacks, without an Algorithm, and what makes players of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.algorithms.ppo.ppo import PPOConfig
from ray.rllib.algorithms.ppo.ppo_torch_policy import PPOTorchPolicy
from ray.rllib.connectors.env_to_module import FlattenObservations, PrevActionsPrevRewards
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.models.preprocessors import get_preprocessor

from policystore import Snapshot
from policystore.rllib import rebuild_player, snapshot
from policystore.rllib.common.player import Player
from policystore.rllib.new_stack.player import ModulePlayer
from policystore.rllib.old_stack.player import PolicyPlayer
from tests.support.rl_modules import DefaultPPOTorchRLModule

VECTOR = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
THREE = gym.spaces.Discrete(3)
FORCES = gym.spaces.Box(-2.0, 2.0, (2,), np.float32)
NESTED = gym.spaces.Dict(
    {"far": gym.spaces.Box(-1.0, 1.0, (3,), np.float32), "kind": gym.spaces.Discrete(2)}
)
SPACES = (VECTOR, THREE)
OBS = np.linspace(-0.5, 0.5, 4, dtype=np.float32)
CLASSES = {"old": PolicyPlayer, "new": ModulePlayer}


def module(obs: gym.Space[Any], act: gym.Space[Any], **model: Any) -> Snapshot:
    """A snapshot of a new-stack module without an Algorithm."""
    spec = RLModuleSpec(
        module_class=DefaultPPOTorchRLModule,
        observation_space=obs,
        action_space=act,
        model_config=DefaultModelConfig(fcnet_hiddens=[8], **model),
    )
    try:
        return snapshot(spec.build())
    except TypeError:  # Ray 2.40 takes the catalog from the caller
        from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog

        spec.catalog_class = PPOCatalog
        return snapshot(spec.build())


def policy(obs: gym.Space[Any], act: gym.Space[Any], **model: Any) -> Snapshot:
    """A snapshot of an old-stack policy without an Algorithm."""
    config = PPOConfig().api_stack(
        enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False
    )
    config.training(model={"fcnet_hiddens": [8], **model})
    return snapshot(PPOTorchPolicy(obs, act, config.to_dict()))


@dataclass
class Pair:
    """One kind of policy on both stacks, and what makes players of them."""

    snaps: dict[str, Snapshot]
    arguments: dict[str, dict[str, Any]]

    def player(self, stack: str, **changes: Any) -> Player:
        return rebuild_player(self.snaps[stack], **{**self.arguments[stack], **changes})


def plain() -> Pair:
    arguments = {"env_spaces": SPACES}
    snaps = {"old": policy(*SPACES), "new": module(*SPACES)}
    return Pair(snaps, {"old": arguments, "new": arguments})


def recurrent() -> Pair:
    model = {"use_lstm": True, "lstm_cell_size": 8, "max_seq_len": 4}
    arguments = {"env_spaces": SPACES}
    snaps = {"old": policy(*SPACES, **model), "new": module(*SPACES, **model)}
    return Pair(snaps, {"old": arguments, "new": arguments})


def rewarded() -> Pair:
    """Policies that look at the previous reward: by their model, and by a connector."""
    model = {"use_lstm": True, "lstm_cell_size": 8, "lstm_use_prev_reward": True}
    snaps = {
        "old": policy(*SPACES, **model),
        "new": module(gym.spaces.Box(-np.inf, np.inf, (8,), np.float32), THREE),
    }
    pieces = [PrevActionsPrevRewards(n_prev_actions=1, n_prev_rewards=1), FlattenObservations()]
    return Pair(
        snaps,
        {"old": {"env_spaces": SPACES}, "new": {"env_spaces": SPACES, "connectors": pieces}},
    )


def nested() -> Pair:
    made = get_preprocessor(NESTED)(NESTED).observation_space
    flat = gym.spaces.Box(-np.inf, np.inf, (5,), np.float32)
    return Pair(
        {"old": policy(made, THREE), "new": module(flat, THREE)},
        {
            "old": {"env_spaces": (NESTED, THREE)},
            "new": {"env_spaces": (NESTED, THREE), "connectors": [FlattenObservations()]},
        },
    )


MAKERS = {"plain": plain, "recurrent": recurrent, "rewarded": rewarded, "nested": nested}
_PAIRS: dict[str, Pair] = {}


def pair(name: str) -> Pair:
    if name not in _PAIRS:
        torch.manual_seed(0)
        _PAIRS[name] = MAKERS[name]()
    return _PAIRS[name]
