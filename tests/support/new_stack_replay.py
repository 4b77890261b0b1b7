"""Rebuild every cell of a folder in this fresh process, compare, and print one JSON object."""

from __future__ import annotations

import json
import pickle
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import tree

from policystore.rllib.new_stack.player import ModulePlayer
from policystore.rllib.new_stack.rebuild import rebuild_module
from policystore.snapshot import Snapshot
from tests.support.new_stack_matrix import TRUST, outputs
from tests.support.played import as_played


def same(one: Any, other: Any) -> bool:
    """Return whether two nested values are equal bit for bit."""
    ours, theirs = tree.flatten(one), tree.flatten(other)
    return len(ours) == len(theirs) and all(
        np.asarray(a).dtype == np.asarray(b).dtype
        and np.asarray(a).shape == np.asarray(b).shape
        and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(ours, theirs, strict=True)
    )


def replay(snap: Snapshot, expected: dict[str, Any]) -> int:
    """Give a player the observations of the Algorithm's env runner, and compare all actions."""
    player = ModulePlayer(snap, trust=TRUST, **expected.get("player", {}))
    compared = 0
    taken = set()
    last: Any = None
    reward = None
    for index, event in enumerate(expected["trace"]):
        if event[0] == "reset":
            player.reset()
            last, reward = player.act(event[1]), None
            continue
        _, action, reward, obs = event
        assert same(last, as_played(action)), (
            f"step {index}: played {last!r}, the Algorithm {action!r}"
        )
        compared += 1
        taken.add(pickle.dumps(tree.map_structure(np.asarray, action)))
        last = player.act(obs, reward=reward)
    # Actions that never change would prove little.
    assert len(taken) > 1, "the Algorithm took the same action all the time"
    return compared


def check(folder: Path, name: str) -> dict[str, Any]:
    snap = Snapshot.load(folder / f"{name}.safetensors")
    expected = pickle.loads((folder / f"{name}.expected").read_bytes())
    assert str(snap.digest) == expected["digest"], "another digest"
    module = rebuild_module(snap, trust=TRUST)
    if "names" in expected:
        everything, acting = expected["names"]
        assert sorted(snap.weights) == sorted(module.state_dict()) == everything, "other weights"
        assert sorted(snap.spec.acting or snap.weights) == acting, "other acting weights"
    if expected.get("outputs") is not None:
        found = outputs(module, expected["observations"])
        assert same(found, expected["outputs"]), "other outputs"
    steps = replay(snap, expected) if "trace" in expected else 0
    assert not ray.is_initialized(), "Ray was started"
    return {"ok": True, "steps": steps, "tensors": len(snap.weights)}


def attempt(folder: Path, name: str) -> dict[str, Any]:
    try:
        return check(folder, name)
    except Exception:  # the test of that cell reports the error
        return {"ok": False, "error": traceback.format_exc()}


def main(folder: Path) -> None:
    results = {file.stem: attempt(folder, file.stem) for file in sorted(folder.glob("*.expected"))}
    print("RESULTS " + json.dumps(results))


if __name__ == "__main__":
    # The process that made the expected outputs had one thread, too.
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
