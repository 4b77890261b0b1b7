"""A search in Tune from start to end: warm start, publish, and the way back from its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.rllib.algorithms.ppo import PPO

import tests.support.tune_runs as parts
from policystore import PolicyStore
from policystore.rllib import publish, published, snapshot_all, warm_start
from tests.support.cells import sampled


@pytest.mark.long
@pytest.mark.parametrize("stack", sampled(["new", "old"], "new", wide=["old"]))
def test_a_search(stack: str, ray_session: None, tmp_path: Path) -> None:
    """The config is an AlgorithmConfig on the new stack, and a dict on the old stack."""
    own, store = parts.PARTS[stack], PolicyStore(tmp_path / "store")
    with own.built(own.configured()) as algo:
        begun = store.push(snapshot_all(algo)["main"], "duo/start")
    made = publish(
        store, {"main": "duo/{trial}"}, interval=2, metric="env_runners/episode_return_mean"
    )
    config = own.configured().callbacks(warm_start(store, {"main": "duo/start"}, callbacks=made))
    chosen = {"lr": tune.grid_search([0.01, 0.02]), "lambda_": tune.uniform(0.5, 0.9)}
    space: Any = config.training(**chosen)
    if stack == "old":
        space = config.to_dict()
    grid = tune.Tuner(
        PPO,
        param_space=space,
        tune_config=tune.TuneConfig(metric="env_runners/episode_return_mean", mode="max"),
        run_config=tune.RunConfig(
            name="search", storage_path=str(tmp_path / "tune"), stop={"training_iteration": 3},
            verbose=0,
        ),
    ).fit()  # fmt: skip
    assert not grid.errors
    later = tune.Tuner.restore(str(tmp_path / "tune" / "search"), PPO).get_results()
    assert len(later) == 2
    for result in [*grid, grid.get_best_result(), *later]:
        last, first = published(result)
        assert [last.source["iteration"], first.source["iteration"]] == [3, 2]
        assert first.parents == (begun.digest,)
        assert last.parents == (first.digest,)
        assert last.name == first.name
        assert result.path.endswith(last.source["run"])
        if result.config["lr"]:  # a restored result has the config as Tune's loggers wrote it
            assert last.source["params"] == {
                "lr": result.config["lr"], "lambda": result.config["lambda"],
            }  # fmt: skip
        assert "params_omitted" not in last.source
    params = [published(result)[0].source["params"] for result in grid]
    assert {each["lr"] for each in params} == {0.01, 0.02}
    assert all(0.5 <= each["lambda"] <= 0.9 for each in params)
    assert len(store.names("duo/")) == 3
