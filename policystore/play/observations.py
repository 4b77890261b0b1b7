"""Check raw observations, and put them into one array for each input of a graph."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np

from policystore._util.messages import brief
from policystore.errors import InvalidInputError
from policystore.format.arrays import Array
from policystore.play.spaces import DictSpace, LeafSpace, PlaySpace, TupleSpace, leaves_of

__all__ = [
    "Nan",
    "as_numbers",
    "batch_of",
    "check_nan_argument",
    "is_batch",
    "is_observation",
    "nan_error",
    "other_keys",
]

Nan: TypeAlias = Literal["error", "allow"]
"""What a player does with an observation that holds NaN."""


def check_nan_argument(nan: object) -> Nan:
    """Return the argument ``nan`` of a player.

    Raises:
        InvalidInputError: neither "error" nor "allow".
    """
    if nan == "error":
        return "error"
    if nan == "allow":
        return "allow"
    raise InvalidInputError(f"nan is 'error' or 'allow', not {nan!r}")


def batch_of(batch: Any, space: PlaySpace, nan: Nan) -> tuple[list[Array], int]:
    """Return several observations as one array for each leaf of their space.

    Args:
        batch: a list of observations, or another iterable of them; or an array, or a dict or
            tuple of arrays in the structure of ``space``, as vectorized environments return them,
            whose first axis is the rows. If ``space`` is a Tuple space, a tuple holds a batch for
            each of its parts; otherwise a tuple is a list of observations.
        space: the space of one observation.
        nan: whether NaN is an error.

    Returns:
        An array of shape ``(rows, *leaf.shape)`` and of the dtype of the leaf for each leaf; and
        the number of rows.

    Raises:
        InvalidInputError: a batch of another form, or an observation that is not of the space; the
            message names the row and the place.
    """
    if isinstance(batch, (Mapping, np.ndarray)) or (
        isinstance(batch, tuple) and isinstance(space, TupleSpace)
    ):
        return _split(batch, space, nan)
    if not isinstance(batch, Iterable) or isinstance(batch, (str, bytes)):
        raise _no_batch(batch, space)
    rows = list(batch)
    columns: list[list[Array]] = [[] for _ in leaves_of(space)]
    for index, row in enumerate(rows):
        for column, (part, leaf, label) in zip(
            columns, _parts(row, space, f"observation {index}"), strict=True
        ):
            column.append(_checked(part, leaf.shape, leaf, label, nan))
    return [np.stack(column) for column in columns if column], len(rows)


def is_observation(value: Any, space: PlaySpace) -> bool:
    """Return whether a value is one observation of a space."""
    try:
        batch_of([value], space, "allow")
    except InvalidInputError:
        return False
    return True


def is_batch(value: Any, space: PlaySpace) -> bool:
    """Return whether a value is a batch of at least one observation; an iterator is not read."""
    if not isinstance(value, (Mapping, np.ndarray, list, tuple)):
        return False
    try:
        return batch_of(value, space, "allow")[1] > 0
    except InvalidInputError:
        return False


def _split(batch: Any, space: PlaySpace, nan: Nan) -> tuple[list[Array], int]:
    """Return the arrays of a batch that a vectorized environment has put together."""
    try:
        parts = list(_parts(batch, space, "observations"))
    except InvalidInputError:
        raise _no_batch(batch, space) from None
    arrays = [part for part, _, _ in parts if isinstance(part, np.ndarray) and part.ndim]
    counts = {len(array) for array in arrays}
    if len(arrays) != len(parts) or len(counts) != 1:
        raise _no_batch(batch, space, sorted(counts))
    (count,) = counts
    if count == 0:
        return [], 0
    checked = []
    for array, (_, leaf, label) in zip(arrays, parts, strict=True):
        checked.append(_checked_rows(array, leaf, label.removeprefix("observations"), nan))
    return checked, count


def _checked_rows(rows: Array, leaf: LeafSpace, place: str, nan: Nan) -> Array:
    """Return rows as an array of the dtype of a leaf."""
    try:
        return _checked(rows, (len(rows), *leaf.shape), leaf, "the observations", nan)
    except InvalidInputError:
        # The error of the first row that is wrong says which row it is.
        for index, row in enumerate(rows):
            _checked(row, leaf.shape, leaf, f"observation {index}{place}", nan)
        raise


def _no_batch(batch: Any, space: PlaySpace, counts: list[int] | None = None) -> InvalidInputError:
    return InvalidInputError(
        "a batch is a list of observations, or arrays whose first axis is the rows, in the "
        f"structure of {space.words}; found {type(batch).__name__}"
        + (f" with {counts} rows" if counts and len(counts) > 1 else "")
    )


def _parts(value: Any, space: PlaySpace, label: str) -> Iterable[tuple[Any, LeafSpace, str]]:
    """Yield the parts of a value in the order of ``leaves_of``, each with its leaf and place."""
    if isinstance(space, LeafSpace):
        yield value, space, label
    elif isinstance(space, DictSpace):
        if not isinstance(value, Mapping) or set(value) != {key for key, _ in space.spaces}:
            raise InvalidInputError(
                f"{label}: {other_keys(value, [key for key, _ in space.spaces])}"
            )
        for key, inner in space.spaces:
            yield from _parts(value[key], inner, f"{label}[{key!r}]")
    else:
        if not isinstance(value, (tuple, list)) or len(value) != len(space.spaces):
            raise InvalidInputError(
                f"{label}: expected a tuple of {len(space.spaces)} observations, found "
                f"{type(value).__name__}"
                + (f" of {len(value)}" if isinstance(value, (tuple, list)) else "")
            )
        for index, (part, inner) in enumerate(zip(value, space.spaces, strict=True)):
            yield from _parts(part, inner, f"{label}[{index}]")


def _checked(value: Any, shape: tuple[int, ...], leaf: LeafSpace, label: str, nan: Nan) -> Array:
    """Return a value as an array of the dtype of a leaf.

    Args:
        value: an array or what numpy makes an array of.
        shape: the shape that is expected.
        leaf: the leaf.
        label: how messages name the value.
        nan: whether NaN is an error.
    """
    array = as_numbers(value, shape, leaf.dtype, label)
    if nan == "error" and array.dtype.kind == "f" and np.isnan(array).any():
        raise nan_error(array, label, "load_player")
    if array.dtype != leaf.dtype:
        array = _converted(array, leaf, label, value)
    if (
        leaf.low is not None
        and leaf.high is not None
        and ((array < leaf.low) | (array > leaf.high)).any()
    ):
        raise InvalidInputError(f"{label}: expected {_values(leaf)}, found {brief(value)}")
    return array


def as_numbers(value: Any, shape: tuple[int, ...] | None, dtype: object, label: str) -> Array:
    """Return a value as an array of numbers, in its own dtype.

    Args:
        value: an array or what numpy makes an array of.
        shape: the shape that is expected.
        dtype: the dtype of the space, for messages.
        label: how messages name the value.

    Raises:
        InvalidInputError: no numbers, or another shape.
    """
    expected = f"numbers of shape {shape} (dtype {dtype})"
    try:
        array: Array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(
            f"{label}: expected {expected}, found {type(value).__name__}, which is not an array: "
            f"{error}"
        ) from None
    if array.shape != shape or array.dtype.kind not in "biuf":
        raise InvalidInputError(
            f"{label}: expected {expected}, found {type(value).__name__} of shape {array.shape} "
            f"and dtype {array.dtype}"
        )
    return array


def other_keys(value: Any, keys: Collection[Any]) -> str:
    """Say how the keys of an observation differ from those of a space."""
    expected = f"expected a dict with the keys {sorted(map(str, keys))}"
    if not isinstance(value, Mapping):
        return f"{expected}, found {type(value).__name__}"
    missing = sorted(str(key) for key in keys if key not in value)
    unknown = sorted(str(key) for key in value if key not in keys)
    differences = [f"{missing} missing"] * bool(missing) + [f"{unknown} too many"] * bool(unknown)
    return f"{expected}, found {sorted(map(str, value))}: {', '.join(differences)}"


def nan_error(array: Array, label: str, call: str) -> InvalidInputError:
    """Return the error for an array with NaN.

    Args:
        array: numbers, at least one of them NaN.
        label: how messages name the array.
        call: the call that made the player.
    """
    first = np.argwhere(np.isnan(array))[0].tolist()
    where = f" at index {first if len(first) > 1 else first[0]}" if first else ""
    return InvalidInputError(
        f"{label}: NaN{where}. An action for NaN means nothing. Correct the observation, or pass "
        f"nan='allow' to {call}"
    )


def _values(leaf: LeafSpace) -> str:
    """Say which values a space has."""
    if leaf.kind == "Discrete":
        return f"an integer from {leaf.low} to {leaf.high}"
    return f"a value of {leaf.words}"


def _converted(array: Array, leaf: LeafSpace, label: str, value: Any) -> Array:
    """Return an array in the dtype of a leaf, if no value is lost.

    A float may lose digits, or become infinite, as it does in RLlib. An integer may not.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        converted = array.astype(leaf.dtype)
    if leaf.dtype.kind != "f" and (
        not np.array_equal(converted, array)
        or (leaf.kind == "Discrete" and array.dtype.kind == "f")
    ):
        raise InvalidInputError(
            f"{label}: expected {_values(leaf)}, found {brief(value)} of dtype {array.dtype}"
        )
    return converted
