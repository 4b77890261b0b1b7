"""Check and prepare the observation spaces of environments for old-stack policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from ray.rllib.models.preprocessors import get_preprocessor
from ray.rllib.policy.policy import Policy

from policystore.rllib.common.player_args import observation_mismatch
from policystore.snapshot import Snapshot

__all__ = ["check_observations", "has_preprocessor", "unbounded"]


def unbounded(space: gym.Space[Any]) -> gym.Space[Any]:
    """Return the same space with Boxes as wide as their dtype.

    RLlib's preprocessors check every hundredth observation, and raise if it is out of bounds
    (models/preprocessors.py:63). Preprocessors that are made for the returned space take all
    observations.
    """
    if isinstance(space, spaces.Dict):
        return spaces.Dict([(key, unbounded(inner)) for key, inner in space.spaces.items()])
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([unbounded(inner) for inner in space.spaces])
    if type(space) is spaces.Box and space.dtype is not None:
        dtype = np.dtype(space.dtype)
        if dtype.kind == "f":
            return spaces.Box(-np.inf, np.inf, space.shape, dtype.type)
        if dtype.kind in "iu":
            low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
            return spaces.Box(low, high, space.shape, dtype.type)
    return space


def has_preprocessor(config: Mapping[str, Any]) -> bool:
    """Return whether RLlib puts a preprocessor before a policy (connectors/util.py:31-40)."""
    return not config["_disable_preprocessor_api"] and config["preprocessor_pref"] is not None


def check_observations(snap: Snapshot, policy: Policy, env_space: gym.Space[Any]) -> None:
    """Check that RLlib's preprocessor turns observations into what a policy takes.

    Args:
        snap: the snapshot that ``policy`` was rebuilt from.
        policy: a policy that is to be played with its recorded or default connectors.
        env_space: the environment's observation space.

    Raises:
        InvalidInputError: the observations have another shape or structure.
    """
    needed = policy.observation_space
    made: object = env_space
    if has_preprocessor(policy.config):
        shape = get_preprocessor(env_space)(env_space, policy.config["model"]).shape
        made = f"arrays of shape {tuple(shape)}"
        fits = tuple(shape) == needed.shape
    elif isinstance(env_space, spaces.Box):
        fits = env_space.shape == needed.shape
    else:
        fits = unbounded(env_space) == unbounded(needed)
    if not fits:
        raise observation_mismatch(snap, env_space, made, needed)
