"""Sort versions by the values of fields; versions without a value come last."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from policystore._util.messages import brief
from policystore.digest import Digest
from policystore.errors import InvalidInputError
from policystore.repository.search.fields import Field, Row, parse_field
from policystore.repository.search.tokens import Kind, tokenize

__all__ = ["Order", "parse_orders", "sort_rows"]


@dataclass(frozen=True)
class Order:
    """Hold a field to sort by.

    Attributes:
        field: the field.
        descending: whether the largest value comes first.
    """

    field: Field
    descending: bool

    def key(self, row: Row) -> tuple[int, Any]:
        """Return what a version is sorted by: numbers, then texts, then NaN, then no value."""
        value = self.field.value(row)
        rank = 4
        if isinstance(value, float) and math.isnan(value):
            rank, value = 3, 0
        elif isinstance(value, str):
            rank = 1
        elif value is None or isinstance(value, (list, tuple, dict)):
            value = 0
        else:
            rank = 0
            value = value.hex if isinstance(value, Digest) else value
        return (-rank if self.descending else rank), value


def parse_orders(sort: str | Iterable[str] | None) -> tuple[Order, ...]:
    """Parse the fields to sort by, the most important one first.

    Args:
        sort: a field, with ``-`` before it for the largest value first, or several ones.

    Raises:
        InvalidInputError: not a field, or a field that has several values.
    """
    if sort is None:
        return ()
    if isinstance(sort, str):
        sort = [sort]
    if not isinstance(sort, Iterable):
        raise _no_field(sort)
    return tuple(_parse_order(each) for each in sort)


def _parse_order(text: object) -> Order:
    if not isinstance(text, str):
        raise _no_field(text)
    descending = text.startswith("-")
    tokens = tokenize(text[descending:])
    if len(tokens) != 2 or tokens[0].kind is not Kind.FIELD:
        raise _no_field(text)
    field = parse_field(tokens[0].text, quoted=tokens[0].quoted)
    if field.key in ("parents", "tags", "nonfinite") and field.part == "record":
        raise InvalidInputError(
            f"sort: {field.name} has several values, so it gives no order. Sort by a field with "
            "one value, such as 'time'"
        )
    return Order(field, descending)


def _no_field(value: object) -> InvalidInputError:
    return InvalidInputError(
        "sort is a field such as 'time' or 'return', with '-' before it for the largest value "
        f"first ('-return'), or a list of such fields, not {brief(value)}. A name with other "
        "characters stands in backquotes: '-`my metric`'"
    )


def sort_rows(rows: list[Row], orders: Sequence[Order]) -> None:
    """Sort versions; versions that are equal by all fields keep their order."""
    for order in reversed(orders):
        rows.sort(key=order.key, reverse=order.descending)
