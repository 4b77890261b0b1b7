"""Every cell of the new stack: kept here, rebuilt and played in one fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

import tests.support.new_stack_matrix as cells
from tests.support import ROOT
from tests.support.cells import chosen, sampled

ALWAYS = [
    "ppo-flattened-meanstd", "ppo-lstm", "ppo-dict-actions",
    "dqn-distributional",
    "module-lstm-shared",
    "module-inference-only", "module-batch-norm",
    "module-heuristic", *cells.MULTI_AGENT["multi-agent"],
]  # fmt: skip
"""Each kind of cell: algorithms, connectors, filters, spaces, bare modules, several agents."""


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest, ray_session: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("cells")
    failed = cells.make(chosen(request, "cell"), folder)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.new_stack_replay", str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULTS ")]
    assert lines, f"the fresh process failed:\n{done.stderr[-4000:]}"
    found = json.loads(lines[0].removeprefix("RESULTS "))
    return {**found, **{cell: {"ok": False, "error": why} for cell, why in failed.items()}}


@pytest.mark.parametrize("cell", sampled(cells.ALL, *ALWAYS))
def test_rebuilt_in_a_fresh_process_computes_and_plays_the_same(
    cell: str, results: dict[str, dict[str, Any]]
) -> None:
    result = results[cell]
    assert result["ok"], result["error"]
    if cell not in cells.MODULES:
        assert result["steps"] >= 20
