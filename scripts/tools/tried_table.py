"""Write the table of what was tried on which Algorithms into docs/running.md.

    ./.venv/bin/python scripts/tools/tried_table.py [--check]

The table is made from the ids of the tests in the two files ``test_tried.py``. pytest collects
these ids and runs no test. With --check the script changes nothing, and ends with status 1 if the
page has another table.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.support.tried_cells import WORKS, Cell, cell_of  # noqa: E402

PAGE = ROOT / "docs" / "running.md"
FILES = ("tests/rllib/live/test_tried.py", "tests/rllib/callbacks/test_tried.py")
BEGIN, END = "<!-- table: scripts/tools/tried_table.py -->", "<!-- end of table -->"
CALLS = (
    "snapshot",
    "load_into",
    "check_sync",
    "add_policy",
    "remove_policy",
    "warm_start",
    "publish",
    "restore",
)
START = "::test_tried["


def collect() -> list[Cell]:
    """Return the cells of all tests of the two files."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-m", "long or not long", *FILES], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    lines = (line for line in done.stdout.splitlines() if START in line)
    return [cell_of(line.partition(START)[2].removesuffix("]")) for line in lines]


def tables(cells: Iterable[Cell]) -> str:
    """Return the two tables: calls without a fault, and calls under faults."""
    cells = list(cells)
    plain: dict[str, dict[str, str]] = {}
    for cell in cells:
        if not cell.fault:
            plain.setdefault(cell.algorithm, {})[cell.call] = _shown(cell)
    lines = ["| Algorithm | " + " | ".join(f"`{call}`" for call in CALLS) + " |"]
    lines.append("|---" * (len(CALLS) + 1) + "|")
    for algorithm, outcomes in plain.items():
        lines.append(" | ".join([f"| {algorithm}", *(outcomes.get(c, "") for c in CALLS)]) + " |")
    faults: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if cell.fault:
            key = cell.algorithm, cell.fault
            faults.setdefault(key, []).append(f"`{cell.call}`: {_shown(cell)}")
    lines += ["", "| Algorithm | what happens during the call | calls |", "|---|---|---|"]
    lines += [
        f"| {algorithm} | {fault} | {', '.join(calls)} |"
        for (algorithm, fault), calls in sorted(faults.items())
    ]
    return "\n".join(lines)


def _shown(cell: Cell) -> str:
    return "yes" if cell.outcome == WORKS else f"`{cell.outcome}`"


def with_tables(page: str, cells: Iterable[Cell]) -> str:
    """Return the text of the page with the tables of these cells between the two markers."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        sys.exit(f"{PAGE} lacks the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{tables(cells)}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    arguments = parser.parse_args()
    now = PAGE.read_text()
    wanted = with_tables(now, collect())
    if arguments.check:
        sys.exit(now != wanted and f"{PAGE} is not up to date: run {Path(__file__).name}")
    PAGE.write_text(wanted)


if __name__ == "__main__":
    main()
