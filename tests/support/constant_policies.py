"""Policies that always choose the same action, so that an action tells which policy has acted."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
import numpy as np

from policystore import Snapshot
from tests.support.player_pairs import VECTOR, module, policy

__all__ = ["TWO", "constant_policy"]

TWO = gym.spaces.Discrete(2)
_MAKE = {"old": policy, "new": module}
_MADE: dict[tuple[Any, ...], Snapshot] = {}  # policies of random weights, built once
_LAST = re.compile(r"(?:pi\.|_?logits).*bias$")  # the layer that chooses, in every small network


def constant_policy(
    stack: str,
    action: int,
    *,
    obs: gym.Space[Any] = VECTOR,
    act: gym.Space[Any] = TWO,
    **model: Any,
) -> Snapshot:
    """Return a policy that chooses one of its discrete actions, whatever it sees and remembers.

    Args:
        stack: ``"old"`` or ``"new"``.
        action: the action.
        obs, act: the spaces.
        model: settings of the network.
    """
    key = (stack, str(obs), str(act), *sorted(model.items()))
    if key not in _MADE:
        _MADE[key] = _MAKE[stack](obs, act, **model)
    made = _MADE[key]
    weights = {name: np.zeros_like(array) for name, array in made.weights.items()}
    (name,) = filter(_LAST.match, weights)
    weights[name][action] = 9.0
    return Snapshot(weights=weights, spec=made.spec, state=made.state)
