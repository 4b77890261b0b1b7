"""Environments, modules and learners for the tests of running Algorithms, new API stack.

This file is a module of its own, because Ray's workers import it by name.
"""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.algorithms.appo.torch.appo_torch_learner import APPOTorchLearner
from ray.rllib.algorithms.impala.torch.impala_torch_learner import IMPALATorchLearner
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from tests.support.rl_modules import DefaultPPOTorchRLModule

STEPS = 10
OBSERVATIONS = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)


class Duo(MultiAgentEnv):
    """Agents ``a`` and ``b`` see random numbers, and act together."""

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.possible_agents = self.agents = ["a", "b"]
        self.observation_spaces = dict.fromkeys(self.agents, OBSERVATIONS)
        self.action_spaces = dict.fromkeys(self.agents, gym.spaces.Discrete(2))
        self._rng = np.random.default_rng(5)
        self._steps = 0

    def _observe(self) -> dict[Any, Any]:
        return {agent: self._rng.uniform(-1, 1, 4).astype(np.float32) for agent in self.agents}

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self._steps = 0
        return self._observe(), {}

    def step(self, actions: dict[Any, Any]) -> Any:
        self._steps += 1
        rewards = {agent: float(action) for agent, action in actions.items()}
        return self._observe(), rewards, {"__all__": self._steps >= STEPS}, {"__all__": False}, {}


class Solo(gym.Env):
    """One agent that sees random numbers; ``action_space`` comes from the config."""

    def __init__(self, config: Any = None) -> None:
        self.observation_space = OBSERVATIONS
        self.action_space = (config or {}).get("action_space", gym.spaces.Discrete(2))
        self._rng = np.random.default_rng(5)
        self._steps = 0

    def _observe(self) -> Any:
        return self._rng.uniform(-1, 1, 4).astype(np.float32)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self._steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        self._steps += 1
        return self._observe(), float(np.sum(action)), self._steps >= STEPS, False, {}


class Compiled(DefaultPPOTorchRLModule):
    """An RLModule with a compiled head; torch names the weights of this head ``_orig_mod.…``."""

    def setup(self) -> None:
        super().setup()
        self.pi = torch.compile(self.pi, backend="eager")


class SlowUpdates:
    """A mixin for Learners: each loss takes ``nap`` seconds; ``busy`` is True during an update."""

    nap = 0.0
    busy = False

    def compute_losses(self, **kwargs: Any) -> Any:
        self.busy = True
        time.sleep(self.nap)
        return super().compute_losses(**kwargs)  # type: ignore[misc]

    def after_gradient_based_update(self, **kwargs: Any) -> None:
        super().after_gradient_based_update(**kwargs)  # type: ignore[misc]
        self.busy = False


class SlowIMPALALearner(SlowUpdates, IMPALATorchLearner):
    """IMPALA's learner with :class:`SlowUpdates`."""


class SlowAPPOLearner(SlowUpdates, APPOTorchLearner):
    """APPO's learner with :class:`SlowUpdates`."""
