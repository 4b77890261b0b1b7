"""scripts/examples/serve_ray.py: replicas of Ray Serve that follow a tag, under load."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support import ROOT

pytest.importorskip("ray.serve", reason="the example needs ray[serve]")

SCRIPT = ROOT / "scripts" / "examples" / "serve_ray.py"


@pytest.mark.long
def test_while_the_champion_changes_under_load_every_answer_is_right() -> None:
    ended = subprocess.run(
        [sys.executable, SCRIPT, "--load", "--seconds=6", "--clients=4", "--cpus=2"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "0 failed requests, 0 wrong or mixed answers" in ended.stdout
