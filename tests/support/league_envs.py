"""Environments for the tests of opponent pools, which keep the true returns of their episodes.

This file is a module of its own, because Ray's workers import it by name.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import gymnasium as gym
import numpy as np
from ray.rllib.env.multi_agent_env import MultiAgentEnv

OBSERVATIONS = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)


class Arena(MultiAgentEnv):
    """Agents with random rewards, in episodes of random length.

    ``config``:
        agents: their ids; ``["a", "b"]`` by default.
        lengths: the lengths of episodes, of which each episode draws one.
        turns: whether one agent acts at a time, and all agents get rewards in each step.
        dying: agent -> step after which it is done.
        late: agent -> step at which it appears.

    Attributes:
        made: how many there were in this process. Each has random numbers of its own.
        history: true returns of each episode that ended, by agent.
    """

    made = 0

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        config = config or {}
        self.possible_agents = self.agents = list(config.get("agents", ["a", "b"]))
        self.observation_spaces = dict.fromkeys(self.agents, OBSERVATIONS)
        self.action_spaces = dict.fromkeys(self.agents, gym.spaces.Discrete(2))
        self._lengths = list(config.get("lengths", [5]))
        self._turns = bool(config.get("turns", False))
        self._dying = dict(config.get("dying", {}))
        self._late = dict(config.get("late", {}))
        Arena.made += 1
        self._rng = np.random.default_rng(Arena.made)
        self.history: list[dict[Any, float]] = []
        self._steps = 0

    def _observe(self, agents: Any) -> dict[Any, Any]:
        return {agent: self._rng.uniform(-1, 1, 4).astype(np.float32) for agent in agents}

    def _present(self) -> list[Any]:
        return [
            agent
            for agent in self.possible_agents
            if self._late.get(agent, 0) <= self._steps < self._dying.get(agent, 10**9)
        ]

    def _to_act(self) -> list[Any]:
        present = self._present()
        return [present[self._steps % len(present)]] if self._turns else present

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self._steps = 0
        self._length = int(self._rng.choice(self._lengths))
        self._returns: Counter[Any] = Counter()
        return self._observe(self._to_act()), {}

    def step(self, actions: dict[Any, Any]) -> Any:
        before = self._present()
        self._steps += 1
        done = self._steps >= self._length
        died = {a: True for a in before if self._dying.get(a) == self._steps}
        present = self._present()
        rewarded = before if self._turns else list(actions)
        rewards = {agent: float(np.round(self._rng.normal(), 3)) for agent in rewarded}
        for agent, reward in rewards.items():
            self._returns[agent] += reward
        seen = set(self._to_act()) | set(died) | (set(present) if done else set())
        if done:
            self.history.append(dict(self._returns))
        return (
            self._observe(sorted(seen)),
            rewards,
            {**died, "__all__": done},
            {"__all__": False},
            {},
        )
