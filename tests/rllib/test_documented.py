"""The page on RLlib lists exactly the cells that are tested."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.support import ROOT

PAGE = ROOT / "docs" / "rllib.md"


def collected(path: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--co", "-p", "no:cacheprovider", path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return set(re.findall(r"::test_\w+\[([^]]+)\]", done.stdout))


def test_every_cell_is_listed_and_every_listed_cell_is_one() -> None:
    table = PAGE.read_text().partition("## Shown to come back")[2].partition("\n## ")[0]
    rows = [line.split("|")[2:4] for line in table.splitlines() if line.startswith("| ")][1:]
    for column, path in (
        (0, "tests/rllib/old_stack/test_matrix.py"),
        (1, "tests/rllib/new_stack/test_matrix.py"),
    ):
        listed = {cell for row in rows for cell in re.findall(r"`([^`]+)`", row[column])}
        assert listed == collected(path)
