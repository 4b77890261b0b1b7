"""Actions in the form in which players return them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from ray.rllib.utils.typing import EnvActionType

__all__ = ["ActionWriter", "env_action"]


def env_action(action: Any, space: gym.Space[Any]) -> EnvActionType:
    """Return an action as an environment takes it: Python's ints for Discrete, else arrays.

    Args:
        action: an action in the structure of ``space``, in numpy's types.
        space: the environment's action space. An action of a space that gymnasium does not
            define is returned as it is.
    """
    if isinstance(space, gym.spaces.Discrete):
        return int(action)
    if isinstance(space, gym.spaces.Dict) and isinstance(action, Mapping):
        return {key: env_action(action[key], inner) for key, inner in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple) and isinstance(action, (tuple, list)):
        pairs = zip(action, space.spaces, strict=True)
        return tuple(env_action(part, inner) for part, inner in pairs)
    if isinstance(space, (gym.spaces.Box, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary)):
        return np.asarray(action)
    return action


class ActionWriter:
    """Turns a batch of a policy's actions into the actions of environments.

    Boxes are unsquashed and clipped as RLlib does (``unsquash_action`` and ``clip_action`` in
    ``utils/spaces/space_utils.py``), in one operation for all rows.

    Args:
        space: the environment's action space.
        normalize: whether Box actions are unsquashed to the bounds of the space.
        clip: whether Box actions are clipped to the bounds.
    """

    def __init__(self, space: gym.Space[Any], *, normalize: bool, clip: bool) -> None:
        self._space = space
        self._normalize = normalize
        self._clip = clip

    def write(self, actions: Any) -> list[EnvActionType]:
        """Return one action for each row, in the form of :func:`env_action`.

        Args:
            actions: arrays in the structure of the space, whose first axis is the rows.
        """
        return self._write(actions, self._space)

    def _write(self, batch: Any, space: gym.Space[Any]) -> list[Any]:
        if type(space) is gym.spaces.Discrete and batch.ndim == 1 and batch.dtype.kind in "iu":
            listed: list[Any] = batch.tolist()
            return listed
        if isinstance(space, gym.spaces.Dict):
            columns = [self._write(batch[key], inner) for key, inner in space.spaces.items()]
            return [dict(zip(space.spaces, row, strict=True)) for row in zip(*columns, strict=True)]
        if isinstance(space, gym.spaces.Tuple):
            pairs = zip(batch, space.spaces, strict=True)
            return list(zip(*(self._write(part, inner) for part, inner in pairs), strict=True))
        if isinstance(space, gym.spaces.Box):
            batch = self._in_bounds(batch, space)
        return [env_action(row, space) for row in batch]

    def _in_bounds(self, batch: Any, space: gym.spaces.Box) -> Any:
        """Unsquash and clip a batch of Box actions."""
        low, high = space.low, space.high
        if self._normalize and np.all(space.bounded_below) and np.all(space.bounded_above):
            if space.dtype in (np.float32, np.float64):
                batch = np.clip(low + (batch + 1.0) * (high - low) / 2.0, low, high)
            elif np.issubdtype(space.dtype, np.integer):
                batch = low + batch
        return np.clip(batch, low, high) if self._clip else batch
