"""Tables of rows: plain text for a terminal, and Markdown between the markers of a page."""

from __future__ import annotations

from collections.abc import Mapping

from scripts.benchmarks.lines.harness.rows import Report, Row

__all__ = ["as_markdown", "as_text", "summary", "with_table"]

_BEGIN = "<!-- table of scripts/benchmarks/run.py -->"
_END = "<!-- end of table -->"
_HEADS = ["what", "against", "policystore", "other", "ratio", "line", "met", "spread", "rounds"]
_MARKS = {True: "yes", False: "**no**", None: ""}


def as_text(reports: list[Report]) -> str:
    """Return tables for a terminal, one for each section."""
    blocks = []
    for report in reports:
        cells = [_HEADS, *(_cells(row) for row in report.rows)] if report.rows else []
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [f"{report.section} ({report.seconds:.0f} s)"]
        for each in cells:
            padded = (text.ljust(width) for text, width in zip(each, widths, strict=True))
            lines.append("  " + "  ".join(padded).rstrip().replace("**", ""))
        lines += [f"  not measured: {what}" for what in report.omitted]
        if report.error:
            lines += ["  FAILED", *(f"    {line}" for line in report.error.splitlines())]
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, summary(reports)])


def as_markdown(
    machine: Mapping[str, str], reports: list[Report], charts: Mapping[str, str]
) -> str:
    """Return what stands between the markers of the page.

    Args:
        machine: facts about the machine, by their names.
        reports: what the sections found.
        charts: the title of each chart, by its path relative to the page.
    """
    lines = [summary(reports), ""]
    lines += [f"![{title}]({path})" for path, title in charts.items()] + [""] * bool(charts)
    lines += ["| machine | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in machine.items()]
    for report in reports:
        lines += ["", f"### {report.section}", ""]
        if report.error:
            last = report.error.splitlines()[-1]
            lines += [f"This section failed: `{last}`", ""]
        if report.rows:
            lines += ["| " + " | ".join(_HEADS) + " |", "|---" * len(_HEADS) + "|"]
            lines += ["| " + " | ".join(_cells(row)) + " |" for row in report.rows]
        notes = dict.fromkeys(f"{row.what}: {row.note}" for row in report.rows if row.note)
        if notes:
            lines += ["", *(f"- {note}" for note in notes)]
    omitted = [f"- {report.section}: {what}" for report in reports for what in report.omitted]
    if omitted:
        lines += ["", "### Not measured", "", *omitted]
    return "\n".join(lines)


def summary(reports: list[Report]) -> str:
    """Return one line: how many lines are met, and which sections failed."""
    lines = [row.met for report in reports for row in report.rows if row.met is not None]
    failed = [report.section for report in reports if report.error]
    text = f"{sum(lines)} of {len(lines)} lines are met."
    return text + (f" Failed: {', '.join(failed)}." if failed else "")


def with_table(page: str, table: str) -> str:
    """Return a page with a table between its markers.

    Raises:
        SystemExit: the page lacks the markers.
    """
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise SystemExit(f"error: the page lacks the markers {_BEGIN} and {_END}")
    between = f"\n\n{table}\n\n" if table else "\n"
    return f"{before}{begin}{between}{end}{after}"


def _cells(row: Row) -> list[str]:
    limit = "" if row.limit is None else f"{row.limit:.3g}"
    spread = f"{row.spread:.0%}" if row.rounds > 1 else ""
    return [
        row.what, row.against, _value(row.ours, row.unit), _value(row.theirs, row.unit),
        f"{row.ratio:.3g}", limit, _MARKS[row.met], spread, str(row.rounds),
    ]  # fmt: skip


def _value(value: float, unit: str) -> str:
    """Return a value in a unit that a reader can grasp."""
    if unit == "s":
        for factor, name in ((1.0, "s"), (1e3, "ms")):
            if value * factor >= 1:
                return f"{value * factor:.3g} {name}"
        return f"{value * 1e6:.3g} µs"
    if unit == "B":
        for factor, name in ((1e6, "MB"), (1e3, "kB")):
            if value >= factor:
                return f"{value / factor:.3g} {name}"
    return f"{value:.4g} {unit}"
