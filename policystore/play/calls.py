"""Check the arguments that a player is called with, observations aside."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import TypeVar

import numpy as np

from policystore._util.messages import brief
from policystore.errors import InvalidInputError
from policystore.format.arrays import Array

__all__ = [
    "check_explore",
    "check_row",
    "check_rows",
    "check_sessions",
    "computed_nan",
    "wrong_number",
]

_Session = TypeVar("_Session")


def check_explore(explore: object) -> None:
    """Check that a call asks for the deterministic action.

    Raises:
        InvalidInputError: ``explore`` is True, or neither True nor False.
    """
    if not isinstance(explore, (bool, np.bool_)):
        raise InvalidInputError(f"explore is True or False, not {explore!r}")
    if explore:
        raise InvalidInputError(
            "explore=True: an exported file holds the deterministic action alone. To sample "
            "actions, play the snapshot with policystore.rllib.rebuild_player(snap), or export "
            "with contents='network' and sample from the outputs of the network"
        )


def check_row(row: object, count: int, call: str) -> int:
    """Return a row number as an int.

    Args:
        row: any integer, such as numpy's.
        count: how many rows there are.
        call: the call that got the row, for the message.

    Raises:
        InvalidInputError: not an integer from 0 to ``count - 1``.
    """
    index: int | None = None
    if not isinstance(row, (bool, np.bool_)):
        try:
            index = operator.index(row)  # type: ignore[arg-type]
        except TypeError:
            index = None
    if index is None or not 0 <= index < count:
        raise InvalidInputError(
            f"{call}: {row!r} is no row; the last act or act_batch had {count} rows, numbered from "
            "0"
        )
    return index


def check_rows(rows: object, count: int) -> list[int]:
    """Return the rows of a ``keep_rows`` as a list of ints.

    Args:
        rows: an iterable of integers, such as a list or the result of ``numpy.flatnonzero``.
        count: how many rows there are.

    Raises:
        InvalidInputError: not rows from 0 to ``count - 1``, or a row that is named twice.
    """
    if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
        raise InvalidInputError(f"keep_rows takes a list of rows: keep_rows([0, 2]), not {rows!r}")
    try:
        listed = list(rows)
    except TypeError:  # such as an array without axes
        raise InvalidInputError(
            f"keep_rows takes a list of rows: keep_rows([0, 2]), not {rows!r}"
        ) from None
    indices = [check_row(row, count, "keep_rows") for row in listed]
    if len(set(indices)) < len(indices):
        raise InvalidInputError(
            f"keep_rows({indices}): an episode goes on in one row only, so name each row once"
        )
    return indices


def check_sessions(observations: object, kind: type[_Session]) -> list[_Session]:
    """Return the sessions that are to act, in order.

    Args:
        observations: the argument of ``act_many``.
        kind: the class of the player's sessions.

    Raises:
        InvalidInputError: not a mapping of sessions.
    """
    if not isinstance(observations, Mapping):
        raise InvalidInputError(
            "act_many takes a dict of sessions and their observations, {session: obs}, not "
            f"{brief(observations)}"
        )
    for session in observations:
        if not isinstance(session, kind):
            raise InvalidInputError(
                "act_many takes a dict of sessions and their observations; found the key "
                f"{brief(session)}, which player.session() did not make"
            )
    return list(observations)


def computed_nan(output: Array) -> InvalidInputError:
    """Return the error for observations of which a policy makes no action.

    Args:
        output: an array with NaN; its first axis is the rows.
    """
    row = int(np.argwhere(np.isnan(output))[0][0])
    return InvalidInputError(
        f"observation {row}: the policy computes NaN, of which no action can be made. Infinite and "
        "very large numbers overflow in a network: correct the observation"
    )


def wrong_number(found: int, expected: int) -> InvalidInputError:
    """Return the error for another number of observations than there are episodes.

    Args:
        found: how many observations were given.
        expected: how many episodes a policy with memory remembers.
    """
    advice = (
        "If environments have left, call keep_rows([…]) first, with the rows of the others."
        if found < expected
        else "Further environments can join only if all episodes begin anew. Otherwise play them "
        "with sessions: player.session()."
    )
    return InvalidInputError(
        f"{found} observations for {expected} environments: this policy remembers each "
        f"environment's episode. {advice} reset() begins all episodes anew."
    )
