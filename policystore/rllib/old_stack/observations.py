"""Raw observations of environments: checked against their space, and split into rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from policystore.errors import InvalidInputError

__all__ = ["as_observation", "rows_of", "unbounded"]


def as_observation(obs: Any, space: gym.Space[Any], what: str) -> Any:
    """An observation with arrays in it, refused if its structure or shape is not its space's.

    Values and dtypes pass as they are: environments often leave their bounds a little, and give
    float64 for a float32 space; RLlib takes both.

    Raises:
        InvalidInputError: says where it differs.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, Mapping) or set(obs) != set(space.spaces):
            found = sorted(map(str, obs)) if isinstance(obs, Mapping) else type(obs).__name__
            raise InvalidInputError(
                f"{what}: expected a dict with the keys {sorted(map(str, space.spaces))}, "
                f"found {found}"
            )
        return {
            key: as_observation(obs[key], inner, f"{what}[{key!r}]")
            for key, inner in space.spaces.items()
        }
    if isinstance(space, spaces.Tuple):
        if not isinstance(obs, (tuple, list)) or len(obs) != len(space.spaces):
            raise InvalidInputError(
                f"{what}: expected a tuple of {len(space.spaces)} observations, found "
                f"{type(obs).__name__}"
                + (f" of {len(obs)}" if isinstance(obs, (tuple, list)) else "")
            )
        pairs = enumerate(zip(obs, space.spaces, strict=True))
        return tuple(
            as_observation(part, inner, f"{what}[{index}]") for index, (part, inner) in pairs
        )
    if isinstance(space, (spaces.Box, spaces.MultiBinary, spaces.MultiDiscrete)):
        return _as_array(obs, space.shape, what)
    if not space.contains(obs):
        raise InvalidInputError(f"{what}: {obs!r} is not in {space}")
    return obs


def _as_array(obs: Any, shape: tuple[int, ...], what: str) -> Any:
    try:
        array = np.asarray(obs)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(f"{what}: not an array of shape {shape}: {error}") from None
    if array.shape != shape or array.dtype.kind not in "biuf":
        raise InvalidInputError(
            f"{what}: expected numbers of shape {shape}, found {type(obs).__name__} of shape "
            f"{array.shape} and dtype {array.dtype}"
        )
    return array


def unbounded(space: gym.Space[Any]) -> gym.Space[Any]:
    """The same space with Boxes as wide as their dtype.

    RLlib's preprocessors raise at each hundredth observation that is out of bounds and take the
    others (models/preprocessors.py:63); made for this space, they take all.
    """
    if isinstance(space, spaces.Dict):
        return spaces.Dict([(key, unbounded(inner)) for key, inner in space.spaces.items()])
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([unbounded(inner) for inner in space.spaces])
    if type(space) is spaces.Box and space.dtype is not None:
        kind = np.dtype(space.dtype)
        if kind.kind == "f":
            return spaces.Box(-np.inf, np.inf, space.shape, kind.type)
        if kind.kind in "iu":
            low, high = np.iinfo(kind).min, np.iinfo(kind).max
            return spaces.Box(low, high, space.shape, kind.type)
    return space


def rows_of(batch: Any, space: gym.Space[Any]) -> list[Any]:
    """The observations of a batch, one for each row.

    Args:
        batch: a list of observations; or an array, or a dict or tuple of arrays, as vectorized
            environments give them, whose first axis is the rows.
        space: of one observation.

    Raises:
        InvalidInputError: neither of these, or arrays with different numbers of rows.
    """
    if isinstance(batch, list):
        return batch
    counts: set[int] = set()
    rows = _split(batch, space, counts)
    if rows is None or len(counts) != 1:
        raise InvalidInputError(
            "a batch is a list of observations, or arrays whose first axis is the rows, in the "
            f"structure of {space}; found {type(batch).__name__}"
            + (f" with {sorted(counts)} rows" if len(counts) > 1 else "")
        )
    return rows


def _split(batch: Any, space: gym.Space[Any], counts: set[int]) -> list[Any] | None:
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
