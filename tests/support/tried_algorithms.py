"""The Algorithms of ``test_tried.py``, and an oracle that asks their workers itself.

This file is a module of its own, because Ray's workers import it by name.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import ray
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.bc import BCConfig
from ray.rllib.algorithms.cql import CQLConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.iql import IQLConfig
from ray.rllib.algorithms.marwil import MARWILConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.tqc import TQCConfig
from ray.rllib.connectors.env_to_module import MeanStdFilter
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule

import tests.support.new_stack_algorithms as new
import tests.support.old_stack_algorithms as old
from policystore import Snapshot
from tests.support.envs import OBSERVATIONS, STEPS, Duo
from tests.support.new_stack_modules import ToUnit
from tests.support.old_stack_configs import offline

FORCES = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
PIXELS = gym.spaces.Box(0, 255, (10, 10, 1), np.uint8)
CONV = {"conv_filters": [[4, 3, 2], [8, 3, 2]], "head_fcnet_hiddens": [8]}


class Pair(Duo):
    """``Duo`` with other actions."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.action_spaces = dict.fromkeys(self.agents, FORCES)

    def step(self, actions: dict[Any, Any]) -> Any:
        return super().step({agent: np.sum(action) for agent, action in actions.items()})


class Single(gym.Env):
    """One agent that sees random numbers or pixels; the spaces come from the config."""

    def __init__(self, config: Any = None) -> None:
        self.observation_space = config.get("observation_space", OBSERVATIONS)
        self.action_space = config.get("action_space", gym.spaces.Discrete(2))
        self.observation_space.seed(5)
        self._steps = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self._steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        self._steps += 1
        ended = self._steps >= STEPS
        return self.observation_space.sample(), float(np.sum(action)), ended, False, {}


# Configs -----------------------------------------------------------------------------------------


def to_unit(*_: Any, **__: Any) -> list[Any]:
    return [ToUnit()]


def one_filter(*_: Any, **__: Any) -> Any:
    return MeanStdFilter()


def recorded(folder: Path, actions: gym.Space) -> str:
    """Write 64 random steps in RLlib's column format; return the folder."""
    path = folder / "steps"
    path.mkdir(parents=True)
    rng = np.random.default_rng(0)
    actions.seed(0)
    seen = rng.uniform(-1, 1, (65, 4)).astype(np.float32).tolist()
    rows = [
        {
            "eps_id": str(step // 16),
            "obs": seen[step],
            "actions": np.asarray(actions.sample()).tolist(),
            "rewards": 1.0,
            "new_obs": seen[step + 1],
            "terminateds": step % 16 == 15,
            "truncateds": False,
        }
        for step in range(64)
    ]
    (path / "data.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def offline_new(kind: Any, actions: gym.Space, folder: Path) -> Any:
    config = (
        kind()
        .environment(
            Single,
            env_config={"action_space": actions},
            observation_space=OBSERVATIONS,
            action_space=actions,
        )
        .offline_data(
            input_=[recorded(folder, actions)],
            input_read_method="read_json",
            input_read_schema={},
            dataset_num_iters_per_learner=1,
            map_batches_kwargs={"concurrency": 1, "num_cpus": 0.5},
            iter_batches_kwargs={"prefetch_batches": 0},
        )
        .env_runners(num_env_runners=0)
        .evaluation(
            evaluation_interval=1000,
            evaluation_num_env_runners=1,
            evaluation_duration=2,
            evaluation_config={"num_cpus_per_env_runner": 0.1},
        )
        .training(train_batch_size_per_learner=16)
        .rl_module(model_config={"fcnet_hiddens": [8], "head_fcnet_hiddens": [8]})
        .reporting(min_time_s_per_iteration=0)
        .debugging(seed=7, log_level="ERROR")
    )
    if kind is CQLConfig:
        # RLlib's CQL takes neither `lr` nor a single iteration (algorithms/cql/cql.py:309-328).
        config.training(lr=None, actor_lr=1e-3, critic_lr=1e-3, alpha_lr=1e-3)
        config.offline_data(dataset_num_iters_per_learner=2)
    return config


def tqc(**cell: Any) -> Any:
    return new.configured(TQCConfig, **cell).environment(Pair)


def on_images(kind: Any) -> Any:
    config = new.configured(kind, runners=2, multi=False, model=CONV, lr=1e-5)
    config.environment(Single, env_config={"observation_space": PIXELS})
    return config.env_runners(env_to_module_connector=to_unit)


def aggregating() -> Any:
    config = new.configured(APPOConfig, runners=2, evals=1, learners=1, lr=1e-5)
    return config.learners(num_aggregator_actors_per_learner=1)


def filtering(kind: Any = PPOConfig, *, local: bool = True) -> Any:
    config = new.configured(kind, runners=2, multi=False)
    return config.env_runners(env_to_module_connector=one_filter, create_local_env_runner=local)


def large() -> Any:
    """Return a config with a network of 10 million parameters."""
    layers = DefaultModelConfig(fcnet_hiddens=[2236, 2236, 2236], vf_share_layers=True)
    return new.configured(runners=2, multi=False, model=layers, train_batch_size_per_learner=20)


SMALL_OLD = {"fcnet_hiddens": [8]}
CONFIGS: dict[str, Callable[[Path], Any]] = {
    "CQL": lambda folder: offline_new(CQLConfig, FORCES, folder),
    "IQL": lambda folder: offline_new(IQLConfig, FORCES, folder),
    "BC": lambda folder: offline_new(BCConfig, gym.spaces.Discrete(3), folder),
    "MARWIL": lambda folder: offline_new(MARWILConfig, gym.spaces.Discrete(3), folder),
    "CQL (old)": lambda folder: offline(
        CQLConfig(), folder, q_model_config=SMALL_OLD, policy_model_config=SMALL_OLD
    ),
    "BC (old)": lambda folder: offline(BCConfig(), folder, model=SMALL_OLD),
    "MARWIL (old)": lambda folder: offline(MARWILConfig(), folder, model=SMALL_OLD),
    "TQC": lambda _: tqc(runners=2, evals=1),
    "TQC with 2 learners": lambda _: tqc(runners=1, learners=2),
    "PPO": lambda _: new.configured(runners=1, multi=False),
    "PPO on images": lambda _: on_images(PPOConfig),
    "DQN on images": lambda _: on_images(DQNConfig),
    "APPO on images": lambda _: on_images(APPOConfig),
    "APPO with aggregators": lambda _: aggregating(),
    "PPO of 10 million parameters": lambda _: large(),
    "PPO with a filter": lambda _: filtering(),
    "PPO with a filter (old)": lambda _: old.configured(runners=2, multi=False).env_runners(
        observation_filter="MeanStdFilter"
    ),
    "PPO without a local runner": lambda _: filtering(local=False),
    "IMPALA without a local runner": lambda _: filtering(IMPALAConfig, local=False),
    "PPO with 2 learners": lambda _: new.configured(runners=2, learners=2),
    "IMPALA with 2 learners": lambda _: new.configured(IMPALAConfig, runners=2, learners=2),
}


@contextmanager
def built(config: Any) -> Iterator[Any]:
    """Build an Algorithm, and stop it at the end in any case."""
    algo = config.build_algo()
    try:
        yield algo
    finally:
        algo.stop()
        # Ray Data's iterators complain if they are collected only after Ray has stopped.
        del algo
        gc.collect()


# The oracle --------------------------------------------------------------------------------------


def hash_of(array: Any) -> str:
    """Return a hash of all bits of an array."""
    flat = np.ascontiguousarray(array)
    return hashlib.sha256(f"{flat.dtype} {flat.shape}".encode() + flat.tobytes()).hexdigest()[:12]


def held(worker: Any) -> dict[str, dict[str, str]]:
    """Return the hashes of all weights of a worker of either stack, by policy and name."""
    if hasattr(worker, "policy_map"):
        parts = {pid: worker.policy_map[pid].model for pid in worker.policy_map.keys()}  # noqa: SIM118
    else:
        multi = worker.module.unwrapped()
        parts = {"default_policy": multi}
        if isinstance(multi, MultiRLModule):
            parts = {mid: multi[mid].unwrapped() for mid in multi.keys()}  # noqa: SIM118
    return {
        pid: {
            name: hash_of(value.detach().cpu().numpy()) for name, value in part.state_dict().items()
        }
        for pid, part in parts.items()
    }


def workers(algo: Any) -> dict[str, Any]:
    """Return every learner and worker by name: the object itself or its actor."""
    found: dict[str, Any] = {}
    learners = algo.learner_group
    if learners is not None and learners.is_local:
        found["learner local"] = learners._learner
    elif learners is not None:
        found |= {f"learner {n}": each for n, each in learners._worker_manager.actors().items()}
    for name, group in (("train", algo.env_runner_group), ("eval", algo.eval_env_runner_group)):
        if group is None:
            continue
        if group.local_env_runner is not None:
            found[f"{name} local"] = group.local_env_runner
        found |= {f"{name} {n}": each for n, each in group._worker_manager.actors().items()}
    return found


def everyone(algo: Any, function: Callable[[Any], Any] = held) -> dict[str, Any]:
    """Run a function on each learner and worker that is alive, and return the results by name."""
    found = {}
    for name, worker in workers(algo).items():
        try:
            found[name] = (
                ray.get(worker.apply.remote(function), timeout=60)
                if isinstance(worker, ray.actor.ActorHandle)
                else function(worker)
            )
        except ray.exceptions.RayActorError:
            continue
    return found


def assert_held(algo: Any, snaps: Mapping[str, Snapshot], *, absent: Any = ()) -> None:
    """Check that all workers hold exactly these weights, bit for bit.

    Args:
        algo: the Algorithm.
        snaps: the weights by policy.
        absent: names of workers that were killed, and may be dead, or back with random weights
            until RLlib restores them; all others have to answer.
    """
    found = everyone(algo)
    assert workers(algo).keys() - found.keys() <= set(absent)
    for name, policies in found.items():
        if name in absent:
            continue
        for pid, snap in snaps.items():
            acting = snap.weights if snap.spec.acting is None else snap.spec.acting
            assert set(acting) <= policies[pid].keys(), (name, pid)
            if name.startswith("learner"):
                assert snap.weights.keys() <= policies[pid].keys(), (name, pid)
            wrong = [
                each
                for each, value in policies[pid].items()
                if each in snap.weights and value != hash_of(snap.weights[each])
            ]
            assert not wrong, (name, pid, wrong)
