"""Print what it takes to play an exported file: start, memory, and time for an action.

    ./.venv/bin/python scripts/benchmarks/bench_play.py [FILE.onnx] [--runs N]

The file is one of tests/data/play by default. Fresh interpreters run in turn, so that a slow moment
of the machine affects all of them; the script prints medians. The bytecode of all modules is
written before the first run that counts. With --rllib, the start of the RLlib side is measured,
too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "tests" / "data" / "play" / "ppo.onnx"

# What each interpreter runs; FILE is the exported file.
STARTS = {
    "python alone": "pass",
    "import numpy, onnxruntime": "import numpy, onnxruntime",
    "policystore.play, with the file opened": (
        "from policystore.play import load_player; load_player(FILE)"
    ),
}
RLLIB = {"import policystore.rllib": "import policystore.rllib"}
_REPORT = (
    "; import json, os; "
    "memory = next(line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line); "
    "print(json.dumps([sum(os.times()[:2]), int(memory)]))"
)
ACTS = """
import json, sys, time
import numpy as np
from policystore.play import load_player

player = load_player(sys.argv[1])
space = player.metadata.inputs[0]
random = np.random.default_rng(0)
single = random.uniform(-1, 1, space.shape).astype(space.dtype)
batch = random.uniform(-1, 1, (64, *space.shape)).astype(space.dtype)
feeds = {space.name: single[None]}
run, names = player._graph._session.run, [one.name for one in player.metadata.outputs]

def measure(call, count):
    for _ in range(50):
        call()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times

print(json.dumps({
    "onnxruntime alone, 1 observation": measure(lambda: run(names, feeds), 2000),
    "player.act": measure(lambda: player.act(single), 2000),
    "player.act_batch of 64": measure(lambda: player.act_batch(batch), 500),
}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=FILE, help="observations: one Box")
    parser.add_argument("--runs", type=int, default=15, help="interpreters of each kind")
    parser.add_argument("--rllib", action="store_true", help="measure policystore.rllib, too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = folder
        print_starts({**STARTS, **(RLLIB if given.rllib else {})}, given.file, given.runs)
    print_acts(given.file)
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    return 0


def print_starts(programs: dict[str, str], file: Path, runs: int) -> None:
    """Print the CPU time and the memory of programs, each with the start of Python."""
    measured: dict[str, list[tuple[float, int]]] = {name: [] for name in programs}
    for run in range(runs + 1):
        for name, program in programs.items():
            figures = start(program.replace("FILE", repr(str(file))))
            if run:  # the first run writes the bytecode
                measured[name].append(figures)
    for name, rows in measured.items():
        seconds, kilobytes = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{name:<40} {seconds:6.2f} s of CPU time, {kilobytes / 1024:6.1f} MiB")


def start(program: str) -> tuple[float, int]:
    """Return the CPU seconds and the KiB of memory that a program takes."""
    done = subprocess.run(
        [sys.executable, "-c", program + _REPORT],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    seconds, kilobytes = json.loads(done.stdout)
    return seconds, kilobytes


def print_acts(file: Path) -> None:
    """Print the median and the 99th percentile of calls."""
    done = subprocess.run(
        [sys.executable, "-c", ACTS, str(file)],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    times: dict[str, Any] = json.loads(done.stdout)
    for name, each in times.items():
        median, late = np.percentile(np.array(each) * 1e6, [50, 99])
        print(f"{name:<40} median {median:6.1f} µs, 99th percentile {late:6.1f} µs")


if __name__ == "__main__":
    sys.exit(main())
