"""Run tests on another Python or another Ray, in an environment that this script makes.

    python scripts/tools/other_versions.py --python 3.13                # the core: no torch, no Ray
    python scripts/tools/other_versions.py --python 3.11 --ray 2.40.0   # both API stacks
    python scripts/tools/other_versions.py --python 3.11 --ray 2.50.0 tests/rllib/new_stack

Environments stay in ``.venvs/`` and are made again when ``pyproject.toml`` changes. All further
arguments go to pytest and replace the usual selection of tests. The script looks for a Python as
``python3.13`` on PATH, among the versions of pyenv, and in ``POLICYSTORE_PYTHON_3_13``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TORCH = os.environ.get("POLICYSTORE_TORCH") or "torch==2.13.0"

CORE = [
    "-m", "not long and not ceph and not browser and not node", "-n", "2", "--dist", "loadfile",
    "--ignore=tests/cli/test_exporting.py",  # an export takes torch and Ray
    "tests/format", "tests/repository", "tests/backends", "tests/contracts", "tests/util",
    "tests/checkpoints", "tests/rllib_schema", "tests/display", "tests/cli",
    "tests/play", "tests/test_extras.py",
    # Opponent pools and tournaments live in Ray and torch; the ledger's tests are in repository.
    "tests/league/analysis", "tests/league/test_env_identity.py",
    "tests/league/test_league_views.py", "tests/league/tournament/test_plan.py",
    "tests/test_cache.py", "tests/test_cache_folder.py", "tests/test_diff.py",
    "tests/test_digest.py", "tests/test_errors.py", "tests/test_snapshot.py",
]  # fmt: skip
"""Tests of the parts that work without torch and Ray."""

RLLIB = [
    "-m", "not long and not ceph", "-n", "2", "--dist", "loadfile",
    # Warnings of Ray's own code, as earlier releases of it raise them.
    "-W", "ignore:This API is deprecated and may be removed",
    "-W", "ignore:invalid escape sequence",
    "-W", "ignore::pytest.PytestUnraisableExceptionWarning",
    "tests/test_torch.py", "tests/spaces", "tests/rllib/test_api.py", "tests/rllib/old_stack",
    "tests/rllib/convert", "tests/rllib/playing/test_nets.py",
    "tests/league/tournament/test_environments.py", "tests/league/tournament/test_replay.py",
    # What RLlib itself cannot do in Ray 2.40: SAC with Discrete actions, episodes with observations
    # outside of their space, and its wrapper of OpenSpiel with the OpenSpiel of today.
    "--deselect", "tests/rllib/playing/test_nets.py::test_the_row_is_named[RLlib-new]",
    "--deselect", "tests/rllib/playing/test_nets.py::test_what_the_caller_allows_is_played"
                  "[RLlib-new]",
    "--deselect", "tests/rllib/playing/test_nets.py::test_nan_of_the_network_is_no_action"
                  "[sac-discrete-False-direct-new]",
    "--deselect", "tests/rllib/playing/test_nets.py::test_nan_of_the_network_is_no_action"
                  "[sac-discrete-False-RLlib-new]",
    "--deselect", "tests/league/tournament/test_environments.py::"
                  "test_chance_follows_from_the_seed_of_the_episode",
]  # fmt: skip
"""A sample of the tests of RLlib. ``check_ray.py`` checks both stacks on earlier versions."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        usage="%(prog)s --python X.Y [--ray X.Y.Z] [--coverage] [PYTEST…]",
    )
    parser.add_argument("--python", required=True, help="version of Python, such as 3.13")
    parser.add_argument("--ray", help="version of Ray; left out: neither Ray nor torch")
    parser.add_argument("--coverage", action="store_true", help="print which lines the tests run")
    given, selection = parser.parse_known_args()
    try:
        python = make_environment(find_python(given.python), given.python, given.ray)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RAY_ADDRESS")}
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5"]
    if given.coverage:
        # Cheap from Python 3.12 on, where the interpreter counts lines itself.
        environment.setdefault("COVERAGE_CORE", "sysmon")
        command += ["--cov", "--cov-report="]
    selection = selection or (CORE if given.ray is None else RLLIB)
    status = subprocess.run(
        [*command, *selection], cwd=ROOT, env=environment, check=False
    ).returncode
    if given.coverage:
        omit = "policystore/testing/*"
        if given.ray is None:
            omit += ",policystore/rllib/*,policystore/torch/*,policystore/league/pool/*"
        report = [str(python), "-m", "coverage", "report", "--omit", omit]
        subprocess.run(report, cwd=ROOT, env=environment, check=False)
    return status


def find_python(version: str) -> str:
    """Find the Python of a version; raise RuntimeError if there is none that runs."""
    named = os.environ.get(f"POLICYSTORE_PYTHON_{version.replace('.', '_')}")
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [named] if named else [f"python{version}"]
    if not named and pyenv.is_dir():
        candidates += sorted(str(path) for path in pyenv.glob(f"{version}.*/bin/python"))
    probe = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in candidates:
        program = shutil.which(candidate)
        if program is None:
            continue
        ran = subprocess.run([program, "-c", probe], capture_output=True, text=True, check=False)
        if ran.returncode == 0 and ran.stdout.strip() == version:
            return program
    raise RuntimeError(
        f"no Python {version} was found (looked for {', '.join(map(str, candidates))}). Install it,"
        f" or name it in POLICYSTORE_PYTHON_{version.replace('.', '_')}."
    )


def make_environment(program: str, version: str, ray: str | None) -> Path:
    """Make the environment if it does not exist or is outdated; return its Python."""
    folder = ROOT / ".venvs" / (f"py{version}" + (f"-ray{ray}" if ray else "-core"))
    python, stamp = folder / "bin" / "python", folder / "policystore-setup"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest() + TORCH
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    run([program, "-m", "venv", str(folder)])
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-input", "--no-user"]
    # Tests import a part of what is installed, and only that part is compiled then.
    pip += ["--disable-pip-version-check", "--no-compile"]
    run([*pip, "--upgrade", "pip>=25.1"])
    if ray is not None:
        # torch first, and pinned: what Ray would take is newer and may bring CUDA.
        run([*pip, TORCH])
        run([*pip, f"ray[rllib]=={ray}", TORCH])
    extra = "[s3,cli,play]" if ray is None else "[s3,cli,rllib]"
    groups = ["--group", "test", *(["--group", "games", TORCH] if ray else [])]
    run([*pip, *groups, "-e", f"{ROOT}{extra}"])
    stamp.write_text(wanted, encoding="utf-8")
    return python


def run(command: list[str]) -> None:
    """Run a command in the repository's root; raise RuntimeError with the end of its output."""
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        output = (ran.stdout + ran.stderr).strip()[-3000:]
        raise RuntimeError(f"{' '.join(command)} failed:\n{output}")


if __name__ == "__main__":
    sys.exit(main())
