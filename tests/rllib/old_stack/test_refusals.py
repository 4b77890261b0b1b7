"""Who may be imported, what a hostile spec can do, and what a snapshot refuses."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.dqn.dqn_torch_policy import DQNTorchPolicy
from ray.rllib.models.catalog import ModelCatalog
from ray.rllib.policy.policy_template import build_policy_class
from ray.rllib.policy.tf_policy import TFPolicy

from policystore import Snapshot, Spec
from policystore.errors import (
    FormatError,
    InvalidInputError,
    NotFoundError,
    UntrustedError,
)
from policystore.format.values import Tagged, encode_value
from policystore.rllib.old_stack.rebuild import rebuild_policy
from policystore.rllib.old_stack.snapshot import snapshot_policy
from tests.support.old_stack_configs import (
    dqn,
    policy_of,
    ppo,
    with_model,
)
from tests.support.old_stack_zoo import (
    LastExploration,
    LoudCategorical,
    NeedsUnused,
    SmallModel,
    StatelessHeuristic,
    TwoHeaded,
)

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
    assert rebuild_policy(snap, trust=["tests.support.old_stack_zoo."]) is not None
    assert rebuild_policy(snap, trust=iter(["tests.support.old_stack_zoo."])) is not None


def test_classes_of_torch_need_trust_too() -> None:
    snap = snapshot_policy(_untrusted()["ReLU"])
    with pytest.raises(UntrustedError, match="torch"):
        rebuild_policy(snap)
    rebuilt = rebuild_policy(snap, trust=[torch.nn.ReLU])
    assert any(isinstance(part, torch.nn.ReLU) for part in rebuilt.model.modules())


def test_trust_is_a_list() -> None:
    with pytest.raises(InvalidInputError, match="trust"):
        rebuild_policy(snapshot_policy(policy_of()), trust="tests.support.old_stack_zoo.")


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
    # As somebody else may have written it into a store.
    stored = {**snap.spec.to_json(), "config": encode_value(merged, "config")}
    with pytest.raises((FormatError, UntrustedError)):
        rebuild_policy(snap.replace(spec=Spec.from_json(stored)))
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
    snap = snapshot_policy(policy, omit=["critic"])
    assert snap.spec.omitted["critic"] == "left out on request"
    with pytest.raises(InvalidInputError, match="omit"):
        snapshot_policy(policy, omit="critic")


def test_noise_on_parameters_is_refused() -> None:
    config = dqn().env_runners(exploration_config={"type": "ParameterNoise"})
    policy = policy_of(DQNTorchPolicy, config)
    clean = snapshot_policy(policy)
    assert any("LayerNorm" in name for name in clean.weights)
    policy.exploration.on_episode_start(policy)
    policy.compute_actions([np.zeros(4, "f4")], explore=True)
    with pytest.raises(InvalidInputError, match="ParameterNoise"):
        snapshot_policy(policy)
    policy.exploration.before_compute_actions(explore=False)
    policy.exploration.stddev = 0.125
    snap = snapshot_policy(policy)
    for name, value in snap.weights.items():
        np.testing.assert_allclose(value, clean.weights[name], atol=1e-5)
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
    assert snap.spec.omitted == {
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
        rebuild_policy(snap, trust=["tests.support.old_stack_zoo."])
