"""Make .venv in the repository's root and install policystore with all packages that it needs.

The commands in this folder run this file with any Python 3.10 or newer. This file needs only the
standard library. A second run finds the stamp of the first run and does nothing. Environment
variables:

    POLICYSTORE_PYTHON  the Python to make .venv with
    POLICYSTORE_TORCH   what to install as torch, with pip's options if need be
    POLICYSTORE_RAY     what to install as Ray
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
OURS = VENV / "made-by-policystore"  # marks our .venv, because no other .venv may be deleted
STAMP = VENV / "policystore-setup.json"
LOG = VENV / "policystore-setup.log"
TORCH = os.environ.get("POLICYSTORE_TORCH") or "torch==2.13.0"
RAY = os.environ.get("POLICYSTORE_RAY") or "ray[rllib]==2.60.0"
STEPS = 5
LOG_LINES = 20
FREE_BYTES = 3 << 30

NETWORK = (
    "pip could not reach its package index, or found no such version there. Check the network\n"
    "and your pip configuration (pip config list; PIP_INDEX_URL, proxies, certificates), then\n"
    "run the command again: what was installed already is not fetched twice."
)
ADVICE = (
    (
        ("No space left on device", "Disk quota exceeded"),
        "The disk is full. An installation takes about 2 GB (CUDA: more); pip unpacks in $TMPDIR.\n"
        "Make room, or point TMPDIR and PIP_CACHE_DIR to a larger disk, and run this again.",
    ),
    (
        ("Python.h", "error: command 'gcc' failed", "error: command 'cc' failed"),
        "A package had to be compiled, and Python's headers or a compiler are missing (Debian,\n"
        "Ubuntu: apt install python3-dev build-essential). A Python from 3.10 to 3.13 needs\n"
        "neither: POLICYSTORE_PYTHON=python3.12 chooses one.",
    ),
    (
        ("ensurepip", "No module named venv"),
        "This Python cannot make virtual environments. Debian, Ubuntu: apt install\n"
        "python3-venv; or name another Python: POLICYSTORE_PYTHON=/path/to/python3.",
    ),
    (
        ("No matching distribution found",),
        NETWORK + "\nThere may also be no wheel for this Python or platform: POLICYSTORE_PYTHON,\n"
        "POLICYSTORE_TORCH='torch==…' and POLICYSTORE_RAY='ray[rllib]==…' choose others.",
    ),
    (
        ("Temporary failure in name resolution", "NewConnectionError", "ConnectTimeout",
         "ReadTimeout", "Read timed out", "ProxyError", "SSLError", "HTTPError", "Max retries"),
        NETWORK,
    ),
    (
        ("Permission denied",),
        f"Something under {VENV} cannot be written by this user. Remove it\n"
        f"(rm -r {shlex.quote(str(VENV))}) or run as its owner.",
    ),
)  # fmt: skip


class SetupError(Exception):
    """A step failed; the message gives the reason and what to do."""


def main() -> int:
    try:
        if not _is_ready():
            with _one_at_a_time() as lock:
                _set_up(lock)
    except SetupError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; run the command again to go on", file=sys.stderr)
        return 130
    return 0


def _is_ready() -> bool:
    return not _fault() and _stamped() == _wanted()


def _set_up(lock: int) -> None:
    if _is_ready():  # another set-up, which held the lock before, has done all of it
        return
    fault, wanted = _fault(), _wanted()
    started = time.monotonic()
    _check_ours(fault)
    print(f"Setting up {VENV}, once; log in {LOG}", flush=True)
    _make_room(fault)
    _make_venv(lock, fresh=bool(fault))
    pip = [str(PYTHON), "-m", "pip", "--no-input", "install", "--no-user"]
    # torch is installed before all packages that depend on it, so that the pinned version stays.
    _step(lock, 2, "pip", [*pip, "pip>=25.1"])
    _step(lock, 3, shlex.split(TORCH)[0], [*pip, *shlex.split(TORCH)])
    _step(lock, 4, shlex.split(RAY)[0], [*pip, *shlex.split(RAY), *_held_torch()])
    ours = ["-e", f"{ROOT}[rllib]", "--group", "dev"]  # the group of pyproject.toml in ROOT
    _step(lock, 5, "policystore and its tools", [*pip, *ours, *_held_torch()])
    STAMP.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
    print(f"Ready in {time.monotonic() - started:.0f} s.", flush=True)


# The present state


def _wanted() -> dict[str, str]:
    """Return all inputs of the installation, in the form in which the stamp records them."""
    return {
        "python": os.environ.get("POLICYSTORE_PYTHON", ""),
        "torch": TORCH,
        "ray": RAY,
        "pyproject": hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest(),
    }


def _stamped() -> dict[str, str]:
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _fault() -> str:
    """Return why .venv cannot be used as an environment; an empty text if it can."""
    if not VENV.is_dir():
        return "it is not there"
    if not PYTHON.exists():
        return "it has no bin/python that works"
    probe = (
        "import importlib.util, json, sys; print(json.dumps([*sys.version_info[:2], sys.prefix, "
        "importlib.util.find_spec('pip') is not None]))"
    )
    ran = subprocess.run([PYTHON, "-c", probe], capture_output=True, text=True, check=False)
    if ran.returncode:
        return "its Python does not run"
    major, minor, prefix, has_pip = json.loads(ran.stdout)
    if not has_pip:
        return "it has no pip"
    if (major, minor) < (3, 10):
        return f"it is of Python {major}.{minor}, and 3.10 is the oldest that works"
    if Path(prefix).resolve() != VENV.resolve():
        return f"it belongs to {prefix}"
    if os.environ.get("POLICYSTORE_PYTHON") and (major, minor) != sys.version_info[:2]:
        return f"it is of Python {major}.{minor}, not of POLICYSTORE_PYTHON"
    # Scripts and the editable installation contain the path that they were made for.
    made_for = OURS.read_text(encoding="utf-8") if OURS.is_file() else str(ROOT)
    return "" if made_for == str(ROOT) else f"it was made for {made_for}"


def _check_ours(fault: str) -> None:
    there = VENV.exists() or VENV.is_symlink()
    if fault and there and (VENV.is_symlink() or not OURS.is_file()):
        raise SetupError(
            f"{VENV} cannot be used: {fault}.\nThese scripts did not make it, so they leave it "
            "alone. Remove or rename it and run this again:\n"
            f"  mv {shlex.quote(str(VENV))} {shlex.quote(str(VENV) + '.old')}"
        )


def _make_room(fault: str) -> None:
    if fault and VENV.exists():
        print(f"  .venv is made anew: {fault}", flush=True)
        shutil.rmtree(VENV)
    try:
        free = shutil.disk_usage(ROOT).free
        VENV.mkdir(exist_ok=True)
    except OSError as error:
        raise SetupError(f"{VENV} cannot be written: {error}") from None
    if fault and free < FREE_BYTES:
        print(f"  note: {free / 1e9:.1f} GB are free; it takes about 2 GB (CUDA: more)", flush=True)


def _make_venv(lock: int, *, fresh: bool) -> None:
    version = "{}.{}.{}".format(*sys.version_info)
    STAMP.unlink(missing_ok=True)
    LOG.write_bytes(b"")
    if fresh:
        OURS.write_text(str(ROOT), encoding="utf-8")
        _step(
            lock, 1, f"environment of Python {version}", [sys.executable, "-m", "venv", str(VENV)]
        )
    else:
        print(f"  [1/{STEPS}] environment is there", flush=True)


def _held_torch() -> list[str]:
    """Return pip options that keep the torch of step 3, even if Ray would choose another torch."""
    code = "import importlib.metadata as m; print(m.version('torch'))"
    ran = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SetupError(f"torch is not there after installing {TORCH!r}; see {LOG}")
    held = VENV / "policystore-held.txt"
    held.write_text(f"torch=={ran.stdout.strip()}\n", encoding="utf-8")
    return ["--constraint", str(held)]


# Steps


def _step(lock: int, number: int, name: str, command: list[str]) -> None:
    """Run a command with its output in the log, and print a line with the seconds it took."""
    label = f"  [{number}/{STEPS}] {name:<28}"
    env = {k: v for k, v in os.environ.items() if k not in ("PIP_USER", "PIP_TARGET", "PIP_PREFIX")}
    env |= {"PYTHONNOUSERSITE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    started = time.monotonic()
    print(label, end="", flush=True)
    offset = LOG.stat().st_size
    with LOG.open("ab") as log:
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=ROOT,
            pass_fds=[lock],  # if this process is killed, pip holds the lock until pip ends
        )
        try:
            while _running(process):
                if sys.stdout.isatty():
                    print(f"\r{label}{time.monotonic() - started:4.0f} s", end="", flush=True)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    ends = "\r" + label if sys.stdout.isatty() else ""
    print(f"{ends}{time.monotonic() - started:4.0f} s", flush=True)
    if process.returncode:
        raise SetupError(_failure(name, process.returncode, offset))


def _running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        return True
    return False


def _failure(name: str, code: int, offset: int) -> str:
    """Return the message about a step that failed: the end of its output, and what to do."""
    with LOG.open("rb") as log:
        log.seek(offset)
        output = log.read().decode("utf-8", "replace")
    last = "\n".join(f"    {line}" for line in output.rstrip().splitlines()[-LOG_LINES:])
    advice = [text for signs, text in ADVICE if any(sign in output for sign in signs)]
    then = advice[0] if advice else "Solve the problem in these lines and run the command again."
    return (
        f"step '{name}' failed with exit status {code}. Its last lines:\n\n{last}\n\n"
        f"{then}\nThe whole log: {LOG}"
    )


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[int]:
    """Make a second set-up of this checkout wait; the lock is released when the process ends."""
    with Path(__file__).open("rb+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another set-up of this checkout is running; waiting for it …", flush=True)
            fcntl.flock(held, fcntl.LOCK_EX)
        yield held.fileno()


if __name__ == "__main__":
    sys.exit(main())
