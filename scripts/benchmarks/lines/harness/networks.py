"""Algorithms and their policies, small ones, for both API stacks of RLlib."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.examples.envs.classes.multi_agent import MultiAgentCartPole

__all__ = ["algorithm", "cluster"]


@contextmanager
def cluster(cpus: int) -> Iterator[None]:
    """Run Ray with so many CPU slots during the block, and torch with one thread."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # RLlib warns of its own deprecated calls
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    ray.init(num_cpus=cpus, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def algorithm(
    stack: str, policies: int, *, runners: int = 0, eval_runners: int = 0, learners: int = 0,
) -> Any:  # fmt: skip
    """Return an Algorithm of PPO, whose policies ``p0``, ``p1``, … have two layers of 64 units.

    Args:
        stack: ``new`` or ``old``.
        policies: how many policies; ``p0`` is trained and plays.
        runners: how many remote env runners.
        eval_runners: how many remote env runners for evaluation.
        learners: how many remote learners, on the new stack.
    """
    config = (
        PPOConfig()
        .environment(MultiAgentCartPole, env_config={"num_agents": 2})
        .multi_agent(
            policies={f"p{number}" for number in range(policies)},
            policy_mapping_fn=lambda *_a, **_k: "p0",
            policies_to_train=["p0"],
        )
        .env_runners(num_env_runners=runners, num_cpus_per_env_runner=0.1)
        .debugging(seed=0, log_level="ERROR")
    )
    if eval_runners:
        config.evaluation(evaluation_num_env_runners=eval_runners, evaluation_interval=None)
    if stack == "new":
        config.training(train_batch_size_per_learner=80, minibatch_size=40, num_epochs=1)
        config.learners(num_learners=learners, num_cpus_per_learner=0.1)
        config.rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64, 64]))
        return config.build_algo()
    config.api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False)
    config.training(
        train_batch_size=80, minibatch_size=40, num_epochs=1, model={"fcnet_hiddens": [64, 64]}
    )
    return config.build_algo()
