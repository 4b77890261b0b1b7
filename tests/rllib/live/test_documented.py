"""The blocks of docs/running.md, run in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.rllib.algorithms.ppo import PPOConfig

import tests.support.new_stack_algorithms as parts
from policystore import PolicyStore
from tests.support.doc_blocks import DOCS, run_blocks


@pytest.mark.long
@pytest.mark.usefixtures("ray_session")
def test_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    store = PolicyStore("./policies")
    names: dict[str, Any] = {"PolicyStore": PolicyStore, "PPOConfig": PPOConfig, "store": store}

    with parts.built(parts.configured(PPOConfig)) as duo:
        names["duo"] = duo
        run_blocks("rllib", names, DOCS / "running.md")

    (own,) = [row for row in names["report"] if row.status == "own"]
    assert (own.worker, own.policy) == ("train local", "opponent")
    assert own.note.startswith("load_local loaded league/main@")
    assert own.note in capsys.readouterr().out
