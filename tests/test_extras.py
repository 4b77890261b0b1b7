"""Without the extras, everything else works, and each message names the extra that is missing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from policystore import PolicyStore, Snapshot, Spec
from tests.support import ROOT
from tests.support.onnx_files import linear

ALL = (
    "ray", "torch", "gymnasium", "onnxruntime", "onnx", "s3fs", "fsspec", "gcsfs", "typer", "rich",
    "msgpack", "pytest",
)  # fmt: skip

# Packages are hidden from every import, as if they were not installed.
HIDE = """
import sys

class Hiding:
    def __init__(self, finder, hidden):
        self.finder, self.hidden = finder, hidden
    def find_spec(self, name, path=None, target=None):
        hidden = name.split(".")[0] in self.hidden
        return None if hidden else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Hiding(finder, HIDDEN) for finder in sys.meta_path]
sys.path.insert(0, ROOT)
"""

SPACE = gym.spaces.Dict(
    {"far": gym.spaces.Box(-1.0, 1.0, (3,), np.float32), "kind": gym.spaces.Discrete(4)}
)
WORDS = "Dict('far': Box(-1.0, 1.0, (3,), float32), 'kind': Discrete(4))"


def run(program: str, folder: Path, *, hidden: tuple[str, ...] = ALL) -> str:
    """Run a program in a process that lacks packages; return what it prints."""
    text = HIDE.replace("HIDDEN", repr(set(hidden))).replace("ROOT", repr(str(ROOT))) + program
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, a file of a policy and an exported file."""
    path = tmp_path_factory.mktemp("extras")
    spec = Spec(
        stack="new",
        algorithm="PPO",
        observation_space=SPACE,
        action_space=gym.spaces.Discrete(2),
        env_observation_space=SPACE,
        env_action_space=gym.spaces.Discrete(2),
    )
    snap = Snapshot(weights={"pi": np.zeros((4, 2), np.float32)}, spec=spec)
    snap.save(path / "main.safetensors")
    PolicyStore(path / "store").push(snap, "soccer/main")
    (path / "main.onnx").write_bytes(linear()[0].SerializeToString())
    return path


def test_spaces_are_shown_and_kept_without_gymnasium(folder: Path) -> None:
    program = """
from policystore import PolicyStore, Snapshot, diff
snap = Snapshot.load("main.safetensors")
store = PolicyStore("store")
assert store.pull("soccer/main") == snap
again = snap.replace(weights={"pi": snap.weights["pi"] + 1})
store.push(again, "soccer/main")
store.report("report")
print(snap, snap._repr_html_(), snap.spec, snap.spec._repr_html_(), repr(snap.spec), sep="\\n")
print(store.versions("soccer/main"), store.diff("soccer/main@1", "soccer/main@2"))
print(snap.spec.env_observation_space["keys"])
""".replace(", diff\n", "\n")
    printed = run(program, folder)
    assert printed.count(WORDS) >= 2
    assert printed.endswith("['far', 'kind']\n")


def test_commands_show_spaces_without_gymnasium(folder: Path) -> None:
    program = """
from policystore.cli import main
for command in (["show", "soccer/main@1"], ["show", "soccer/main@1", "--json"],
                ["log", "soccer/main"], ["verify"]):
    assert main([*command, "--store", "store"]) == 0, command
"""
    hidden = tuple(name for name in ALL if name not in ("typer", "rich"))
    printed = run(program, folder, hidden=hidden)
    assert WORDS in " ".join(printed.split())


MISSING: list[tuple[str, str]] = [
    ("import policystore.rllib", "policystore.rllib needs the packages ray and torch, and at least one is not installed: pip install 'policystore[rllib]' (No module named 'ray'). Without them, policystore.checkpoints reads checkpoints of RLlib, and policystore.play plays exported files"),
    ("import policystore.torch", "policystore.torch needs the package torch, which is not installed: pip install torch (No module named 'torch')"),
    ("import policystore.testing", "policystore.testing needs the package pytest, which is not installed: pip install pytest (No module named 'pytest')"),
    ("store.versions('soccer/main'); PolicyStore('s3://bucket/x')", "'s3://bucket/x': a s3:// store needs the package s3fs, which is not installed: pip install 'policystore[s3]'"),
    ("PolicyStore('gs://bucket/x')", "'gs://bucket/x': a gs:// store needs the package gcsfs, which is not installed: pip install gcsfs"),
    ("PolicyStore('sftp://host/x')", "'sftp://host/x': a sftp:// store needs the package fsspec, which is not installed: pip install 'policystore[s3]'"),
    ("space_from_json(snap.spec.observation_space)", "space.spaces['far']: a space object of class Box needs the package gymnasium, which is not installed: pip install gymnasium"),
    ("space_from_json({'space': 'Repeated', 'child_space': {'space': 'MultiBinary', 'n': 2}, 'max_len': 3})", "space.child_space: a space object of class MultiBinary needs the package gymnasium, which is not installed: pip install gymnasium"),
    ("space_from_json({'space': 'Simplex', 'dtype': 'float32', 'shape': [2], 'concentration': {'dtype': 'float32', 'values': 1.0}})", "space: a space object of class Simplex needs the package ray, which is not installed: pip install 'policystore[rllib]'"),
    ("load_player('main.onnx')", "policystore.play needs the package onnxruntime, which is not installed: pip install 'policystore[play]' (No module named 'onnxruntime')"),
]  # fmt: skip


def test_each_message_names_what_needs_which_package(folder: Path) -> None:
    program = """
import json
from policystore import MissingPackageError, PolicyStore, Snapshot
from policystore.play import load_player, read_metadata
from policystore.spaces import space_from_json
snap = Snapshot.load("main.safetensors")
store = PolicyStore("store")
assert read_metadata("main.onnx").contents == "player"
messages = []
for statement in STATEMENTS:
    try:
        exec(statement)
        messages.append("no error")
    except MissingPackageError as error:
        assert isinstance(error, ImportError)
        messages.append(str(error))
print(json.dumps(messages))
"""
    program = program.replace("STATEMENTS", repr([statement for statement, _ in MISSING]))
    assert json.loads(run(program, folder)) == [message for _, message in MISSING]


def test_the_command_names_its_extra(folder: Path) -> None:
    program = "from policystore.cli import main; sys.stderr = sys.stdout; print(main(['names']))"
    assert run(program, folder) == (
        "error: the command policystore needs typer and rich: pip install 'policystore[cli]'\n2\n"
    )


def test_an_export_by_the_command_names_both_extras(folder: Path) -> None:
    program = (
        "from policystore.cli import main; sys.stderr = sys.stdout\n"
        "print(main(['export', 'soccer/main', 'new.pt2', '--store', 'store']))"
    )
    hidden = tuple(name for name in ALL if name not in ("typer", "rich"))
    assert " ".join(run(program, folder, hidden=hidden).split()) == (
        "error: an export needs the packages ray and torch, and at least one is not installed: "
        "pip install 'policystore[rllib,export]' (No module named 'ray') 2"
    )


def test_an_old_onnxruntime_is_named(folder: Path) -> None:
    program = """
import types
sys.modules["onnxruntime"] = types.ModuleType("onnxruntime")
sys.modules["onnxruntime"].__version__ = "1.19.2"
from policystore.play import load_player
try:
    load_player("main.onnx")
except ImportError as error:
    print(type(error).__name__, error)
"""
    assert run(program, folder) == (
        "MissingPackageError policystore.play needs onnxruntime 1.20 or newer, and 1.19.2 is "
        "installed: pip install --upgrade 'policystore[play]'\n"
    )


def test_a_pool_of_opponents_names_its_extra_and_a_league_needs_none(folder: Path) -> None:
    program = """
from policystore.league import League
league = League("league", "soccer")
league.record([{"players": {"red": "heuristic:a", "blue": "heuristic:b"}, "episodes": 1,
                "wins": {"red": 1}}])
assert league.ratings().players
try:
    from policystore.league import OpponentPool
except ImportError as error:
    print(type(error).__name__, error)
"""
    assert run(program, folder) == (
        "MissingPackageError policystore.league.pool needs the packages ray and torch, and at least "
        "one is not installed: pip install 'policystore[rllib]' (No module named 'ray'). Without "
        "them, League records matches and computes ratings\n"
    )


def test_every_import_of_an_extra_is_late_or_says_what_is_missing() -> None:
    """Only packages that name their extra import it at the top of a module."""
    root = ROOT / "policystore"
    at_the_top = re.compile(rf"^(?:import|from) ({'|'.join(ALL)})\b", re.MULTILINE)
    found = [
        (str(path.relative_to(root)), match[1])
        for path in root.rglob("*.py")
        if path.relative_to(root).parts[0] not in ("rllib", "torch", "testing", "cli")
        and path.relative_to(root).parts[:2] != ("league", "pool")
        for match in at_the_top.finditer(path.read_text())
    ]
    # Only policystore.rllib imports this module.
    assert found == [("spaces/bounds.py", "gymnasium")]
