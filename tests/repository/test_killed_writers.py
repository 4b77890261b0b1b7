"""Writers that are killed with SIGKILL leave stores without faults, with all they acknowledged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "tools" / "kill_writers.py"
KINDS = ("push", "tag", "delete", "collect", "copy")


def kill(*args: str) -> list[str]:
    """Run the script in a process of its own, because the script forks."""
    done = subprocess.run([sys.executable, str(SCRIPT), *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_killed_pushes_and_tags() -> None:
    assert len(kill("--kills", "6", "push", "tag")) == 2


@pytest.mark.long
@pytest.mark.wide
def test_killed_writers_of_every_kind_in_a_folder_and_a_bucket() -> None:
    assert len(kill("--kills", "60", "--moto", *KINDS)) == 2 * len(KINDS)
