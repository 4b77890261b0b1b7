"""The blocks of docs/callbacks.md, run in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.callbacks.callbacks import RLlibCallback

from policystore import PolicyStore
from policystore.rllib import snapshot
from tests.support.doc_blocks import README, run_blocks


class MyCallbacks(RLlibCallback):
    """The reader's own."""


@pytest.mark.long
@pytest.mark.usefixtures("ray_session")
def test_the_blocks(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path)
    algo = PPOConfig().environment("CartPole-v1").env_runners(num_env_runners=0).build_algo()
    try:
        snap = snapshot(algo)
        pushed = store.push(snap, "cartpole/ppo")
    finally:
        algo.stop()
    names: dict[str, Any] = {
        "store": store,
        "snap": snap,
        "PPOConfig": PPOConfig,
        "MyCallbacks": MyCallbacks,
    }
    try:
        run_blocks("rllib", names, README.parent / "docs" / "callbacks.md")
        assert snapshot(names["algo"]).weights_digest == pushed.weights_digest
    finally:
        names["algo"].stop()
