"""Name similar words, if a search finds nothing because a word is mistyped."""

from __future__ import annotations

from collections.abc import Collection

from policystore._util.log import logger
from policystore._util.messages import printable, shorten
from policystore.errors import StorageError
from policystore.repository.lookup.listing import names_advice
from policystore.repository.resolver import Resolver
from policystore.repository.search.conditions import fields_of
from policystore.repository.search.fields import FIELDS, Field
from policystore.repository.search.messages import did_you_mean
from policystore.repository.search.names import NamePattern
from policystore.repository.search.query import Query
from policystore.repository.search.search import Found

__all__ = ["metric_advice", "near_names", "warn_of_typos"]

_MAX_SHOWN = 10  # metrics in a message
_MAX_NAME = 60  # characters of each


def warn_of_typos(resolver: Resolver, query: Query, found: Found) -> None:
    """Log a warning where names or metrics of a search do not exist, once for each such word."""
    url, text = resolver.backend.url, query.names.text
    if query.limit == 0:
        return
    if not found.names:
        if logger.is_news(("names", url, text)):
            near = near_names(resolver, query.names)
            logger.warning("no name in %s fits %r.%s", url, text, near)
        return
    if query.tag is not None and not found.looked_at and logger.is_news((url, text, query.tag)):
        logger.warning(
            "no name in %s that fits %r has the tag %r on a version that stands; tags(name) lists "
            "the tags of a name",
            url,
            text,
            query.tag,
        )
    wanted = [order.field for order in query.orders]
    if query.where is not None and not found.versions:
        wanted += fields_of(query.where, compared=True)
    for field in wanted:
        if found.lacks(field) and logger.is_news(("field", url, text, field.name)):
            logger.warning(
                "none of the %d versions that were looked at has the field %r.%s",
                found.looked_at,
                shorten(field.name, _MAX_NAME),
                _field_advice(field, found),
            )


def near_names(resolver: Resolver, pattern: NamePattern) -> str:
    """Return sentences with names that are similar to the folders with which a pattern begins."""
    folder = pattern.prefix.rpartition("/")[0]
    stars = ""
    if "*" in pattern.text and "**" not in pattern.segments:
        stars = " A * stays within one segment; ** stands for any number of segments."
    try:
        return stars + names_advice(resolver.backend, folder)
    except StorageError as error:
        return f"{stars} The names of the store cannot be listed: {error}"


def _field_advice(field: Field, found: Found) -> str:
    if field.part == "source":
        return did_you_mean(field.key, found.source)
    known = {*found.metrics, *(name for name in FIELDS if not name.endswith("NAME"))}
    near = did_you_mean(field.key, known)
    quotes = "" if near else f" A text stands in quotes: {shorten(field.name, _MAX_NAME)!r}."
    return f"{near or quotes}{_listed(found.metrics)}"


def metric_advice(metric: str, metrics: Collection[str]) -> str:
    """Return sentences with metrics that are similar to one that no version has."""
    return did_you_mean(metric, metrics) + _listed(metrics)


def _listed(metrics: Collection[str]) -> str:
    if not metrics:
        return " These versions have no metrics."
    shown = ", ".join(printable(shorten(name, _MAX_NAME)) for name in sorted(metrics)[:_MAX_SHOWN])
    more = len(metrics) - _MAX_SHOWN
    return f" The metrics are: {shown}{f', and {more} more' if more > 0 else ''}"
