"""How long imports and the command take to start, in fresh interpreters that run in turn.

``import policystore`` alone loads nothing; PolicyStore and Snapshot load the standard library and
blake3, numpy and ml_dtypes when the first array is touched, and never torch or ray. The bytecode of
all modules is written before the first run that counts, also where $PYTHONDONTWRITEBYTECODE is set.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from policystore import PolicyStore, Snapshot
from scripts.benchmarks.lines.harness.processes import environment
from scripts.benchmarks.lines.harness.rows import Report
from scripts.benchmarks.lines.harness.settings import Settings
from scripts.benchmarks.lines.harness.times import Times, in_turn

__all__ = ["measure"]

_LIBRARIES = "import numpy, safetensors, fsspec"
_IMPORTS = {
    "import policystore": 1.3,
    "from policystore import PolicyStore, Snapshot": 1.3,
    "from policystore import *": None,
}
_NAMES = ("bench/first", "bench/second", "bench/third")
_BEYOND = 0.3  # seconds that the command may take beyond the start of Python
_TIMED = (
    "import time; start = time.perf_counter(); {what}; print(time.perf_counter() - start); "
    "import sys; print(sorted({{'torch', 'ray'}} & set(sys.modules)))"
)


def measure(settings: Settings, report: Report) -> None:
    with settings.folder() as folder:
        env = environment()
        if not settings.quick:
            env["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
            env.pop("PYTHONDONTWRITEBYTECODE", None)
        _imports(settings, report, env)
        _commands(settings, report, env, str(folder / "policies"))


def _imports(settings: Settings, report: Report, env: dict[str, str]) -> None:
    """Measure imports by the clock of the fresh interpreter, without its start."""
    taken: dict[str, list[float]] = {what: [] for what in (_LIBRARIES, *_IMPORTS)}

    def run(what: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", _TIMED.format(what=what)],
            check=True, capture_output=True, text=True, env=env,
        )  # fmt: skip
        seconds, heavy = done.stdout.splitlines()
        report.check(heavy == "[]", f"'{what}' loads {heavy}")
        taken[what].append(float(seconds))

    rounds = settings.rounds(21)
    in_turn({what: (lambda what=what: run(what)) for what in taken}, rounds)
    times = {what: Times(tuple(seconds[1:])) for what, seconds in taken.items()}
    for what, limit in _IMPORTS.items():
        report.compare(what, _LIBRARIES, times[what], times[_LIBRARIES], limit=limit)


def _commands(settings: Settings, report: Report, env: dict[str, str], root: str) -> None:
    """Measure whole runs of the command, on a store with three names."""
    store = PolicyStore(root)
    for name in _NAMES:
        store.push(Snapshot(weights={"w": np.ones(3, np.float32)}), name)
    program = [sys.executable, "-m", "policystore", "--store", store.url]
    commands: dict[str, list[str]] = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "policystore --version": [*program, "--version"],
        "policystore ls": [*program, "ls"],
    }

    def run(command: list[str]) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout

    shown = run(commands["policystore ls"])
    report.check(all(name in shown for name in _NAMES), "ls does not show the names")
    calls: dict[str, Callable[[], Any]] = {
        name: (lambda command=command: run(command)) for name, command in commands.items()
    }
    times = in_turn(calls, settings.rounds(21))
    start = times["python -c pass"].median
    for name in list(times)[1:]:
        report.limited(
            f"{name}, beyond the start of Python", times[name].median - start, _BEYOND, "s",
            times=times[name], note=f"python -c pass takes {start * 1e3:.0f} ms",
        )  # fmt: skip
