"""Converted policies run in Algorithms of the other API stack, as whole programs too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.env_to_module import FlattenObservations, MeanStdFilter

from policystore import MismatchError
from policystore.rllib import (
    check_sync,
    load_into,
    rebuild_player,
    snapshot,
    to_new_stack,
    to_old_stack,
)
from tests.support import ROOT
from tests.support.conversions import FORCES, observations
from tests.support.new_stack_modules import TraceEnv
from tests.support.old_stack_configs import TRAINING_WARNINGS

pytestmark = [pytest.mark.long, *TRAINING_WARNINGS]

SEEN = Dict({"far": Box(-9.0, 40.0, (3,), np.float32), "kind": Discrete(3)})
POLICY = "default_policy"


def ppo(*, new: bool, model: dict[str, Any], clip: float = np.inf) -> PPOConfig:
    config = (
        PPOConfig()
        .api_stack(enable_rl_module_and_learner=new, enable_env_runner_and_connector_v2=new)
        .environment(TraceEnv, env_config={"observation_space": SEEN, "action_space": FORCES})
        .env_runners(num_env_runners=1, num_cpus_per_env_runner=0.5, rollout_fragment_length=20)
        .training(minibatch_size=20, num_epochs=1)
        .resources(num_gpus=0)
        .debugging(seed=1, log_level="ERROR")
    )
    if not new:
        config.env_runners(observation_filter="MeanStdFilter")
        return config.training(train_batch_size=40, model=model)
    config.env_runners(
        env_to_module_connector=lambda *_, **__: [
            FlattenObservations(),
            MeanStdFilter(clip_by_value=clip),
        ]
    )
    return config.training(train_batch_size_per_learner=40).rl_module(model_config=model)


@contextmanager
def built(config: PPOConfig) -> Iterator[Any]:
    algo = getattr(config, "build_algo", config.build)()
    try:
        yield algo
    finally:
        algo.stop()


def assert_plays_the_same(one: Any, other: Any) -> None:
    players = [rebuild_player(snap) for snap in (one, other)]
    for obs in observations(SEEN, 30):
        mine, yours = (player.act(obs) for player in players)
        np.testing.assert_allclose(mine, yours, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("ray_session")
def test_a_trained_policy_goes_on_on_the_new_stack_and_comes_back() -> None:
    with built(ppo(new=False, model={"fcnet_hiddens": [8]})) as old_algo:
        old_algo.train()
        original = snapshot(old_algo, POLICY)
        converted = to_new_stack(original)
        model = converted.spec.config["model_config"]

        with built(ppo(new=True, model=model)) as algo:
            algo.train()
            with pytest.raises(MismatchError, match=r"to_new_stack\(snap\)"):
                load_into(algo, {POLICY: original})
            report = load_into(algo, {POLICY: converted})
            assert report.ok
            assert check_sync(algo).ok
            live = snapshot(algo)
            assert live.acting_digest == converted.acting_digest
            assert live.weights_digest == converted.weights_digest
            assert live.state_digest == converted.state_digest
            assert_plays_the_same(original, live)
            algo.train()
            trained = snapshot(algo)
            assert trained.weights_digest != converted.weights_digest

        back = to_old_stack(trained)
        assert load_into(old_algo, {POLICY: back}).ok
        assert_plays_the_same(trained, snapshot(old_algo, POLICY))
        old_algo.train()


@pytest.mark.wide
def test_the_example_migrates_a_policy_of_ray_2_4() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/examples/migrate.py", "--iterations", "2"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "iteration 2: mean return in training" in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if "old policy" in line)
    old, new = line.partition("old policy ")[2].split(", new Algorithm ")
    assert float(old) == float(new) > 8.0


def test_the_page_has_the_tables_of_the_tests() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/tools/conversion_table.py", "--check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.returncode == 0, done.stdout + done.stderr
