"""Check raw observations for the players of both API stacks, and split batches into rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from ray.rllib.utils.typing import EnvObsType

from policystore._util.messages import brief
from policystore.errors import InvalidInputError
from policystore.play.observations import as_numbers, nan_error, other_keys

__all__ = ["as_observation", "in_range", "is_batch", "is_observation", "rows_of"]

_ARRAYS = (spaces.Box, spaces.MultiBinary, spaces.MultiDiscrete)


def as_observation(
    obs: Any, space: gym.Space[Any], label: str, allow_nan: bool = True
) -> EnvObsType:
    """Return an observation with numpy arrays in it; check its structure, shapes and values.

    Values may be out of the bounds of a Box, infinite ones too, and dtypes stay as they are: the
    values of an environment are often slightly out of bounds, or float64 for a float32 space. RLlib
    accepts both.

    Args:
        obs: one observation. Array-likes (lists, tensors) stand for arrays.
        space: the environment's observation space.
        label: how messages name the observation.
        allow_nan: whether numbers may be NaN.

    Raises:
        InvalidInputError: another structure, shape or kind of value, or NaN; the message says where
            in the observation, what was expected and what was found.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, Mapping) or set(obs) != set(space.spaces):
            raise InvalidInputError(f"{label}: {other_keys(obs, space.spaces)}")
        return {
            key: as_observation(obs[key], inner, f"{label}[{key!r}]", allow_nan)
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
            as_observation(part, inner, f"{label}[{index}]", allow_nan)
            for index, (part, inner) in pairs
        )
    if isinstance(space, _ARRAYS):
        array = _checked_array(obs, space, label)
        if not allow_nan and array.dtype.kind == "f" and np.isnan(array).any():
            raise nan_error(array, label, "rebuild_player")
        return array
    if not space.contains(obs):
        raise InvalidInputError(f"{label}: expected {_values(space)}, found {brief(obs)}")
    return obs


def _values(space: gym.Space[Any]) -> str:
    """Say which values a space has."""
    if isinstance(space, spaces.Discrete):
        return f"an integer from {space.start} to {space.start + space.n - 1}"
    return f"a value of {space}"


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


def _checked_array(obs: Any, space: gym.Space[Any], label: str) -> Any:
    array = as_numbers(obs, space.shape, space.dtype, label)
    if isinstance(space, spaces.MultiDiscrete) and not in_range(array, space):
        raise InvalidInputError(
            f"{label}: expected integers from {_start(space).tolist()} to "
            f"{(_start(space) + space.nvec - 1).tolist()}, found {brief(array.tolist())}"
        )
    return array


def in_range(numbers: Any, space: spaces.MultiDiscrete) -> bool:
    """Return whether an array, or a batch of arrays, has only numbers of a space."""
    start = _start(space)
    return bool(np.all(numbers >= start) and np.all(numbers < start + space.nvec))


def _start(space: spaces.MultiDiscrete) -> Any:
    return getattr(space, "start", np.zeros_like(space.nvec))


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
