"""Observations to check an exported file with: random ones, and the extremes of a space."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

__all__ = ["LARGE", "extreme_observations", "random_observation"]

LARGE = 1e6
"""Stands for the bounds of a Box that are further away than this, or infinite."""


def random_observation(space: gym.Space[Any], random: np.random.Generator) -> Any:
    """Return a random observation. Numbers of a Box are small or spread over the bounds."""
    if isinstance(space, spaces.Dict):
        return {key: random_observation(part, random) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(random_observation(part, random) for part in space.spaces)
    if isinstance(space, spaces.Box):
        return _random_box(space, random)
    if isinstance(space, spaces.Discrete):
        return np.int64(space.start + random.integers(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        values = random.integers(np.zeros_like(space.nvec), space.nvec) + space.start
        return values.astype(space.dtype)
    if isinstance(space, spaces.MultiBinary):
        return random.integers(0, 2, space.shape).astype(space.dtype)
    return space.sample()


def _random_box(space: spaces.Box, random: np.random.Generator) -> Any:
    low, high = _bounds(space)
    if np.dtype(space.dtype).kind in "iub":
        return np.asarray(random.integers(low, high, endpoint=True)).astype(space.dtype)
    if random.integers(2):
        values = random.uniform(low, high)
    else:
        values = np.clip(random.normal(size=space.shape) * random.choice([0.1, 1, 10]), low, high)
    return np.asarray(values).astype(space.dtype)


def _bounds(space: spaces.Box) -> tuple[Any, Any]:
    """Return the bounds, at most ``LARGE`` from 0 where they are numbers with a point."""
    if np.dtype(space.dtype).kind in "iub":
        return space.low.astype(np.int64), space.high.astype(np.int64)
    limit = min(LARGE, float(np.finfo(space.dtype).max))
    return (np.clip(bound.astype(np.float64), -limit, limit) for bound in (space.low, space.high))  # type: ignore[return-value]


def extreme_observations(space: gym.Space[Any]) -> list[Any]:
    """Return observations at the lower bounds, the upper bounds, both by turns, and near 0."""
    return [_extreme(space, kind) for kind in ("low", "high", "turns", "zero")]


def _extreme(space: gym.Space[Any], kind: str) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _extreme(part, kind) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_extreme(part, kind) for part in space.spaces)
    if isinstance(space, spaces.Discrete):
        low, high = np.int64(space.start), np.int64(space.start + space.n - 1)
    elif isinstance(space, spaces.MultiDiscrete):
        low, high = space.start, space.start + space.nvec - 1
    elif isinstance(space, spaces.MultiBinary):
        low, high = np.zeros(space.shape, np.int8), np.ones(space.shape, np.int8)
    elif isinstance(space, spaces.Box):
        low, high = _bounds(space)
    else:
        return space.sample()
    if kind == "turns":
        odd = np.arange(np.size(low)).reshape(np.shape(low)) % 2 == 1
        chosen = np.where(odd, high, low)
    else:
        chosen = {"low": low, "high": high, "zero": np.clip(0, low, high)}[kind]
    return np.asarray(chosen).astype(space.dtype)[()]
