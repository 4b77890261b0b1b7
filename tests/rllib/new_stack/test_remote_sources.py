"""Snapshots of Algorithms whose learners and env runners are actors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import ray
from ray.rllib.connectors.env_to_module import MeanStdFilter
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

import tests.support.new_stack_matrix as cells
import tests.support.new_stack_modules as parts
from policystore.errors import InvalidInputError
from policystore.rllib.new_stack.player import ModulePlayer
from policystore.rllib.new_stack.rebuild import rebuild_module
from policystore.rllib.new_stack.snapshot import module_ids, snapshot_from_algorithm


def remote(config: Any, learners: int, runners: int, **more: Any) -> Any:
    return config.learners(num_learners=learners).env_runners(
        num_env_runners=runners, rollout_fragment_length="auto", **more
    )


@pytest.mark.long
def test_same_policy_same_digest_whatever_the_cluster(ray_session: Any) -> None:
    """Also with two learners, whose modules are wrapped for distributed training."""
    digests = set()
    weights: Any = None
    for learners, runners, envs in ((0, 0, 1), (1, 2, 2), (2, 1, 1)):
        algorithm = remote(
            cells.ppo(), learners, runners, num_envs_per_env_runner=envs
        ).build_algo()
        weights = weights or algorithm.learner_group.get_weights()
        algorithm.learner_group.set_weights(weights)
        assert module_ids(algorithm) == ("default_policy",)
        snap = snapshot_from_algorithm(algorithm)
        digests.add(snap.digest)
        algorithm.stop()
    assert len(digests) == 1
    assert sorted(snap.weights) == sorted(weights["default_policy"])


@pytest.mark.long
@pytest.mark.parametrize("local", [True, False])
def test_statistics_of_all_env_runners_are_merged(ray_session: Any, local: bool) -> None:
    config = remote(cells.behind(cells.ppo(), MeanStdFilter), 0, 2, create_local_env_runner=local)
    algorithm = config.build_algo()
    algorithm.train()
    snap = snapshot_from_algorithm(algorithm)
    stats = snap.state["MeanStdFilter"][None]["running_stats"][0]
    apart = algorithm.env_runner_group.foreach_env_runner(
        lambda runner: runner._env_to_module.connectors[0]._filters[None].running_stats.mean,
        local_env_runner=False,
    )
    # 40 steps in two runners, and what each saw on resetting.
    assert stats["num_pushes"] >= 40
    # After train() the merged statistics have been sent to the runners.
    for mean in apart:
        np.testing.assert_array_equal(mean, stats["mean"])
    ModulePlayer(snap).act(cells.VECTOR.sample())
    algorithm.stop()


@pytest.mark.long
def test_target_networks_and_bf16_come_from_a_remote_learner(ray_session: Any) -> None:
    algorithm = cells.asynchronous(cells.APPOConfig()).learners(num_learners=1).build_algo()
    algorithm.train()
    snap = snapshot_from_algorithm(algorithm)
    algorithm.stop()
    assert any(name.startswith("_old_pi") or "target" in name for name in snap.weights)
    assert rebuild_module(snap).state_dict().keys() == snap.weights.keys()

    config = cells.ppo().learners(num_learners=1)
    config.rl_module(
        rl_module_spec=RLModuleSpec(module_class=parts.HalfValueHead), model_config={"width": 6}
    )
    algorithm = config.build_algo()
    snap = snapshot_from_algorithm(algorithm)
    assert {str(array.dtype) for array in snap.weights.values()} == {"bfloat16"}
    assert rebuild_module(snap, trust=cells.TRUST).out.weight.element_size() == 2
    algorithm.stop()


@pytest.mark.long
def test_a_failure_inside_the_learner_leaves_it_alive(ray_session: Any) -> None:
    config = cells.ppo().learners(num_learners=1)
    algorithm = config.build_algo()

    def spoil(learner: Any) -> None:
        learner.module["default_policy"].model_config = None
        type(learner.module["default_policy"]).get_non_inference_attributes = None

    algorithm.learner_group.foreach_learner(spoil)
    with pytest.raises(InvalidInputError, match="inside the learner failed: TypeError"):
        snapshot_from_algorithm(algorithm)
    assert module_ids(algorithm) == ("default_policy",)
    algorithm.stop()
    assert ray.is_initialized()
