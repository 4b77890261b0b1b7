"""Policies out of checkpoints that lack a class, a space, a config, or a network of today."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog
from ray.rllib.algorithms.ppo.ppo_torch_policy import PPOTorchPolicy
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.models import ModelCatalog
from ray.rllib.models.torch.fcnet import FullyConnectedNetwork

from policystore import InvalidInputError, MismatchError, Snapshot, UntrustedError
from policystore.rllib import (
    read_checkpoint,
    rebuild_module,
    rebuild_player,
    rebuild_policy,
    snapshot,
)
from policystore.rllib.new_stack.rebuild import module_spec
from tests.support.checkpoint_corpus import Given
from tests.support.rl_modules import DefaultPPOTorchRLModule

OBS = gym.spaces.Box(-1, 1, (4,), np.float32)
ACT = gym.spaces.Discrete(3)
ROWS = np.full((1, 4), 0.3, np.float32)


class Negated(FullyConnectedNetwork):
    """The parameters of RLlib's default network, and other outputs."""

    def forward(self, *args: Any) -> Any:
        logits, state = super().forward(*args)
        return -logits, state


class Slab(gym.spaces.Box):
    """A user's own space."""


def old_policy(**model: Any) -> PPOTorchPolicy:
    config = PPOConfig().api_stack(
        enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False
    )
    config.training(model={"fcnet_hiddens": [8], **model})
    return PPOTorchPolicy(OBS, ACT, {**config.to_dict(), "framework": "torch"})


def with_weights(snap: Snapshot, weights: Any) -> Snapshot:
    return Snapshot(weights=weights, spec=snap.spec, state=snap.state)


def logits(policy: Any) -> Any:
    return policy.compute_actions(ROWS, explore=False)[2]["action_dist_inputs"]


@pytest.fixture
def registered(tmp_path: Path) -> tuple[Path, Any]:
    """The checkpoint of a policy whose model is known by a registered name, and its outputs."""
    ModelCatalog.register_custom_model("negated", Negated)
    policy = old_policy(custom_model="negated")
    policy.export_checkpoint(str(tmp_path))
    return tmp_path, logits(policy)


def test_a_model_by_a_registered_name_is_never_another_model(registered: Any) -> None:
    path, wanted = registered
    (snap,) = read_checkpoint(path).values()
    for rebuild in (rebuild_policy, rebuild_player):
        with pytest.raises(InvalidInputError, match=r"'negated'.*custom_model=MyClass"):
            rebuild(snap)
    assert np.array_equal(logits(rebuild_policy(snap, custom_model=Negated)), wanted)
    trust = [f"{__name__}."]
    for text in (f"{__name__}:Negated", f"{__name__}.Negated"):
        assert np.array_equal(logits(rebuild_policy(snap, custom_model=text, trust=trust)), wanted)
        with pytest.raises(UntrustedError):
            rebuild_policy(snap, custom_model=text)


@pytest.mark.parametrize("told", [Negated, f"{__name__}:Negated", f"{__name__}.Negated"], ids=str)
def test_what_was_told_leaves_the_list(registered: Any, told: Any) -> None:
    path, wanted = registered
    (snap,) = read_checkpoint(path).values()
    (told_at_once,) = read_checkpoint(path, classes={"negated": told}).values()
    config = snap.spec.config
    config["model"]["custom_model"] = told
    replaced = snap.replace(spec=snap.spec.replace(config=config))
    assert "config.model.custom_model" in snap.spec.omitted
    for full in (told_at_once, replaced):
        assert "config.model.custom_model" not in full.spec.omitted
        assert np.array_equal(logits(rebuild_policy(full, trust=[f"{__name__}."])), wanted)
    live = snapshot(rebuild_policy(told_at_once, trust=[f"{__name__}."]))
    assert live.spec.config["model"] == told_at_once.spec.config["model"]
    assert live.same_policy(snap)


def test_classes_that_are_none(registered: Any) -> None:
    path, _ = registered
    (snap,) = read_checkpoint(path).values()
    for wrong in (["negated"], {"negated": 5}, {5: Negated}, {"negated": "negated"}):
        with pytest.raises(InvalidInputError, match="classes"):
            read_checkpoint(path, classes=wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="neither a class nor an import path"):
        rebuild_policy(snap, custom_model="negated")
    config = snap.spec.config
    config["model"]["custom_model"] = "negated"
    with pytest.raises(InvalidInputError, match="neither a class nor an import path"):
        snap.spec.replace(config=config)


def test_a_config_that_no_file_tells() -> None:
    snaps = read_checkpoint(Given("1.13.0", "broken_old_only_file").path)
    with pytest.raises(InvalidInputError, match=r"without its config: .*\.tune_metadata"):
        rebuild_policy(snaps["p0"])
    whole = read_checkpoint(Given("1.13.0", "ppo_old_multi").path)["p0"]
    told = snaps["p0"].replace(spec=snaps["p0"].spec.replace(config=whole.spec.config))
    policy = rebuild_policy(told)
    assert snapshot(policy).weights_digest == whole.weights_digest


def module_with(space: gym.spaces.Space[Any]) -> DefaultPPOTorchRLModule:
    return RLModuleSpec(
        module_class=DefaultPPOTorchRLModule,
        observation_space=space,
        action_space=ACT,
        model_config=DefaultModelConfig(fcnet_hiddens=[8]),
        catalog_class=PPOCatalog,
    ).build()


def test_a_space_of_the_users_own_class(tmp_path: Path) -> None:
    module = module_with(Slab(-1, 1, (4,), np.float32))
    module.save_to_path(str(tmp_path))
    (snap,) = read_checkpoint(tmp_path).values()
    assert snap.weights.keys() == module.state_dict().keys()
    assert "Slab" in snap.spec.omitted["observation_space"]
    with pytest.raises(InvalidInputError, match=r"Slab.*rebuild_module\(snap, observation_space="):
        rebuild_module(snap)
    with pytest.raises(InvalidInputError, match="gymnasium space"):
        rebuild_module(snap, observation_space=(4,))  # type: ignore[arg-type]
    slab = Slab(-1, 1, (4,), np.float32)
    again = rebuild_module(snap, observation_space=slab)
    assert isinstance(again.observation_space, Slab)
    player = rebuild_player(snap, env_spaces=(slab, ACT), normalize_actions=True,
                            clip_actions=False)  # fmt: skip
    assert player.act(ROWS[0]) == rebuild_player(
        with_weights(snapshot(module_with(OBS)), snap.weights), env_spaces=(OBS, ACT),
        normalize_actions=True, clip_actions=False,
    ).act(ROWS[0])  # fmt: skip


def test_an_old_policy_with_a_space_of_the_users_own_class(tmp_path: Path) -> None:
    policy = old_policy()
    policy.export_checkpoint(str(tmp_path))
    file = tmp_path / "policy_state.pkl"
    state = pickle.loads(file.read_bytes())
    state["policy_spec"]["observation_space"] = Slab(-1, 1, (4,), np.float32)
    file.write_bytes(pickle.dumps(state))
    (snap,) = read_checkpoint(tmp_path).values()
    with pytest.raises(InvalidInputError, match=r"rebuild_policy\(snap, observation_space="):
        rebuild_policy(snap)
    assert np.array_equal(logits(rebuild_policy(snap, observation_space=OBS)), logits(policy))


@pytest.mark.parametrize("version", ["2.37.0", "2.51.2"])
def test_what_acts_is_rebuilt_where_other_networks_have_changed(
    version: str, caplog: pytest.LogCaptureFixture
) -> None:
    """SAC's Q encoders were one network each until Ray 2.54."""
    (snap,) = read_checkpoint(Given(version, "sac_new").path).values()
    with caplog.at_level(logging.WARNING, logger="policystore"):
        module = rebuild_module(snap)
    assert module.inference_only
    assert "qf_encoder, qf_twin" in caplog.text
    held = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    acting = {name for name in snap.weights if name.startswith(("pi.", "pi_encoder."))}
    assert acting <= held.keys()
    assert all(np.array_equal(held[name], snap.weights[name]) for name in acting)
    with pytest.raises(MismatchError, match="qf_encoder"):
        module_spec(snap)
    wrong = {**snap.weights, "pi.net.mlp.0.bias": np.zeros(3, np.float32)}
    with pytest.raises(MismatchError):
        rebuild_module(with_weights(snap, wrong))


@pytest.mark.parametrize(("version", "last"), [("2.4.0", lambda x: x), ("2.10.0", np.tanh)])
def test_the_last_layer_of_an_encoder_was_linear_in_ray_2_4(version: str, last: Any) -> None:
    one = Given(version, "ppo_new")
    (snap,) = read_checkpoint(one.path).values()
    weights, x = snap.weights, one.truth("default_policy")["__obs"]
    encoder = "encoder.actor_encoder.net.mlp"
    layers = sorted({int(name.split(".")[-2]) for name in weights if name.startswith(encoder)})
    for layer in layers:
        x = x @ weights[f"{encoder}.{layer}.weight"].T + weights[f"{encoder}.{layer}.bias"]
        x = last(x) if layer == layers[-1] else np.tanh(x)
    wanted = x @ weights["pi.net.mlp.0.weight"].T + weights["pi.net.mlp.0.bias"]
    obs = torch.from_numpy(one.truth("default_policy")["__obs"])
    with torch.no_grad():
        found = rebuild_module(snap).forward_inference({"obs": obs})["action_dist_inputs"]
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


def test_previous_actions_of_an_lstm() -> None:
    """RLlib hands the numpy integer of a Discrete space to torch, which refuses it."""
    with pytest.raises(TypeError):
        old_policy(use_lstm=True, lstm_cell_size=8, lstm_use_prev_action=True)
    plain = gym.spaces.Discrete(3)
    plain.n = 3  # type: ignore[assignment]
    config = old_policy().config
    model = {**config["model"], "use_lstm": True, "lstm_cell_size": 8,
             "lstm_use_prev_action": True}  # fmt: skip
    policy = PPOTorchPolicy(OBS, plain, {**config, "model": model})
    snap = snapshot(policy)
    assert snapshot(rebuild_policy(snap)).weights_digest == snap.weights_digest


def test_one_policy_of_two_sources() -> None:
    policy = old_policy()
    live = snapshot(policy)
    state = {**live.state, "exploration": {"timestep": 7}}
    trained = live.replace(state=state)
    lacking = live.replace(spec=live.spec.replace(omitted={"_exploration_state": "not told"}))
    assert live.digest != lacking.digest
    assert live.same_policy(lacking)
    assert lacking.same_policy(trained)
    assert not live.same_policy(trained)
    other = {name: array + 1 for name, array in live.weights.items()}
    assert not live.same_policy(with_weights(live, other))
    assert not live.same_policy(Snapshot(weights={}))
