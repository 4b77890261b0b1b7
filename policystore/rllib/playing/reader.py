"""Read observations into one array for each part of the observation space.

Observations that have just the form of the space are read in a few operations. All others take the
way of :mod:`policystore.rllib.playing.observations`, which says what is wrong with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from policystore.play.observations import nan_error
from policystore.rllib.playing.observations import in_range

__all__ = ["Change", "Leaf", "ObservationReader", "leaves_of"]

Leaf: TypeAlias = "tuple[tuple[Any, ...], gym.Space[Any]]"
"""A part of a space that has no parts: its path of keys and indices, and its space."""

Change: TypeAlias = Callable[[list[Any]], list[Any]]
"""What a connector does to the arrays of a batch, one for each leaf of the observations."""

_LEAVES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def leaves_of(space: gym.Space[Any], path: tuple[Any, ...] = ()) -> list[Leaf] | None:
    """Return the leaves of a space in its own order; None if some are of other classes."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        items: Any = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space)
        found: list[Leaf] = []
        for key, inner in items:
            leaves = leaves_of(inner, (*path, key))
            if leaves is None:
                return None
            found += leaves
        return found
    return [(path, space)] if type(space) in _LEAVES else None


class ObservationReader:
    """Reads observations of one space.

    Args:
        space: the environment's observation space.
        leaves: the parts of the space, as :func:`leaves_of` finds them.
        prepare: checks one observation and returns it in the form that the slow way plays; its
            second argument is how messages name the observation.
        cast: whether ``prepare`` casts observations to the dtypes of the space. If not, arrays have
            the dtype of the first observation.
        allow_nan: whether observations may be NaN.
    """

    def __init__(
        self,
        space: gym.Space[Any],
        leaves: list[Leaf],
        prepare: Callable[[Any, str], Any],
        *,
        cast: bool,
        allow_nan: bool,
    ) -> None:
        self.leaves = leaves
        self._space = space
        self._prepare = prepare
        self._cast = cast
        self._allow_nan = allow_nan

    def read(self, rows: Sequence[Any]) -> list[Any]:
        """Return an array for each leaf, whose first axis is the rows.

        Raises:
            InvalidInputError: as ``prepare``; or NaN.
        """
        split = [self._split(row) for row in rows]
        for index, parts in enumerate(split):
            if parts is None:
                prepared = self._prepare(rows[index], f"observation {index}")
                split[index] = [_at(prepared, path) for path, _ in self.leaves]
        arrays = []
        for number, (path, leaf) in enumerate(self.leaves):
            first = split[0][number]  # type: ignore[index]
            dtype = leaf.dtype if self._cast else getattr(first, "dtype", np.int64)
            array = np.empty((len(split), *leaf.shape), dtype)  # type: ignore[misc]
            for index, parts in enumerate(split):
                array[index] = parts[number]  # type: ignore[index]
            self._refuse_nan(array, path)
            arrays.append(array)
        return arrays

    def read_arrays(self, batch: Any) -> tuple[int, list[Any]] | None:
        """Return the number of rows of a batch of arrays, and its arrays.

        Returns:
            None if the rows have to be read one by one.
        """
        parts = self._split(batch, rows=True)
        if parts is None:
            return None
        count = len(parts[0])
        arrays = []
        for part, (path, leaf) in zip(parts, self.leaves, strict=True):
            if len(part) != count or not count:
                return None
            dtype = leaf.dtype if self._cast else part.dtype
            # torch takes neither arrays that are read-only nor such with negative strides.
            plain = part.dtype == dtype and part.flags.c_contiguous and part.flags.writeable
            array = part if plain else np.array(part, dtype, order="C")
            self._refuse_nan(array, path)
            arrays.append(array)
        return count, arrays

    def nested(self, leaves: Sequence[Any]) -> Any:
        """Return values in the structure of the space.

        Args:
            leaves: one value for each leaf, in the order of :meth:`read`.
        """
        return _nested(iter(leaves), self._space)

    def _split(self, value: Any, *, rows: bool = False) -> list[Any] | None:
        """Return the leaves of an observation or, if ``rows``, of a batch; None if in doubt."""
        found: list[Any] = []
        return found if self._collect(value, self._space, found, rows) else None

    def _collect(self, value: Any, space: gym.Space[Any], found: list[Any], rows: bool) -> bool:
        """Add the leaves of a value to a list; return whether the value has the form of a space."""
        if isinstance(space, spaces.Dict):
            return (
                isinstance(value, Mapping)
                and len(value) == len(space.spaces)
                and all(
                    key in value and self._collect(value[key], inner, found, rows)
                    for key, inner in space.spaces.items()
                )
            )
        if isinstance(space, spaces.Tuple):
            return (
                type(value) is tuple
                and len(value) == len(space.spaces)
                and all(
                    self._collect(part, inner, found, rows)
                    for part, inner in zip(value, space.spaces, strict=True)
                )
            )
        found.append(value)
        if isinstance(space, spaces.Discrete) and not rows:
            return type(value) in (int, np.int64) and space.start <= value < space.start + space.n
        if type(value) is not np.ndarray:
            return False
        shape = value.shape[1:] if rows else value.shape
        if value.ndim == rows + len(shape) and shape == space.shape:
            if isinstance(space, spaces.Discrete):
                return value.dtype.kind in "iu" and bool(
                    len(value) and value.min() >= space.start
                    and value.max() < space.start + space.n
                )  # fmt: skip
            if isinstance(space, spaces.MultiDiscrete):
                return value.dtype.kind in "iu" and in_range(value, space)
            return value.dtype == space.dtype or (
                value.dtype.kind == "f" and np.dtype(space.dtype).kind == "f"
            )
        return False

    def _refuse_nan(self, array: Any, path: tuple[Any, ...]) -> None:
        """Refuse NaN in the rows of one leaf."""
        if self._allow_nan or array.dtype.kind != "f" or not np.isnan(array).any():
            return
        row = next(index for index, part in enumerate(array) if np.isnan(part).any())
        place = "".join(f"[{key!r}]" for key in path)
        raise nan_error(array[row], f"observation {row}{place}", "rebuild_player")


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _nested(leaves: Iterator[Any], space: gym.Space[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _nested(leaves, inner) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_nested(leaves, inner) for inner in space.spaces)
    return next(leaves)
