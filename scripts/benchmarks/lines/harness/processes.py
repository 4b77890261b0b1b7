"""Run sections in fresh processes, each of which hands back JSON; one that fails stops no other."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.benchmarks.lines.harness.rows import Report
from scripts.benchmarks.lines.harness.settings import Settings

__all__ = ["ROOT", "environment", "in_child", "run_section", "work"]

ROOT = Path(__file__).resolve().parents[4]
_START = "import sys; from scripts.benchmarks.lines.harness import processes; processes."
_SECTION = _START + "work(*sys.argv[1:])"
_CALL = _START + "_call(*sys.argv[1:])"
_LAST_SECONDS = 20.0  # for a section that is stopped
_LINES = 15  # of the output of a section that failed


def environment() -> dict[str, str]:
    """Return the environment of a child: it imports this checkout, and so do Ray's workers."""
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "PYTHONWARNINGS": "ignore",
    }


def run_section(module: str, settings: Settings, timeout: float) -> Report:
    """Run a section in a fresh process, and return what it found.

    Args:
        module: the module of the section, with a function ``measure(settings, report)``.
        settings: what the section is told.
        timeout: after how many seconds the section is stopped and has failed.
    """
    began = time.monotonic()
    name = module.rpartition(".")[2]
    with tempfile.TemporaryDirectory(dir=settings.scratch) as folder:
        result, log = Path(folder) / "result.json", Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", _SECTION, module, settings.to_json(), str(result)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=environment(), cwd=folder, start_new_session=True,
            )  # fmt: skip
            stopped = ""
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                stopped = f"stopped: longer than {timeout:.0f} s\n"
                process.send_signal(signal.SIGINT)  # so that it writes what it has measured
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LAST_SECONDS)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # and what the section left behind
                process.wait()
        report = Report(name)
        if result.exists():
            report = Report.of_json(json.loads(result.read_text()))
        if process.returncode and not report.error:
            last = log.read_text(errors="replace").splitlines()[-_LINES:]
            report.error = "\n".join([f"exit status {process.returncode}", *last])
        report.error = stopped + report.error
        report.seconds = time.monotonic() - began
        return report


def work(module: str, settings: str, result: str) -> None:
    """Do the work of a section in this process, and write what it found to a file.

    What was measured before an error is written, too.
    """
    report = Report(module.rpartition(".")[2])
    given = Settings.of_json(settings)
    try:
        importlib.import_module(module).measure(given, report)
    except BaseException:
        report.error = "\n".join(traceback.format_exc().splitlines()[-_LINES:])
        traceback.print_exc()
    if given.quick:
        # Times and memory of small sizes mean nothing, so that they have no lines.
        report.rows = [
            dataclasses.replace(row, limit=None) if row.unit in ("s", "MiB") else row
            for row in report.rows
        ]
    Path(result).write_text(json.dumps(report.to_json()))
    sys.exit(1 if report.error else 0)


def in_child(function: Callable[..., Any], **arguments: Any) -> Any:
    """Call a function of a module in a fresh process, and return its value.

    Args:
        function: a function at the top of its module.
        arguments: values that JSON has, as has the value that the function returns.

    Raises:
        RuntimeError: the process failed; the message is the end of its output.
    """
    place = f"{function.__module__}:{function.__name__}"
    done = subprocess.run(
        [sys.executable, "-c", _CALL, place, json.dumps(arguments)],
        capture_output=True, text=True, env=environment(), stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{place}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _call(place: str, arguments: str) -> None:
    module, _, name = place.partition(":")
    value = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    print(json.dumps(value), flush=True)
