"""Print how long `import policystore` and the command `policystore` take to start.

    ./.venv/bin/python scripts/benchmarks/bench_import.py [--runs N]

Fresh interpreters run in turn, so that a slow moment of the machine affects all of them. The script
prints medians: of imports, and of whole runs of the command beyond the start of Python alone.
Beside the imports of policystore it prints that of numpy, and that of the libraries that a program
would use in place of policystore: numpy, safetensors and fsspec. The bytecode of all modules is
written before the first run that counts, also where $PYTHONDONTWRITEBYTECODE is set. `import
policystore` alone loads nothing; its names load numpy, the standard library, ml_dtypes and blake3,
and never torch or ray.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from policystore import PolicyStore, Snapshot

IMPORTS = [
    "import numpy",
    "import numpy, safetensors, fsspec",
    "import policystore",
    "from policystore import PolicyStore, Snapshot",
    "from policystore import *",
]
_TIMED = (
    "import time; start = time.perf_counter(); {what}; print(time.perf_counter() - start); "
    "import sys; print(sorted({{'torch', 'ray'}} & set(sys.modules)))"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=21, help="runs of each, at least 15")
    runs = max(15, parser.parse_args().runs)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = f"{folder}/bytecode"
        print_imports(runs)
        print_commands(runs, Path(folder))
    print(f"(medians of {runs} fresh interpreters each, in turn; neither torch nor ray is loaded)")
    return 0


def print_imports(runs: int) -> None:
    """Print the times of imports."""
    for statement in IMPORTS:
        seconds(statement)  # compiles bytecode and fills the page cache
    rows = [[seconds(statement) for statement in IMPORTS] for _ in range(runs)]
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    libraries = medians[1]
    for statement, median in zip(IMPORTS, medians, strict=True):
        print(
            f"{statement:<46} {median * 1000:7.1f} ms, "
            f"{median / libraries:5.2f} times numpy, safetensors, fsspec"
        )


def print_commands(runs: int, folder: Path) -> None:
    """Print the times of whole runs of the command, on a store with three names."""
    store = PolicyStore(folder / "policies")
    for name in ("a", "b", "c"):
        store.push(Snapshot(weights={"w": np.ones(3, np.float32)}), name)
    program = [sys.executable, "-m", "policystore", "--store", store.url]
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "policystore --version": [*program, "--version"],
        "policystore ls --json": [*program, "ls", "--json"],
        "policystore ls": [*program, "ls"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for run in range(runs + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            if run:  # the first run writes the bytecode
                times[name].append(time.perf_counter() - start)
    print()
    first = next(iter(times.values()))
    for name, each in times.items():
        median, least = statistics.median(each), min(each)
        print(
            f"{name:<25}  {median * 1000:7.1f} ms, "
            f"{(median - statistics.median(first)) * 1000:7.1f} ms beyond Python's start; "
            f"least {(least - min(first)) * 1000:7.1f} ms beyond it"
        )


def seconds(statement: str) -> float:
    """Return the seconds that a statement takes in a fresh interpreter, without its start."""
    command = [sys.executable, "-c", _TIMED.format(what=statement)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    elapsed, heavy = ran.stdout.splitlines()
    if heavy != "[]":
        sys.exit(f"error: '{statement}' loads {heavy}")
    return float(elapsed)


if __name__ == "__main__":
    sys.exit(main())
