"""Write a page that shows what is in a store."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from os import PathLike
from typing import TYPE_CHECKING

from policystore._util.progress import Meter, Progress
from policystore.repository.stamp import now
from policystore.store.base import StoreBase

if TYPE_CHECKING:
    from policystore.report.summary import ReportSummary

__all__ = ["ReportingCalls"]


class ReportingCalls(StoreBase):
    """Write a page that shows a store: a part of the calls of a store."""

    def report(
        self,
        out: str | PathLike[str] = "report",
        names: str | Iterable[str] | None = None,
        *,
        leagues: str | Iterable[str] | None = None,
        limit: int = 1000,
        diffs: int = 40,
        diff_nbytes: int = 200_000_000,
        title: str | None = None,
        time: datetime.datetime | None = None,
        progress: Progress | None = None,
    ) -> ReportSummary:
        """Write a page that shows the store in a browser, without a server and without requests.

        The page has the names, the versions with their metrics as charts, the lineage as a graph,
        the tags and their history, the sizes and what sharing saves, the differences between
        versions by layer, and the leagues: ratings, payoffs, who beat whom. The page is one file,
        such as ``index.html`` in the folder ``out``. If the page would have more than 1.5 MB, long
        texts, rare metrics, layers that hardly changed and some players of leagues are left out,
        and the page says so. A page of 1,000 versions has at most 1.5 MB. For the same state of the
        store and the same ``time``, the page has the same bytes.

        The call reads one record for each version, each annotation and each move of a tag, a few
        for each name, and the sums of each league. Damaged records are left out, and the page and
        the summary name them.

        Args:
            out: a folder. The folder is made if it does not exist; otherwise it has to be empty or
                to have an earlier report, which is replaced. Or a file that ends with ``.html``.
            names: what to show: None for all names, a name, a prefix such as ``"soccer/"``, a
                pattern such as ``"soccer/*"`` or ``"soccer/**"``, as in :meth:`versions`, or a list
                of these.
            leagues: which leagues to show: a name, or a list of names. If only ``leagues`` is
                given, the page has these leagues and the names whose versions play in them. None
                for all leagues, or for none if ``names`` is given.
            limit: how many versions of each name to show at most. The newest ones are shown.
            diffs: how many pairs of versions to compare layer by layer, at most. The newest version
                of each name is compared first, then tagged versions, then versions whose parents
                have other names, then older neighbours. 0 compares nothing.
            diff_nbytes: how many bytes of policies to read for all these comparisons, at most.
                Objects that both policies of a pair have are not read.
            title: the title of the page; by default the URL of the store.
            time: the time that the page shows as the time of the report, with a time zone; by
                default now.
            progress: a function of two numbers: how many records and pairs were read, and how many
                are known so far. The function may be called from any thread, one call at a time. If
                the function raises, the call ends with that error.

        Returns:
            A summary: the path of the page, its size, and what could not be read.

        Raises:
            InvalidInputError: an argument of a wrong form, or ``out`` has files that no report has
                made.
            NotFoundError: the store does not exist, no name fits one of ``names``, or there is no
                league that ``leagues`` names.
            FormatError: the folder is not a store, or is a store of a newer format.
            ReadOnlyError: this user may not write to ``out``.
            StorageError: the storage failed, or the page cannot be written.
        """
        from policystore.report.write_report import write_report  # late: other calls do not need it

        return write_report(
            self._resolver.objects,
            out,
            names,
            leagues,
            limit=limit,
            diffs=diffs,
            diff_nbytes=diff_nbytes,
            title=title,
            time=now() if time is None else time,
            meter=Meter(progress),
        )
