"""The connector that converted policies need for observations that are no floats."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from ray.rllib.connectors.env_to_module import observation_preprocessor

__all__ = ["CastObservations"]

_Base: Any = getattr(
    observation_preprocessor,
    "SingleAgentObservationPreprocessor",
    getattr(observation_preprocessor, "ObservationPreprocessor", None),  # until Ray 2.47
)


class CastObservations(_Base):  # type: ignore[misc]
    """Casts observations of a Box to float32, without scaling.

    The networks of the old stack cast by themselves (models/torch/visionnet.py:232). Those of the
    new stack take floats only, so images in uint8 go through this connector.
    """

    def recompute_output_observation_space(
        self, input_observation_space: gym.Space[Any], input_action_space: gym.Space[Any]
    ) -> gym.Space[Any]:
        """Return the input's Box in float32; of several agents, each agent's."""
        if isinstance(input_observation_space, gym.spaces.Dict):
            return gym.spaces.Dict(
                {agent: _as_float(space) for agent, space in input_observation_space.items()}
            )
        return _as_float(input_observation_space)

    def preprocess(self, observation: Any, episode: Any = None) -> Any:
        """Return one observation in float32."""
        return np.asarray(observation).astype(np.float32)


def _as_float(space: gym.Space[Any]) -> gym.Space[Any]:
    if not isinstance(space, gym.spaces.Box):
        return space
    return gym.spaces.Box(
        space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32
    )
