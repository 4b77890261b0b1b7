"""Check the arguments of ``publish``, and turn them into the settings of its callbacks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from policystore.errors import InvalidInputError
from policystore.format.refs import check_name
from policystore.rllib.callbacks.factory import open_store
from policystore.rllib.callbacks.results import POLICY
from policystore.rllib.callbacks.trial import TRIAL
from policystore.rllib.live.checks.filters import AgentIds, agents_by_policy
from policystore.rllib_schema.trials import LONGEST_TRIAL
from policystore.store import PolicyStore

__all__ = ["checked_settings"]

_PLACEHOLDER = re.compile(r"\{[^{}]*\}")


def checked_settings(
    *,
    store: PolicyStore | str | os.PathLike[str],
    policies: Mapping[str, str],
    agent_ids: AgentIds,
    omit: Iterable[str],
    from_runner: int | None,
    interval: int,
    metric: str | None,
    mode: str,
    keep_best: bool,
    keep_last: int | None,
    max_pending: int,
    timeout: float,
) -> dict[str, Any]:
    """Return the keyword arguments of the callbacks; each can be copied and pickled.

    Raises:
        InvalidInputError: an argument of the wrong form, or a text that cannot be a name.
        ReadOnlyError: the store was opened read-only.
    """
    opened = open_store(store, "publish(store, {'main': 'soccer/main'})")
    if not isinstance(policies, Mapping) or not policies:
        raise InvalidInputError(
            "publish takes names by policy id: publish(store, {'main': 'soccer/main'}), not "
            f"{policies!r}"
        )
    for policy_id, name in policies.items():
        if not isinstance(policy_id, str) or not isinstance(name, str):
            raise InvalidInputError(
                f"policy ids and names are strings, not {policy_id!r}: {name!r}"
            )
        _check_placeholders("a name", name, TRIAL)
        check_name(name.replace(TRIAL, "t" * LONGEST_TRIAL))
    names = list(policies.values())
    if len(set(names)) < len(names):
        raise InvalidInputError(
            f"each policy needs a name of its own; two share one here: {dict(policies)}"
        )
    _check_count("interval", interval)
    if from_runner is not None:
        _check_count("from_runner", from_runner)
    if keep_last is not None:
        _check_count("keep_last", keep_last)
    _check_count("max_pending", max_pending)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise InvalidInputError(f"timeout is a number of seconds, not {timeout!r}")
    if mode not in ("max", "min"):
        raise InvalidInputError(f"mode is 'max' or 'min', not {mode!r}")
    if metric is not None and (not isinstance(metric, str) or not metric):
        raise InvalidInputError(
            "metric is a path in training results, such as 'env_runners/episode_return_mean', not "
            f"{metric!r}"
        )
    if metric is not None:
        _check_placeholders("metric", metric, POLICY)
    elif mode != "max":
        raise InvalidInputError(f"mode={mode!r} says which values of metric= are better: give both")
    opened._check_writable("publish")
    return {
        "store": opened,
        "policies": dict(policies),
        "agent_ids": agents_by_policy(policies, agent_ids) or {},
        "omit": _listed_omit(omit),
        "from_runner": from_runner,
        "interval": interval,
        "metric": metric,
        "mode": mode,
        "keep_best": keep_best,
        "keep_last": keep_last,
        "max_pending": max_pending,
        "timeout": float(timeout),
    }


def _listed_omit(omit: object) -> tuple[str, ...]:
    names = (
        tuple(omit) if isinstance(omit, Iterable) and not isinstance(omit, (str, bytes)) else None
    )
    if names is None or not all(isinstance(name, str) for name in names):
        raise InvalidInputError(f"omit is a list of names, such as ['MeanStdFilter'], not {omit!r}")
    return names


def _check_placeholders(label: str, text: str, known: str) -> None:
    for placeholder in _PLACEHOLDER.findall(text):
        if placeholder != known:
            raise InvalidInputError(
                f"{label} may have the placeholder {known}, and no other one; found {placeholder} "
                f"in {text!r}"
            )


def _check_count(argument: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInputError(f"{argument} is a whole number of at least 1, not {value!r}")
