"""Rows of the table: one measurement of policystore beside what it is measured against."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from scripts.benchmarks.lines.harness.times import Times

__all__ = ["InconsistentError", "Report", "Row", "compare", "limited"]


class InconsistentError(Exception):
    """Policystore and what it is measured against did not do the same, or a count is wrong."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        section: the section that measured the row.
        what: what policystore did.
        against: what the row is measured against.
        ours: the median of policystore, in ``unit``.
        theirs: the median of the other, in ``unit``; or a limit that is no measurement.
        unit: ``s``, ``B``, ``MiB``, ``requests`` and so on.
        limit: the largest ratio that meets the line; None if the row has no line.
        spread: the larger of both distances between the quartiles, as a share of the median.
        rounds: how many rounds were measured of each.
        note: a remark, or empty.
    """

    section: str
    what: str
    against: str
    ours: float
    theirs: float
    unit: str
    limit: float | None = None
    spread: float = 0.0
    rounds: int = 1
    note: str = ""

    @property
    def ratio(self) -> float:
        """Ours divided by theirs; 0 is 0 times everything."""
        if not self.theirs:
            return 0.0 if not self.ours else float("inf")
        return self.ours / self.theirs

    @property
    def met(self) -> bool | None:
        """Whether the ratio is at most the limit; None if there is no limit."""
        return None if self.limit is None else self.ratio <= self.limit

    def to_json(self) -> dict[str, Any]:
        """Return the fields, with the ratio and whether the line is met."""
        return {**dataclasses.asdict(self), "ratio": self.ratio, "met": self.met}

    @classmethod
    def of_json(cls, fields: dict[str, Any]) -> Row:
        """Return the row that :meth:`to_json` wrote."""
        return cls(**{key: fields[key] for key in fields if key not in ("ratio", "met")})


def compare(
    section: str, what: str, against: str, ours: Times, theirs: Times,
    *, limit: float | None = None, note: str = "",
) -> Row:  # fmt: skip
    """Return a row of two series of times, which were measured in turn."""
    return Row(
        section, what, against, ours.median, theirs.median, "s", limit,
        max(ours.spread, theirs.spread), len(ours.seconds), note,
    )  # fmt: skip


def limited(
    section: str, what: str, value: float, at_most: float, unit: str,
    *, times: Times | None = None, note: str = "",
) -> Row:  # fmt: skip
    """Return a row of a value that has a limit of its own, and is measured against nothing."""
    spread, rounds = (times.spread, len(times.seconds)) if times else (0.0, 1)
    return Row(section, what, "a fixed limit", value, at_most, unit, 1.0, spread, rounds, note)


@dataclass
class Report:
    """What a section found.

    Attributes:
        section: the section's name.
        rows: the measurements.
        omitted: what was not measured, and why.
        seconds: how long the section took.
        error: the last lines of a section that failed; else empty.
    """

    section: str
    rows: list[Row] = field(default_factory=list)
    omitted: list[str] = field(default_factory=list)
    seconds: float = 0.0
    error: str = ""

    def compare(self, what: str, against: str, ours: Times, theirs: Times, **more: Any) -> None:
        """Add a row of two series of times; see :func:`compare`."""
        self.rows.append(compare(self.section, what, against, ours, theirs, **more))

    def limited(self, what: str, value: float, at_most: float, unit: str, **more: Any) -> None:
        """Add a row of a value that has a limit of its own; see :func:`limited`."""
        self.rows.append(limited(self.section, what, value, at_most, unit, **more))

    def count(
        self, what: str, against: str, ours: float, theirs: float, unit: str, **more: Any
    ) -> None:
        """Add a row of two numbers that need no rounds, such as bytes."""
        self.rows.append(Row(self.section, what, against, ours, theirs, unit, **more))

    def omit(self, what: str) -> None:
        """Say what was not measured, and why."""
        self.omitted.append(what)

    def check(self, holds: object, what: str) -> None:
        """Check a result.

        Raises:
            InconsistentError: it does not hold.
        """
        if not holds:
            raise InconsistentError(what)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON."""
        rows = [row.to_json() for row in self.rows]
        return {**dataclasses.asdict(self), "rows": rows}

    @classmethod
    def of_json(cls, fields: dict[str, Any]) -> Report:
        """Return the report that :meth:`to_json` wrote."""
        return cls(**{**fields, "rows": [Row.of_json(row) for row in fields["rows"]]})
