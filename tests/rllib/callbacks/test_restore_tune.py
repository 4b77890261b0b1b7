"""Trials of Tune with filters that crash once: the restore ends no trial, and loses nothing."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from ray.rllib.callbacks.callbacks import RLlibCallback

import tests.support.restores as restores
import tests.support.tune_runs as parts
from policystore import PolicyStore
from policystore.rllib import check_sync, snapshot, warm_start


class Counts(RLlibCallback):
    """Records how many observations the filters have seen, and whether all workers agree."""

    def on_train_result(self, *, algorithm: Any, result: Any, **_: Any) -> None:
        filters = restores.filters_of(algorithm)
        result["seen"] = max(count for count, _ in filters.values())
        result["in_sync"] = check_sync(algorithm).ok


@pytest.mark.long
@pytest.mark.wide
@pytest.mark.parametrize(
    "cell",
    ["new, one agent, filter", "new, several agents, filter", "old, several agents, filter"],
)
def test_a_trial_that_crashed_goes_on(cell: str, ray_session: None, tmp_path: Path) -> None:
    several = cell.startswith("new, several")
    pid = "default_policy" if "one agent" in cell else "main"
    store = PolicyStore(tmp_path / "store")
    config = restores.configured(cell)
    config.env_runners(num_env_runners=1).evaluation(evaluation_interval=None)
    algo = config.copy().build_algo()
    try:
        algo.train()
        snap = snapshot(algo, pid, agent_ids=["a"] if several else None)
    finally:
        algo.stop()
    store.push(snap, "duo/main")
    config.callbacks(
        warm_start(
            store,
            {pid: "duo/main"},
            agent_ids={pid: ["a"]} if several else None,
            callbacks=[Counts, parts.crash(tmp_path, 3)],
        )
    )
    (result,) = parts.run(config, tmp_path / "tune", 4, failures=1)
    assert result.error is None
    assert (tmp_path / "crashed").exists()
    assert result.metrics["training_iteration"] == 4
    assert result.metrics["in_sync"]
    seen = list(result.metrics_dataframe["seen"])
    # What was seen up to the checkpoint is counted still, and once.
    assert all(15 <= later - earlier <= 60 for earlier, later in itertools.pairwise(seen)), seen
