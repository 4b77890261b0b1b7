"""Charts of the rows, as SVG: equal figures give equal bytes, with one version of matplotlib."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from scripts.benchmarks.lines.harness.rows import Report, Row

__all__ = ["TITLES", "draw"]

TITLES = {
    "benchmarks-lines.svg": "The ratio of each row, relative to its line",
    "benchmarks-pull.svg": "Pulls from a private folder, median times",
    "benchmarks-loading.svg": "load_into with proof, median times",
    "benchmarks-acting.svg": "Actions of players, median times",
}
"""The charts that there can be: the name of each file, and its title."""

_OURS, _THEIRS, _MISSED = "#00897b", "#9e9e9e", "#d84315"
_SALT = "policystore"  # of the ids in the file, which would be random


def draw(reports: list[Report], folder: Path) -> list[Path]:
    """Draw all charts for which there are rows, and return their files.

    Args:
        reports: what the sections found.
        folder: where the files go; files of an earlier run are replaced.
    """
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": _SALT, "svg.fonttype": "none", "font.size": 9})
    folder.mkdir(parents=True, exist_ok=True)
    rows = {report.section: report.rows for report in reports}
    first, *others = TITLES
    made = [_lines(reports, folder / first)]
    sections = ("pull", "loading", "acting")
    made += [
        _pairs(rows.get(section, []), folder / name)
        for section, name in zip(sections, others, strict=True)
    ]
    return [path for path in made if path is not None]


def _lines(reports: list[Report], path: Path) -> Path | None:
    """Draw each row that has a line: the ratio, relative to its limit."""
    import matplotlib.pyplot as plt

    rows = [row for report in reports for row in report.rows if _shown(row)]
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(9, 1 + 0.17 * len(rows)))
    values = [row.ratio / (row.limit or 1.0) for row in rows]
    colours = [_OURS if row.met else _MISSED for row in rows]
    places = range(len(rows))
    axes.hlines(places, [min(1.0, value) for value in values],
                [max(1.0, value) for value in values], color=colours, linewidth=1)  # fmt: skip
    axes.scatter(values, places, color=colours, s=14)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(places, [_label(row) for row in rows], fontsize=6)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlabel("ratio, divided by what the line allows: left of 1 the line is met")
    return _save(figure, path)


def _shown(row: Row) -> bool:
    return row.limit is not None and row.ratio > 0 and math.isfinite(row.ratio)


def _label(row: Row) -> str:
    text = f"{row.section}: {row.what}, {row.against}"
    return text if len(text) <= 95 else text[:94] + "…"


def _pairs(rows: list[Row], path: Path) -> Path | None:
    """Draw two bars for each row: policystore's value and the other's."""
    import matplotlib.pyplot as plt

    rows = [row for row in rows if row.unit == "s" and "shared" not in row.what]
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(9, 1 + 0.42 * len(rows)))
    places = range(len(rows))
    axes.barh([place - 0.2 for place in places], [row.ours * 1e3 for row in rows], 0.38,
              color=_OURS, label="policystore")  # fmt: skip
    axes.barh([place + 0.2 for place in places], [row.theirs * 1e3 for row in rows], 0.38,
              color=_THEIRS, label="other")  # fmt: skip
    axes.set_xscale("log")
    axes.set_yticks(places, [f"{row.what}\n{row.against}" for row in rows], fontsize=6)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds")
    axes.set_title(TITLES[path.name])
    axes.legend(fontsize=7)
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.savefig(path, format="svg", bbox_inches="tight",
                   metadata={"Date": None, "Creator": None})  # fmt: skip
    plt.close(figure)
    return path
