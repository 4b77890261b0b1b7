"""A real Tune experiment, as Tune itself sees it and as it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.rllib.algorithms.ppo import PPO, PPOConfig

from policystore.checkpoints import inspect_checkpoint, list_checkpoints, read_checkpoint

pytestmark = pytest.mark.long
METRIC = "env_runners/episode_return_mean"


@pytest.fixture(scope="module")
def results(ray_session: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = (
        PPOConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=0)
        .rl_module(model_config={"fcnet_hiddens": [8], "head_fcnet_hiddens": []})
        .training(train_batch_size=64, minibatch_size=32, num_epochs=1)
        .training(lr=tune.grid_search([0.01, 0.001]))
    )
    return tune.Tuner(
        PPO,
        param_space=config,
        run_config=tune.RunConfig(
            name="soccer",
            storage_path=str(tmp_path_factory.mktemp("experiment")),
            stop={"training_iteration": 3},
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
            verbose=0,
        ),
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
    ).fit()


def test_each_checkpoint_has_the_result_that_tune_says(results: Any) -> None:
    told = {
        checkpoint.path: metrics
        for result in results
        for checkpoint, metrics in result.best_checkpoints
    }
    assert len(told) == 6
    found = list_checkpoints(results.experiment_path)
    assert {one.path for one in found} == set(told)
    for one in found:
        metrics = told[one.path]
        assert one.result["training_iteration"] == metrics["training_iteration"]
        assert one.metric(METRIC) == metrics["env_runners"]["episode_return_mean"]


def test_the_best_and_the_latest_are_those_of_tune(results: Any) -> None:
    scores = {
        checkpoint.path: metrics["env_runners"]["episode_return_mean"]
        for result in results
        for checkpoint, metrics in result.best_checkpoints
    }
    # Of several checkpoints with the best result, any: the trials begin alike.
    best = inspect_checkpoint(results.experiment_path, metric=METRIC)
    assert scores[best.path] == max(scores.values())
    assert (best.algorithm, best.stack) == ("PPO", "new")
    worst = inspect_checkpoint(results.experiment_path, metric=METRIC, mode="min")
    assert scores[worst.path] == min(scores.values())
    for result in results:
        latest = Path(result.path) / "checkpoint_000002"
        assert inspect_checkpoint(result.path).path == str(latest)
        assert read_checkpoint(result.path) == read_checkpoint(latest)
