"""Games, players and a plain loop for the tests of tournaments.

Worker processes import this file by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from ray.rllib.env.multi_agent_env import MultiAgentEnv

SEEN = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)


class Numbers(MultiAgentEnv):
    """Agents guess numbers; who is nearer gets more. Agents come late and leave early.

    Config: ``agents`` (their number), ``steps``, ``late`` (the last agent appears in step 2),
    ``dies`` (the first agent is done after step 3), ``crash`` (a seed with which step 2 raises).
    """

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.config = dict(config or {})
        self.possible_agents = self.agents = [f"p{i}" for i in range(self.config.get("agents", 2))]
        self.observation_spaces = dict.fromkeys(self.agents, SEEN)
        self.action_spaces = dict.fromkeys(self.agents, gym.spaces.Discrete(3))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._step = 0
        self._last = self.config.get("steps", 6) + int(self._rng.integers(4))
        return self._observe(), {}

    def _observe(self) -> dict[str, Any]:
        agents = list(self.possible_agents)
        if self.config.get("late") and self._step < 2:
            agents.pop()
        if self.config.get("dies") and self._step > 3:
            agents.pop(0)
        return {agent: self._rng.uniform(-1, 1, 4).astype(np.float32) for agent in agents}

    def step(self, actions: Mapping[str, Any]) -> Any:
        self._step += 1
        if self._step == 2 and self._seed == self.config.get("crash"):
            raise RuntimeError("the field is flooded")
        aim = int(self._rng.integers(3))
        rewards = {agent: float(action == aim) + 0.1 for agent, action in actions.items()}
        over = self._step >= self._last
        terminated = {"__all__": over}
        if self.config.get("dies") and self._step == 3:
            terminated[self.possible_agents[0]] = True
        return self._observe(), rewards, terminated, {"__all__": False}, {}


def plain_loop(env: Any, players: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Play an episode of a MultiAgentEnv as anyone would write it; return the returns."""
    for player in {id(each): each for each in players.values()}.values():
        player.reset()
    returns = dict.fromkeys(players, 0.0)
    sessions = {agent: player.session() for agent, player in players.items()}
    observations, _ = env.reset(seed=seed)
    done: set[Any] = set()
    while True:
        actions = {
            agent: sessions[agent].act(seen)
            for agent, seen in observations.items()
            if agent not in done
        }
        observations, rewards, terminated, truncated, _ = env.step(actions)
        for agent, reward in rewards.items():
            returns[agent] += reward
        for ended in (terminated, truncated):
            done |= {agent for agent, is_done in ended.items() if is_done}
        if "__all__" in done:
            return returns


FORCES = gym.spaces.Box(np.float32([-2.0, 0.0]), np.float32([2.0, 1.0]), dtype=np.float32)


class Pull(MultiAgentEnv):
    """Two agents pull at a rope; an action is a force and a brake, within uneven bounds."""

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.possible_agents = self.agents = ["left", "right"]
        self.observation_spaces = dict.fromkeys(self.agents, SEEN)
        self.action_spaces = dict.fromkeys(self.agents, FORCES)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self._rng = np.random.default_rng(seed)
        self._place, self._step = float(self._rng.uniform(-1, 1)), 0
        return self._observe(), {}

    def _observe(self) -> dict[str, Any]:
        noise = self._rng.uniform(-0.5, 0.5, 3)
        seen = np.array([np.tanh(self._place), *noise], np.float32)
        return {"left": seen, "right": -seen}

    def step(self, actions: Mapping[str, Any]) -> Any:
        for action in actions.values():
            assert FORCES.contains(np.asarray(action, np.float32)), action
        pulls = {agent: float(force * (1 - brake)) for agent, (force, brake) in actions.items()}
        self._place += pulls["right"] - pulls["left"]
        self._step += 1
        rewards = {"left": -self._place, "right": self._place}
        return self._observe(), rewards, {"__all__": self._step == 5}, {"__all__": False}, {}
