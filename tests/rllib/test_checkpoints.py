"""Every policy of every real checkpoint rebuilds on this Ray and computes what it computed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from given_checkpoints import Given, given, named

from policystore import InvalidInputError, MismatchError, Snapshot
from policystore.checkpoints.old_policies import old_snapshot
from policystore.rllib import (
    read_checkpoint,
    rebuild_module,
    rebuild_player,
    rebuild_policy,
    snapshot,
)

NEAR = 1e-5
POLICIES = [(one, policy_id) for one in given() for policy_id in one.about["policies"]]


def near(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(wanted, float), atol=NEAR)


def flat(found: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in found.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result


def check_old(snap: Snapshot, truth: dict[str, Any]) -> None:
    policy = rebuild_policy(snap)
    obs = truth["__obs"]
    states = [np.stack([state] * len(obs)) for state in policy.get_initial_state()]
    actions, _, extra = policy.compute_actions(obs, state_batches=states or None, explore=False)
    near(actions, truth["__actions"])
    outputs = {name: value for name, value in truth.items() if name.startswith("__extra.")}
    assert outputs
    for name, value in outputs.items():
        near(extra[name.removeprefix("__extra.")], value)


def check_new(snap: Snapshot, truth: dict[str, Any]) -> None:
    module = rebuild_module(snap)
    obs = torch.from_numpy(truth["__obs"])
    batch: dict[str, Any] = {"obs": obs}
    if any("state_out" in name for name in truth):
        start = module.get_initial_state()
        batch = {
            "obs": obs[:, None],
            "state_in": {
                key: torch.as_tensor(np.stack([np.asarray(value)] * len(obs)))
                for key, value in start.items()
            },
        }
    with torch.no_grad():
        found = flat(module.forward_inference(batch))
    outputs = {name: value for name, value in truth.items() if name.startswith("__out.")}
    assert outputs
    for name, value in outputs.items():
        if name == "__out.action_dist.loc":  # the likeliest action was all that 2.4 gave
            near(found["action_dist_inputs"].argmax(-1), value)
        else:
            near(found[name.removeprefix("__out.")], value)


@pytest.mark.parametrize(
    ("one", "policy_id"), POLICIES, ids=[f"{named(one)}-{name}" for one, name in POLICIES]
)
def test_outputs_equal_the_recorded_ones(one: Given, policy_id: str) -> None:
    snap = read_checkpoint(one.path, [policy_id])[policy_id]
    truth = one.truth(policy_id)
    (check_old if one.stack == "old" else check_new)(snap, truth)
    player = rebuild_player(snap)
    for row in range(3):
        player.reset()
        action = player.act(truth["__obs"][row])
        if "__actions" in truth and player.action_space.shape == ():
            assert action == truth["__actions"][row]


def test_what_ray_itself_loads_gives_the_same_spec() -> None:
    """On the old stack, Ray rebuilds policies of its own version from their folders."""
    from ray.rllib.policy.policy import Policy

    compared = 0
    for one in given():
        if one.version != "2.60.0" or one.stack != "old" or "policy" in one.kind:
            continue
        for policy_id in one.about["policies"]:
            live = snapshot(Policy.from_checkpoint(str(one.path / "policies" / policy_id)))
            read = read_checkpoint(one.path, [policy_id])[policy_id]
            assert read.weights_digest == live.weights_digest
            assert read.state_digest == live.state_digest
            plain = {"left_out": {}, "algorithm": None}
            assert read.spec.replace(**plain) == live.spec.replace(**plain)
            compared += 1
    assert compared >= 4


def test_defaults_are_those_of_the_newest_ray() -> None:
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    from policystore.checkpoints.new_modules import _MODEL_DEFAULTS

    assert dataclasses.asdict(DefaultModelConfig()) == _MODEL_DEFAULTS


def test_a_tensorflow_policy_is_weights_and_a_reason() -> None:
    for weights in ({"fc/kernel": np.ones((2, 3), np.float32)}, [np.ones(2, np.float32)]):
        snap = old_snapshot(
            {"weights": weights, "policy_spec": {"policy_class": "PPOTF2Policy", "config": {}}},
            "PPO",
            "it",
        )
        assert [array.dtype for array in snap.weights.values()] == [np.float32]
        with pytest.raises(InvalidInputError, match="PPOTF2Policy is a TensorFlow policy"):
            rebuild_player(snap)
        with pytest.raises(InvalidInputError, match="PPOTF2Policy is a TensorFlow policy"):
            rebuild_policy(snap)


def test_weights_of_another_class_are_not_taken_for_constants() -> None:
    one = next(one for one in given() if named(one) == "2.24.0-ppo_new")
    snap = read_checkpoint(one.path)["default_policy"]
    assert not any("log_std_clip" in name for name in snap.weights)
    whole = snapshot(rebuild_module(snap))
    assert {name for name in whole.weights if name not in snap.weights} == {
        "pi.log_std_clip_param_const",
        "vf.log_std_clip_param_const",
    }
    less = {name: array for name, array in snap.weights.items() if name != "pi.net.mlp.0.bias"}
    with pytest.raises(MismatchError, match=r"pi\.net\.mlp\.0\.bias"):
        rebuild_module(Snapshot(weights=less, spec=snap.spec))
