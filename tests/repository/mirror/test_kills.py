"""Copies whose processes are killed with SIGKILL."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "count", [6, pytest.param(200, marks=[pytest.mark.long, pytest.mark.wide])]
)
def test_killed_processes_leave_a_valid_target(tmp_path: Path, count: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.mirror_kills", str(tmp_path), "7", str(count)],
        capture_output=True, text=True, timeout=600, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > count // 4
