"""Read metrics from RLlib's training results, and write policystore's own entries into them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm

from policystore._util.log import logger
from policystore._util.messages import brief
from policystore._util.near import did_you_mean, number_paths
from policystore.errors import InvalidInputError, NotFoundError
from policystore.rllib.common.missing_metric import (
    Facts,
    close_keys,
    follow_path,
    why_never,
)
from policystore.rllib.workers.compat import is_new_stack, is_offline

__all__ = [
    "POLICY",
    "IterationResult",
    "Metric",
    "add_to_result",
    "env_steps",
    "facts_of",
    "is_finite_number",
]

POLICY = "{policy}"
_PATIENCE = 5  # results without the metric before a warning is logged
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


def is_finite_number(value: Any) -> bool:
    """Tell whether a value is a finite number; False for booleans, texts and arrays."""
    if isinstance(value, (bool, str, bytes)):
        return False
    try:
        return math.isfinite(value)
    except (TypeError, ValueError, OverflowError):  # an array, or an int that is too large
        return False


@dataclass(frozen=True)
class IterationResult:
    """Hold an iteration, and by policy id the value to compare by and the metrics of a version."""

    iteration: int
    metrics: Mapping[str, tuple[float | None, dict[str, Any]]]


def facts_of(algorithm: Algorithm, policy_ids: Iterable[str]) -> Facts:
    """Return what decides whether a metric can be in a later result of an Algorithm.

    Args:
        algorithm: the Algorithm.
        policy_ids: ids of policies that it has, besides those of its config.
    """
    config = algorithm.config
    return Facts(
        policy_ids=frozenset(policy_ids).union(config.policies or ()),
        new_stack=is_new_stack(algorithm),
        evaluates=bool(config.evaluation_interval),
        is_offline=is_offline(algorithm),
    )


class Metric:
    """The value in training results by which the copies of each policy are compared.

    Args:
        path: path of the value; ``{policy}`` stands for the policy's id. None: no value.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._found: set[str] = set()
        self._missing: Counter[str] = Counter()

    def path(self, policy_id: str) -> str | None:
        """Return the path of one policy's value."""
        return None if self._path is None else self._path.replace(POLICY, policy_id)

    def check(self, result: Mapping[str, Any], policy_ids: Iterable[str], facts: Facts) -> None:
        """Check that a result has the value of each policy, or that a later result may have it.

        After the first result that has the value, nothing is checked: the value may be NaN or
        missing in later results. A warning is logged once if the path seems to be misspelt, or if
        the first results do not have the value.

        Raises:
            NotFoundError: no later result of RLlib will have the value. The message names the paths
                that are close to the given path.
            InvalidInputError: the value is not a number.
        """
        paths = {path for policy_id in policy_ids if (path := self.path(policy_id)) is not None}
        for path in sorted(paths - self._found):
            self._check(result, path, facts)

    def _check(self, result: Mapping[str, Any], path: str, facts: Facts) -> None:
        value, _, rest = follow_path(result, path)
        if not rest:
            self._found.add(path)
            if value is not None and not _is_number(value):
                raise InvalidInputError(_no_number(path, value))
            return
        reason = why_never(result, path, facts)
        if reason is not None:
            raise NotFoundError(reason)
        close = close_keys(result, path, facts)
        self._missing[path] += 1
        if self._missing[path] == (1 if close else _PATIENCE):
            keys = sorted(map(str, value))[:30] if isinstance(value, Mapping) else []
            logger.warning(
                "publish: the training results have no %r so far.%s",
                path,
                did_you_mean(close) or f" At that place they have {', '.join(keys) or 'nothing'}",
            )

    def read(
        self, result: Mapping[str, Any], policy_id: str
    ) -> tuple[float | None, dict[str, Any]]:
        """Return the value to compare a copy by, and the metrics of its version."""
        metrics: dict[str, Any] = {}
        steps = env_steps(result)
        if steps is not None:
            metrics["env_steps"] = steps
        path = self.path(policy_id)
        if path is None:
            return None, metrics
        value, _, rest = follow_path(result, path)
        if rest or not is_finite_number(value):
            return None, metrics
        metrics[path] = float(value)
        return float(value), metrics


def _is_number(value: Any) -> bool:
    if isinstance(value, (bool, str, bytes, Mapping)) or np.ndim(value):
        return False
    try:
        float(value)
    except OverflowError:
        return True  # an int that is too large for a float
    except (TypeError, ValueError):
        return False
    return True


def _no_number(path: str, value: Any) -> str:
    text = f"metric={path!r} is {brief(value)} in the training result, and not a number."
    if isinstance(value, Mapping):
        inside = [f"{path}/{each}" for each in number_paths(value)]
        text += " It has the numbers " + (", ".join(map(repr, inside[:10])) or "none")
    return text
