"""Check the arguments of a search, before anything is read."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass

from policystore._util.messages import brief
from policystore.errors import InvalidInputError, PolicyStoreError
from policystore.format.refs import check_tag
from policystore.repository.search.conditions import Condition, fields_of
from policystore.repository.search.fields import Field
from policystore.repository.search.names import NamePattern, parse_pattern
from policystore.repository.search.order import Order, parse_orders
from policystore.repository.search.parser import parse_expression

__all__ = ["Query", "Since", "check_since", "make_query"]

Since = datetime.datetime | datetime.timedelta


@dataclass(frozen=True)
class Query:
    """Hold what a search looks for.

    Attributes:
        names: the pattern of the names.
        where: the condition that versions meet; None for all versions.
        tag: the tag that points to the versions; None for all versions.
        since: versions that were pushed before this time are left out; None for all versions.
        orders: the fields to sort by. Without a field, names are in order, and the versions of each
            name are newest first.
        limit: how many versions to return at most; None for all.
        now: the time from which ages count.
        skip_damaged: whether to leave out records that cannot be read.
        tags, annotations: whether the caller wants these of each version, also where the search
            does not look at them.
    """

    names: NamePattern
    where: Condition | None
    tag: str | None
    since: datetime.datetime | None
    orders: tuple[Order, ...]
    limit: int | None
    now: datetime.datetime
    skip_damaged: bool = False
    tags: bool = False
    annotations: bool = False

    @property
    def fields(self) -> list[Field]:
        """All fields that the search looks at."""
        conditions = [] if self.where is None else [*fields_of(self.where)]
        return [*conditions, *(order.field for order in self.orders)]

    @property
    def needs_annotations(self) -> bool:
        """Whether the search looks at metrics, which annotations may add, or at notes."""
        return self.names_field("note") or any(each.part == "metrics" for each in self.fields)

    def names_field(self, *keys: str) -> bool:
        """Return whether the search looks at one of these fields of a record."""
        return any(each.part == "record" and each.key in keys for each in self.fields)


def make_query(
    name: str | None,
    *,
    where: str | None = None,
    tag: str | None = None,
    since: Since | None = None,
    sort: str | Iterable[str] | None = None,
    limit: int | None = None,
    now: datetime.datetime,
    skip_damaged: bool = False,
    tags: bool = False,
    annotations: bool = False,
) -> Query:
    """Check the arguments of a search; arguments as in ``PolicyStore.versions``.

    Raises:
        InvalidInputError: an argument of the wrong form; the message names the argument.
    """
    if limit is not None and (type(limit) is not int or limit < 0):
        raise InvalidInputError(
            f"limit is a number of versions, a whole number of at least 0, not {brief(limit)}"
        )
    try:
        condition = None if where is None else parse_expression(where)
    except PolicyStoreError as error:
        raise error.within("where") from None
    return Query(
        names=parse_pattern(name),
        where=condition,
        tag=None if tag is None else check_tag(tag),
        since=check_since(since, now),
        orders=parse_orders(sort),
        limit=limit,
        now=now,
        skip_damaged=skip_damaged,
        tags=tags,
        annotations=annotations,
    )


def check_since(since: object, now: datetime.datetime) -> datetime.datetime | None:
    """Return the time that a caller gave, with its zone or as a duration before now.

    Raises:
        InvalidInputError: another value.
    """
    if since is None:
        return None
    if isinstance(since, datetime.timedelta):
        if since < datetime.timedelta(0):
            raise InvalidInputError(f"since: a duration before now is positive, not {since}")
        try:
            return now - since
        except OverflowError:
            return None  # longer ago than any time: all versions
    if isinstance(since, datetime.datetime) and since.tzinfo is not None:
        return since
    hint = ""
    if isinstance(since, datetime.datetime):
        hint = ": the time lacks its zone, such as tzinfo=datetime.timezone.utc"
    raise InvalidInputError(
        "since is a time with a zone, or a duration such as datetime.timedelta(days=7), not "
        f"{brief(since)}{hint}"
    )
