"""Check whether versions meet the conditions of an expression.

If a version lacks the value of a field, a comparison with this field is false. So is a comparison
with NaN. Only ``null`` and ``nan`` in an expression find such versions.
"""

from __future__ import annotations

import datetime
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from policystore.digest import Digest
from policystore.repository.search.fields import Field, Row

__all__ = [
    "All",
    "AnyOf",
    "Compare",
    "Condition",
    "DigestStart",
    "Finite",
    "Fixed",
    "Not",
    "fields_of",
]


@dataclass(frozen=True)
class DigestStart:
    """Hold the beginning of a digest, in hexadecimal digits."""

    digits: str


@dataclass(frozen=True)
class Fixed:
    """Hold a condition that is always true or always false."""

    value: bool

    def holds(self, row: Row) -> bool:
        """Return whether a version meets the condition."""
        return self.value


@dataclass(frozen=True)
class Not:
    """Negate a condition."""

    condition: Condition

    def holds(self, row: Row) -> bool:
        """Return whether a version meets the condition."""
        return not self.condition.holds(row)


@dataclass(frozen=True)
class All:
    """Join conditions that all have to hold."""

    conditions: tuple[Condition, ...]

    def holds(self, row: Row) -> bool:
        """Return whether a version meets the condition."""
        return all(condition.holds(row) for condition in self.conditions)


@dataclass(frozen=True)
class AnyOf:
    """Join conditions of which at least one has to hold."""

    conditions: tuple[Condition, ...]

    def holds(self, row: Row) -> bool:
        """Return whether a version meets the condition."""
        return any(condition.holds(row) for condition in self.conditions)


@dataclass(frozen=True)
class Compare:
    """Compare a field with values, of which one has to fit, or with another field.

    Attributes:
        field: the field on the left.
        sign: ``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=`` or ``contains``.
        values: the values on the right. For ``!=``, none of them may fit.
        other: the field on the right, in place of values.
    """

    field: Field
    sign: str
    values: tuple[Any, ...] = ()
    other: Field | None = None

    def holds(self, row: Row) -> bool:
        """Return whether a version meets the condition."""
        found, values = self.field.value(row), self.values
        if self.other is not None:
            value = self.other.value(row)
            if found is None or value is None or _is_nan(value):
                return False
            values = (value,)
        if self.sign == "!=":
            return all(_differs(found, value) for value in values)
        if self.sign in _ORDERS:
            order = _ORDERS[self.sign]
            return any(_ordered(found, value, order) for value in values)
        fits = _contains if self.sign == "contains" else _equal
        return any(fits(found, value) for value in values)


@dataclass(frozen=True)
class Finite:
    """Check that the value of a field is a finite number. No expression can say this."""

    field: Field

    def holds(self, row: Row) -> bool:
        """Return whether a version meets the condition."""
        value = self.field.value(row)
        return _is_number(value) and math.isfinite(value)


Condition: TypeAlias = Fixed | Not | All | AnyOf | Compare | Finite

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _equal(found: object, value: object) -> bool:
    """Return whether a value of a version is the value of an expression.

    A list equals each of its items, so that ``tag == 'best'`` holds for a version with more tags.
    """
    if isinstance(found, (list, tuple)):
        if value is None:
            return not found
        return any(_equal(item, value) for item in found if not isinstance(item, (list, tuple)))
    if value is None or found is None:
        return found is value
    if _is_nan(value):
        return _is_nan(found)
    if isinstance(found, Digest) and isinstance(value, DigestStart):
        return found.hex.startswith(value.digits)
    if isinstance(found, bool) or isinstance(value, bool):
        return found is value
    return found == value


def _differs(found: object, value: object) -> bool:
    """Return whether a version has a value, and another one than that of an expression."""
    if value is None:
        return not _equal(found, None)
    if found is None or (_is_nan(found) and not isinstance(value, bool)):
        return False
    return not _equal(found, value)


def _ordered(found: object, value: object, order: Callable[[Any, Any], bool]) -> bool:
    if isinstance(found, (list, tuple)):
        return any(_ordered(item, value, order) for item in found if not isinstance(item, list))
    comparable = (
        (_is_number(found) and _is_number(value))
        or (isinstance(found, str) and isinstance(value, str))
        or (isinstance(found, datetime.datetime) and isinstance(value, datetime.datetime))
        or (isinstance(found, datetime.timedelta) and isinstance(value, datetime.timedelta))
    )
    return comparable and order(found, value)


def _contains(found: object, value: object) -> bool:
    """Return whether a text has another text in it, in any case of letters, or a list an item."""
    if isinstance(found, str) and isinstance(value, str):
        return value.casefold() in found.casefold()
    return isinstance(found, (list, tuple)) and value is not None and _equal(found, value)


def fields_of(condition: Condition, *, compared: bool = False) -> Iterator[Field]:
    """Yield the fields that a condition looks at, in the order in which they were written.

    Args:
        condition: the condition.
        compared: True to leave out fields that are compared with ``null``.
    """
    if isinstance(condition, Finite):
        yield condition.field
    elif isinstance(condition, Compare):
        if not (compared and condition.values and None in condition.values):
            yield condition.field
        if condition.other is not None:
            yield condition.other
    elif isinstance(condition, Not):
        yield from fields_of(condition.condition, compared=compared)
    elif isinstance(condition, (All, AnyOf)):
        for each in condition.conditions:
            yield from fields_of(each, compared=compared)
