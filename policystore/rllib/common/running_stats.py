"""Build RLlib's running statistics, which filters of both API stacks keep, from checked arrays.

``RunningStat.from_state`` decodes texts by unpickling them (utils/serialization.py:83); nothing
that comes from a store is passed to this function.
"""

from __future__ import annotations

import numpy as np
from ray.rllib.utils.filter import RunningStat

from policystore.rllib.worker_code.compat import squares_name

__all__ = ["running_stat"]


def running_stat(count: object, mean: object, squares: object) -> RunningStat:
    """Build running statistics that own their arrays.

    Args:
        count: number of observations, an int from 0 on.
        mean: float64 array of the observations' shape.
        squares: sum of squared differences, a float64 array of the same shape.

    Raises:
        TypeError, ValueError: an argument is something else.
    """
    if type(count) is not int or count < 0:
        raise ValueError(f"a count of {count!r}")
    if not isinstance(mean, np.ndarray) or not isinstance(squares, np.ndarray):
        raise TypeError("mean and sum_sq_diff are arrays")
    if mean.dtype != np.float64 or squares.dtype != np.float64 or mean.shape != squares.shape:
        raise ValueError("mean and sum_sq_diff are float64 arrays of one shape")
    stat = RunningStat(mean.shape)
    stat.num_pushes = count
    stat.mean_array = np.array(mean)
    setattr(stat, squares_name(stat), np.array(squares))
    return stat
