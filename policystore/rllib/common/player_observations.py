"""Check raw observations for the players of both API stacks, and split batches into rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from ray.rllib.utils.typing import EnvObsType

from policystore.errors import InvalidInputError

__all__ = ["as_observation", "is_batch", "is_observation", "rows_of"]

_ARRAYS = (spaces.Box, spaces.MultiBinary, spaces.MultiDiscrete)


def as_observation(obs: Any, space: gym.Space[Any], label: str) -> EnvObsType:
    """Return an observation with numpy arrays in it; check its structure and shapes.

    Values and dtypes stay as they are. The values of an environment are often slightly out of
    bounds, or float64 for a float32 space; RLlib accepts both.

    Args:
        obs: one observation. Array-likes (lists, tensors) stand for arrays.
        space: the environment's observation space.
        label: how messages name the observation.

    Raises:
        InvalidInputError: another structure, shape or kind of value; the message says where.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, Mapping) or set(obs) != set(space.spaces):
            keys = sorted(map(str, obs)) if isinstance(obs, Mapping) else type(obs).__name__
            raise InvalidInputError(
                f"{label}: expected a dict with the keys {sorted(map(str, space.spaces))}, "
                f"found {keys}"
            )
        return {
            key: as_observation(obs[key], inner, f"{label}[{key!r}]")
            for key, inner in space.spaces.items()
        }
    if isinstance(space, spaces.Tuple):
        if not isinstance(obs, (tuple, list)) or len(obs) != len(space.spaces):
            raise InvalidInputError(
                f"{label}: expected a tuple of {len(space.spaces)} observations, found "
                f"{type(obs).__name__}"
                + (f" of {len(obs)}" if isinstance(obs, (tuple, list)) else "")
            )
        pairs = enumerate(zip(obs, space.spaces, strict=True))
        return tuple(
            as_observation(part, inner, f"{label}[{index}]") for index, (part, inner) in pairs
        )
    if isinstance(space, _ARRAYS):
        return _checked_array(obs, space.shape, label)
    if not space.contains(obs):
        raise InvalidInputError(f"{label}: {obs!r} is not in {space}")
    return obs


def is_observation(value: Any, space: gym.Space[Any]) -> bool:
    """Return whether :func:`as_observation` takes a value as an observation of a space."""
    try:
        as_observation(value, space, "")
    except InvalidInputError:
        return False
    return True


def is_batch(value: Any, space: gym.Space[Any]) -> bool:
    """Return whether a value is a batch, as :func:`rows_of` takes it, of at least one observation.

    An iterator is not looked at, because it can be read only once.
    """
    if isinstance(value, Iterator):
        return False
    try:
        rows = rows_of(value, space)
    except InvalidInputError:
        return False
    return bool(rows) and all(is_observation(row, space) for row in rows)


def _checked_array(obs: Any, shape: tuple[int, ...], label: str) -> EnvObsType:
    try:
        array = np.asarray(obs)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(f"{label}: not an array of shape {shape}: {error}") from None
    if array.shape != shape or array.dtype.kind not in "biuf":
        raise InvalidInputError(
            f"{label}: expected numbers of shape {shape}, found {type(obs).__name__} of shape "
            f"{array.shape} and dtype {array.dtype}"
        )
    return array


def rows_of(batch: Any, space: gym.Space[Any]) -> list[EnvObsType]:
    """Split a batch into its observations, one for each row.

    Args:
        batch: a list of observations, or another iterable of them; or an array, or a dict or
            tuple of arrays in the structure of ``space``, as vectorized environments return them,
            whose first axis is the rows. If ``space`` is a Tuple space, a tuple holds a batch for
            each of its parts; otherwise a tuple is a list of observations.
        space: the space of one observation.

    Raises:
        InvalidInputError: a batch of another form, or arrays with different numbers of rows.
    """
    counts: set[int] = set()
    rows: list[EnvObsType] | None = None
    if isinstance(batch, (Mapping, np.ndarray)) or (
        isinstance(batch, tuple) and isinstance(space, spaces.Tuple)
    ):
        rows = _split(batch, space, counts)
    elif isinstance(batch, Iterable) and not isinstance(batch, (str, bytes)):
        return list(batch)
    if rows is None or len(counts) != 1:
        raise InvalidInputError(
            "a batch is a list of observations, or arrays whose first axis is the rows, in the "
            f"structure of {space}; found {type(batch).__name__}"
            + (f" with {sorted(counts)} rows" if len(counts) > 1 else "")
        )
    return rows


def _split(batch: Any, space: gym.Space[Any], counts: set[int]) -> list[EnvObsType] | None:
    """Split arrays along their first axis; None if they do not have the structure of ``space``.

    The length of each array's first axis is added to ``counts``.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(batch, Mapping) or set(batch) != set(space.spaces):
            return None
        parts = [_split(batch[key], inner, counts) for key, inner in space.spaces.items()]
        if any(part is None for part in parts) or len(counts) != 1:
            return None
        return [dict(zip(space.spaces, row, strict=True)) for row in zip(*parts, strict=True)]
    if isinstance(space, spaces.Tuple):
        if not isinstance(batch, tuple) or len(batch) != len(space.spaces):
            return None
        parts = [_split(part, inner, counts) for part, inner in zip(batch, space, strict=True)]
        if any(part is None for part in parts) or len(counts) != 1:
            return None
        return list(zip(*parts, strict=True))
    if not isinstance(batch, np.ndarray) or batch.ndim == 0:
        return None
    counts.add(len(batch))
    return list(batch)
