"""Choose versions across names by a condition, in a stated order, with bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from policystore.format.records import Version
from policystore.repository.resolver import Resolver
from policystore.repository.search.fields import Field, Row
from policystore.repository.search.order import sort_rows
from policystore.repository.search.query import Query
from policystore.repository.search.reading import VersionReader

__all__ = ["Found", "search"]

_SPARE = 1024  # versions that are kept beside the best ones before the others are dropped
_MAX_METRICS = 10_000  # names of metrics that are remembered for a message


@dataclass
class Found:
    """Hold the result of a search, and what the search has read for it.

    Attributes:
        versions: the versions, in order.
        names: how many names fit the pattern.
        looked_at: how many versions were looked at.
        metrics, source: the names of metrics, and of values of ``source``, that these versions
            have; empty if the search looks at no such value.
        problems: sentences on records that could not be read and were left out.
    """

    versions: list[Version] = field(default_factory=list)
    names: int = 0
    looked_at: int = 0
    metrics: set[str] = field(default_factory=set)
    source: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def lacks(self, wanted: Field) -> bool:
        """Return whether versions were looked at, and none has the metric or value of a field."""
        seen = {"metrics": self.metrics, "source": self.source}.get(wanted.part)
        return seen is not None and self.looked_at > 0 and wanted.key not in seen


def search(resolver: Resolver, query: Query) -> Found:
    """Search versions.

    A search makes two listings for the names, five requests for each name with its newest version,
    and one for each other version that stands. With ``tag``, it makes six requests for each name in
    place of these. If a field is ``tag``, it also makes a listing for each name, and three requests
    for each tag. If a field is a metric, it also makes a listing for each name, and a request for
    each annotation. With a limit and without an order, the search ends when it has enough versions.
    With a limit, the memory does not grow with the number of versions.

    Raises:
        NotFoundError, FormatError, IntegrityError, StorageError: as by
            :meth:`VersionReader.versions`.
    """
    found = Found()
    if query.limit == 0:
        return found
    reader = VersionReader(resolver, query)
    rows = _chosen(reader.versions(), query, found)
    found.versions = [row.version for row in _first(rows, query)]
    found.names, found.problems = reader.names, reader.problems
    return found


def _chosen(versions: Iterable[Version], query: Query, found: Found) -> Iterator[Row]:
    """Yield the versions that meet the conditions of a query, and note which metrics there are."""
    parts = {each.part for each in query.fields}
    for version in versions:
        row = Row(version, query.now)
        found.looked_at += 1
        if "metrics" in parts and len(found.metrics) < _MAX_METRICS:
            found.metrics.update(row.metrics)
        if "source" in parts and len(found.source) < _MAX_METRICS:
            found.source.update(row.source)
        if query.since is not None and version.time < query.since:
            continue
        if query.where is None or query.where.holds(row):
            yield row


def _first(rows: Iterable[Row], query: Query) -> list[Row]:
    """Return the first rows in the order of a query, as many as its limit says."""
    limit, kept = query.limit, list[Row]()
    for row in rows:
        kept.append(row)
        if limit is None:
            continue
        if not query.orders and len(kept) == limit:
            return kept
        if len(kept) >= 2 * limit + _SPARE:
            sort_rows(kept, query.orders)
            del kept[limit:]
    sort_rows(kept, query.orders)
    return kept[:limit]
