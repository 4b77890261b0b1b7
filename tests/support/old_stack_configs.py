"""Tiny configs of the old API stack, and policies made by hand from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.dqn import DQN as RLlibDQN
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.ppo_torch_policy import PPOTorchPolicy
from ray.rllib.offline.json_writer import JsonWriter
from ray.rllib.policy.sample_batch import SampleBatch
from ray.rllib.utils.from_config import from_config
from ray.rllib.utils.replay_buffers import ReplayBuffer

from tests.support.old_stack_zoo import (
    SPACES,
    AnyEnv,
    PairEnv,
)

# RLlib's metrics take the mean of lists that are still empty (utils/metrics/window_stat.py).
TRAINING_WARNINGS = [
    pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Degrees of freedom <= 0:RuntimeWarning"),
]
SMALL = {"fcnet_hiddens": [16, 16]}


class DQN(RLlibDQN):  # type: ignore[misc]
    """DQN that can be built; in Ray 2.60 RLlib's cannot (algorithm.py:4475: ``in`` on a class)."""

    def _create_local_replay_buffer_if_necessary(self, config: Any) -> Any:
        return from_config(ReplayBuffer, config["replay_buffer_config"])


def old_stack(config: AlgorithmConfig, **env_config: Any) -> AlgorithmConfig:
    """Change a config to a tiny set-up of the old API stack in one process."""
    config.api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False)
    config.environment(AnyEnv, env_config=env_config)
    config.env_runners(num_env_runners=0, rollout_fragment_length=16)
    config.resources(num_gpus=0)
    if hasattr(config, "learner_queue_timeout"):
        # After stop() the learner's thread still waits, and raises an error when the time is over.
        config.training(learner_queue_timeout=86_400)
    config.reporting(
        min_time_s_per_iteration=0,
        min_sample_timesteps_per_iteration=0,
        min_train_timesteps_per_iteration=0,
    )
    return config


def buffer() -> dict[str, Any]:
    return {"type": "MultiAgentPrioritizedReplayBuffer", "capacity": 200}


def ppo(**env_config: Any) -> AlgorithmConfig:
    config = old_stack(PPOConfig(), **env_config)
    return config.training(train_batch_size=32, minibatch_size=16, num_epochs=1, model=dict(SMALL))


def sac_like(config: AlgorithmConfig, act: str, **training: Any) -> AlgorithmConfig:
    old_stack(config, act=act)
    return config.training(
        **{
            "train_batch_size": 32,
            "num_steps_sampled_before_learning_starts": 16,
            "replay_buffer_config": buffer(),
            "q_model_config": dict(SMALL),
            "policy_model_config": dict(SMALL),
            **training,
        }
    )


def dqn(**training: Any) -> AlgorithmConfig:
    config = old_stack(DQNConfig(algo_class=DQN), act="discrete")
    return config.training(
        train_batch_size=32,
        num_steps_sampled_before_learning_starts=16,
        replay_buffer_config=buffer(),
        model=dict(SMALL),
        **training,
    )


def recorded_steps(folder: Path) -> str:
    """Write random steps for the offline algorithms, in batches of one size; return the folder."""
    path = folder / "steps"
    if not path.exists():
        writer, random = JsonWriter(str(path)), np.random.default_rng(0)
        for episode in range(4):
            obs = random.uniform(-1, 1, (33, 4)).astype("f4")
            writer.write(
                SampleBatch(
                    {
                        "obs": obs[:-1],
                        "new_obs": obs[1:],
                        "actions": random.uniform(-1, 1, (32, 2)).astype("f4"),
                        "rewards": np.ones(32, "f4"),
                        "terminateds": np.arange(32) == 31,
                        "truncateds": np.zeros(32, bool),
                        "eps_id": np.full(32, episode),
                        "unroll_id": np.full(32, episode),
                        "t": np.arange(32),
                        "action_prob": np.ones(32, "f4"),
                        "action_logp": np.zeros(32, "f4"),
                    }
                )
            )
        writer.cur_file.close()
    return str(path)


def offline(config: AlgorithmConfig, folder: Path, **training: Any) -> AlgorithmConfig:
    old_stack(config, act="forces")
    config.training(train_batch_size=32, **training)
    return config.offline_data(input_=recorded_steps(folder))


def pair() -> AlgorithmConfig:
    config = ppo().environment(PairEnv, env_config={})
    config.env_runners(observation_filter="MeanStdFilter")
    return config.multi_agent(
        policies={"main", "other"},
        policy_mapping_fn=lambda agent_id, *args, **kwargs: ["main", "other"][agent_id],
    )


def build(config: AlgorithmConfig) -> Any:
    """Build the Algorithm of a config; Ray 2.40 has no ``build_algo``."""
    return getattr(config, "build_algo", config.build)()


def policy_of(cls: Any = PPOTorchPolicy, config: Any = None, act: str = "discrete") -> Any:
    """Make a policy by hand, without connectors."""
    return cls(SPACES["vector"], SPACES[act], (config or ppo()).to_dict())


def with_model(**model: Any) -> Any:
    """Make a PPO policy with the given settings of its model."""
    return policy_of(config=ppo().training(model={**SMALL, **model}))
