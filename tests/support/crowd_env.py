"""Define an environment of agents with different spaces. Ray's workers import this file by name."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from ray.rllib.env.multi_agent_env import MultiAgentEnv

STEPS = 10
# Agent -> its observation space and its action space.
SPACES: dict[str, tuple[gym.Space[Any], gym.Space[Any]]] = {
    "box": (gym.spaces.Box(-1, 1, (4,), np.float32), gym.spaces.Discrete(2)),
    "wide": (gym.spaces.Box(-1, 1, (6,), np.float32), gym.spaces.Discrete(3)),
    "dict": (
        gym.spaces.Dict(
            {"x": gym.spaces.Box(-1, 1, (3,), np.float32), "n": gym.spaces.Discrete(3)}
        ),
        gym.spaces.Discrete(2),
    ),
    "reach": (
        gym.spaces.Box(-1, 1, (4,), np.float32),
        gym.spaces.Box(-2, 2, (2,), np.float32),
    ),
}


class Crowd(MultiAgentEnv):
    """Agents with different spaces get random observations; the config selects the agents."""

    broken = False

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.possible_agents = self.agents = list((config or {}).get("agents", SPACES))
        self.observation_spaces = {agent: SPACES[agent][0] for agent in self.agents}
        self.action_spaces = {agent: SPACES[agent][1] for agent in self.agents}
        self.observation_space = gym.spaces.Dict(self.observation_spaces)
        self.action_space = gym.spaces.Dict(self.action_spaces)
        self._steps = 0

    def _observe(self) -> dict[Any, Any]:
        return {agent: self.observation_spaces[agent].sample() for agent in self.agents}

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        if self.broken:
            raise RuntimeError("this environment does not start anew")
        self._steps = 0
        return self._observe(), {}

    def step(self, actions: dict[Any, Any]) -> Any:
        for agent, action in actions.items():
            assert self.action_spaces[agent].contains(action), (agent, action)
        self._steps += 1
        rewards = {agent: float(np.sum(action)) for agent, action in actions.items()}
        return self._observe(), rewards, {"__all__": self._steps >= STEPS}, {"__all__": False}, {}
