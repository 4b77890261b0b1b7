"""A pool with 2,000 opponents costs what a pool with 10 costs: modules, requests, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.support import ROOT

PROGRAM = ROOT / "scripts" / "benchmarks" / "bench_league_pool.py"
MB_MORE = 150  # the snapshots that each env runner keeps are at most 32 MB


def figures(*opponents: int) -> list[dict[str, Any]]:
    """Run the benchmark, and return its figures."""
    command = [sys.executable, str(PROGRAM), "--json", "--iterations", "4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    output = subprocess.run(
        [*command, "--opponents", *map(str, opponents)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ).stdout
    return json.loads(output.splitlines()[-1])


@pytest.mark.long
@pytest.mark.wide
def test_two_thousand_opponents_are_as_light_as_ten() -> None:
    few, many = figures(10, 2000)
    # The learner's own first snapshot is one more.
    assert (few["candidates"], many["candidates"]) == (11, 2001)
    assert few["swaps"] > 0
    # The learner and the slots, and nothing for an opponent that is not in a slot.
    assert few["modules of an env runner"] == many["modules of an env runner"] == 3
    assert many["requests of the driver"] <= few["requests of the driver"] + 5
    assert many["MB of an env runner"] <= few["MB of an env runner"] + MB_MORE
    assert many["MB of the driver"] <= few["MB of the driver"] + MB_MORE
