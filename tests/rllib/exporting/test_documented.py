"""The Python blocks of docs/export.md, run in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore import PolicyStore
from policystore.rllib import rebuild_player
from tests.support import exported
from tests.support.doc_blocks import DOCS, blocks


@pytest.mark.long
def test_the_blocks_write_and_run_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = exported.cell("new:filter")
    store = PolicyStore("memory://")
    store.push(cell.snap, "soccer/main")
    store.tag("soccer/main@1", "champion")
    player = rebuild_player(cell.snap)
    observations = [player.observation_space.sample() for _ in range(3)]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"store": store, "observations": observations}
    wanted = player.act_batch(observations)
    for _, code in blocks("", DOCS / "export.md"):
        names.pop("actions", None)
        exec(code, names)
        if "actions" in names:
            np.testing.assert_array_equal(names["actions"], wanted)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["main.onnx", "main.pt2"]
