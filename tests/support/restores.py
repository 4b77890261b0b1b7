"""Algorithms that are restored while they run, and what their workers then hold.

This file is a module of its own, because Ray's workers import it by name.
"""

from __future__ import annotations

import os
from typing import Any

import gymnasium as gym
import numpy as np
import ray
import tree
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.env_to_module import MeanStdFilter
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.examples.algorithms.classes.vpg import VPGConfig
from ray.rllib.examples.envs.classes.multi_agent import MultiAgentCartPole
from ray.rllib.examples.learners.classes.vpg_torch_learner_shared_optimizer import (
    VPGTorchLearnerSharedOptimizer,
)
from ray.rllib.examples.rl_modules.classes.vpg_using_shared_encoder_rlm import (
    SHARED_ENCODER_ID,
    SharedEncoder,
    VPGMultiRLModuleWithSharedEncoder,
    VPGPolicyAfterSharedEncoder,
)

import tests.support.new_stack_algorithms as new
import tests.support.old_stack_algorithms as old

CELLS = (
    "new, several agents, filter",
    "new, one agent, filter",
    "new, no local runner, filter",
    "new, local runner alone",
    "new, shared encoder",
    "new, IMPALA",
    "new, IMPALA, broadcasting",
    "new, APPO",
    "old, several agents, filter",
    "old, one agent, filter",
    "old, local worker alone",
)


def configured(cell: str) -> Any:
    """Return the config of a cell, with two env runners and one for evaluation."""
    if cell == "new, shared encoder":
        return sharing()
    kind = {"IMPALA": IMPALAConfig, "APPO": APPOConfig}.get(cell.split(", ")[1], PPOConfig)
    runners, evals = (0, None) if cell.endswith("alone") else (2, 1)
    multi = "one agent" not in cell
    if cell.startswith("old"):
        return old.configured(
            kind, runners=runners, evals=evals, multi=multi, observation_filter="MeanStdFilter"
        )
    # With a higher rate, updates would change the weights by more than a level.
    config = new.configured(kind, runners=runners, evals=evals, multi=multi, lr=1e-4)
    if kind is PPOConfig:
        config.env_runners(
            env_to_module_connector=lambda *_, **__: MeanStdFilter(multi_agent=multi),
            create_local_env_runner="no local runner" not in cell,
        )
    if "no local runner" in cell:
        config.evaluation(evaluation_interval=None)
    if "broadcasting" in cell:
        config.use_env_runner_state_server = False
    config.fault_tolerance(restart_failed_env_runners=True, delay_between_env_runner_restarts_s=0.1)
    return config


def sharing() -> Any:
    """Return a config whose two policies share an encoder, so that neither acts alone."""
    spaces = {
        "observation_space": gym.spaces.Box(-np.inf, np.inf, (4,), np.float32),
        "action_space": gym.spaces.Discrete(2),
        "model_config": {"embedding_dim": 4, "hidden_dim": 4},
    }
    heads = {
        f"p{agent}": RLModuleSpec(module_class=VPGPolicyAfterSharedEncoder, **spaces)
        for agent in range(2)
    }
    spec = MultiRLModuleSpec(
        multi_rl_module_class=VPGMultiRLModuleWithSharedEncoder,
        rl_module_specs={
            SHARED_ENCODER_ID: RLModuleSpec(module_class=SharedEncoder, **spaces),
            **heads,
        },
    )
    return (
        VPGConfig()
        .environment(MultiAgentCartPole, env_config={"num_agents": 2})
        .env_runners(num_env_runners=2, num_cpus_per_env_runner=0.1)
        .training(train_batch_size=64, learner_class=VPGTorchLearnerSharedOptimizer)
        .multi_agent(
            policies={"p0", "p1"}, policy_mapping_fn=lambda agent, *_, **__: f"p{agent}"
        )
        .rl_module(rl_module_spec=spec)
        .debugging(log_level="ERROR", seed=1)
    )  # fmt: skip


# What workers hold --------------------------------------------------------------------------------


def read(worker: Any) -> dict[str, Any]:
    """Return process, weights and filters of a worker, and the records of its samples."""
    found: dict[str, Any] = {"pid": os.getpid(), "filters": None}
    if hasattr(worker, "policy_map"):
        held = old.read(worker)
        found["arrays"] = {pid: each["weights"] for pid, each in held.items()}
        found["filters"] = {pid: _statistics(worker.policy_map[pid]) for pid in held}
        return found
    found["arrays"] = new.arrays_of(worker.module)
    found["drawn"] = [each for each in worker.__dict__.get("drawn", ()) if each]
    pipeline = getattr(worker, "_env_to_module", None)
    if pipeline is not None and any(hasattr(each, "_filters") for each in pipeline.connectors):
        found["filters"] = {
            agent: (count, mean.tobytes())
            for agent, (count, mean) in new.counts_of(pipeline).items()
        }
    return found


def _statistics(policy: Any) -> Any:
    for connector in policy.agent_connectors.connectors:
        if hasattr(connector, "filter"):
            (stat,) = tree.flatten(connector.filter.running_stats)
            return stat.num_pushes, np.array(stat.mean_array).tobytes()
    return None


def ask(algo: Any) -> dict[str, Any]:
    """Return what each learner and runner holds, by name."""
    if algo.config.enable_rl_module_and_learner:
        return new.ask(algo, read)
    return old.ask(algo, read)


def leading(algo: Any) -> dict[str, Any]:
    """Return what the first learner holds, or the local worker of the old stack."""
    found = ask(algo)
    return next(each for name, each in found.items() if name in ("learner local", "train local"))


def filters_of(algo: Any) -> Any:
    """Return the filters of the local runner, or of the driver where there is none."""
    found = ask(algo)
    if "train local" in found:
        return found["train local"]["filters"]
    counted = new.counts_of(algo.env_to_module_connector)
    return {agent: (count, mean.tobytes()) for agent, (count, mean) in counted.items()}


def assert_same(held: Any, arrays: Any, name: str) -> None:
    """Check weights, bit for bit; a runner may lack weights that acting does not need."""
    for pid, wanted in arrays.items():
        common = held[pid].keys() & wanted.keys()
        assert common, (name, pid)
        differing = [each for each in common if held[pid][each].tobytes() != wanted[each].tobytes()]
        assert not differing, (name, pid, differing)


def assert_everywhere(algo: Any, arrays: Any, filters: Any) -> None:
    """Check that each learner and runner holds these weights, and each runner these filters."""
    for name, found in ask(algo).items():
        assert_same(found["arrays"], arrays, name)
        if filters is not None and not name.startswith("learner"):
            assert found["filters"] == filters, name


# Restarts -----------------------------------------------------------------------------------------


def restart(algo: Any, group: Any) -> Any:
    """Kill the first runner of a group between two calls of RLlib, and wait for the new process."""
    actor = group._worker_manager.actors()[1]

    def process() -> Any:
        try:
            return ray.get(actor.apply.remote(read), timeout=60)["pid"]
        except ray.exceptions.RayActorError:
            return None

    before = process()
    ray.kill(actor, no_restart=False)
    new.until(lambda: process() not in (None, before), "another process")
    return actor
