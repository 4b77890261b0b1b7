"""Real checkpoints that eleven Ray versions wrote, with what the live policies held and computed.

``data/checkpoints/ray-VERSION.tar.xz`` holds ``ray-VERSION/KIND/``: ``checkpoint/``, and beside it
``truth.npz`` (``ID/PARAMETER``: weights before saving; ``ID/__obs``: 16 observations;
``ID/__obs_filtered``: what a policy with a filter got; ``ID/__…``: what the policy computed from
them without exploring) and ``truth.json`` (versions, classes). Files are missing from ``broken_*``,
and ``tune_experiment`` is a whole folder of Tune.
"""

from __future__ import annotations

import functools
import json
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import DATA

ARCHIVES = sorted((DATA / "checkpoints").glob("ray-*.tar.xz"))


@functools.cache
def _root() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="checkpoints-")
    for archive in ARCHIVES:
        with tarfile.open(archive) as opened:
            opened.extractall(folder.name, filter="data")
    return folder


@dataclass(frozen=True)
class Given:
    """One checkpoint of the corpus."""

    version: str
    kind: str

    @property
    def folder(self) -> Path:
        return Path(_root().name) / f"ray-{self.version}" / self.kind

    @property
    def path(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def about(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "truth.json").read_text()))

    @property
    def stack(self) -> str:
        return "old" if self.about["stack"] == "old" else "new"

    def truth(self, policy_id: str) -> dict[str, Any]:
        with np.load(self.folder / "truth.npz") as found:
            prefix = f"{policy_id}/"
            return {k[len(prefix) :]: found[k] for k in found.files if k.startswith(prefix)}

    def weights(self, policy_id: str) -> dict[str, Any]:
        found = self.truth(policy_id)
        return {name: array for name, array in found.items() if not name.startswith("__")}


def given() -> list[Given]:
    """Return all whole checkpoints, for parametrized tests; :func:`named` makes the ids."""
    return [one for one in _all() if not one.kind.startswith(("broken_", "tune_"))]


def broken() -> list[Given]:
    """Return all checkpoints from which files are missing."""
    return [one for one in _all() if one.kind.startswith("broken_")]


def experiments() -> list[Given]:
    """Return all folders of Tune."""
    return [one for one in _all() if one.kind.startswith("tune_")]


@functools.cache
def _all() -> list[Given]:
    root = Path(_root().name)
    return sorted(
        (Given(path.parent.name.removeprefix("ray-"), path.name) for path in root.glob("ray-*/*")),
        key=lambda one: (list(map(int, one.version.split("."))), one.kind),
    )


def named(one: Given) -> str:
    return f"{one.version}-{one.kind}"


def write_trial(folder: Path, versions: list[str]) -> None:
    """Write the folder of a trial of Tune, with a checkpoint of each of the given Ray versions."""
    lines = []
    for number, version in enumerate(versions):
        name = f"checkpoint_{number:06}"
        source = Given(version, "ppo_old_multi").path
        inner = source / "checkpoint_000001"
        shutil.copytree(inner if inner.is_dir() else source, folder / name)
        lines.append({"training_iteration": 10 * number, "checkpoint_dir_name": name,
                      "env_runners": {"episode_return_mean": float(number)},
                      "config": {"lr": 0.1}, "done": False})  # fmt: skip
    (folder / "result.json").write_text("\n".join(map(json.dumps, lines)) + "\n")
