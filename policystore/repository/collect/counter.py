"""Count what a collection does, from several threads."""

from __future__ import annotations

import datetime
import threading

from policystore.format.keys import OBJECTS
from policystore.repository.collect.report import MOST_NAMED, GarbageReport, Tally

__all__ = ["Counter"]


class Counter:
    """Fill in a report; several threads may do so at once.

    Args:
        report: the report.

    Attributes:
        unmoved: how many objects the storage has refused to delete.
    """

    def __init__(self, report: GarbageReport) -> None:
        self.report = report
        self._lock = threading.Lock()
        self.unmoved = 0
        self._oldest: float | None = None  # the time of the oldest object that is too young

    @property
    def dry_run(self) -> bool:
        """Whether nothing may be changed."""
        return self.report.dry_run

    def add(self, tally: Tally, nbytes: int, count: int = 1) -> None:
        """Count one key, or several with the sum of their bytes."""
        with self._lock:
            tally.count += count
            tally.nbytes += nbytes

    def add_young(self, nbytes: int, time: float | None) -> None:
        """Count an object that nothing needs, and that is too young to be moved.

        Args:
            nbytes: its size.
            time: when it was written; None if the storage does not tell.
        """
        self.add(self.report.young, nbytes)
        with self._lock:
            if time is not None and (self._oldest is None or time < self._oldest):
                self._oldest = time

    def add_refusal(self, key: str) -> None:
        """Note a key that the storage does not delete."""
        with self._lock:
            self.report.refusals += 1
            self.unmoved += key.startswith(OBJECTS)
            if len(self.report.refused) < MOST_NAMED:
                self.report.refused.append(key)

    def explain(self) -> None:
        """Write into the report why no object was moved, when the collection has ended."""
        report = self.report
        if report.moved.count:
            return
        if self.unmoved:
            report.reason = "the storage refuses to delete the objects"
        elif self._oldest is not None:
            oldest = datetime.datetime.fromtimestamp(self._oldest, datetime.timezone.utc)
            report.reason = (
                f"nothing needs {report.young.count:,} objects, and all of them are younger than "
                f"the grace of {report.grace}; the oldest can be moved from "
                f"{oldest + report.grace:%Y-%m-%d %H:%M} UTC on"
            )
        elif report.young.count:
            report.reason = "the storage does not tell how old the objects are"
        elif report.needed.count:
            report.reason = "a version, a tag or a push without a name needs each object"
        else:
            report.reason = "the store has no objects"
