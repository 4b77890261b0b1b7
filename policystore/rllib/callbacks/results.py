"""Read metrics from RLlib's training results, and write policystore's own entries into them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from policystore._util.log import logger

__all__ = ["Metric", "add_to_result", "env_steps", "find_metric", "is_finite_number"]

_POLICY = "{policy}"
_PATIENCE = 3  # results without the metric before a warning is logged
_STEPS = ("num_env_steps_sampled_lifetime", "num_env_steps_sampled")


def add_to_result(result: dict[str, Any], callback: str, entries: Mapping[str, Any]) -> None:
    """Add entries to a training result, under ``policystore/<callback>``.

    Tune's loggers log these entries like all other values of a result.
    """
    result.setdefault("policystore", {}).setdefault(callback, {}).update(entries)


def env_steps(result: Mapping[str, Any]) -> int | None:
    """Return the number of environment steps in a result; None if the result has no such number."""
    steps = next((result[key] for key in _STEPS if key in result), None)
    return int(steps) if steps is not None and is_finite_number(steps) else None


def find_metric(result: Mapping[str, Any], path: str) -> tuple[Any, Iterable[Any] | None]:
    """Find the value at a path such as ``"env_runners/episode_return_mean"`` in nested results.

    A key of a result may have slashes itself. If several keys fit, the longest key is taken.

    Returns:
        The value and None. If the results have no such path: None, and the keys at the place where
        the path ends.
    """
    place: Any = result
    rest = path
    while rest:
        if not isinstance(place, Mapping):
            return None, []
        key = next((head for head in _heads(rest) if head in place), None)
        if key is None:
            return None, place.keys()
        place, rest = place[key], rest[len(key) + 1 :]
    return place, None


def _heads(path: str) -> Iterable[str]:
    """Yield ``a/b/c``, ``a/b`` and ``a`` for the path ``a/b/c``."""
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(len(parts), 0, -1))


def is_finite_number(value: Any) -> bool:
    """Tell whether a value is a finite number; False for booleans, texts and arrays."""
    if isinstance(value, (bool, str, bytes)):
        return False
    try:
        return math.isfinite(value)
    except (TypeError, ValueError, OverflowError):  # an array, or an int that is too large
        return False


class Metric:
    """The value in training results by which the copies of each policy are compared.

    Args:
        path: path of the value; ``{policy}`` stands for the policy's id. None: no value.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._missing = 0

    def path(self, policy_id: str) -> str | None:
        """Return the path of one policy's value."""
        return None if self._path is None else self._path.replace(_POLICY, policy_id)

    def read(
        self, result: Mapping[str, Any], policy_id: str
    ) -> tuple[float | None, dict[str, Any]]:
        """Return the value to compare a copy by, and the metrics of its version.

        If the value is missing in several results, a warning is logged once.
        """
        metrics: dict[str, Any] = {}
        steps = env_steps(result)
        if steps is not None:
            metrics["env_steps"] = steps
        path = self.path(policy_id)
        if path is None:
            return None, metrics
        value, known_keys = find_metric(result, path)
        if not is_finite_number(value):
            self._missing += 1
            if self._missing == _PATIENCE and known_keys is not None:
                logger.warning(
                    "publish: training results have no %r; at that place they have %s",
                    path,
                    ", ".join(sorted(map(str, known_keys))[:30]) or "nothing",
                )
            return None, metrics
        metrics[path] = float(value)
        return float(value), metrics
