"""The torch modules that are exported: from plain tensors to plain tensors, in named order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import tree as dm_tree

from policystore.format.canonical_json import JsonObject
from policystore.play.metadata import StateInfo, TensorInfo, action_tensors, observation_tensors
from policystore.play.spaces import PlaySpace, flatten, read_space, tensor_name, unflatten
from policystore.rllib.exporting.networks import Network
from policystore.rllib.exporting.refusal import not_exportable

__all__ = ["Graph", "NetworkGraph", "PlayerGraph", "numpy_name", "torch_dtype"]


def torch_dtype(name: str) -> torch.dtype:
    """Return torch's dtype for numpy's name of one."""
    return torch.from_numpy(np.zeros(0, np.dtype(name))).dtype


def numpy_name(dtype: torch.dtype) -> str:
    """Return numpy's name of a dtype of torch."""
    return str(dtype).removeprefix("torch.")


class Graph(torch.nn.Module):
    """Takes the parts of a batch of observations, then the state; returns outputs, then the state.

    The first axis of every tensor is the batch.

    Attributes:
        inputs, outputs: what the tensors are, without the state.
        state: the recurrent state.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    state: tuple[StateInfo, ...]

    def __init__(self, network: Network, observation_space: JsonObject) -> None:
        super().__init__()
        self.network = network
        self.obs_space: PlaySpace = read_space(observation_space, label="the observation space")
        self.state = tuple(
            StateInfo(
                input=f"state_in/{part.name}",
                output=f"state_out/{part.name}",
                dtype=numpy_name(part.dtype),
                shape=part.shape,
            )
            for part in network.state_parts
        )

    @property
    def input_names(self) -> list[str]:
        """The names of all inputs, in order."""
        return [one.name for one in self.inputs] + [part.input for part in self.state]

    @property
    def output_names(self) -> list[str]:
        """The names of all outputs, in order."""
        return [one.name for one in self.outputs] + [part.output for part in self.state]

    def example(self, rows: int) -> tuple[torch.Tensor, ...]:
        """Return zeros for all inputs."""
        tensors: list[TensorInfo | StateInfo] = [*self.inputs, *self.state]
        return tuple(
            torch.zeros((rows, *one.shape), dtype=torch_dtype(one.dtype)) for one in tensors
        )

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute one step of each row."""
        count = len(self.inputs)
        obs = unflatten(self.obs_space, tensors[:count])
        outputs, state = self.step(obs, tensors[count:])
        return (*outputs, *state)

    def step(
        self, obs: Any, state: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the outputs and the next state."""
        raise NotImplementedError


class PlayerGraph(Graph):
    """Computes the environment's action from the environment's observation.

    Args:
        network: the policy's network.
        prepare: the stages before the network.
        finish: the stages after the distribution.
        observation_space, action_space: the environment's, as JSON.
        dtypes: numpy's names of the dtypes of the player's actions, part by part.
    """

    def __init__(
        self,
        network: Network,
        prepare: torch.nn.Module,
        finish: Sequence[torch.nn.Module],
        observation_space: JsonObject,
        action_space: JsonObject,
        dtypes: Sequence[str],
    ) -> None:
        super().__init__(network, observation_space)
        self.prepare = prepare
        self.finish = torch.nn.ModuleList(finish)
        self.action_space = read_space(action_space, label="the action space")
        self.inputs = observation_tensors(observation_space)
        self.outputs = tuple(
            replace(one, dtype=dtype)
            for one, dtype in zip(action_tensors(action_space), dtypes, strict=True)
        )

    def step(
        self, obs: Any, state: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the parts of the action, and the next state."""
        outputs, next_state = self.network(self.prepare(obs), state)
        action = self.network.action(outputs)
        for stage in self.finish:
            action = stage(action)
        parts = [
            part.to(torch_dtype(one.dtype))
            for part, one in zip(flatten(self.action_space, action), self.outputs, strict=True)
        ]
        return parts, next_state


class NetworkGraph(Graph):
    """Computes what the network alone computes from what the network sees.

    Args:
        network: the policy's network.
        observation_space: the network's own, as JSON.

    Raises:
        Exception: whatever the network raises at its first step, which this call takes to learn the
            names and shapes of the outputs.
    """

    def __init__(self, network: Network, observation_space: JsonObject) -> None:
        super().__init__(network, observation_space)
        # RLlib turns all floats but float16 into float32 before a network sees them.
        self.inputs = tuple(
            replace(one, dtype="float32") if one.dtype in ("float64", "bfloat16") else one
            for one in observation_tensors(observation_space)
        )
        example = self.example(2)
        count = len(self.inputs)
        with torch.no_grad():
            found, _ = network(unflatten(self.obs_space, example[:count]), example[count:])
        for path, value in _named(found):
            if value.shape[:1] != (2,):
                raise not_exportable(
                    f"the output {tensor_name('', path)[1:]!r}", "is not one value for each row"
                )
            if value.dtype == torch.bfloat16:
                raise not_exportable(
                    f"the output {tensor_name('', path)[1:]!r} in bfloat16",
                    "has a dtype that numpy does not have",
                )
        self.outputs = tuple(
            TensorInfo(
                name=tensor_name("", path)[1:],
                path=tuple(path),
                dtype=numpy_name(value.dtype),
                shape=tuple(value.shape[1:]),
                meaning=_MEANINGS.get(path[0], "what the module puts out under this name"),
            )
            for path, value in _named(found)
        )

    def step(
        self, obs: Any, state: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the outputs of the network, and the next state."""
        outputs, next_state = self.network(obs, state)
        return [value for _, value in _named(outputs)], next_state


_MEANINGS = {
    "action_dist_inputs": "inputs of the action distribution",
    "value": "value of the observation",
}


def _named(outputs: dict[str, Any]) -> list[tuple[tuple[Any, ...], torch.Tensor]]:
    """Return the tensors among a network's outputs, with the keys that lead to them."""
    return [
        (path, value)
        for path, value in dm_tree.flatten_with_path(outputs)
        if isinstance(value, torch.Tensor)
    ]
