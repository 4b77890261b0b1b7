"""Measure policystore against what a user would take instead, and against the machine's limits.

    ./.venv/bin/python scripts/benchmarks/run.py [--quick] [--only SECTION…] [--out FILE.json]
        [--s3 ceph moto | none] [--charts FOLDER] [--page docs/benchmarks.md]
        [--read FILE.json [--check]]

prints a table: medians, their ratio, the line that the ratio has to keep, and the spread. Each
section runs in a fresh process. In a section the contenders run in turn, after rounds that do not
count. With ``--quick``, small sizes and few rounds only show that each section runs, and that
policystore and the others get the same results: the times mean nothing then. The exit status is 1
if a section failed, and 0 otherwise, also where lines are missed.

docs/benchmarks.md has the figures of one run, and says what they mean.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.benchmarks.lines import SECTIONS
from scripts.benchmarks.lines.harness.charts import TITLES, draw
from scripts.benchmarks.lines.harness.machine import machine
from scripts.benchmarks.lines.harness.processes import run_section
from scripts.benchmarks.lines.harness.rows import Report
from scripts.benchmarks.lines.harness.s3 import KINDS, servers
from scripts.benchmarks.lines.harness.settings import Settings
from scripts.benchmarks.lines.harness.tables import as_markdown, as_text, summary, with_table

_REMOTE = ("remote", "large")  # sections that need a server
_QUICK_LIMIT = 140.0  # seconds


def main(arguments: list[str] | None = None) -> int:
    given = _parse(arguments)
    result = json.loads(given.read.read_text()) if given.read else _measure(given)
    reports = [Report.of_json(each) for each in result["sections"]]
    print(as_text(reports))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    if given.charts and not given.check:
        for path in draw(reports, given.charts):
            print(f"wrote {path}")
    if given.page:
        now = given.page.read_text()
        wanted = _with_figures(now, given, result["machine"], reports)
        if given.check:
            print(f"{given.page} {'has' if now == wanted else 'lacks'} the figures")
            return 0 if now == wanted else 1
        given.page.write_text(wanted)
        print(f"wrote {given.page}")
    return 1 if any(report.error for report in reports) else 0


def _with_figures(
    page: str, given: argparse.Namespace, machine: dict[str, str], reports: list[Report]
) -> str:
    """Return the page with these figures, and with the charts that are in the folder of charts."""
    charts = {
        os.path.relpath(given.charts / name, given.page.parent): title
        for name, title in TITLES.items()
        if given.charts and (given.charts / name).exists()
    }
    return with_table(page, as_markdown(machine, reports, charts))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes: checks results alone")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), metavar="SECTION",
                        help=f"of {', '.join(SECTIONS)}")  # fmt: skip
    parser.add_argument("--s3", nargs="+", choices=[*KINDS, "none"],
                        help="which servers to start (both; with --quick moto's)")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--charts", type=Path, metavar="FOLDER", help="draw charts as SVG")
    parser.add_argument("--page", type=Path, help="write the table into a page, between markers")
    parser.add_argument(
        "--check", action="store_true", help="with --read and --page: write nothing"
    )
    parser.add_argument("--read", type=Path, metavar="FILE",
                        help="measure nothing, and show the figures of --out")  # fmt: skip
    parser.add_argument("--scratch", type=Path, help="a folder for files, on the disk to measure")
    given = parser.parse_args(arguments)
    if given.read and (given.out or given.only or given.quick):
        parser.error("--read measures nothing: --out, --only and --quick do not go with it")
    if given.check and not (given.read and given.page):
        parser.error("--check goes with --read and --page")
    if given.s3 is None:
        given.s3 = ["moto"] if given.quick else list(KINDS)
    elif "none" in given.s3 and len(given.s3) > 1:
        parser.error("--s3 none goes with no other server")
    return given


def _measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run the sections, and return everything as JSON."""
    sections = {name: SECTIONS[name] for name in given.only or SECTIONS}
    wanted = [kind for kind in given.s3 if kind != "none"]
    kinds = wanted if any(name in sections for name in _REMOTE) else []
    with tempfile.TemporaryDirectory(dir=given.scratch, prefix="lines-") as scratch:
        described = machine(scratch)
        with servers(kinds) as urls:
            settings = Settings(given.quick, scratch, urls)
            reports = run_sections(sections, settings)
    return {
        "quick": given.quick,
        "machine": described,
        "sections": [report.to_json() for report in reports],
    }


def run_sections(
    sections: dict[str, int], settings: Settings, package: str = "scripts.benchmarks.lines"
) -> list[Report]:
    """Run sections, each in a fresh process, and return their reports.

    One runs at a time; where times mean nothing, two do.
    """

    def run(name: str) -> Report:
        timeout = _QUICK_LIMIT if settings.quick else float(sections[name])
        report = run_section(f"{package}.{name}", settings, timeout)
        print(f"{name}: {report.seconds:.0f} s. {summary([report])}", file=sys.stderr, flush=True)
        return report

    # With two at a time, the longest begin first, so that none is left alone at the end.
    order = sorted(sections, key=lambda name: -sections[name]) if settings.quick else sections
    with ThreadPoolExecutor(2 if settings.quick else 1) as pool:
        reports = dict(zip(order, pool.map(run, order), strict=True))
    return [reports[name] for name in sections]


if __name__ == "__main__":
    sys.exit(main())
