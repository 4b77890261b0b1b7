"""Reads the statistics of MeanStdFilters of both API stacks, in the form that RLlib writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from policystore.checkpoints.files.placeholders import (
    BAD_DATA_ERRORS,
    Global,
    UnbuiltObject,
    kind_of,
)
from policystore.errors import FormatError
from policystore.format.arrays import Array
from policystore.rllib_schema.packed_arrays import unpack_array

__all__ = ["FilterStats", "StatsReader", "is_filter", "read_filter_object"]

_MAX_ARRAYS = 10_000  # of one filter, which has two for each part of an observation
_MAX_BYTES = 1 << 28


_FILTERS = ("MeanStdFilter", "ConcurrentMeanStdFilter")
_MAX_DEPTH = 40


@dataclass(frozen=True)
class FilterStats:
    """Running statistics of one part of an observation.

    Attributes:
        count: number of observations.
        mean: mean of the observations; float64.
        sum_sq_diff: sum of the observations' squared differences from the mean; float64.
    """

    count: int
    mean: Array
    sum_sq_diff: Array


class StatsReader:
    """Reads the statistics of one filter, within limits for all statistics of the filter together.

    Args:
        label: names the filter in error messages.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._arrays_left = _MAX_ARRAYS
        self._bytes_left = _MAX_BYTES

    def read(self, entry: Any) -> FilterStats:
        """Read the statistics of one part of an observation.

        Args:
            entry: the state of RLlib's ``RunningStat``.

        Raises:
            FormatError: more statistics than any filter has, or statistics that are not numbers.
            KeyError, TypeError, ValueError: not the state of a ``RunningStat``.
        """
        # Ray up to 2.47 writes the sum of squares under "std_array", though the sum is no standard
        # deviation.
        squares = entry["sum_sq_diff_array" if "sum_sq_diff_array" in entry else "std_array"]
        mean, sum_sq_diff = self._array(entry["mean_array"]), self._array(squares)
        return FilterStats(int(entry["num_pushes"]), mean, sum_sq_diff)

    def read_object(self, stats: UnbuiltObject) -> FilterStats:
        """Read a pickled ``RunningStat``, as Ray up to 2.2 wrote it.

        Raises:
            FormatError, KeyError, TypeError, ValueError: as :meth:`read`.
        """
        entry = stats.attributes()
        if "_n" not in entry:  # Ray 2.1 and 2.2
            return self.read(entry)
        return FilterStats(int(entry["_n"]), self._array(entry["_M"]), self._array(entry["_S"]))

    def _array(self, value: object) -> Array:
        self._arrays_left -= 1
        array = unpack_array(value, self._label) if isinstance(value, str) else value
        if not isinstance(array, (np.ndarray, np.generic)) or array.dtype.kind not in "fiu":
            raise FormatError(f"{self._label}: statistics that are not numbers")
        self._bytes_left -= array.nbytes
        if self._arrays_left < 0 or self._bytes_left < 0:
            raise FormatError(f"{self._label}: more statistics than any filter has")
        return np.asarray(array, np.float64)


def is_filter(value: object) -> TypeGuard[UnbuiltObject]:
    """Return whether a value out of a file is the object of a filter that has statistics."""
    cls = value.cls if isinstance(value, UnbuiltObject) else None
    return isinstance(cls, Global) and cls.name in _FILTERS


def read_filter_object(value: UnbuiltObject, label: str) -> dict[str, Any]:
    """Read a pickled ``MeanStdFilter``, as Ray up to 2.2 wrote it beside the policies.

    The formula is that of later filters (``rllib/utils/filter.py``): the difference from the mean,
    divided by the standard deviation plus 1e-6 (1e-8 in Ray 1.9), and clipped only if ``clip`` is a
    number.

    Args:
        value: the filter.
        label: names the filter in error messages.

    Returns:
        ``demean``, ``destd``, ``clip`` (None: values are not clipped), and ``running_stats``: a
        list of :class:`FilterStats`, one for each part of an observation, in the order of dm-tree.

    Raises:
        FormatError: statistics that are not of that form.
    """
    reader = StatsReader(label)
    attributes = value.attributes()
    try:
        stats = attributes["rs" if "rs" in attributes else "running_stats"]
        clip = attributes["clip"]
        return {
            "demean": bool(attributes["demean"]),
            "destd": bool(attributes["destd"]),
            "clip": float(clip) if clip else None,
            "running_stats": [reader.read_object(part) for part in _running_stats(stats, 0)],
        }
    except FormatError:
        raise
    except BAD_DATA_ERRORS as error:
        raise FormatError(f"{label}: damaged statistics of a filter: {error!r:.200}") from None


def _running_stats(value: object, depth: int) -> Iterator[UnbuiltObject]:
    """Yield the statistics in nested containers, in the order of dm-tree: dicts by sorted keys."""
    if depth > _MAX_DEPTH:
        raise ValueError("statistics that are nested beyond any use")
    if isinstance(value, UnbuiltObject) and value.entries:
        value = value.entries
    if isinstance(value, UnbuiltObject):
        yield value
        return
    parts = [value[key] for key in sorted(value)] if isinstance(value, Mapping) else value
    if not isinstance(parts, (list, tuple)):
        raise TypeError(f"expected statistics, found {kind_of(value)}")
    for part in parts:
        yield from _running_stats(part, depth + 1)
