"""Record how far the exploration of an old-stack policy has come, and restore it.

``act(obs, explore=True)`` of a DQN policy depends on how far its epsilon has been annealed. The
epsilon is a function of the timestep (utils/exploration/epsilon_greedy.py:180), so the timestep is
recorded. Timesteps after the end of the schedule are recorded as its end, so that the digest of the
policy no longer changes.
"""

from __future__ import annotations

from typing import Any

from ray.rllib.policy.policy import Policy
from ray.rllib.utils.exploration import Exploration, ParameterNoise
from ray.rllib.utils.schedules import ConstantSchedule, PiecewiseSchedule

from policystore.errors import FormatError, InvalidInputError
from policystore.rllib.common.plain_state import check_plain_state

__all__ = ["exploration_state", "restore_exploration"]

_MAX_TIMESTEP = 2**62


def exploration_state(policy: Policy, omit: frozenset[str], label: str) -> dict[str, Any]:
    """Return how far the exploration of a policy has come.

    Args:
        policy: of the old stack.
        omit: names to leave out; ``"exploration"`` leaves out all of this state.
        label: how messages name the policy.

    Returns:
        ``timestep``, ``stddev`` of ``ParameterNoise`` and ``custom`` state, each only where acting
        depends on it; ``{}`` where it does not depend on any.

    Raises:
        InvalidInputError: parameters that have noise on them at the moment, or a custom
            exploration whose state is not plain.
    """
    exploration = getattr(policy, "exploration", None)
    if exploration is None or "exploration" in omit:
        return {}
    if _is_noisy(exploration):
        raise InvalidInputError(
            f"{label}: the weights have the noise of ParameterNoise on them at the moment. Take it "
            "off first: policy.exploration.before_compute_actions(explore=False)."
        )
    state: dict[str, Any] = {}
    last = max(_last_changing_timestep(part) for part in _explorations_in(exploration))
    if last > 0:
        state["timestep"] = min(int(policy.global_timestep), last)
    if isinstance(exploration, ParameterNoise):
        state["stddev"] = float(exploration.stddev)
    elif not type(exploration).__module__.startswith("ray.rllib."):
        custom = exploration.get_state()
        try:
            check_plain_state(custom, "get_state()")
        except InvalidInputError as error:
            raise InvalidInputError(
                f"{label}: the exploration {type(exploration).__name__} cannot be carried exactly: "
                f"{error} Or pass omit=['exploration']: a rebuilt policy then starts it anew."
            ) from None
        if custom:
            state["custom"] = custom
    return state


def _is_noisy(exploration: Exploration) -> bool:
    """Return whether the parameters differ from what was learned; a new policy's noise is zero."""
    if not isinstance(exploration, ParameterNoise) or not exploration.weights_are_currently_noisy:
        return False
    return any(bool(noise.any()) for noise in exploration.noise)


def _explorations_in(exploration: Exploration) -> list[Exploration]:
    """Return an exploration and all explorations that it holds as attributes, at any depth."""
    inner = [part for part in vars(exploration).values() if isinstance(part, Exploration)]
    return [exploration, *(deeper for part in inner for deeper in _explorations_in(part))]


def _last_changing_timestep(exploration: Exploration) -> int:
    """Return the timestep from which on an exploration no longer changes; 0 if it never does."""
    last = int(getattr(exploration, "random_timesteps", 0) or 0)
    for name in ("epsilon_schedule", "scale_schedule"):
        schedule = getattr(exploration, name, None)
        if schedule is None or isinstance(schedule, ConstantSchedule):
            continue
        if not isinstance(schedule, PiecewiseSchedule):
            return _MAX_TIMESTEP
        last = max(last, int(schedule.endpoints[-1][0]))
    return last


def restore_exploration(policy: Policy, state: object, where: str) -> None:
    """Give the exploration of a policy the state that :func:`exploration_state` returned.

    Args:
        policy: the rebuilt policy, which is changed.
        state: of the snapshot.
        where: the place of ``state``, for messages.

    Raises:
        FormatError: a state that :func:`exploration_state` does not write.
    """
    exploration = getattr(policy, "exploration", None)
    if not isinstance(state, dict) or not set(state) <= {"timestep", "stddev", "custom"}:
        raise FormatError(f"{where}: not the state of an exploration")
    if "timestep" in state:
        if type(state["timestep"]) is not int or not 0 <= state["timestep"] <= _MAX_TIMESTEP:
            raise FormatError(f"{where}.timestep: expected a timestep, found {state['timestep']!r}")
        policy.global_timestep = state["timestep"]
    if "stddev" in state:
        if not isinstance(exploration, ParameterNoise) or type(state["stddev"]) is not float:
            raise FormatError(f"{where}.stddev: expected a float, of ParameterNoise only")
        exploration.stddev = exploration.stddev_val = state["stddev"]
    if "custom" in state:
        try:
            check_plain_state(state["custom"], where)
        except InvalidInputError as error:
            raise FormatError(str(error)) from None
        if exploration is None or type(exploration).__module__.startswith("ray.rllib."):
            raise FormatError(f"{where}.custom: only an exploration that is not RLlib's has this")
        exploration.set_state(state["custom"])
