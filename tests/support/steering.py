"""Mapping functions, and functions that run on workers, for tests of who plays whom.

This file is a module of its own, because Ray's workers import it by name.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

from ray.rllib.algorithms.callbacks import DefaultCallbacks
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.examples.learners.classes.intrinsic_curiosity_learners import (
    ICM_MODULE_ID,
    PPOTorchLearnerWithCuriosity,
)
from ray.rllib.examples.rl_modules.classes.intrinsic_curiosity_model_rlm import (
    IntrinsicCuriosityModel,
)

import tests.support.new_stack_algorithms as parts
from policystore.rllib.worker_code.messages.requests import MappingRequest
from policystore.rllib.worker_code.policy_mapping import check_mapping
from tests.support.envs import Solo

CURIOSITY = ICM_MODULE_ID


class DrawsOpponent(DefaultCallbacks):
    """Draws an opponent for each episode, and writes it into the episode."""

    def on_episode_created(self, *, episode: Any, env_runner: Any, **_: Any) -> None:
        known = set(env_runner.module.keys()) - {"main"}
        episode.custom_data["opponent"] = random.choice(sorted(known))


def by_episode(agent: str, episode: Any, **_: Any) -> str:
    """Map agent ``b`` to the policy that :class:`DrawsOpponent` drew.

    RLlib asks also while it makes an episode anew from an old one, before the field is there
    (``env/multi_agent_episode.py:290``).
    """
    if agent == "a":
        return "main"
    drawn = getattr(episode, "_custom_data", None)
    if drawn is None:
        return "main"
    opponent: str = drawn["opponent"]
    return opponent


def process(worker: Any) -> int:
    """Return the id of the worker's process, which changes if Ray restarts the worker."""
    return os.getpid()


def mapped(worker: Any) -> list[str]:
    """Return the policies of the agents ``a``, ``b`` and ``c``."""
    return [worker.config.policy_mapping_fn(agent, None) for agent in "abc"]


def mappings(algo: Any) -> dict[str, list[str]]:
    """Return :func:`mapped` of each env runner."""
    return {
        name: found
        for name, found in parts.ask(algo, mapped).items()
        if not name.startswith("learner")
    }


def local_runner_with_env(algo: Any) -> Any:
    """Return an env runner of this process that has an environment; make one if needed."""
    local = algo.env_runner_group.local_env_runner
    if local.env is None:
        local.make_env()
    return local


def check_on(runner: Any, mapping: Callable[..., str]) -> Any:
    return check_mapping(runner, MappingRequest(mapping, added={}, removed=[]))


def learning_rates(worker: Any) -> dict[str, float]:
    """Return the learning rate of each module's optimizer; nothing for an env runner."""
    return {
        mid: worker._named_optimizers[name].param_groups[0]["lr"]
        for mid, names in getattr(worker, "_module_optimizers", {}).items()
        for name in names
    }


def with_curiosity() -> Any:
    """Return a config with RLlib's curiosity module, which only learners have."""
    config = (
        PPOConfig()
        .environment(Solo)
        .env_runners(num_env_runners=1, num_cpus_per_env_runner=0.1)
        .training(
            train_batch_size_per_learner=40,
            minibatch_size=20,
            num_epochs=1,
            learner_class=PPOTorchLearnerWithCuriosity,
            learner_config_dict={"intrinsic_reward_coeff": 0.05, "forward_loss_weight": 0.2},
        )
        .debugging(log_level="ERROR", seed=1)
    )
    sizes = {
        f"{part}_net_{key}": value
        for part in ("feature", "inverse", "forward")
        for key, value in (("hiddens", (8,)), ("activation", "relu"))
    }
    config.rl_module(
        rl_module_spec=MultiRLModuleSpec(
            rl_module_specs={
                DEFAULT_MODULE_ID: RLModuleSpec(model_config=DefaultModelConfig(fcnet_hiddens=[8])),
                CURIOSITY: RLModuleSpec(
                    module_class=IntrinsicCuriosityModel,
                    learner_only=True,
                    model_config={"feature_dim": 8, **sizes},
                ),
            }
        ),
        algorithm_config_overrides_per_module={CURIOSITY: config.overrides(lr=0.0005)},
    )
    return config
