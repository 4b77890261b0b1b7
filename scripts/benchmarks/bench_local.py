"""Time load_local against load_state_dict.

``load_local`` runs once per episode, out of a pool of opponents. Both calls write the same weights
into the same module of one env runner, alternately, in one run. The tensors for ``load_state_dict``
are made beforehand, and this call checks and proves nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reads these when it is imported
os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"

import numpy as np
import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.examples.envs.classes.multi_agent import MultiAgentCartPole

from policystore import Snapshot
from policystore.rllib import load_local, snapshot


def build(stack: str, hidden: int) -> Any:
    """Return an Algorithm with a trained policy and an opponent, and one local env runner."""
    config = (
        PPOConfig()
        .environment(MultiAgentCartPole, env_config={"num_agents": 2})
        .env_runners(num_env_runners=0)
        .multi_agent(
            policies={"main", "opponent"},
            policy_mapping_fn=lambda agent, *_, **__: "opponent" if agent else "main",
            policies_to_train=["main"],
        )
        .debugging(log_level="ERROR")
    )
    if stack == "new":
        config.rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[hidden, hidden]))
    else:
        config.api_stack(
            enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False
        )
        config.training(model={"fcnet_hiddens": [hidden, hidden]})
    return config.build_algo()


def measure(algo: Any, stack: str, loads: int) -> None:
    """Print the times of first and later loads of 100 snapshots."""
    runner = algo.env_runner
    network = runner.module["opponent"] if stack == "new" else runner.policy_map["opponent"].model
    first = snapshot(algo, "opponent")
    rng = np.random.default_rng(0)
    pool = [
        Snapshot(
            weights={
                name: rng.normal(size=array.shape).astype(array.dtype)
                for name, array in first.weights.items()
            },
            spec=first.spec,
        )
        for _ in range(100)
    ]
    names = list(network.state_dict())
    plain = [{n: torch.from_numpy(np.array(s.weights[n])) for n in names} for s in pool]
    times: dict[str, list[float]] = {"first load_local": [], "load_local": [], "plain": []}
    for number in range(100 + loads):
        index = number % 100
        began = time.perf_counter()
        load_local(runner, {"opponent": pool[index]}, refs={"opponent": "league/main@3"})
        between = time.perf_counter()
        network.load_state_dict(plain[index])
        ended = time.perf_counter()
        times["load_local" if number >= 100 else "first load_local"].append(between - began)
        times["plain"].append(ended - between)
    medians = {name: statistics.median(each) * 1e6 for name, each in times.items()}
    print(
        f"{stack} stack, {first.nbytes:,} bytes: load_local {medians['load_local']:.0f} µs, the "
        f"first time {medians['first load_local']:.0f} µs, load_state_dict "
        f"{medians['plain']:.0f} µs, ratio {medians['load_local'] / medians['plain']:.2f}"
    )


def main() -> None:
    """Measure both API stacks, with small and large networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loads", type=int, default=2000)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 256])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    for stack in ("new", "old"):
        for hidden in arguments.hidden:
            algo = build(stack, hidden)
            measure(algo, stack, arguments.loads)
            algo.stop()
    ray.shutdown()


if __name__ == "__main__":
    main()
