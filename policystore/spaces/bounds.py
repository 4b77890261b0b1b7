"""Compare spaces without the bounds of their Boxes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

__all__ = ["without_bounds"]


def without_bounds(space: gym.Space[Any]) -> Any:
    """Return what two spaces share if they differ in the bounds of Boxes only.

    A Box gives its class, shape and dtype. A Dict or Tuple gives its parts. Any other space is
    returned itself, because its values are its meaning.
    """
    if isinstance(space, gym.spaces.Box):
        return type(space), space.shape, space.dtype
    if isinstance(space, gym.spaces.Dict):
        return type(space), {key: without_bounds(part) for key, part in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return type(space), [without_bounds(part) for part in space.spaces]
    return space
