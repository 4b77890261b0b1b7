"""The blocks of the README that need RLlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from tests.support.doc_blocks import run_blocks


@pytest.mark.usefixtures("ray_session")
def test_blocks_with_rllib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = (
        PPOConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=0)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[16]))
    )
    algo = config.build_algo()
    try:
        monkeypatch.chdir(tmp_path)
        observation = algo.env_runner.env.single_observation_space.sample()
        names: dict[str, Any] = {"algo": algo, "observation": observation}
        run_blocks("rllib", names)
    finally:
        algo.stop()
    assert names["version"].ref == "cartpole/ppo@1"
    assert names["action"] in (0, 1)
    assert names["first"] in (0, 1)
