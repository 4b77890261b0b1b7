"""Flatten observations, as RLlib does on both API stacks, for all rows of a batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

__all__ = ["flatten"]


def flatten(parts: Sequence[tuple[Any, gym.Space[Any]]]) -> Any:
    """Return one float32 array of two axes; numbers become one-hot vectors.

    Args:
        parts: arrays whose first axis is the rows, with the space of each row. The numbers of a
            MultiDiscrete space begin at 0.
    """
    count = len(parts[0][0])
    columns = []
    for array, leaf in parts:
        if isinstance(leaf, gym.spaces.Discrete):
            columns.append(_one_hot(array - leaf.start, int(leaf.n)))
        elif isinstance(leaf, gym.spaces.MultiDiscrete):
            numbers = array.reshape(count, -1)
            columns += [_one_hot(numbers[:, at], int(n)) for at, n in enumerate(leaf.nvec.ravel())]
        else:
            columns.append(array.reshape(count, -1).astype(np.float32))
    return np.concatenate(columns, axis=-1)


def _one_hot(numbers: Any, depth: int) -> Any:
    hot = np.zeros((len(numbers), depth), np.float32)
    hot[np.arange(len(numbers)), numbers] = 1.0
    return hot
