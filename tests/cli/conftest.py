from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pytest

from policystore import PolicyStore, Snapshot, Spec
from tests.support.command import Command


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the environment of whoever runs the tests names a store, a width or colours."""
    for name in ("POLICYSTORE_URL", "COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("POLICYSTORE_AUTHOR", "ann")
    monkeypatch.chdir(tmp_path)


def controller(gain: float) -> Snapshot:
    """A policy of two tensors, of which acting needs one."""
    return Snapshot(
        weights={
            "pi.weight": np.full((2, 4), gain, np.float32),
            "value.weight": np.full(4, gain, np.float32),
        },
        spec=Spec(
            stack="new",
            algorithm="PPO",
            acting=["pi.weight"],
            config={"lr": gain},
            omitted={"optimizer": "a snapshot holds no optimizers"},
        ),
    )  # fmt: skip


def fill(store: PolicyStore) -> PolicyStore:
    """Push two names: ``soccer/main`` with three versions and a tag, and ``duo/p0`` with one."""
    for number in range(3):
        store.push(
            controller(number + 1.0), "soccer/main", message=f"round {number}",
            metrics={"return": 10.0 + number},
        )  # fmt: skip
    store.tag("soccer/main@2", "champion")
    store.push(controller(7.0), "duo/p0")
    return store


@pytest.fixture
def store() -> PolicyStore:
    """A store in this process, filled; modules that need files have a folder in its place."""
    return fill(PolicyStore(f"memory://{uuid.uuid4().hex}"))


@pytest.fixture
def policystore(capsys: pytest.CaptureFixture[str], store: PolicyStore) -> Command:
    """The command on that store."""
    return Command(capsys, store.url)


@pytest.fixture
def bare(capsys: pytest.CaptureFixture[str]) -> Command:
    """The command without ``--store``."""
    return Command(capsys, None)
