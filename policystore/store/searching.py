"""Find versions across the names of a store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from policystore.format.records import Version
from policystore.repository.lookup.marker import require_store
from policystore.repository.stamp import now
from policystore.store.base import StoreBase
from policystore.version_list import VersionList

if TYPE_CHECKING:
    from policystore.repository.search.best import Mode
    from policystore.repository.search.query import Since

__all__ = ["SearchingCalls"]


class SearchingCalls(StoreBase):
    """Choose versions by their records: a part of the calls of a store."""

    def versions(
        self,
        name: str | None = None,
        *,
        where: str | None = None,
        tag: str | None = None,
        since: Since | None = None,
        sort: str | Iterable[str] | None = None,
        limit: int | None = None,
        skip_damaged: bool = False,
        tags: bool = False,
        annotations: bool = False,
    ) -> VersionList:
        """Find versions across names, such as ``store.versions("soccer/*", where="return > 20")``.

        The call makes two listings of names, five requests for each name that fits, and a request
        for each version that stands. Many of these requests run at the same time. With ``tag``, the
        call makes six requests for each name in place of these. With ``limit`` and without
        ``sort``, the call ends when it has enough versions. With ``limit``, the memory of the call
        does not grow with the number of versions. A metric in ``where`` or ``sort`` costs a listing
        of the annotations of each name, and a request for each annotation. The field ``tag`` costs
        a listing for each name, and three requests for each tag.

        Args:
            name: a name or a pattern: ``*`` and ``?`` stand for characters of one segment, ``**``
                for any number of segments. ``soccer/`` means the same as ``soccer/**``. None for
                all names.
            where: an expression that has to hold, such as
                ``"return > 20 and author == 'ann' and age < 7d"``. ``docs/store.md`` describes the
                grammar. A comparison with a metric that a version lacks is false.
            tag: only versions to which this tag points.
            since: only versions that were pushed at this time or later, by the clocks of their
                writers: a time with a zone, or a duration before now.
            sort: a field to sort by, with ``-`` before it for the largest value first, or several
                such fields. Versions with NaN come behind all others, and versions without a value
                come last. None: the names in order, and the versions of each name newest first.
            limit: how many versions to return at most; None for all.
            skip_damaged: True to leave out records that cannot be read; ``problems`` of the
                returned list names these records. False to raise the error of the first one.
            tags: True to look up the tags of each version, for :attr:`Version.tags`. An expression
                that names ``tag`` does so, too.
            annotations: True to read the annotations of each version, for
                :attr:`Version.annotations`. An expression or order that names a metric does so,
                too, because annotations may add metrics.

        Returns:
            The versions that stand. If ``where`` or ``sort`` names the field ``deleted``, deleted
            versions are looked at, too. The list is empty if nothing fits. If a name, metric or tag
            does not exist at all, the log has a warning.

        Raises:
            InvalidInputError: an argument of the wrong form. For an expression, the message shows
                where it is wrong.
            NotFoundError: ``name`` has no wildcard and does not exist, or no version of it stands;
                or the store does not exist.
            FormatError, IntegrityError: a record is damaged or missing.
            StorageError: the storage failed.
        """
        # Late: few programs search.
        from policystore.repository.search.advice import warn_of_typos
        from policystore.repository.search.query import make_query
        from policystore.repository.search.search import search

        query = make_query(
            name,
            where=where,
            tag=tag,
            since=since,
            sort=sort,
            limit=limit,
            now=now(),
            skip_damaged=skip_damaged,
            tags=tags,
            annotations=annotations,
        )
        found = search(self._resolver, query)
        if not found.names and query.limit != 0:
            require_store(self._backend)
        warn_of_typos(self._resolver, query, found)
        return VersionList(found.versions, problems=found.problems)

    def best(
        self, name: str, metric: str, mode: Mode = "max", *, where: str | None = None
    ) -> Version:
        """Return the version with the best value of a metric, such as ``best("a/*", "return")``.

        The requests are those of :meth:`versions`.

        Args:
            name: a name or a pattern, as in :meth:`versions`.
            metric: the metric; nested ones have dots between their keys. Values that are not finite
                numbers do not count: NaN is never the best.
            mode: ``"max"`` if the largest value is the best, ``"min"`` if the smallest is.
            where: an expression that has to hold for the version, as in :meth:`versions`.

        Returns:
            The version. If several versions have the best value, the one that was pushed last.

        Raises:
            InvalidInputError: an argument of the wrong form.
            NotFoundError: no such name, or no version has a finite value for the metric. If no
                version has the metric, the message lists near metrics and others that exist.
            FormatError, IntegrityError: a record is damaged or missing.
            StorageError: the storage failed.
        """
        from policystore.repository.search.best import find_best  # late: few programs search

        return find_best(self._resolver, name, metric, mode, where, now())
