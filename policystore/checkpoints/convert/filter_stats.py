"""Reads the statistics of MeanStdFilters of both API stacks, in the form that RLlib writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from policystore.errors import FormatError
from policystore.format.arrays import Array
from policystore.rllib_schema.packed_arrays import unpack_array

__all__ = ["FilterStats", "StatsReader"]

_MAX_ARRAYS = 10_000  # of one filter, which has two for each part of an observation
_MAX_BYTES = 1 << 28


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
        # Ray up to 2.40 writes the sum of squares under "std_array", though the sum is no standard
        # deviation.
        squares = entry["sum_sq_diff_array" if "sum_sq_diff_array" in entry else "std_array"]
        mean, sum_sq_diff = self._array(entry["mean_array"]), self._array(squares)
        return FilterStats(int(entry["num_pushes"]), mean, sum_sq_diff)

    def _array(self, value: object) -> Array:
        self._arrays_left -= 1
        array = unpack_array(value, self._label) if isinstance(value, str) else value
        if not isinstance(array, (np.ndarray, np.generic)) or array.dtype.kind not in "fiu":
            raise FormatError(f"{self._label}: statistics that are not numbers")
        self._bytes_left -= array.nbytes
        if self._arrays_left < 0 or self._bytes_left < 0:
            raise FormatError(f"{self._label}: more statistics than any filter has")
        return np.asarray(array, np.float64)
