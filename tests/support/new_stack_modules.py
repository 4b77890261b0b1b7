"""Environments, modules and connectors that the tests of the new stack use.

This file is a module of its own, because snapshots name these classes by import path, and a fresh
process must be able to import them.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module import observation_preprocessor
from ray.rllib.connectors.env_to_module.mean_std_filter import MeanStdFilter
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.env.multi_agent_env import MultiAgentEnv

SingleAgentObservationPreprocessor: Any = getattr(
    observation_preprocessor,
    "SingleAgentObservationPreprocessor",
    getattr(observation_preprocessor, "ObservationPreprocessor", None),  # until Ray 2.47
)
EPISODE = 9


class TraceEnv(gym.Env):
    """An environment with random observations of a space that records all observations and actions.

    ``TraceEnv.log`` holds ``("reset", obs)`` and ``("step", action, reward, obs)``. If
    ``start_anew`` is set, the random observations of the next episode start again from the seed.
    """

    start_anew: ClassVar[bool] = True
    log: ClassVar[list[tuple[Any, ...]]] = []

    def __init__(self, config: dict[str, Any]) -> None:
        self.observation_space = config["observation_space"]
        self.action_space = config["action_space"]
        self._steps = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self._steps = 0
        if TraceEnv.start_anew:
            self.observation_space.seed(3)
            TraceEnv.start_anew = False
        obs = self.observation_space.sample()
        TraceEnv.log.append(("reset", obs))
        return obs, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        obs = self.observation_space.sample()
        reward = float((-1) ** self._steps * self._steps) / 4
        TraceEnv.log.append(("step", action, reward, obs))
        return obs, reward, self._steps >= EPISODE, False, {}


class TwoAgents(MultiAgentEnv):
    """Agents 0 and 1 see random numbers of different size and act in turn together."""

    log: ClassVar[list[tuple[Any, ...]]] = []

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.possible_agents = self.agents = list(config.get("agents", [0, 1]))
        self._sizes = config.get("sizes", [4] * len(self.agents))
        self.observation_spaces = {
            agent: gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)
            for agent, size in zip(self.agents, self._sizes, strict=True)
        }
        self.action_spaces = {agent: gym.spaces.Discrete(3) for agent in self.agents}
        self._rng = np.random.default_rng(5)
        self._steps = 0

    def _observe(self) -> dict[Any, Any]:
        return {
            agent: (self._rng.normal(size=size) * (index + 1) + 3 * index).astype(np.float32)
            for index, (agent, size) in enumerate(zip(self.agents, self._sizes, strict=True))
        }

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self._steps = 0
        obs = self._observe()
        TwoAgents.log.append(("reset", {agent: item.copy() for agent, item in obs.items()}))
        return obs, {}

    def step(self, actions: dict[Any, Any]) -> Any:
        self._steps += 1
        obs = self._observe()
        done = self._steps >= EPISODE
        copied = {agent: item.copy() for agent, item in obs.items()}
        TwoAgents.log.append(("step", dict(actions), dict.fromkeys(obs, 1.0), copied))
        return obs, dict.fromkeys(obs, 1.0), {"__all__": done}, {"__all__": False}, {}


class Head(TorchRLModule):
    """A policy head without any frills; the base of the custom modules here."""

    def setup(self) -> None:
        size = int(np.prod(self.observation_space.shape))
        width = self.model_config["width"]
        self.net = torch.nn.Sequential(torch.nn.Linear(size, width), *self.extra(width))
        self.out = torch.nn.Linear(width, int(self.action_space.n))

    def extra(self, width: int) -> list[torch.nn.Module]:
        return [torch.nn.Tanh()]

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        obs = batch[Columns.OBS].to(self.out.weight.dtype)
        return {Columns.ACTION_DIST_INPUTS: self.out(self.net(obs))}


class BatchNormHead(Head):
    """A head with running statistics in buffers."""

    def extra(self, width: int) -> list[torch.nn.Module]:
        return [torch.nn.BatchNorm1d(width), torch.nn.ReLU()]


class HalfHead(Head):
    """A head with bfloat16 parameters."""

    def setup(self) -> None:
        super().setup()
        self.to(torch.bfloat16)


class TiedHead(Head):
    """A head of two layers that share one weight."""

    def extra(self, width: int) -> list[torch.nn.Module]:
        one, two = torch.nn.Linear(width, width), torch.nn.Linear(width, width)
        two.weight = one.weight
        return [one, torch.nn.Tanh(), two]


class OddStateHead(Head):
    """A head whose state holds more than its parameters."""

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**super().get_state(*args, **kwargs), "mood": np.zeros(1)}


class ValueHead(Head, ValueFunctionAPI):
    """A head that PPO can train."""

    def setup(self) -> None:
        super().setup()
        self.value = torch.nn.Linear(self.model_config["width"], 1)

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        obs = batch[Columns.OBS].to(self.out.weight.dtype)
        embedded = self.net(obs)
        return {
            Columns.ACTION_DIST_INPUTS: self.out(embedded).float(),
            Columns.EMBEDDINGS: embedded,
        }

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Any:
        if embeddings is None:
            embeddings = self.net(batch[Columns.OBS].to(self.out.weight.dtype))
        return self.value(embeddings).squeeze(-1).float()


class HalfValueHead(ValueHead):
    """A value head in bfloat16. RLlib can only use it because of its own get_state."""

    def setup(self) -> None:
        super().setup()
        self.to(torch.bfloat16)

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {name: value.float().numpy() for name, value in self.state_dict().items()}


class Shifted(SingleAgentObservationPreprocessor):
    """A connector that adds a constructor argument to observations."""

    def __init__(
        self,
        input_observation_space: Any = None,
        input_action_space: Any = None,
        *,
        by: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(input_observation_space, input_action_space, **kwargs)
        self._by = by

    def recompute_output_observation_space(self, observation_space: Any, action_space: Any) -> Any:
        return gym.spaces.Box(-np.inf, np.inf, observation_space.shape, np.float32)

    def preprocess(self, observation: Any, episode: Any) -> Any:
        return (observation + self._by).astype(np.float32)


class ToUnit(SingleAgentObservationPreprocessor):
    """A connector that converts images to floats: RLlib's networks do not take uint8."""

    def recompute_output_observation_space(self, observation_space: Any, action_space: Any) -> Any:
        return gym.spaces.Box(0.0, 1.0, observation_space.shape, np.float32)

    def preprocess(self, observation: Any, episode: Any) -> Any:
        return observation.astype(np.float32) / np.float32(255)


class Counting(Shifted):
    """A connector that adds a count to observations. Its state has an array and unusual keys."""

    def __init__(
        self,
        input_observation_space: Any = None,
        input_action_space: Any = None,
        *,
        by: float = 1.0,
    ) -> None:
        ConnectorV2.__init__(self, input_observation_space, input_action_space)
        self._by = by
        self.counts = {7: np.zeros(2), None: "text"}

    def preprocess(self, observation: Any, episode: Any) -> Any:
        if not getattr(self, "frozen", False):
            self.counts[7] += 1.0
        return super().preprocess(observation + self.counts[7][0] / 64, episode)

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {"counts": self.counts}

    def set_state(self, state: dict[str, Any]) -> None:
        self.counts = state["counts"]
        self.frozen = True


class Opaque(Counting):
    """A connector whose state cannot be written as plain values."""

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {"counts": object()}


class Inherits(MeanStdFilter):
    """A connector without a constructor of its own, so that RLlib does not record its arguments."""
