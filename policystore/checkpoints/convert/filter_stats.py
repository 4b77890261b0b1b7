"""Statistics of MeanStdFilters as RLlib writes them, of either API stack."""

from __future__ import annotations

from typing import Any

import numpy as np

from policystore.errors import FormatError
from policystore.format.arrays import Array
from policystore.rllib_schema.packed_arrays import unpack_array

__all__ = ["StatisticsReader"]

_MOST = 10_000  # of one filter: one for each part of an observation
_BYTES = 1 << 28


class StatisticsReader:
    """Reads one after the other, within bounds for all of them together.

    Args:
        what: how messages name the filter.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._left = _MOST
        self._bytes = _BYTES

    def __call__(self, stat: Any) -> tuple[int, Array, Array]:
        """Number of observations, mean and sum of squared differences (float64).

        Raises:
            FormatError: more than any filter has, or no arrays of numbers.
            KeyError, TypeError, ValueError: not of the form that RLlib writes.
        """
        # Ray 2.40 and before call the sum std_array, which it is not.
        squares = stat["sum_sq_diff_array"] if "sum_sq_diff_array" in stat else stat["std_array"]
        arrays = [self._array(value) for value in (stat["mean_array"], squares)]
        return int(stat["num_pushes"]), arrays[0], arrays[1]

    def _array(self, value: Any) -> Array:
        self._left -= 1
        found = unpack_array(value, self._what) if isinstance(value, str) else value
        if not isinstance(found, (np.ndarray, np.generic)) or found.dtype.kind not in "fiu":
            raise FormatError(f"{self._what}: statistics that are no numbers")
        self._bytes -= found.nbytes
        if self._left < 0 or self._bytes < 0:
            raise FormatError(f"{self._what}: more statistics than any filter has")
        return np.asarray(found, np.float64)
