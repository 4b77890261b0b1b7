"""Check the arguments that players of both API stacks are called with, observations aside."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from policystore.errors import InvalidInputError

__all__ = ["check_explore", "check_rewards", "check_row", "check_rows"]


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
    return [_reward(value, row) for row, value in enumerate(values)]


def _reward(value: Any, row: int) -> float:
    if isinstance(value, (str, bytes)):
        raise InvalidInputError(f"reward {row}: expected a number, found {value!r}")
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InvalidInputError(f"reward {row}: expected a number, found {value!r}") from None


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
            f"keep_rows({indices}): an episode goes on in one row, so name each row once"
        )
    return indices
