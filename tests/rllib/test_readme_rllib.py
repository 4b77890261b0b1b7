"""The blocks of README and docs that need RLlib."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from policystore import PolicyStore
from policystore.rllib import rebuild_player, snapshot
from tests.support import ROOT
from tests.support.doc_blocks import DOCS, readme_program, run_blocks


def test_the_blocks_of_the_readme_run_in_one_session(tmp_path: Path):
    program, output = readme_program()

    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(output)  # the first block's lines
    assert "cartpole/ppo@2" in ran.stdout
    assert "1210" in ran.stdout  # the annotation, which the search shows
    assert "changed" in ran.stdout  # the second version was trained longer
    assert (tmp_path / "policies" / "policystore.json").is_file()
    assert (tmp_path / "policy.safetensors").is_file()


@pytest.fixture(scope="module")
def algorithm(ray_session: None) -> Iterator[Any]:
    algo = (
        PPOConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=0)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[16]))
        .build_algo()
    )
    yield algo
    algo.stop()


@pytest.fixture
def names(algorithm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the pages take as given."""
    monkeypatch.chdir(tmp_path)
    store = PolicyStore("./policies")
    store.push(snapshot(algorithm), "cartpole/ppo")
    return {
        "PolicyStore": PolicyStore,
        "algo": algorithm,
        "config": PPOConfig().environment("CartPole-v1"),
        "observation": algorithm.env_runner.env.single_observation_space.sample(),
        "rebuild_player": rebuild_player,
        "snapshot": snapshot,
        "store": store,
    }


def test_the_blocks_about_rllib(names: dict[str, Any]):
    run_blocks("rllib", names, DOCS / "rllib.md")

    assert names["action"] in (0, 1)
    assert names["first"] in (0, 1)


@pytest.mark.long
@pytest.mark.parametrize("page", ["filters.md", "trust.md"])
def test_the_blocks_of_another_page(page: str, names: dict[str, Any]):
    run_blocks("rllib", names, DOCS / page)
