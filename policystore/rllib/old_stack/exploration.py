"""State of old-stack policies beside weights and connectors: how exploration stands.

``act(obs, explore=True)`` of a DQN policy depends on how far its epsilon has been annealed. That is
a function of the timestep (utils/exploration/epsilon_greedy.py:180), so the timestep is kept, but
only up to the point after which it changes nothing: a policy that has settled keeps one digest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.rllib.policy.policy import Policy
from ray.rllib.utils.exploration import Exploration, ParameterNoise
from ray.rllib.utils.schedules import ConstantSchedule, PiecewiseSchedule

from policystore.errors import FormatError, InvalidInputError

__all__ = ["check_plain_state", "exploration_state", "restore_exploration"]

_LONGEST_TEXT = 64
_LIMITLESS = 2**62


def check_plain_state(value: Any, where: str) -> None:
    """Refuse state that could carry a program: bytes, and text long enough to hide some.

    State of a custom connector goes to code of its own, which may hand it on to RLlib's decoders,
    and those unpickle text (utils/serialization.py:83). No array or pickle fits into 64 characters
    of their encoding.

    Raises:
        InvalidInputError: names the place.
    """
    if value is None or isinstance(value, (bool, int, float, np.ndarray, np.generic)):
        return
    if isinstance(value, str):
        if len(value) <= _LONGEST_TEXT:
            return
        raise InvalidInputError(
            f"{where}: a text of {len(value)} characters; state takes {_LONGEST_TEXT} at most, as "
            "longer ones may be serialized arrays. Give arrays as arrays."
        )
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            check_plain_state(item, f"{where}[{index}]")
        return
    if isinstance(value, dict):
        for key, item in value.items():
            check_plain_state(key, f"{where}, key {key!r}")
            check_plain_state(item, f"{where}[{key!r}]")
        return
    raise InvalidInputError(
        f"{where}: a {type(value).__qualname__} is not plain state. Plain are None, bool, int, "
        "float, short text, numpy arrays, and lists, tuples and dicts of these."
    )


def exploration_state(policy: Policy, omit: frozenset[str], what: str) -> dict[str, Any]:
    """How far exploration has come; ``{}`` where acting does not depend on it.

    Raises:
        InvalidInputError: parameters that have noise on them right now, or a custom exploration
            whose state is not plain.
    """
    found = getattr(policy, "exploration", None)
    if found is None or "exploration" in omit:
        return {}
    if _is_noisy(found):
        raise InvalidInputError(
            f"{what}: ParameterNoise has its noise on the weights right now. Take it off first: "
            "policy.exploration.before_compute_actions(explore=False)."
        )
    state: dict[str, Any] = {}
    settled = max(_settles_at(part) for part in _parts(found))
    if settled > 0:
        state["timestep"] = min(int(policy.global_timestep), settled)
    if isinstance(found, ParameterNoise):
        state["stddev"] = float(found.stddev)
    elif not type(found).__module__.startswith("ray.rllib."):
        custom = found.get_state()
        try:
            check_plain_state(custom, "get_state()")
        except InvalidInputError as error:
            raise InvalidInputError(
                f"{what}: the exploration {type(found).__name__} cannot be carried exactly: "
                f"{error} Or pass omit=['exploration']: it then starts anew."
            ) from None
        if custom:
            state["custom"] = custom
    return state


def _is_noisy(found: Exploration) -> bool:
    """Whether parameters differ from what was learned; a new policy carries noise of zero."""
    if not isinstance(found, ParameterNoise) or not found.weights_are_currently_noisy:
        return False
    return any(bool(noise.any()) for noise in found.noise)


def _parts(found: Exploration) -> list[Exploration]:
    inner = [part for part in vars(found).values() if isinstance(part, Exploration)]
    return [found, *(deeper for part in inner for deeper in _parts(part))]


def _settles_at(found: Exploration) -> int:
    """The timestep from which on an exploration no longer changes."""
    last = int(getattr(found, "random_timesteps", 0) or 0)
    for name in ("epsilon_schedule", "scale_schedule"):
        schedule = getattr(found, name, None)
        if schedule is None or isinstance(schedule, ConstantSchedule):
            continue
        if not isinstance(schedule, PiecewiseSchedule):
            return _LIMITLESS
        last = max(last, int(schedule.endpoints[-1][0]))
    return last


def restore_exploration(policy: Policy, state: Any, where: str) -> None:
    """Put exploration where :func:`exploration_state` found it.

    Raises:
        FormatError: not what that function writes.
    """
    found = getattr(policy, "exploration", None)
    if not isinstance(state, dict) or not set(state) <= {"timestep", "stddev", "custom"}:
        raise FormatError(f"{where}: not the state of an exploration")
    if "timestep" in state:
        if type(state["timestep"]) is not int or not 0 <= state["timestep"] <= _LIMITLESS:
            raise FormatError(f"{where}.timestep: expected a timestep, found {state['timestep']!r}")
        policy.global_timestep = state["timestep"]
    if "stddev" in state:
        if not isinstance(found, ParameterNoise) or type(state["stddev"]) is not float:
            raise FormatError(f"{where}.stddev: a number, of ParameterNoise only")
        found.stddev = found.stddev_val = state["stddev"]
    if "custom" in state:
        try:
            check_plain_state(state["custom"], where)
        except InvalidInputError as error:
            raise FormatError(str(error)) from None
        if found is None or type(found).__module__.startswith("ray.rllib."):
            raise FormatError(f"{where}.custom: of an exploration that is not RLlib's only")
        found.set_state(state["custom"])
