"""Find the best version by a metric."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Literal, TypeAlias

from policystore._util.messages import brief
from policystore.errors import InvalidInputError, NotFoundError
from policystore.format.records import Version
from policystore.repository.resolver import Resolver
from policystore.repository.search.advice import metric_advice, near_names
from policystore.repository.search.conditions import All, Finite
from policystore.repository.search.fields import parse_field
from policystore.repository.search.order import Order
from policystore.repository.search.query import make_query
from policystore.repository.search.search import search

__all__ = ["Mode", "find_best"]

Mode: TypeAlias = Literal["max", "min"]
"""Whether the largest or the smallest value is the best."""


def find_best(
    resolver: Resolver,
    name: str,
    metric: str,
    mode: Mode,
    where: str | None,
    now: datetime.datetime,
) -> Version:
    """Return the version with the best value of a metric; of equal ones, the last that was pushed.

    Values that are not finite numbers do not count. The requests are those of a search.

    Args:
        resolver: reads the store.
        name: a name, or a pattern of names.
        metric: the metric; nested ones have dots between their keys.
        mode: whether the largest or the smallest value is the best.
        where: the condition that the version has to meet; None for all versions.
        now: the time from which ages count.

    Raises:
        InvalidInputError: an argument of the wrong form.
        NotFoundError: no such name, or no version has such a metric; the message names near ones.
    """
    if mode not in ("max", "min"):
        raise InvalidInputError(f"mode is 'max' or 'min', not {brief(mode)}")
    if not isinstance(metric, str) or not metric:
        raise InvalidInputError(f"a metric is a name such as 'return', not {brief(metric)}")
    field = parse_field(metric.removeprefix("metrics."), quoted=True)
    query = make_query(name, where=where, now=now, limit=1)
    finite = Finite(field)
    newest = (Order(parse_field("time"), True), Order(parse_field("number"), True))
    query = replace(
        query,
        where=finite if query.where is None else All((query.where, finite)),
        orders=(Order(field, mode == "max"), *newest),
    )
    found = search(resolver, query)
    if found.versions:
        return found.versions[0]
    place = f"{query.names.text!r} in {resolver.backend.url}"
    if not found.names:
        raise NotFoundError(f"no name fits {place}.{near_names(resolver, query.names)}")
    if found.lacks(field):
        raise NotFoundError(
            f"none of the {found.looked_at} versions of {place} has the metric {metric!r}."
            f"{metric_advice(metric, found.metrics)}"
        )
    meeting = "" if where is None else f" that meets {where!r}"
    raise NotFoundError(
        f"no version of {place}{meeting} has a finite number for the metric {metric!r}, though "
        f"versions have this metric ({found.looked_at} were looked at)"
    )
