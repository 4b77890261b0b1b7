"""What is recorded of a policy, what is refused, and what a rebuilt one is checked for."""

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
from old_stack_cells import (
    BARE,
    SMALL,
    TRAINING_WARNINGS,
    build,
    dqn,
    made,
    old_stack,
    ppo,
    sac_like,
)
from old_stack_zoo import (
    SPACES,
    Forgetful,
    LastExploration,
    LoudCategorical,
    NeedsUnused,
    SmallModel,
    StatelessHeuristic,
    TableHeuristic,
    TwoHeaded,
)
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.callbacks import DefaultCallbacks
from ray.rllib.algorithms.dqn.dqn_torch_policy import DQNTorchPolicy
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo.ppo_torch_policy import PPOTorchPolicy
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.algorithms.sac.sac_torch_policy import SACTorchPolicy
from ray.rllib.models.catalog import ModelCatalog
from ray.rllib.policy.policy_template import build_policy_class
from ray.rllib.policy.tf_policy import TFPolicy

from policystore import Snapshot, Spec
from policystore.errors import (
    FormatError,
    InvalidInputError,
    MismatchError,
    NotFoundError,
    UntrustedError,
)
from policystore.rllib.policy_stack import rebuild_policy, snapshot_policy
from policystore.tree import Tagged

pytestmark = TRAINING_WARNINGS
HERE = Path(__file__).parent


def policy_of(cls: Any = PPOTorchPolicy, config: Any = None, act: str = "discrete") -> Any:
    return cls(SPACES["vector"], SPACES[act], (config or ppo()).to_dict())


def with_model(**model: Any) -> Any:
    return policy_of(config=ppo().training(model={**SMALL, **model}))


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
            Snapshot(weights={"w": np.zeros(1)}, spec=snap.spec), trust=["old_stack_zoo"]
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
    assert "target_model" in snap.spec.left_out
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


# --- who may be imported -------------------------------------------------------------------------


def _untrusted() -> dict[str, Any]:
    ModelCatalog.register_custom_model("zoo_model", SmallModel)
    ModelCatalog.register_custom_action_dist("zoo_dist", LoudCategorical)
    exploring = ppo().env_runners(exploration_config={"type": LastExploration})
    return {
        "SmallModel": with_model(custom_model="zoo_model"),
        "LoudCategorical": with_model(custom_action_dist="zoo_dist"),
        "LastExploration": policy_of(config=exploring),
        "StatelessHeuristic": policy_of(StatelessHeuristic),
        "ReLU": with_model(fcnet_activation=torch.nn.ReLU),
    }


@pytest.mark.parametrize(
    "name", ["SmallModel", "LoudCategorical", "LastExploration", "StatelessHeuristic"]
)
def test_a_class_outside_rllib_needs_trust(name: str) -> None:
    snap = snapshot_policy(_untrusted()[name])
    with pytest.raises(UntrustedError, match=name):
        rebuild_policy(snap)
    with pytest.raises(UntrustedError):
        rebuild_policy(snap, trust=["old_stack"])
    assert rebuild_policy(snap, trust=["old_stack_zoo."]) is not None
    assert rebuild_policy(snap, trust=iter(["old_stack_zoo."])) is not None


def test_classes_of_torch_need_trust_too() -> None:
    snap = snapshot_policy(_untrusted()["ReLU"])
    with pytest.raises(UntrustedError, match="torch"):
        rebuild_policy(snap)
    rebuilt = rebuild_policy(snap, trust=[torch.nn.ReLU])
    assert any(isinstance(part, torch.nn.ReLU) for part in rebuilt.model.modules())


def test_trust_is_a_list() -> None:
    with pytest.raises(InvalidInputError, match="trust"):
        rebuild_policy(snapshot_policy(policy_of()), trust="old_stack_zoo.")


FROM_CONFIG = Tagged("import", "ray.rllib.utils.from_config:from_config")
RUN = {"config": {"type": "os.system", "_args": ["true"]}}


@pytest.mark.parametrize(
    "config",
    [
        {"callbacks": "os.system"},
        {"env": "os.system"},
        {"exploration_config": {"type": "os.system", "_args": ["true"]}},
        {"exploration_config": "os.system"},
        {"exploration_config": {"type": FROM_CONFIG, **RUN}},
        {"exploration_config": {"type": Tagged("import", "os:system")}},
        {
            "exploration_config": {
                "type": Tagged("import", "ray.rllib.utils.exploration:EpsilonGreedy"),
                "epsilon_schedule": "os.system",
            }
        },
        {
            "exploration_config": {
                "type": Tagged("import", "ray.rllib.utils.exploration:Curiosity"),
                "sub_exploration": {"type": "os.system"},
            }
        },
        {"model": {"custom_model": "os.system"}},
        {"model": {"custom_model": FROM_CONFIG, "custom_model_config": RUN}},
        {"model": {"custom_action_dist": "anything"}},
        {
            "model": {
                "fcnet_weights_initializer": FROM_CONFIG,
                "fcnet_weights_initializer_config": RUN,
            }
        },
        {"model": {"fcnet_activation": FROM_CONFIG}},
        {"policy_model_config": {"custom_model": "os.system"}},
        {3: 4},
    ],
)
def test_a_hostile_config_runs_nothing(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    snap = snapshot_policy(policy_of())
    kept = snap.spec.config
    merged = {**kept, **config}
    if "model" in config:
        merged["model"] = {**kept["model"], **config["model"]}
    calls: list[Any] = []
    monkeypatch.setattr(os, "system", lambda *args, **kwargs: calls.append(args))
    with pytest.raises((FormatError, UntrustedError)):
        rebuild_policy(snap.replace(spec=snap.spec.replace(config=merged)))
    assert calls == []


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("os:system", UntrustedError),
        ("ray.rllib.utils.from_config:from_config", FormatError),
        ("ray.rllib.policy.no_such_module:Policy", NotFoundError),
        ("no path", InvalidInputError),
    ],
)
def test_a_class_that_is_no_policy_is_refused(path: str, error: type[Exception]) -> None:
    snap = snapshot_policy(policy_of())
    with pytest.raises(error):
        rebuild_policy(snap.replace(spec=snap.spec.replace(cls=path)))


# --- what a snapshot refuses ---------------------------------------------------------------------


def test_a_tensorflow_policy_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="TensorFlow"):
        snapshot_policy(object.__new__(TFPolicy))


def test_what_is_no_policy_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="Linear"):
        snapshot_policy(torch.nn.Linear(1, 1))


def test_a_class_that_cannot_be_imported_is_refused() -> None:
    class Local(StatelessHeuristic):
        pass

    with pytest.raises(InvalidInputError, match="top level"):
        snapshot_policy(policy_of(Local))
    built = build_policy_class(
        name="Built", framework="torch", loss_fn=None, get_default_config=lambda: ppo().to_dict()
    )
    with pytest.raises(InvalidInputError, match="__qualname__"):
        snapshot_policy(policy_of(built))


def test_a_model_that_cannot_be_imported_is_refused() -> None:
    class Local(SmallModel):
        pass

    with pytest.raises(InvalidInputError, match="custom_model"):
        snapshot_policy(with_model(custom_model=Local))


def test_an_unregistered_name_is_refused() -> None:
    policy = with_model()
    policy.config["model"]["custom_model"] = "never_registered"
    with pytest.raises(InvalidInputError, match="never_registered"):
        snapshot_policy(policy)


def test_networks_beside_the_model_are_refused_or_left_out() -> None:
    policy = policy_of(TwoHeaded)
    with pytest.raises(InvalidInputError, match="'critic'"):
        snapshot_policy(policy, policy_id="main")
    snap = snapshot_policy(policy, leave_out=["critic"])
    assert snap.spec.left_out["critic"] == "left out on request"
    with pytest.raises(InvalidInputError, match="leave_out"):
        snapshot_policy(policy, leave_out="critic")


def test_noise_on_parameters_is_refused_and_never_taken_off_loaded_weights() -> None:
    config = dqn().env_runners(exploration_config={"type": "ParameterNoise"})
    policy = policy_of(DQNTorchPolicy, config)
    assert policy.exploration.weights_are_currently_noisy
    with pytest.raises(InvalidInputError, match="ParameterNoise"):
        snapshot_policy(policy)
    policy.exploration.before_compute_actions(explore=False)
    policy.exploration.stddev = 0.125
    snap = snapshot_policy(policy)
    rebuilt = rebuild_policy(snap)
    rebuilt.compute_actions([np.zeros(4, "f4")], explore=False)
    assert snapshot_policy(rebuilt).weights_digest == snap.weights_digest
    assert rebuilt.exploration.stddev == 0.125


@pytest.mark.parametrize("stack", ["new", "torch", "none"])
def test_another_kind_of_snapshot_is_refused(stack: str) -> None:
    with pytest.raises(InvalidInputError, match=stack):
        rebuild_policy(Snapshot(weights={}, spec=Spec(stack=stack)))


def test_what_has_no_plain_form_is_listed() -> None:
    snap = snapshot_policy(
        with_model(
            custom_model=SmallModel,
            custom_model_config={"unused": [1, {"deep": lambda: 0}], "width": np.int64(4)},
        )
    )
    assert snap.spec.left_out == {
        "config.model.custom_model_config.unused": (
            "a function that no other process can import by name"
        )
    }
    assert snap.spec.config["model"]["custom_model_config"] == {"width": 4}
    rebuild_policy(snap, trust=[SmallModel])


def test_a_constructor_that_cannot_do_without_says_what_was_left_out() -> None:
    arguments = {"unused": object()}
    snap = snapshot_policy(with_model(custom_model=NeedsUnused, custom_model_config=arguments))
    with pytest.raises(InvalidInputError, match=r"custom_model_config\.unused"):
        rebuild_policy(snap, trust=["old_stack_zoo."])


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
import sys, warnings; warnings.simplefilter("ignore")
import numpy as np, torch
from test_old_rebuild import policy_of, with_model, SmallModel
from policystore.rllib.policy_stack import snapshot_policy
for policy in (policy_of(), with_model(custom_model=SmallModel, custom_model_config={"unused": {1}})):
    with torch.no_grad():
        for value in policy.model.parameters(): value.fill_(0.25)
    print(snapshot_policy(policy).digest)
"""


def test_every_process_gives_the_same_digest() -> None:
    path = os.pathsep.join([str(HERE), str(HERE.parents[2])])
    found = {
        subprocess.run(
            [sys.executable, "-c", FIXED],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert found.pop().count("blake3:") == 2


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


RAY_STARTED = """
import warnings; warnings.simplefilter("ignore")
from test_old_rebuild import policy_of
from old_stack_zoo import StartsRay
from policystore.errors import InvalidInputError
from policystore.rllib.policy_stack import rebuild_policy, snapshot_policy
snap = snapshot_policy(policy_of(StartsRay))
snap = snap.replace(spec=snap.spec.replace(config={**snap.spec.config, "really": True}))
try:
    rebuild_policy(snap, trust=["old_stack_zoo."])
except InvalidInputError as error:
    print(error)
"""


def test_a_constructor_that_starts_ray_is_told_so() -> None:
    path = os.pathsep.join([str(HERE), str(HERE.parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", RAY_STARTED],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert "started Ray" in done.stdout
