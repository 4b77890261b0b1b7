"""Check the arguments that players of both API stacks are called with, observations aside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from policystore._util.messages import brief
from policystore.errors import InvalidInputError
from policystore.play import calls
from policystore.rllib.playing.engine import Slot
from policystore.rllib.playing.session import Session

__all__ = [
    "check_explore",
    "check_rewards",
    "check_sessions",
    "session_rewards",
]


def check_explore(explore: object) -> bool:
    """Return ``explore`` as a bool.

    Raises:
        InvalidInputError: neither True nor False.
    """
    if not isinstance(explore, (bool, np.bool_)):
        raise InvalidInputError(f"explore is True or False, not {explore!r}")
    return bool(explore)


def check_rewards(rewards: object, count: int) -> list[float] | None:
    """Return rewards as floats, one for each of ``count`` observations; None if none were given.

    Raises:
        InvalidInputError: another number of rewards, or something that is not a number.
    """
    if rewards is None:
        return None
    if isinstance(rewards, (str, bytes, Mapping)) or not isinstance(rewards, Iterable):
        raise InvalidInputError(f"rewards is a list of numbers, not {rewards!r}")
    try:
        values = list(rewards)
    except TypeError:  # such as an array without axes
        raise InvalidInputError(f"rewards is a list of numbers, not {rewards!r}") from None
    if len(values) != count:
        raise InvalidInputError(f"{len(values)} rewards for {count} observations")
    return [_reward(value, f"reward {row}") for row, value in enumerate(values)]


def _reward(value: Any, label: str) -> float:
    if isinstance(value, (str, bytes)):
        raise InvalidInputError(f"{label}: expected a number, found {value!r}")
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InvalidInputError(f"{label}: expected a number, found {value!r}") from None


def check_sessions(observations: object, player: object) -> list[Slot]:
    """Return the slots of the sessions that are to act, in order.

    Args:
        observations: the argument of ``act_many``.
        player: the player whose sessions these have to be.

    Raises:
        InvalidInputError: not a mapping of open sessions of the player.
    """
    return [session._slot_of(player) for session in calls.check_sessions(observations, Session)]


def session_rewards(rewards: object, observations: Mapping[Session, Any]) -> list[float | None]:
    """Return the reward of each session that is to act, in the order of the observations.

    Raises:
        InvalidInputError: not a mapping of these sessions to numbers.
    """
    if rewards is None:
        return [None] * len(observations)
    if not isinstance(rewards, Mapping):
        raise InvalidInputError(
            "rewards is a dict of sessions and the rewards of their previous actions, {session: "
            f"reward}}, not {brief(rewards)}"
        )
    others = [session for session in rewards if session not in observations]
    if others:
        raise InvalidInputError(
            f"rewards has {brief(others[0])}, and this call has no observation of it"
        )
    return [
        _reward(rewards[session], f"the reward of session {index}") if session in rewards else None
        for index, session in enumerate(observations)
    ]
