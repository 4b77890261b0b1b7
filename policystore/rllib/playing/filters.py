"""Apply RLlib's MeanStdFilter, which both API stacks share, to all rows of a batch at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.rllib.utils.filter import MeanStdFilter
from ray.rllib.utils.numpy import SMALL_NUMBER

from policystore.rllib.playing.reader import Change

__all__ = ["filter_change"]


def filter_change(observation_filter: MeanStdFilter) -> Change | None:
    """Return what a filter with its present statistics does (``__call__``, utils/filter.py).

    Returns:
        A function of a list with one array, whose first axis is the rows; None for a filter of
        nested observations.
    """
    stats, clip = observation_filter.running_stats, observation_filter.clip
    if type(observation_filter) is not MeanStdFilter or not hasattr(stats, "mean"):
        return None
    mean = stats.mean if observation_filter.demean else None
    spread = stats.std + SMALL_NUMBER if observation_filter.destd else None

    def normalized(arrays: list[Any]) -> list[Any]:
        (array,) = arrays
        dtype = array.dtype
        if mean is not None:
            array = array - mean
        if spread is not None:
            array = array / spread
        if clip:
            array = np.clip(array, -clip, clip)
        return [array.astype(dtype)]

    return normalized
