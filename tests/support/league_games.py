"""Configs of small Algorithms of both API stacks that play in :class:`Arena`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.evaluation.rollout_worker import RolloutWorker
from ray.rllib.policy.policy import PolicySpec

from tests.support.league_arena import (
    ACTIONS,
    OBSERVATION,
    Arena,
    FixedModule,
    FixedPolicy,
    TellingAPPOModule,
    TellingModule,
    TellingPolicy,
)

__all__ = ["configured", "lone_runner"]


def first_is_main(agent: str, episode: Any, **kwargs: Any) -> str:
    """Map the first agent to the learner, and all others to the first slot."""
    return "main" if agent in ("red", "a") else "opponent_0"


def configured(
    cell: str,
    log: Path,
    *,
    mapping: Callable[..., str] = first_is_main,
    callbacks: Any = (),
    runners: int = 0,
    envs: int = 1,
    evals: int | None = None,
    parallel: bool = False,
    policies: Sequence[str] = ("main", "opponent_0", "opponent_1"),
    heuristics: Sequence[str] = (),
    trained: Sequence[str] = ("main",),
    batch: int = 60,
    fragment: int | str = "auto",
    complete: bool = False,
    repaired: bool = False,
    game: Mapping[str, Any] | None = None,
) -> Any:
    """Return the config of an Algorithm with tiny networks.

    Args:
        cell: ``"old PPO"``, ``"new PPO"``, ``"new IMPALA"`` or ``"new APPO"``.
        log: folder for the environments' records; it exists.
        mapping, callbacks: for the config.
        runners, envs: number of env runners, and of sub-environments in each.
        evals: number of evaluation env runners, 0 for a local one; None for no evaluation.
        parallel: whether to evaluate while the learner trains.
        policies, heuristics, trained: ids of policies.
        batch, fragment: steps of an iteration, and of one sample of a sub-environment.
        complete: whether RLlib samples whole episodes.
        repaired: whether RLlib goes on after an error of an environment.
        game: settings of :class:`Arena`.
    """
    torch.set_num_threads(1)
    old = cell.startswith("old")
    kind = {"PPO": PPOConfig, "IMPALA": IMPALAConfig, "APPO": APPOConfig}[cell.split()[1]]
    config: Any = (
        kind()
        .api_stack(enable_rl_module_and_learner=not old, enable_env_runner_and_connector_v2=not old)
        .environment(Arena, env_config={"log": str(log), **(game or {})}, disable_env_checking=True)
        .env_runners(
            num_env_runners=runners,
            num_cpus_per_env_runner=0.1,
            num_envs_per_env_runner=envs,
            rollout_fragment_length=fragment,
            batch_mode="complete_episodes" if complete else "truncate_episodes",
        )
        .callbacks(callbacks)
        .fault_tolerance(
            restart_failed_env_runners=True,
            restart_failed_sub_environments=repaired,
            delay_between_env_runner_restarts_s=0.1,
        )
        .reporting(min_sample_timesteps_per_iteration=0, min_time_s_per_iteration=0)
        .debugging(log_level="ERROR", seed=1, log_sys_usage=False)
        .resources(num_gpus=0)
    )
    if old:
        specs: Any = {
            pid: PolicySpec(
                FixedPolicy if pid in heuristics else TellingPolicy, OBSERVATION, ACTIONS
            )
            for pid in (*policies, *heuristics)
        }
        config.training(
            train_batch_size=batch,
            minibatch_size=min(20, batch),
            num_epochs=1,
            lr=1e-2,
            model={"fcnet_hiddens": [4]},
        )
    else:
        specs = {*policies, *heuristics}
        module = TellingAPPOModule if kind is APPOConfig else TellingModule
        config.rl_module(
            rl_module_spec=MultiRLModuleSpec(
                rl_module_specs={
                    **{
                        pid: RLModuleSpec(
                            module_class=module,
                            model_config=DefaultModelConfig(fcnet_hiddens=[4]),
                        )
                        for pid in policies
                    },
                    **{pid: RLModuleSpec(module_class=FixedModule) for pid in heuristics},
                }
            )
        )
        config.learners(num_learners=0)
        config.training(train_batch_size_per_learner=batch, lr=1e-2)
        if kind is PPOConfig:
            config.training(minibatch_size=min(20, batch), num_epochs=1)
    config.multi_agent(policies=specs, policy_mapping_fn=mapping, policies_to_train=list(trained))
    if evals is not None:
        config.evaluation(
            evaluation_interval=1,
            evaluation_num_env_runners=evals,
            evaluation_duration=3,
            evaluation_parallel_to_training=parallel,
            evaluation_config={"num_cpus_per_env_runner": 0.1},
        )
    return config


def lone_runner(config: Any) -> Any:
    """Return an env runner or rollout worker of a config, in this process and without Ray."""
    config.validate()
    config.freeze()
    if config.enable_env_runner_and_connector_v2:
        return MultiAgentEnvRunner(config=config, worker_index=1)
    return RolloutWorker(env_creator=Arena, config=config, worker_index=1)
