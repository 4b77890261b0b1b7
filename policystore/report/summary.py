"""Say what a report has on its page, and what could not be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policystore._util.messages import counted, printable
from policystore.format.plain import to_plain

__all__ = ["Problem", "ReportSummary"]

_SHOWN = 5  # problems in the text of a summary


@dataclass(frozen=True, order=True)
class Problem:
    """Name a part of a store that a report does not show.

    Attributes:
        place: what could not be read, such as ``soccer/main@7``.
        text: why, as the message of the error.
    """

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@dataclass(frozen=True, repr=False)
class ReportSummary:
    """Describe a page that ``PolicyStore.report`` has written; ``str(summary)`` is for people.

    Attributes:
        path: the page. A browser opens this file, without a server.
        nbytes: the size of the page in bytes.
        names: how many names are on the page.
        versions: how many versions are on the page.
        differences: for how many pairs of versions the page compares the layers.
        leagues: how many leagues are on the page.
        players: how many players these leagues have.
        not_shown: how many older versions that stand are not on the page, because of ``limit``.
        shortened: whether texts, metrics or layers were left out so that the page stays small.
        problems: what could not be read. The page shows everything else, and lists the problems.
    """

    path: Path
    nbytes: int
    names: int
    versions: int
    differences: int = 0
    leagues: int = 0
    players: int = 0
    not_shown: int = 0
    shortened: bool = False
    problems: tuple[Problem, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as plain values, which ``json.dumps`` takes."""
        values = {**self.__dict__, "path": str(self.path)}
        return {name: to_plain(value) for name, value in values.items()}

    def __repr__(self) -> str:
        return f"<ReportSummary {str(self).splitlines()[0]}>"

    def __str__(self) -> str:
        league = (
            f"{counted(self.leagues, 'league')} of {counted(self.players, 'player')}, "
            if self.leagues
            else ""
        )
        lines = [
            f"{self.path}: {counted(self.names, 'name')}, {counted(self.versions, 'version')}, "
            f"{counted(self.differences, 'comparison')}, {league}{self.nbytes / 1000:,.0f} KB"
        ]
        if self.not_shown:
            lines.append(f"  {counted(self.not_shown, 'older version')} left out: raise limit=")
        if self.shortened:
            lines.append("  long texts and rare metrics left out, so that the page stays small")
        if self.problems:
            parts = counted(len(self.problems), "part")
            lines.append(f"  {parts} could not be read; verify() says more:")
            lines += [f"    {problem}" for problem in self.problems[:_SHOWN]]
            if len(self.problems) > _SHOWN:
                lines.append(f"    and {len(self.problems) - _SHOWN:,} more, listed on the page")
        return "\n".join(map(printable, lines))
