"""Run the commands in README and docs/commands.md, and write what they print below them.

    ./.venv/bin/python scripts/tools/record_session.py

Each line of a block ``console`` that begins with ``$`` is a command. All commands of a page run
one after the other in an empty folder with two files of weights, and a store with a league.
``tests/cli/test_documented.py`` checks that the pages have what the commands print, times and ages
aside.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from policystore import PolicyStore, Snapshot, Spec
from policystore.cli import main as run_command
from policystore.league import League

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs" / "commands.md"]
HOME = "/home/ann"  # stands for the temporary folder

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.M | re.S)
_CHANGING = [
    (r"\b\d+[smhd]\b", "0s"),  # ages
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?", "2026-11-29 12:00:00"),
    (r"[0-9a-f]{32}\b(?!\S)", "0" * 32),  # nonces
    (r'"previous": "blake3:\w+"', '"previous": "…"'),
    (r"\b\d+ KB\b", "0 KB"),  # a report holds times
    (r"^[0-9a-f]{8} ", "00000000 "),  # ids of matches
    (r"[ ]+", " "),  # columns are as wide as their cells
]


def recorded(page: str) -> str:
    """Return the page with what its commands print now."""
    with _in_folder():
        return _BLOCK.sub(_run_block, page)


def settled(text: str) -> str:
    """Return a text without what differs from run to run."""
    for pattern, replacement in _CHANGING:
        text = re.sub(pattern, replacement, text, flags=re.M)
    return text


def _run_block(block: re.Match[str]) -> str:
    commands = [line for line in block[1].splitlines() if line.startswith("$ ")]
    return "```console\n" + "".join(f"{line}\n{_output(line[2:])}" for line in commands) + "```"


def _output(command: str) -> str:
    """Return what a command prints on both outputs."""
    name, *words = shlex.split(command)
    if name != "policystore":
        sys.exit(f"'{command}' is not the command policystore")
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code = run_command(words)
        except SystemExit as ended:
            code = int(ended.code or 0)
    text = out.getvalue().replace(str(Path.cwd()), HOME)
    if code:
        sys.exit(f"'{command}' ends with {code}:\n{text}")
    return text


@contextlib.contextmanager
def _in_folder() -> Iterator[None]:
    """Work in an empty folder with two files of weights, with nothing of this user's settings."""
    before, environment = Path.cwd(), dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            os.environ |= {
                "POLICYSTORE_URL": "./policies",
                "POLICYSTORE_AUTHOR": "ann",
                "POLICYSTORE_CACHE": f"{Path.cwd()}/.cache/policystore",
                "POLICYSTORE_CACHE_BYTES": str(10 << 30),
            }
            for name, factor in (("start", 1.0), ("better", 1.5)):
                weights = {
                    "pi.weight": np.full((2, 4), 0.25 * factor, np.float32),
                    "pi.bias": np.zeros(2, np.float32),
                }
                Snapshot(weights=weights, spec=Spec()).save(f"{name}.safetensors")
            _record_league()
            yield
        finally:
            os.chdir(before)
            os.environ.clear()
            os.environ.update(environment)


def _record_league() -> None:
    """Make the store ``games``, with three versions of a policy that have played each other."""
    store = PolicyStore("games")
    for number in (1.0, 2.0, 3.0):
        weights = {"pi.weight": np.full((2, 4), number, np.float32)}
        store.push(Snapshot(weights=weights, spec=Spec()), "soccer/main")
    league = League(store, "soccer")
    league.unknown("the opponent changed during the episode", 4)
    for red, blue, red_wins, blue_wins, draws in (
        ("soccer/main@1", "heuristic:random", 18, 1, 1),
        ("soccer/main@2", "soccer/main@1", 26, 10, 4),
        ("soccer/main@3", "soccer/main@2", 25, 12, 3),
    ):
        match = {
            "players": {"red": red, "blue": blue},
            "episodes": red_wins + blue_wins + draws,
            "wins": {"red": red_wins, "blue": blue_wins},
            "draws": draws,
            "env": "Soccer-v1",
        }
        league.record([match])


if __name__ == "__main__":
    for each in PAGES:
        each.write_text(recorded(each.read_text(encoding="utf-8")), encoding="utf-8")
