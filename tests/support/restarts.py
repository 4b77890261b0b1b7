"""Algorithms of both API stacks whose actors are killed, and a recorder of their weights.

This file is a module of its own, because Ray's workers import it by name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import ray
from ray.rllib.algorithms.callbacks import DefaultCallbacks
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.policy.policy import PolicySpec

import tests.support.new_stack_algorithms as parts
from policystore import Snapshot
from tests.support.envs import Duo


class OldDuo(Duo):
    """``Duo`` with the attributes for spaces that the old stack needs."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.observation_space = gym.spaces.Dict(self.observation_spaces)
        self.action_space = gym.spaces.Dict(self.action_spaces)
        self._agent_ids = set(self.agents)


def arrays_of(worker: Any) -> dict[str, dict[str, Any]]:
    """Return copies of all weights by policy and name."""
    if not hasattr(worker, "policy_map"):
        return parts.arrays_of(worker.module)
    return {
        pid: {name: value.detach().numpy().copy() for name, value in _state(worker, pid).items()}
        for pid in list(worker.policy_map.keys())
    }


def _state(worker: Any, pid: str) -> Any:
    return worker.policy_map[pid].model.state_dict()


def mapping_of(worker: Any) -> Any:
    return worker.policy_mapping_fn if hasattr(worker, "policy_map") else (
        worker.config.policy_mapping_fn
    )  # fmt: skip


class Notes(DefaultCallbacks):
    """Records on the runner, for each sample, which weights and mapping its steps used."""

    def on_episode_step(self, *, env_runner: Any = None, worker: Any = None, **kwargs: Any) -> None:
        runner = env_runner or worker
        arrays = arrays_of(runner)
        seen = {
            "prints": {pid: parts.print_of(each) for pid, each in arrays.items()},
            "level": parts.level_of(arrays["main"]),
            "mapping": mapping_of(runner)("probe", None),
        }
        now = runner.__dict__.setdefault("noted_now", [])
        if seen not in now:
            now.append(seen)

    def on_sample_end(self, *, env_runner: Any = None, worker: Any = None, **kwargs: Any) -> None:
        runner = env_runner or worker
        runner.__dict__.setdefault("noted", []).append(runner.__dict__.pop("noted_now", []))


def read(worker: Any) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "arrays": arrays_of(worker),
        "noted": [drawn for drawn in worker.__dict__.get("noted", ()) if drawn],
        "seq": getattr(worker, "_weights_seq_no", None),
        "mapping": mapping_of(worker)("probe", None),
        "filters": set(getattr(worker, "filters", ())),
    }


def forget(worker: Any) -> None:
    worker.__dict__.pop("noted", None)


def first(agent: str, *_: Any, **__: Any) -> str:
    return {"a": "main", "b": "foe"}.get(agent, "first")


def second(agent: str, *_: Any, **__: Any) -> str:
    return {"a": "main", "b": "foe"}.get(agent, "second")


def third(agent: str, *_: Any, **__: Any) -> str:
    return {"a": "main", "b": "late"}.get(agent, "third")


def configured(cell: str) -> Any:
    """Return a config with two runners and one for evaluation; only ``main`` is trained."""
    if cell == "old PPO":
        config = PPOConfig()
        config.api_stack(
            enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False
        )
        config.environment(OldDuo)
        config.env_runners(
            num_env_runners=2,
            num_cpus_per_env_runner=0.1,
            rollout_fragment_length=20,
            observation_filter="MeanStdFilter",
        )
        config.training(
            train_batch_size=40, minibatch_size=20, num_epochs=1, model={"fcnet_hiddens": [8]}
        )
        config.evaluation(
            evaluation_num_env_runners=1,
            evaluation_duration=2,
            evaluation_config={"num_cpus_per_env_runner": 0.1},
        )
        config.reporting(min_sample_timesteps_per_iteration=0, min_time_s_per_iteration=0)
        config.debugging(log_level="ERROR", seed=1)
        config.resources(num_gpus=0)
    else:
        kind = IMPALAConfig if cell == "IMPALA" else PPOConfig
        config = parts.configured(kind, runners=2, evals=1)
        config.env_runners(create_local_env_runner=cell != "PPO, no local runner")
    config.callbacks(Notes)
    config.multi_agent(
        policies={"main": PolicySpec(), "foe": PolicySpec()},
        policy_mapping_fn=first,
        policies_to_train=["main"],
    )
    config.fault_tolerance(restart_failed_env_runners=True, delay_between_env_runner_restarts_s=0.1)
    return config


def actor(algo: Any, name: str) -> Any:
    group, index = name.split()
    groups = {"train": algo.env_runner_group, "eval": algo.eval_env_runner_group}
    return groups[group]._worker_manager.actors()[int(index)]


def ask(algo: Any, name: str, function: Any = read, *arguments: Any) -> Any:
    """Run a function on one runner and return its result, without RLlib or the code under test."""
    return ray.get(actor(algo, name).apply.remote(function, *arguments), timeout=60)


def answers(algo: Any, name: str) -> Any:
    try:
        return ask(algo, name)
    except ray.exceptions.RayActorError:
        return None


def kill(algo: Any, *names: str) -> None:
    for name in names:
        ray.kill(actor(algo, name), no_restart=False)


def kill_unnoticed(algo: Any, *names: str) -> dict[str, Any]:
    """Kill runners between two calls of RLlib, wait for their restart, and return their state."""
    before = {name: ask(algo, name)["pid"] for name in names}
    kill(algo, *names)

    def back(name: str) -> Any:
        found = answers(algo, name)
        return found if found and found["pid"] != before[name] else None

    return {name: parts.until(lambda name=name: back(name), f"{name} is back") for name in names}


def expected(snap: Snapshot, held: Mapping[str, Any]) -> str:
    """Return the fingerprint of those weights of a snapshot whose names are in ``held``."""
    return parts.print_of({name: snap.weights[name] for name in held})


def assert_drawn(
    algo: Any, name: str, snaps: Mapping[str, Snapshot], level: float, mapping: str
) -> None:
    """Check that each sample of a runner since its start or ``forget`` used these weights."""
    found = ask(algo, name)
    assert found["noted"], f"{name} did not sample"
    for seen in (each for drawn in found["noted"] for each in drawn):
        for pid, snap in snaps.items():
            assert seen["prints"][pid] == expected(snap, found["arrays"][pid]), (name, pid)
        assert abs(seen["level"] - level) < 0.5, (name, seen["level"])
        assert seen["mapping"] == mapping, name
