"""Turn a policy's action into the environment's, with tensors: unsquash, clip, cast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

__all__ = ["ByLeaf", "Clip", "Unsquash"]


class ByLeaf(torch.nn.Module):
    """Applies to each part of an action a module that was made for the space of this part.

    Args:
        make: makes the module for a space that is no Dict and no Tuple.
        space: the action space.
    """

    def __init__(
        self, make: Callable[[gym.Space[Any]], torch.nn.Module], space: gym.Space[Any]
    ) -> None:
        super().__init__()
        self.space = space
        self.leaves = torch.nn.ModuleList(make(leaf) for leaf in _leaves(space))

    def forward(self, action: Any) -> Any:
        """Return the changed action, in the same structure."""
        return _mapped(action, self.space, iter(self.leaves))


def _leaves(space: gym.Space[Any]) -> Iterator[gym.Space[Any]]:
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        for inner in space.values() if isinstance(space, spaces.Dict) else space.spaces:
            yield from _leaves(inner)
    else:
        yield space


def _mapped(action: Any, space: gym.Space[Any], leaves: Iterator[torch.nn.Module]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _mapped(action[key], inner, leaves) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(
            _mapped(part, inner, leaves) for part, inner in zip(action, space.spaces, strict=True)
        )
    return next(leaves)(action)


class _Bounded(torch.nn.Module):
    """A change of an action in a Box."""

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        # With a first axis, torch finds the dtypes of results as numpy finds them for arrays.
        self.register_buffer("low", torch.from_numpy(np.array(space.low)[None]))
        self.register_buffer("high", torch.from_numpy(np.array(space.high)[None]))

    def _clipped(self, action: torch.Tensor) -> torch.Tensor:
        return torch.minimum(torch.maximum(action, self.low), self.high)


class _Scale(_Bounded):
    def forward(self, action: torch.Tensor) -> torch.Tensor:
        """Scale from [-1, 1] to the bounds, then clip."""
        return self._clipped(self.low + (action + 1.0) * (self.high - self.low) / 2.0)


class _Shift(_Bounded):
    def forward(self, action: torch.Tensor) -> torch.Tensor:
        """Add the lower bound to an action that counts from 0."""
        return self.low + action


class _Clip(_Bounded):
    def forward(self, action: torch.Tensor) -> torch.Tensor:
        """Clip to the bounds."""
        return self._clipped(action)


class Unsquash(ByLeaf):
    """Scales actions in [-1, 1] to the bounds, as RLlib's ``unsquash_action`` does.

    See utils/spaces/space_utils.py:431.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        super().__init__(_unsquash, space)


def _unsquash(space: gym.Space[Any]) -> torch.nn.Module:
    if not isinstance(space, spaces.Box):
        return torch.nn.Identity()
    if not (np.all(space.bounded_below) and np.all(space.bounded_above)):
        return torch.nn.Identity()
    if space.dtype in (np.float32, np.float64):
        return _Scale(space)
    return _Shift(space) if np.issubdtype(space.dtype, np.integer) else torch.nn.Identity()


class Clip(ByLeaf):
    """Clips actions to the bounds, as RLlib's ``clip_action`` (utils/spaces/space_utils.py:406)."""

    def __init__(self, space: gym.Space[Any]) -> None:
        super().__init__(
            lambda leaf: _Clip(leaf) if isinstance(leaf, spaces.Box) else torch.nn.Identity(), space
        )
