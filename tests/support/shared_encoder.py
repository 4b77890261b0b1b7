"""Modules that share an encoder; a module of its own, because Ray's workers import it by name."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.examples.algorithms.classes.vpg import VPGConfig
from ray.rllib.examples.learners.classes.vpg_torch_learner_shared_optimizer import (
    VPGTorchLearnerSharedOptimizer,
)
from ray.rllib.examples.rl_modules.classes.vpg_using_shared_encoder_rlm import (
    SHARED_ENCODER_ID,
    SharedEncoder,
    VPGMultiRLModuleWithSharedEncoder,
    VPGPolicyAfterSharedEncoder,
)

from tests.support.envs import OBSERVATIONS, Duo
from tests.support.new_stack_algorithms import Recorder


def sharing(runners: int = 2) -> Any:
    """Return a config of two policies behind one encoder, as in RLlib's example."""
    specs: dict[str, RLModuleSpec] = {
        SHARED_ENCODER_ID: RLModuleSpec(
            module_class=SharedEncoder,
            model_config={"embedding_dim": 6},
            observation_space=OBSERVATIONS,
            action_space=gym.spaces.Discrete(2),
        )
    }
    for pid in ("p0", "p1"):
        specs[pid] = RLModuleSpec(
            module_class=VPGPolicyAfterSharedEncoder,
            model_config={"embedding_dim": 6, "hidden_dim": 5},
        )
    return (
        VPGConfig()
        .environment(Duo)
        .callbacks(Recorder)
        .env_runners(num_env_runners=runners, num_cpus_per_env_runner=0.1)
        .training(learner_class=VPGTorchLearnerSharedOptimizer, train_batch_size=40, lr=1e-4)
        .multi_agent(
            policies={"p0", "p1"},
            policy_mapping_fn=lambda agent, *_, **__: "p0" if agent == "a" else "p1",
        )
        .rl_module(
            rl_module_spec=MultiRLModuleSpec(
                multi_rl_module_class=VPGMultiRLModuleWithSharedEncoder, rl_module_specs=specs
            )
        )
        .reporting(min_sample_timesteps_per_iteration=0, min_time_s_per_iteration=0)
    )
