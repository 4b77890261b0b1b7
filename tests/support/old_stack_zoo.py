"""Environments, models and policies for the tests of the old API stack.

This file is a module of its own, so that a fresh process can import the classes by the paths in a
spec.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from ray.rllib.connectors.connector import AgentConnector
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.models.torch.fcnet import FullyConnectedNetwork
from ray.rllib.models.torch.torch_action_dist import TorchCategorical
from ray.rllib.models.torch.torch_modelv2 import TorchModelV2
from ray.rllib.policy.policy import Policy
from ray.rllib.policy.sample_batch import SampleBatch
from ray.rllib.utils.exploration import StochasticSampling

VECTOR = Box(-1.0, 1.0, (4,), np.float32)
FORCES = Box(np.array([-2.0, 0.0], "f4"), np.array([2.0, 5.0], "f4"))

SPACES: dict[str, gym.Space[Any]] = {
    "vector": VECTOR,
    "discrete": Discrete(5),
    "multi_discrete": MultiDiscrete([3, 4]),
    "multi_binary": MultiBinary(6),
    "dict": Dict({"far": Box(-1.0, 1.0, (2,), np.float32), "kind": Discrete(3)}),
    "tuple": Tuple([Discrete(2), Box(-1.0, 1.0, (3,), np.float32)]),
    "nested": Dict(
        {
            "who": Tuple([Discrete(2), Discrete(3)]),
            "what": Dict({"x": Box(-1, 1, (2,), np.float32)}),
        }
    ),
    "image": Box(0, 255, (84, 84, 4), np.uint8),
    "forces": FORCES,
    "boxes": Dict({"push": FORCES, "turn": Box(-1.0, 1.0, (1,), np.float32)}),
    "whole_box": Box(0, 3, (2,), np.int64),
}


class AnyEnv(gym.Env[Any, Any]):
    """Random observations of a space, rewards that depend on them; episodes have ten steps."""

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        config = config or {}
        self.observation_space = SPACES[config.get("obs", "vector")]
        self.action_space = SPACES[config.get("act", "discrete")]
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observation_space.sample(), float(self.steps % 3), self.steps >= 10, False, {}


class DiaryEnv(AnyEnv):
    """An environment that records its observations, rewards and actions in a class attribute."""

    diary: ClassVar[list[Any]] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.given = (super().reset()[0], 0.0)
        return self.given[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        DiaryEnv.diary.append((self.steps, *self.given, action))
        result = super().step(action)
        self.given = (result[0], result[1])
        return result


class PairEnv(MultiAgentEnv):
    """Two agents with integer ids and observations on different scales."""

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.agents = self.possible_agents = [0, 1]
        self.observation_spaces = dict.fromkeys(self.agents, Box(-99.0, 99.0, (4,), np.float32))
        self.action_spaces = dict.fromkeys(self.agents, Discrete(3))
        self.random = np.random.default_rng(0)
        self.steps = 0

    def observations(self) -> dict[int, Any]:
        return {
            agent: self.random.normal(10 * agent, 1 + 5 * agent, 4).astype("f4")
            for agent in self.agents
        }

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.steps = 0
        return self.observations(), {}

    def step(self, actions: dict[int, Any]) -> tuple[Any, Any, Any, Any, Any]:
        self.steps += 1
        done = {"__all__": self.steps >= 10}
        return self.observations(), dict.fromkeys(self.agents, 1.0), done, {"__all__": False}, {}


class SmallModel(TorchModelV2, torch.nn.Module):
    """A model with a policy head, a value head, and the parts in ``custom_model_config``."""

    def __init__(
        self,
        obs_space: Any,
        action_space: Any,
        num_outputs: int,
        model_config: Any,
        name: str,
        *,
        width: int = 8,
        norm: bool = False,
        dtype: str = "float32",
        tied: bool = False,
        unused: Any = None,
    ) -> None:
        TorchModelV2.__init__(self, obs_space, action_space, num_outputs, model_config, name)
        torch.nn.Module.__init__(self)
        self.kind = getattr(torch, dtype)
        self.first = torch.nn.Linear(obs_space.shape[0], width, dtype=self.kind)
        self.norm = torch.nn.BatchNorm1d(width) if norm else torch.nn.Identity()
        self.second = torch.nn.Linear(width, width, dtype=self.kind)
        self.third = torch.nn.Linear(width, width, dtype=self.kind)
        if tied:
            self.third.weight = self.second.weight
        self.heads = torch.nn.Linear(width, num_outputs + 1)

    def forward(self, input_dict: Any, state: Any, seq_lens: Any) -> Any:
        seen = input_dict["obs_flat"].to(self.kind)
        hidden = self.norm(torch.tanh(self.first(seen)).float()).to(self.kind)
        hidden = torch.tanh(self.third(torch.tanh(self.second(hidden)))).float()
        out = self.heads(hidden)
        self.values = out[:, -1]
        return out[:, :-1], state

    def value_function(self) -> Any:
        return self.values


class StructModel(TorchModelV2, torch.nn.Module):
    """A model that takes a Dict observation directly, without RLlib's preprocessor."""

    def __init__(self, obs_space: Any, action_space: Any, outputs: int, config: Any, name: str):
        TorchModelV2.__init__(self, obs_space, action_space, outputs, config, name)
        torch.nn.Module.__init__(self)
        self.heads = torch.nn.Linear(2 + 1, outputs + 1)

    def forward(self, input_dict: Any, state: Any, seq_lens: Any) -> Any:
        obs = input_dict["obs"]
        kind = obs["kind"].float().reshape(-1, 1)
        out = self.heads(torch.cat([obs["far"].float(), kind], dim=1))
        self.values = out[:, -1]
        return out[:, :-1], state

    def value_function(self) -> Any:
        return self.values


class LastThree(TorchModelV2, torch.nn.Module):
    """A model that gets the last three observations by a view requirement."""

    def __init__(self, obs_space: Any, action_space: Any, outputs: int, config: Any, name: str):
        from ray.rllib.policy.view_requirement import ViewRequirement

        TorchModelV2.__init__(self, obs_space, action_space, outputs, config, name)
        torch.nn.Module.__init__(self)
        self.heads = torch.nn.Linear(3 * obs_space.shape[0], outputs + 1)
        self.view_requirements["last_obs"] = ViewRequirement(
            data_col="obs", shift="-2:0", space=obs_space
        )

    def forward(self, input_dict: Any, state: Any, seq_lens: Any) -> Any:
        out = self.heads(input_dict["last_obs"].float().flatten(1))
        self.values = out[:, -1]
        return out[:, :-1], state

    def value_function(self) -> Any:
        return self.values


class LoudCategorical(TorchCategorical):
    """A distribution whose deterministic action is the least likely action."""

    def __init__(self, inputs: Any, model: Any = None, temperature: float = 1.0) -> None:
        super().__init__(-inputs, model, temperature)


class LastExploration(StochasticSampling):
    """An exploration class outside RLlib, with its own state."""

    def __init__(
        self, action_space: Any, *, framework: str, model: Any, bias: float = 0.0, **kw: Any
    ):
        super().__init__(action_space, framework=framework, model=model, **kw)
        self.bias = bias
        self.calls = 0

    def get_state(self, sess: Any = None) -> dict[str, Any]:
        return {"calls": self.calls}

    def set_state(self, state: Any, sess: Any = None) -> None:
        self.calls = state["calls"]


class StatelessHeuristic(Policy):
    """A policy without network and get_weights(): acts by the sign of the first observation."""

    def compute_actions(self, obs_batch: Any, state_batches: Any = None, **kwargs: Any) -> Any:
        step = self.config.get("heuristic_step", 1)
        return np.array([step if obs[0] > 0 else 0 for obs in obs_batch]), [], {}


class TableHeuristic(Policy):
    """A policy whose weights are numpy arrays."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.table = np.zeros((4, self.action_space.n), np.float64)

    def compute_actions(self, obs_batch: Any, state_batches: Any = None, **kwargs: Any) -> Any:
        return np.argmax(np.asarray(obs_batch) @ self.table, axis=1), [], {}

    def get_weights(self) -> Any:
        return {"table": self.table}

    def set_weights(self, weights: Any) -> None:
        self.table = weights["table"]


class HalfPolicy(Policy):
    """A policy with a torch model that is not a TorchPolicy and has no get_weights()."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.model = torch.nn.Linear(4, self.action_space.n)

    def compute_actions(self, obs_batch: Any, state_batches: Any = None, **kwargs: Any) -> Any:
        with torch.no_grad():
            scores = self.model(torch.as_tensor(np.asarray(obs_batch)))
        return scores.argmax(1).numpy(), [], {"action_dist_inputs": scores.numpy()}


class EmptyHanded(HalfPolicy):
    """A policy whose get_weights() is empty, although it has a model."""

    def get_weights(self) -> Any:
        return {}

    def set_weights(self, weights: Any) -> None:
        raise AssertionError("not a way in")


class Shift(AgentConnector):
    """A connector with state: adds a vector to every observation."""

    def __init__(self, ctx: Any, by: Any = None) -> None:
        super().__init__(ctx)
        self.by = np.full(4, 0.5, np.float32) if by is None else by

    def transform(self, ac_data: Any) -> Any:
        for key in (SampleBatch.OBS, SampleBatch.NEXT_OBS):
            if key in ac_data.data:
                ac_data.data[key] = ac_data.data[key] + self.by
        return ac_data

    def to_state(self) -> tuple[str, Any]:
        return "Shift", {"by": self.by}

    @staticmethod
    def from_state(ctx: Any, params: Any) -> Shift:
        return Shift(ctx, np.array(params["by"]))


class Untold(AgentConnector):
    """A connector without to_state()."""

    def transform(self, ac_data: Any) -> Any:
        return ac_data


class Smuggler(Shift):
    """A connector whose state has a text that looks like a packed array."""

    def to_state(self) -> tuple[str, Any]:
        return "Smuggler", {"by": "eJ" + "x" * 200}

    @staticmethod
    def from_state(ctx: Any, params: Any) -> Smuggler:
        return Smuggler(ctx)


class ModelOutside(FullyConnectedNetwork):
    """RLlib's network as a subclass, which a config can name by its class."""


class NeedsUnused(SmallModel):
    """A class that needs an argument which has no plain form."""

    def __init__(self, *args: Any, unused: Any = None, **kwargs: Any) -> None:
        if unused is None:
            raise ValueError("unused is needed")
        super().__init__(*args, **kwargs)


class TwoHeaded(StatelessHeuristic):
    """A policy with a second network in a place that RLlib does not know."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.critic = torch.nn.Linear(2, 2)


class Forgetful(TableHeuristic):
    """A policy whose set_weights() does nothing."""

    def set_weights(self, weights: Any) -> None:
        self.table = np.zeros_like(weights["table"])


class StartsRay(StatelessHeuristic):
    """A policy that starts Ray in its constructor."""

    def __init__(self, *args: Any) -> None:
        import ray

        super().__init__(*args)
        if self.config.get("really"):
            ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR")
