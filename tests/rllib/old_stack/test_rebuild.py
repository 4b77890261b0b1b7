"""What a rebuilt policy is checked for, and what is the same wherever a policy comes from."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.callbacks import DefaultCallbacks
from ray.rllib.algorithms.dqn.dqn_torch_policy import DQNTorchPolicy
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo.ppo_torch_policy import PPOTorchPolicy
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.algorithms.sac.sac_torch_policy import SACTorchPolicy

from policystore import Snapshot
from policystore.errors import (
    MismatchError,
)
from policystore.rllib.old_stack.rebuild import rebuild_policy
from policystore.rllib.old_stack.snapshot import snapshot_policy
from tests.support import ROOT
from tests.support.old_stack_configs import (
    SMALL,
    TRAINING_WARNINGS,
    build,
    dqn,
    old_stack,
    policy_of,
    ppo,
    sac_like,
    with_model,
)
from tests.support.old_stack_matrix import BARE, made
from tests.support.old_stack_zoo import (
    EmptyHanded,
    Forgetful,
    HalfPolicy,
    SmallModel,
    StatelessHeuristic,
    TableHeuristic,
)

pytestmark = TRAINING_WARNINGS


# --- what fits -----------------------------------------------------------------------------------


def test_a_misfit_lists_every_tensor_and_loads_nothing() -> None:
    snap = snapshot_policy(policy_of())
    weights = dict(snap.weights)
    gone, cut, cast, *_ = sorted(name for name in weights if name.endswith("weight"))
    del weights[gone]
    weights["no.such.layer"] = np.zeros(3, np.float32)
    weights[cut] = weights[cut][:-1]
    weights[cast] = weights[cast].astype(np.float64)
    with pytest.raises(MismatchError) as raised:
        rebuild_policy(Snapshot(weights=weights, spec=snap.spec))
    assert raised.value.missing == (gone,)
    assert raised.value.unexpected == ("no.such.layer",)
    assert set(raised.value.wrong) == {cut, cast}
    assert "float64" in raised.value.wrong[cast]


def test_weights_for_a_policy_without_any_do_not_fit() -> None:
    snap = snapshot_policy(policy_of(StatelessHeuristic))
    assert dict(snap.weights) == {}
    with pytest.raises(MismatchError):
        rebuild_policy(
            Snapshot(weights={"w": np.zeros(1)}, spec=snap.spec),
            trust=["tests.support.old_stack_zoo"],
        )


def test_weights_of_a_policys_own_kind_are_checked_before_and_after() -> None:
    snap = snapshot_policy(policy_of(TableHeuristic))
    wrong = Snapshot(weights={"table": np.zeros((2, 2))}, spec=snap.spec)
    with pytest.raises(MismatchError, match="table"):
        rebuild_policy(wrong, trust=[TableHeuristic])
    policy = policy_of(Forgetful)
    policy.table[:] = 3
    with pytest.raises(MismatchError, match="set_weights"):
        rebuild_policy(snapshot_policy(policy), trust=[Forgetful])


@pytest.mark.parametrize(
    ("cls", "config", "act"),
    [
        (DQNTorchPolicy, dqn, "discrete"),
        (SACTorchPolicy, lambda: sac_like(SACConfig(), "forces"), "forces"),
    ],
)
def test_target_networks_are_in_step_with_the_model(cls: Any, config: Any, act: str) -> None:
    policy = policy_of(cls, config(), act)
    with torch.no_grad():
        for value in policy.model.parameters():
            value.add_(0.5)
    snap = snapshot_policy(policy)
    assert "target_model" in snap.spec.omitted
    rebuilt = rebuild_policy(snap)
    model = rebuilt.model.state_dict()
    for name, value in rebuilt.target_model.state_dict().items():
        assert torch.equal(value, model[name])


def test_batch_norm_bfloat16_and_tied_parameters_come_back_exactly() -> None:
    arguments = {"norm": True, "dtype": "bfloat16", "tied": True}
    policy = with_model(custom_model=SmallModel, custom_model_config=arguments)
    snap = snapshot_policy(policy)
    assert snap.weights["first.weight"].dtype.name == "bfloat16"
    assert snap.weights["norm.num_batches_tracked"].shape == ()
    rebuilt = rebuild_policy(snap, trust=[SmallModel])
    assert snapshot_policy(rebuilt).weights_digest == snap.weights_digest
    assert rebuilt.model.second.weight is rebuilt.model.third.weight
    untied = {**snap.weights, "third.weight": np.zeros_like(snap.weights["third.weight"])}
    with pytest.raises(MismatchError, match="Tied"):
        rebuild_policy(Snapshot(weights=untied, spec=snap.spec), trust=[SmallModel])


def test_names_are_those_of_the_inner_model() -> None:
    policy = policy_of()
    names = set(snapshot_policy(policy).weights)
    assert names == set(policy.get_weights())
    policy.model = torch.nn.DataParallel(policy.model)
    assert set(snapshot_policy(policy).weights) == names


@pytest.mark.parametrize("cls", [HalfPolicy, EmptyHanded])
def test_a_torch_model_is_kept_whatever_get_weights_says(cls: Any) -> None:
    policy = policy_of(cls)
    policy.model.weight.data.fill_(0.5)
    rebuilt = rebuild_policy(snapshot_policy(policy), trust=["tests.support.old_stack_zoo"])
    assert torch.equal(rebuilt.model.weight, policy.model.weight)


# --- the same policy, the same bytes -------------------------------------------------------------


class Talkative(DefaultCallbacks):
    """Something else that a config may hold."""


def _elsewhere(config: Any) -> Any:
    """The same learning on other machines, with other names and logs."""
    config.env_runners(num_env_runners=2, num_envs_per_env_runner=3, sample_timeout_s=7.0)
    config.resources(num_cpus_for_main_process=2, placement_strategy="SPREAD")
    config.evaluation(evaluation_interval=3, evaluation_num_env_runners=1)
    config.debugging(log_level="ERROR", seed=99, log_sys_usage=False)
    config.fault_tolerance(restart_failed_env_runners=False)
    config.reporting(metrics_num_episodes_for_smoothing=5, keep_per_episode_custom_metrics=True)
    config.checkpointing(export_native_model_files=True)
    config.callbacks(Talkative)
    config.environment(env_config={"host": "worker-7"}, render_env=True, disable_env_checking=True)
    config.env_runners(rollout_fragment_length=8, compress_observations=True)
    config.learners(num_learners=0, local_gpu_idx=1)
    return config


CONFIGS = {
    "PPO": (PPOTorchPolicy, ppo, "discrete"),
    "DQN": (DQNTorchPolicy, dqn, "discrete"),
    "SAC": (SACTorchPolicy, lambda: sac_like(SACConfig(), "forces"), "forces"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_resources_rollouts_and_logs_are_not_in_a_spec(name: str) -> None:
    cls, config, act = CONFIGS[name]
    here = snapshot_policy(policy_of(cls, config(), act)).spec
    there = snapshot_policy(policy_of(cls, _elsewhere(config()), act)).spec
    assert there.to_bytes() == here.to_bytes()
    other = snapshot_policy(policy_of(cls, config().training(gamma=0.5), act)).spec
    assert other.to_bytes() != here.to_bytes()


@pytest.mark.long
@pytest.mark.parametrize("config", [APPOConfig, IMPALAConfig])
def test_an_asynchronous_algorithm_elsewhere_has_the_same_spec(
    ray_session: None, config: Any
) -> None:
    found = []
    for runners in (0, 2):
        built = old_stack(config()).training(train_batch_size=32, model=SMALL)
        algorithm = build(built.env_runners(num_env_runners=runners))
        try:
            found.append(snapshot_policy(algorithm.get_policy(), algorithm=algorithm).spec)
        finally:
            algorithm.stop()
    assert found[0].to_bytes() == found[1].to_bytes()


def test_a_policys_id_is_not_in_its_spec(ray_session: None, tmp_path: Path) -> None:
    with made("pair:main", tmp_path) as cell:
        policies = [cell.algorithm.get_policy(name) for name in ("main", "other")]
        specs = [snapshot_policy(policy, algorithm=cell.algorithm).spec for policy in policies]
    assert specs[0] == specs[1]


FIXED = """
import torch
from tests.support.old_stack_configs import policy_of, with_model
from tests.support.old_stack_zoo import SmallModel
from policystore.rllib.old_stack.snapshot import snapshot_policy
for policy in (policy_of(), with_model(custom_model=SmallModel, custom_model_config={"unused": {1}})):
    with torch.no_grad():
        for value in policy.model.parameters(): value.fill_(0.25)
    print(snapshot_policy(policy).digest)
"""
RAY_STARTED = """
from tests.support.old_stack_configs import policy_of
from tests.support.old_stack_zoo import StartsRay
from policystore.errors import InvalidInputError
from policystore.rllib.old_stack.rebuild import rebuild_policy
from policystore.rllib.old_stack.snapshot import snapshot_policy
snap = snapshot_policy(policy_of(StartsRay))
snap = snap.replace(spec=snap.spec.replace(config={**snap.spec.config, "really": True}))
try:
    rebuild_policy(snap, trust=["tests.support.old_stack_zoo."])
except InvalidInputError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def printed() -> str:
    """What a fresh process prints that runs both programs, with hashes of strings of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FIXED + RAY_STARTED],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "1"},
    )
    return done.stdout


@pytest.mark.long
def test_every_process_gives_the_same_digest(
    printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(FIXED, {})
    mine = capsys.readouterr().out.split()
    assert len(mine) == 2
    assert printed.split()[:2] == mine


@pytest.mark.long
def test_a_constructor_that_starts_ray_is_told_so(printed: str) -> None:
    assert "started Ray" in printed


def test_a_snapshot_keeps_its_weights_while_training_goes_on(
    ray_session: None, tmp_path: Path
) -> None:
    with made("ppo-meanstd", tmp_path) as cell:
        snap = snapshot_policy(cell.policy, algorithm=cell.algorithm)
        before = {name: np.array(value) for name, value in snap.weights.items()}
        state = snap.state_digest
        cell.algorithm.train()
        after = snapshot_policy(cell.policy, algorithm=cell.algorithm)
        assert after.weights_digest != snap.weights_digest
        assert after.state_digest != state
        assert after.spec == snap.spec
        assert all(np.array_equal(snap.weights[name], before[name]) for name in before)
        assert Snapshot(weights=snap.weights, spec=snap.spec, state=snap.state) == snap


@pytest.mark.parametrize("name", ["model:lstm", "act:dict", "dqn:distributional", "obs:nested"])
def test_a_rebuilt_policy_gives_the_same_snapshot(name: str) -> None:
    snap = snapshot_policy(BARE[name]().policy)
    assert snapshot_policy(rebuild_policy(snap)).digest == snap.digest


# --- Ray -----------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_policy_is_rebuilt_while_every_cpu_is_taken(ray_session: None) -> None:
    @ray.remote(num_cpus=1)
    class Busy:
        def ready(self) -> bool:
            return True

    taken = [Busy.remote() for _ in range(4)]
    try:
        ray.get([actor.ready.remote() for actor in taken])
        for _ in range(100):
            if ray.available_resources().get("CPU", 0) == 0:
                break
            time.sleep(0.1)
        assert ray.available_resources().get("CPU", 0) == 0
        snap = snapshot_policy(policy_of())
        assert rebuild_policy(snap).device.type == "cpu"
    finally:
        for actor in taken:
            ray.kill(actor)
