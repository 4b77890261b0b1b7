"""Train with Tune, keep one policy, and start another experiment with it, in another environment.

    ./.venv/bin/python scripts/examples/tune_demo.py [--stack new|old] [--trials N] [STORE]

1. The first experiment has two agents. Each agent balances a pole and has its own policy. The N
   trials have different learning rates. Every second iteration is pushed, and the best version of
   each name is tagged.
2. The second experiment has another environment: the same two agents, and a third agent that sees
   only angles. Two lines of the config warm-start one of the three policies with the best version
   of the first experiment. Two more trials begin with random weights for all three policies. The
   mapping function is a new one: the warm-started policy now plays for the other agent.

The demo prints the returns of each agent in the first and in the last iteration, and the digests.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

# Ray reads these variables when it is imported. The last variable hides Tune's tables.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"

import gymnasium as gym
import numpy as np
import ray
from ray import tune
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.policy.policy import PolicySpec

from policystore import PolicyStore
from policystore.rllib import publish, warm_start

POLE = gym.make("CartPole-v1").unwrapped
SEES = {
    "left": POLE.observation_space,
    "right": POLE.observation_space,
    "small": gym.spaces.Box(-np.inf, np.inf, (2,), np.float32),
}


class Poles(MultiAgentEnv):  # type: ignore[misc]
    """An environment in which each agent balances a pole; it ends when all poles have fallen."""

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.possible_agents = list((config or {})["agents"])
        self.agents = list(self.possible_agents)
        self.observation_spaces = {agent: SEES[agent] for agent in self.agents}
        self.action_spaces = dict.fromkeys(self.agents, POLE.action_space)
        self._poles = {agent: gym.make("CartPole-v1") for agent in self.agents}
        self._up: list[str] = []

    def _seen(self, agent: str, observation: Any) -> Any:
        return observation if agent != "small" else observation[2:]

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        """Put the poles of all agents upright again."""
        self._up = list(self.possible_agents)
        seen = {agent: self._poles[agent].reset(seed=seed)[0] for agent in self._up}
        return {agent: self._seen(agent, each) for agent, each in seen.items()}, {}

    def step(self, actions: dict[str, Any]) -> Any:
        """Step the agents whose pole is still up."""
        seen, rewards, down = {}, {}, {}
        for agent, action in actions.items():
            observation, rewards[agent], fell, late, _ = self._poles[agent].step(action)
            seen[agent] = self._seen(agent, observation)
            down[agent] = fell or late
        self._up = [agent for agent in self._up if not down.get(agent)]
        down["__all__"] = not self._up
        return seen, rewards, down, {"__all__": False}, {}


def _own(agent: str, *_: Any, **__: Any) -> str:
    """Return the policy of an agent in the first experiment: one for each agent."""
    return agent


def _veteran_on_the_right(agent: str, *_: Any, **__: Any) -> str:
    """Return an agent's policy in the second experiment: the policy of "left" plays for "right"."""
    return {"left": "rookie", "right": "veteran", "small": "half_blind"}[agent]


def _config(stack: str, agents: list[str], mapping: Any) -> PPOConfig:
    new = stack == "new"
    config = (
        PPOConfig()
        .api_stack(enable_rl_module_and_learner=new, enable_env_runner_and_connector_v2=new)
        .environment(Poles, env_config={"agents": agents})
        .env_runners(num_env_runners=1, num_cpus_per_env_runner=0.5)
        .multi_agent(
            policies={
                mapping(agent): PolicySpec(
                    observation_space=SEES[agent], action_space=POLE.action_space
                )
                for agent in agents
            },
            policy_mapping_fn=mapping,
        )
        .training(lr=1e-3, num_epochs=10)
        .resources(num_gpus=0)
        .debugging(seed=1, log_level="ERROR")
    )
    if new:
        config.training(train_batch_size_per_learner=2000, minibatch_size=250)
    else:
        config.training(
            train_batch_size=2000, minibatch_size=250, model={"fcnet_hiddens": [64, 64]}
        )
        config.training(vf_clip_param=10_000.0)
    return config


def _run(config: PPOConfig, iterations: int, folder: str) -> Any:
    return tune.Tuner(
        PPO,
        param_space=config,
        run_config=tune.RunConfig(
            storage_path=folder, stop={"training_iteration": iterations}, verbose=0
        ),
    ).fit()


def main() -> int:
    """Run both experiments."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("store", nargs="?", help="folder or URL; a new folder if left out")
    parser.add_argument("--stack", choices=("new", "old"), default="new")
    parser.add_argument("--trials", type=int, default=2)
    given = parser.parse_args()
    store = PolicyStore(given.store or tempfile.mkdtemp(prefix="policies-"))
    scratch = tempfile.mkdtemp(prefix="tune-")
    warnings.simplefilter("ignore")
    here = str(Path(__file__).resolve().parent)  # so that trials can import this file
    os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)

    print(f"1  Pre-training on the {given.stack} stack: agents left and right, store {store.url}")
    config = _config(given.stack, ["left", "right"], _own)
    config.training(lr=tune.grid_search([1e-3 / 2**i for i in range(given.trials)]))
    metric = "module_episode_returns_mean" if given.stack == "new" else "policy_reward_mean"
    config.callbacks(
        publish(
            store,
            {"left": "poles/left", "right": "poles/right"},
            interval=2,
            metric=f"env_runners/{metric}/{{policy}}",
        )
    )
    first = _run(config, 10, scratch)
    failed = [result.error for result in first if result.error]
    for name in store.names("poles/"):
        for version in reversed(store.log(name)):
            print("  ", str(version))
        print(f"   best: {store.log(name)[0].name}@best = {store.resolve(name + '@best').short}")

    print(
        "2  Another environment: left, right and one that sees angles only; a new mapping function"
    )
    agents = ["left", "right", "small"]
    rows = {}
    for start in ("warm", "cold"):
        config = _config(given.stack, agents, _veteran_on_the_right)
        if start == "warm":
            config.callbacks(warm_start(store, {"veteran": "poles/left@best"}))
        results = _run(config, 3, scratch)
        failed += [result.error for result in results if result.error]
        for result in results:
            frame = result.metrics_dataframe
            rows[start] = frame
            started = (result.metrics.get("policystore") or {}).get("warm_start", {})
            for pid, digest in started.items():
                same = digest == str(store.resolve("poles/left@best"))
                print(
                    f"   {pid} started with {digest[:19]}, {'the best' if same else 'NOT THE BEST'}"
                )
    print(f"   {'mean return':12} {'iteration':>9} {'veteran':>8} {'rookie':>8} {'half_blind':>10}")
    for start, frame in rows.items():
        for at in (0, len(frame) - 1):
            found = {
                pid: frame[f"env_runners/{metric}/{pid}"].iloc[at]
                for pid in ("veteran", "rookie", "half_blind")
            }
            print(
                f"   {start:12} {at + 1:>9} {found['veteran']:8.1f} {found['rookie']:8.1f} "
                f"{found['half_blind']:10.1f}"
            )
    ray.shutdown()
    for error in failed:
        print(error, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
