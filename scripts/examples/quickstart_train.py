"""Train the two small PPO runs of the quickstart, and record episodes of the trained policies."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from quickstart_episodes import Act, Episode, play_alone, play_together
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.examples.envs.classes.multi_agent import MultiAgentCartPole
from ray.rllib.utils.policy import local_policy_inference

SEEDS = range(10)
AGENTS = {0: "p0", 1: "p1"}
_HIDDEN = [64, 64]


def new_stack_algorithm() -> Any:
    """Return PPO on CartPole-v1, on RLlib's new API stack."""
    config = (
        PPOConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=1, num_envs_per_env_runner=8)
        .training(train_batch_size_per_learner=2000, minibatch_size=256, num_epochs=8, lr=1e-3)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=_HIDDEN))
    )
    return _build(config)


def old_stack_algorithm() -> Any:
    """Return PPO with two policies of a two-agent CartPole, MeanStdFilter, on the old stack."""
    config = (
        PPOConfig()
        .api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False)
        .environment(MultiAgentCartPole, env_config={"num_agents": len(AGENTS)})
        .env_runners(
            num_env_runners=1, num_envs_per_env_runner=4, observation_filter="MeanStdFilter"
        )
        .training(
            train_batch_size=2000,
            minibatch_size=256,
            num_epochs=8,
            lr=1e-3,
            model={"fcnet_hiddens": _HIDDEN},
        )
        .multi_agent(policies=set(AGENTS.values()), policy_mapping_fn=_policy_of)
    )
    return _build(config)


def _build(config: PPOConfig) -> Any:
    """Build the Algorithm of a config; Ray 2.40 has no ``build_algo``."""
    config.debugging(seed=0)
    return getattr(config, "build_algo", config.build)()


def _policy_of(agent_id: int, *_args: Any, **_more: Any) -> str:
    return AGENTS[agent_id]


def train(algorithm: Any, iterations: int, say: Callable[[str], None]) -> dict[str, float]:
    """Train, print the return of each iteration, and return the last mean returns.

    The mean returns are by policy id. For an Algorithm with one policy the key is an empty text.
    """
    returns: dict[str, float] = {}
    for iteration in range(1, iterations + 1):
        started = time.monotonic()
        result = algorithm.train()["env_runners"]
        by_policy = result.get("policy_reward_mean") or {"": result["episode_return_mean"]}
        returns = {policy: float(by_policy[policy]) for policy in sorted(by_policy)}
        shown = "  ".join(f"{policy} {value:6.1f}".strip() for policy, value in returns.items())
        seconds = time.monotonic() - started
        say(f"iteration {iteration}/{iterations}   return {shown}   {seconds:.1f} s")
    return returns


def record_new_stack(algorithm: Any) -> list[Episode]:
    """Play ten seeded episodes with the Algorithm's own connectors and module."""
    env = gym.make("CartPole-v1")
    return [play_alone(env, seed, _NewStackAct(algorithm)) for seed in SEEDS]


class _NewStackAct:
    """A step as in RLlib's env runner (ray/rllib/env/single_agent_env_runner.py, _sample)."""

    def __init__(self, algorithm: Any) -> None:
        self._runner = algorithm.env_runner
        self._episode = SingleAgentEpisode(
            observation_space=gym.make("CartPole-v1").observation_space,
            action_space=gym.make("CartPole-v1").action_space,
        )
        self._action: Any = None

    def __call__(self, observation: Any) -> Any:
        if self._action is None:
            self._episode.add_env_reset(observation)
        else:
            self._episode.add_env_step(observation, self._action, reward=1.0)
        module = self._runner.module
        context = {"episodes": [self._episode], "rl_module": module, "explore": False}
        context["shared_data"] = {}
        to_module = self._runner._env_to_module(batch={}, **context)
        to_env = self._runner._module_to_env(batch=module.forward_inference(to_module), **context)
        self._action = to_env.get(Columns.ACTIONS_FOR_ENV, to_env[Columns.ACTIONS])[0]
        return self._action


def record_old_stack(algorithm: Any) -> dict[int, list[Episode]]:
    """Play ten seeded episodes with all connectors, as rollout workers do; return them by agent.

    ``Algorithm.compute_single_action`` applies no MeanStdFilter before Ray 2.57.
    """

    def act(agent: int) -> Act:
        policy = algorithm.get_policy(AGENTS[agent])

        def step(observation: Any) -> Any:
            ((action, _, _),) = local_policy_inference(policy, 0, agent, observation, explore=False)
            return action

        return step

    env = MultiAgentCartPole({"num_agents": len(AGENTS)})
    acts = {agent: act(agent) for agent in AGENTS}
    played = [play_together(env, seed, acts) for seed in SEEDS]
    return {agent: [episodes[agent] for episodes in played] for agent in AGENTS}
