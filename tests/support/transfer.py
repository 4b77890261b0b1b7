"""Small policies of both API stacks, to take weights from and to adapt to."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.spaces import Discrete
from ray.rllib.algorithms.bc.bc_catalog import BCCatalog
from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec

from policystore import Snapshot
from policystore.rllib import snapshot
from tests.support.new_stack_matrix import SMALL, VECTOR
from tests.support.rl_modules import (
    DefaultAPPOTorchRLModule,
    DefaultBCTorchRLModule,
    DefaultDQNTorchRLModule,
    DefaultPPOTorchRLModule,
    DQNCatalog,
)

BC_NET = {"_encoder.": "encoder.actor_encoder.", "_pi_head.": "pi."}
"""Renames from RLlib's default module of BC to that of PPO."""


def module(
    cls: type[Any], catalog: Any, actions: int = 3, *, inference_only: bool = False, **config: Any
) -> RLModule:
    """Build one of RLlib's default modules for a vector of four numbers."""
    spec = RLModuleSpec(
        module_class=cls,
        observation_space=config.pop("observations", VECTOR),
        action_space=Discrete(actions),
        inference_only=inference_only,
        model_config={**SMALL, **config},
        catalog_class=catalog,
    )
    return spec.build()


def bc(actions: int = 3) -> Snapshot:
    """Return a fresh policy of BC."""
    return snapshot(module(DefaultBCTorchRLModule, BCCatalog, actions))


def ppo(actions: int = 3, *, shared: bool = False, **options: Any) -> Snapshot:
    """Return a fresh policy of PPO; with ``shared`` actor and critic have one encoder."""
    made = module(DefaultPPOTorchRLModule, PPOCatalog, actions, vf_share_layers=shared, **options)
    return snapshot(made)


def appo_module() -> Any:
    """Return a fresh module of APPO as a learner has it, with target networks."""
    made: Any = module(DefaultAPPOTorchRLModule, PPOCatalog, vf_share_layers=False)
    made.make_target_networks()
    return made


def dqn(actions: int = 3) -> Snapshot:
    """Return a fresh policy of DQN as a learner has it, with target networks."""
    config = {
        "fcnet_hiddens": [8],
        "head_fcnet_hiddens": [8],
        "dueling": True,
        "double_q": True,
        "num_atoms": 1,
        "epsilon": [[0, 1.0], [10, 0.05]],
    }
    made: Any = module(DefaultDQNTorchRLModule, DQNCatalog, actions, **config)
    made.make_target_networks()
    return snapshot(made)


def with_spaces(snap: Snapshot, space: gym.Space[Any]) -> Snapshot:
    """Return a snapshot with another observation space in its spec."""
    return snap.replace(spec=snap.spec.replace(observation_space=space))


def same(one: Snapshot, name: str, other: Snapshot, source: str = "") -> bool:
    """Return whether a tensor of one snapshot is a tensor of another one, bit for bit."""
    return one.weights[name].tobytes() == other.weights[source or name].tobytes()
