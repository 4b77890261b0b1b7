"""scripts/tools/import_experiment.py: a version for each checkpoint, once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from policystore import PolicyStore
from policystore.checkpoints import list_checkpoints, read_checkpoint
from tests.support import ROOT
from tests.support.checkpoint_corpus import Given

SCRIPT = ROOT / "scripts" / "import_experiment.py"
VERSIONS = ["2.4.0", "2.10.0", "2.60.0"]


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """Two trials; what a checkpoint of one holds differs with its number."""
    for trial in ("PPO_a,lr=0.1", "PPO_b"):
        lines = []
        for number, version in enumerate(VERSIONS):
            name = f"checkpoint_{number:06}"
            source = Given(version, "ppo_old_multi").path
            inner = source / "checkpoint_000001"
            shutil.copytree(inner if inner.is_dir() else source, tmp_path / "soccer" / trial / name)
            lines.append({"training_iteration": 10 * number, "checkpoint_dir_name": name,
                          "env_runners": {"episode_return_mean": float(number)},
                          "config": {"lr": 0.1}, "done": False})  # fmt: skip
        results = tmp_path / "soccer" / trial / "result.json"
        results.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return tmp_path / "soccer"


def run(*arguments: Any) -> str:
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments), "--workers", "2"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_checkpoint_becomes_a_version_and_only_once(experiment: Path, tmp_path: Path) -> None:
    store = PolicyStore(tmp_path / "store")
    assert "18 versions added, 0 there already" in run(experiment, store.url)
    assert store.names() == [
        f"soccer/{trial}/p{i}" for trial in ("PPO_a_lr_0.1", "PPO_b") for i in range(3)
    ]
    log = store.log("soccer/PPO_a_lr_0.1/p1")
    assert [version.number for version in log] == [3, 2, 1]
    for version, ray in zip(reversed(log), VERSIONS, strict=True):
        (found,) = [
            one for one in list_checkpoints(experiment)
            if (one.trial, one.name) == (version.source["trial"], version.source["checkpoint"])
        ]  # fmt: skip
        assert found.trial == "PPO_a,lr=0.1"
        assert store.pull(version) == read_checkpoint(Given(ray, "ppo_old_multi").path)["p1"]
        assert version.metrics["env_runners/episode_return_mean"] == found.number
        assert version.source["iteration"] == 10 * found.number
    assert "0 versions added, 18 there already" in run(experiment, store.url)
    assert store.verify().ok


def test_one_that_was_cut_off_goes_on(experiment: Path, tmp_path: Path) -> None:
    store = PolicyStore(tmp_path / "store")
    process = subprocess.Popen(
        [sys.executable, SCRIPT, experiment, store.url, "--workers", "1"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    while not (tmp_path / "store" / "names").exists() and process.poll() is None:
        pass
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run(experiment, store.url)
    assert {name: len(store.log(name)) for name in store.names()} == dict.fromkeys(store.names(), 3)
    assert len(store.names()) == 6
    assert store.verify().ok


def test_some_policies_of_one_trial(experiment: Path, tmp_path: Path) -> None:
    store = PolicyStore(tmp_path / "store")
    said = run(experiment / "PPO_b", store.url, "--policies", "p0", "p2", "--name", "league")
    assert "6 versions added" in said
    assert store.names() == ["league/p0", "league/p2"]


def test_a_checkpoint_that_cannot_be_read_is_told_and_the_others_come(
    experiment: Path, tmp_path: Path
) -> None:
    (
        experiment / "PPO_b" / "checkpoint_000001" / "policies" / "p1" / "policy_state.pkl"
    ).write_bytes(b"\x80")
    done = subprocess.run(
        [sys.executable, SCRIPT, experiment, tmp_path / "store"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "15 versions added, 0 there already, 1 checkpoints not read" in done.stdout
    assert "checkpoint_000001" in done.stderr
