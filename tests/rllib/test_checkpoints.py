"""Every policy of every real checkpoint rebuilds on this Ray and computes what it computed."""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    Graph,
    MultiBinary,
    MultiDiscrete,
    OneOf,
    Sequence,
    Text,
    Tuple,
)
from ray.rllib.utils.serialization import space_to_dict
from ray.rllib.utils.spaces.repeated import Repeated
from ray.rllib.utils.spaces.simplex import Simplex

from policystore import InvalidInputError, MismatchError, PolicyStore, Snapshot
from policystore.checkpoints import import_experiment
from policystore.checkpoints.convert.old_stack import old_snapshot, policy_weights
from policystore.checkpoints.convert.spaces import described_space
from policystore.checkpoints.files.pickle_reader import read_pickle
from policystore.rllib import (
    read_checkpoint,
    rebuild_module,
    rebuild_player,
    rebuild_policy,
    snapshot,
)
from policystore.spaces import space_to_json
from tests.support import ROOT
from tests.support.checkpoint_corpus import Given, given, named, write_trial
from tests.support.rl_modules import DefaultPPOTorchRLModule

NEAR = 1e-5
POLICIES = [(one, policy_id) for one in given() for policy_id in one.about["policies"]]
ALWAYS = {"1.13.0", "2.37.0"}
"""Versions that the quick run takes all policies of; of the others it takes those of ``ppo_*_multi``."""


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
    obs = truth.get("__obs_filtered", truth["__obs"])
    states = [np.stack([state] * len(obs)) for state in policy.get_initial_state()]
    actions, _, extra = policy.compute_actions(obs, state_batches=states or None, explore=False)
    near(actions, truth["__actions"])
    outputs = {name: value for name, value in truth.items() if name.startswith("__extra.")}
    assert outputs
    for name, value in outputs.items():
        near(extra[name.removeprefix("__extra.")], value)


def repeated(state: dict[str, Any], count: int) -> dict[str, Any]:
    return {
        key: repeated(value, count)
        if isinstance(value, dict)
        else torch.as_tensor(np.stack([np.asarray(value)] * count))
        for key, value in state.items()
    }


def check_new(snap: Snapshot, truth: dict[str, Any]) -> None:
    module = rebuild_module(snap)
    obs = torch.from_numpy(truth.get("__obs_filtered", truth["__obs"]).astype(np.float32))
    batch: dict[str, Any] = {"obs": obs}
    if any("state_out" in name for name in truth):
        state_in = repeated(module.get_initial_state(), len(obs))
        batch = {"obs": obs[:, None], "state_in": state_in}
    with torch.no_grad():
        found = flat(module.forward_inference(batch))
        if any("qf_preds" in name for name in truth):
            values = module.compute_q_values(batch)["qf_preds"]
            found |= {"_qf.qf_preds": values, "compute_q_values.qf_preds": values}
    outputs = {name: value for name, value in truth.items() if name.startswith("__out.")}
    assert outputs
    for name, value in outputs.items():
        if name == "__out.action_dist.loc":  # the likeliest action was all that 2.4 gave
            near(found["action_dist_inputs"].argmax(-1), value)
        else:
            near(found[name.removeprefix("__out.")], value)


@pytest.mark.parametrize(
    ("one", "policy_id"),
    [
        pytest.param(
            one,
            policy_id,
            id=f"{named(one)}-{policy_id}",
            marks=() if one.version in ALWAYS or one.kind.endswith("_multi") else pytest.mark.long,
        )
        for one, policy_id in POLICIES
    ],
)
def test_outputs_equal_the_recorded_ones(one: Given, policy_id: str) -> None:
    snap = read_checkpoint(one.path, [policy_id])[policy_id]
    truth = one.truth(policy_id)
    (check_old if one.stack == "old" else check_new)(snap, truth)
    player = rebuild_player(snap)
    for row in range(3):
        player.reset()
        action = player.act(truth["__obs"][row])
        if "__actions" in truth and truth["__actions"].ndim == 1:
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
            plain = {"omitted": {}, "algorithm": None}
            assert read.spec.replace(**plain) == live.spec.replace(**plain)
            compared += 1
    assert compared >= 4


def test_defaults_are_those_of_the_newest_ray() -> None:
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    from policystore.checkpoints.convert.model_keys import MODEL_DEFAULTS

    assert dataclasses.asdict(DefaultModelConfig()) == MODEL_DEFAULTS


SPACES = [
    Box(-1, 1, (2, 3)), Box(0, 255, (2, 2), np.uint8), Discrete(3), Discrete(3, start=-1),
    Box(np.array([-np.inf, 0], np.float32), np.array([1, np.inf], np.float32)),
    MultiDiscrete([2, 3]), MultiDiscrete([[2, 3], [1, 1]]), MultiBinary(4), MultiBinary((2, 2)),
    Tuple([Discrete(2), Box(0, 1, (1,))]), Text(5, charset="abc"), Sequence(Discrete(2)),
    Dict({"b": Discrete(2), "a": Dict({"x": Box(0, 1, (1,))})}), OneOf([Discrete(2), Discrete(3)]),
    Graph(Box(0, 1, (2,)), Discrete(2)), Simplex((3,)), Repeated(Discrete(3), 4),
]  # fmt: skip


@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
@pytest.mark.parametrize("flattened", [False, True])
def test_spaces_as_pickles_and_as_rllib_writes_them(space: Any, flattened: bool) -> None:
    if flattened:  # as RLlib's preprocessors leave them
        original, space = space, Box(-1, 1, (6,))
        space.original_space = original
    written = space_to_json(space)
    for protocol in range(2, 6):
        pickled = pickle.dumps(space, protocol)
        assert described_space(read_pickle(pickled, "it"), "it") == written
    try:
        as_dict = space_to_dict(space)
    except ValueError:
        return  # RLlib has no form for it
    assert described_space(as_dict, "it") == written


@pytest.mark.parametrize("version", ["2.24.0", "2.40.0", "2.60.0"])
def test_classes_stand_under_the_names_of_today(version: str) -> None:
    snap = read_checkpoint(Given(version, "ppo_new").path)["default_policy"]
    assert snap.spec.cls == (
        f"{DefaultPPOTorchRLModule.__module__}:{DefaultPPOTorchRLModule.__qualname__}"
    )


def test_a_tensorflow_policy_is_weights_and_a_reason() -> None:
    for weights in ({"fc/kernel": np.ones((2, 3), np.float32)}, [np.ones(2, np.float32)]):
        state = {"weights": weights, "policy_spec": {"policy_class": "PPOTF2Policy", "config": {}}}
        snap = old_snapshot(state, policy_weights(state, "it"), "PPO", "it")
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


def test_an_experiment_is_imported_by_tasks_of_a_ray_cluster(
    ray_session: Any, tmp_path: Path
) -> None:
    for trial in ("a", "b"):
        write_trial(tmp_path / "soccer" / trial, ["2.40.0", "2.60.0"])
    store = PolicyStore(tmp_path / "store")
    for added, present in ((12, 0), (0, 12)):
        report = import_experiment(tmp_path / "soccer", store, ray_address="auto")
        assert (report.added, report.present, report.ok) == (added, present, True)
    assert [version.source["checkpoint"] for version in store.log("soccer/b/p1")] == [
        "checkpoint_000001",
        "checkpoint_000000",
    ]
    assert ray.is_initialized()  # the session that was there goes on


def test_the_command_names_an_address_without_a_cluster(tmp_path: Path) -> None:
    write_trial(tmp_path / "soccer" / "a", ["2.60.0"])
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "policystore",
            "-s",
            "store",
            "import",
            "soccer",
            "--ray",
            "nowhere",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 4
    assert "error: no Ray cluster at 'nowhere'" in done.stderr
    assert "Traceback" not in done.stderr
