"""Processes that start while other threads use a store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

DRIVER = ROOT / "tests" / "support" / "fork_driver.py"


def children_done(kind: str, url: object, count: int) -> int:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", DRIVER, kind, str(url), str(count)],
        capture_output=True, text=True, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "child" not in done.stderr, done.stderr
    return int(done.stdout.split()[-1])


def test_a_child_that_is_forked_during_a_push_or_a_hash_can_use_the_store(tmp_path: Path) -> None:
    assert children_done("fork", tmp_path / "s", 25) == 25


def test_a_forked_child_has_a_whole_copy_of_a_memory_store() -> None:
    assert children_done("fork", "memory://forked", 15) == 15


@pytest.mark.long
@pytest.mark.parametrize(
    "kind", ["forkserver", "spawn", "dataloader-fork", "dataloader-spawn", "ray"]
)
def test_a_child_of_any_kind_can_use_the_store(tmp_path: Path, kind: str) -> None:
    assert children_done(kind, tmp_path / "s", 3) == 3


@pytest.mark.long
@pytest.mark.parametrize("url", ["folder", "memory://forked"])
def test_no_fork_of_many_hangs(tmp_path: Path, url: str) -> None:
    place = tmp_path / "s" if url == "folder" else url
    assert children_done("fork", place, 250) == 250
