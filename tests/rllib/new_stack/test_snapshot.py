"""What a snapshot of the new stack holds, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.rllib.connectors.env_to_module import MeanStdFilter
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.examples.algorithms.classes.vpg import VPGConfig
from ray.rllib.examples.learners.classes.vpg_torch_learner_shared_optimizer import (
    VPGTorchLearnerSharedOptimizer,
)
from ray.rllib.examples.rl_modules.classes.random_rlm import RandomRLModule
from ray.rllib.examples.rl_modules.classes.vpg_using_shared_encoder_rlm import (
    SHARED_ENCODER_ID,
    SharedEncoder,
    VPGMultiRLModuleWithSharedEncoder,
    VPGPolicyAfterSharedEncoder,
)
from ray.rllib.utils.serialization import _serialize_ndarray

import tests.support.new_stack_matrix as cells
import tests.support.new_stack_modules as parts
from policystore.checkpoints import read_checkpoint
from policystore.errors import InvalidInputError, NotFoundError
from policystore.rllib.new_stack.connector_state import take_state
from policystore.rllib.new_stack.player import ModulePlayer
from policystore.rllib.new_stack.rebuild import rebuild_module
from policystore.rllib.new_stack.snapshot import (
    module_ids,
    snapshot_from_algorithm,
    snapshot_module,
    snapshot_multi_module,
    snapshots_from_algorithm,
)
from policystore.snapshot import Snapshot


@pytest.fixture(scope="module")
def single(ray_session: Any) -> Iterator[Any]:
    """PPO behind a filter, trained once."""
    algorithm = cells.behind(cells.ppo(), MeanStdFilter).build_algo()
    algorithm.train()
    yield algorithm
    algorithm.stop()


@pytest.fixture(scope="module")
def multi(ray_session: Any) -> Iterator[Any]:
    """Agents 0 and 1 with filters of their own, modules ``first`` and the frozen ``second``."""
    config = cells.behind(
        cells.multi_agent([0, 1], policies_to_train=["first"]),
        lambda: MeanStdFilter(multi_agent=True),
    ).rl_module(
        rl_module_spec=MultiRLModuleSpec(
            rl_module_specs={
                "first": RLModuleSpec(),
                "second": RLModuleSpec(module_class=RandomRLModule),
            }
        ),
        model_config=cells.SMALL,
    )
    algorithm = config.build_algo()
    algorithm.train()
    yield algorithm
    algorithm.stop()


@pytest.fixture(scope="module")
def shared(ray_session: Any) -> Iterator[Any]:
    """RLlib's example of two policies behind one encoder."""
    heads = {
        name: RLModuleSpec(
            module_class=VPGPolicyAfterSharedEncoder,
            model_config={"embedding_dim": 8, "hidden_dim": 6},
        )
        for name in ("p0", "p1")
    }
    encoder = RLModuleSpec(
        module_class=SharedEncoder,
        model_config={"embedding_dim": 8},
        observation_space=cells.VECTOR,
        action_space=cells.THREE,
    )
    algorithm = (
        VPGConfig()
        .environment(parts.TwoAgents)
        .env_runners(num_env_runners=0)
        .training(learner_class=VPGTorchLearnerSharedOptimizer, train_batch_size=40)
        .multi_agent(policies={"p0", "p1"}, policy_mapping_fn=lambda agent, *_, **__: f"p{agent}")
        .rl_module(
            rl_module_spec=MultiRLModuleSpec(
                multi_rl_module_class=VPGMultiRLModuleWithSharedEncoder,
                rl_module_specs={SHARED_ENCODER_ID: encoder, **heads},
            )
        )
        .build_algo()
    )
    algorithm.train()
    yield algorithm
    algorithm.stop()


def test_spec_says_all_that_rebuilding_needs_and_nothing_of_the_run(single: Any) -> None:
    spec = snapshot_from_algorithm(single).spec
    assert (spec.stack, spec.algorithm, spec.weights) == ("new", "PPO", "full")
    assert spec.cls == (
        "ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module:DefaultPPOTorchRLModule"
    )
    assert spec.env_observation_space != spec.observation_space  # The filter changes its bounds.
    assert (spec.normalize_actions, spec.clip_actions) == (True, False)
    assert spec.omitted == {}
    fields = {field.name for field in dataclasses.fields(DefaultModelConfig)}
    assert fields <= set(spec.config["model_config"])
    text = json.dumps(spec.to_json())
    run = (socket.gethostname(), single.logdir, ray.__version__, torch.__version__)
    for word in (*run, "num_env_runners", "num_learners", "num_cpus", "seed", "worker"):
        assert word not in text


def test_weights_are_the_learners_and_owned(single: Any) -> None:
    snap = snapshot_from_algorithm(single)
    learned = single.learner_group.get_weights()["default_policy"]
    assert sorted(learned) == list(snap.weights)
    for name, array in learned.items():
        np.testing.assert_array_equal(array, snap.weights[name])
    before = {name: array.tobytes() for name, array in snap.weights.items()}
    means = snap.state["MeanStdFilter"][None]["running_stats"][0]["mean"].copy()
    single.train()
    assert snapshot_from_algorithm(single).digest != snap.digest
    assert before == {name: array.tobytes() for name, array in snap.weights.items()}
    np.testing.assert_array_equal(
        snap.state["MeanStdFilter"][None]["running_stats"][0]["mean"], means
    )
    assert Snapshot(weights=snap.weights, spec=snap.spec, state=snap.state).digest == snap.digest


def test_filter_statistics_are_the_live_ones_as_arrays(single: Any) -> None:
    stats = snapshot_from_algorithm(single).state["MeanStdFilter"][None]["running_stats"]
    live = single.env_runner._env_to_module.connectors[0]._filters[None].running_stats
    assert stats[0]["num_pushes"] == live.n
    np.testing.assert_array_equal(stats[0]["mean"], live.mean)
    np.testing.assert_array_equal(stats[0]["sum_sq_diff"], live.sum_sq_diff_array)
    assert stats[0]["mean"].dtype == np.float64


def test_same_policy_gives_the_same_digest_again(single: Any) -> None:
    assert snapshot_from_algorithm(single).digest == snapshot_from_algorithm(single).digest
    assert snapshots_from_algorithm(single) == {"default_policy": snapshot_from_algorithm(single)}


def test_ids(single: Any, multi: Any) -> None:
    assert module_ids(single) == ("default_policy",)
    assert set(module_ids(multi)) == {"first", "second"}
    with pytest.raises(NotFoundError, match=r"no module 'third'; it has 'first', 'second'"):
        snapshot_from_algorithm(multi, "third", agent_ids=[0])
    with pytest.raises(InvalidInputError, match=r"2 modules.*'first', 'second'"):
        snapshot_from_algorithm(multi, agent_ids=[0])


def test_agents_must_be_named_where_filters_are_theirs(multi: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"MeanStdFilter.*agent_ids=.*\[0, 1\].*omit="):
        snapshot_from_algorithm(multi, "first")
    with pytest.raises(NotFoundError, match=r"no agents \['0'\].*\[0, 1\]"):
        snapshot_from_algorithm(multi, "first", agent_ids=["0"])
    with pytest.raises(NotFoundError, match=r"no agents \[True\]"):
        snapshot_from_algorithm(multi, "first", agent_ids=[True])
    with pytest.raises(InvalidInputError, match="list of agent ids"):
        snapshot_from_algorithm(multi, "first", agent_ids="0")
    one = snapshot_from_algorithm(multi, "first", agent_ids=[1])
    assert list(one.state["MeanStdFilter"]) == [1]
    assert snapshot_from_algorithm(multi, "first", agent_ids=[0]).state_digest != one.state_digest
    both = snapshots_from_algorithm(multi, agent_ids={"first": [0, 1], "second": [1]})
    assert list(both["first"].state["MeanStdFilter"]) == [0, 1]
    assert list(both["second"].state["MeanStdFilter"]) == [1]


def test_a_checkpoint_has_the_filters_of_agents_too(multi: Any, tmp_path: Path) -> None:
    multi.save_to_path(str(tmp_path))
    for policy_id, agents in (("first", [1]), ("first", [0, 1]), ("second", [0])):
        live = snapshot_from_algorithm(multi, policy_id, agent_ids=agents)
        read = read_checkpoint(tmp_path, [policy_id], agent_ids={policy_id: agents})[policy_id]
        assert read.state_digest == live.state_digest
        assert read.same_policy(live)
        assert read.spec.connectors == live.spec.connectors
    without = read_checkpoint(tmp_path)["first"]
    assert not without.state
    assert "agent_ids=" in without.spec.omitted["connectors.MeanStdFilter"]


def test_agents_are_refused_where_there_is_one(single: Any) -> None:
    with pytest.raises(InvalidInputError, match="single agent"):
        snapshot_from_algorithm(single, agent_ids=[0])


def test_heuristic_beside_a_trained_module(multi: Any) -> None:
    snap = snapshot_from_algorithm(multi, "second", agent_ids=[1])
    assert dict(snap.weights) == {}
    player = ModulePlayer(snap)
    assert player.agent == 1
    assert cells.THREE.contains(int(player.act(np.zeros(4, np.float32))))


def test_omission_is_recorded_and_keeps_a_player_from_acting_wrongly(single: Any) -> None:
    snap = snapshot_from_algorithm(single, omit=["MeanStdFilter"])
    assert snap.state == {}
    assert list(snap.spec.omitted) == ["connectors.MeanStdFilter"]
    with pytest.raises(InvalidInputError, match=r"without \['connectors.MeanStdFilter'\]"):
        ModulePlayer(snap)
    ModulePlayer(snap, connectors=[MeanStdFilter()]).act(np.zeros(4, np.float32))
    with pytest.raises(NotFoundError, match=r"omit names \['Filter'\].*MeanStdFilter"):
        snapshot_from_algorithm(single, omit=["Filter"])
    with pytest.raises(InvalidInputError, match="list of names"):
        snapshot_from_algorithm(single, omit="MeanStdFilter")


@pytest.mark.long
@pytest.mark.parametrize(
    ("piece", "message"),
    [(parts.Opaque, "not a plain value"), (lambda: parts.Inherits(clip_by_value=3.0), "get_ctor_")],
)
def test_connector_that_cannot_be_kept(ray_session: Any, piece: Any, message: str) -> None:
    name = type(piece()).__name__
    algorithm = cells.behind(cells.ppo(), piece).build_algo()
    try:
        with pytest.raises(InvalidInputError, match=rf"{message}.*omit=\['{name}'\]"):
            snapshot_from_algorithm(algorithm)
        snap = snapshot_from_algorithm(algorithm, omit=[name])
    finally:
        algorithm.stop()
    assert list(snap.spec.omitted) == [f"connectors.{name}"]
    assert snap.spec.connectors["env_to_module"] == []


def test_state_with_an_array_that_rllib_has_packed_is_refused() -> None:
    """RLlib unpacks such a text, and the text of an unknown author could then run code."""
    piece = parts.Counting()
    piece.counts = {"late": [1, _serialize_ndarray(np.zeros(2))]}
    with pytest.raises(InvalidInputError, match=r"'late'\]\[1\] is an array .*omit=\['Counting'\]"):
        take_state(piece, "Counting", None)


@pytest.mark.long
def test_shared_encoder_goes_together_or_not_at_all(shared: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"share parts.*'p0' alone.*p0.*p1.*shared_encoder"):
        snapshot_from_algorithm(shared, "p0")
    snap = snapshot_from_algorithm(shared)
    assert snap.spec.algorithm == "VPG"
    assert set(snap.spec.modules or ()) == {"p0", "p1", SHARED_ENCODER_ID}
    assert {name.partition("/")[0] for name in snap.weights} == set(snap.spec.modules or ())
    assert snapshots_from_algorithm(shared) == {"__all_modules__": snap}
    live = shared.learner_group._learner.module
    with pytest.raises(InvalidInputError, match="share parts"):
        snapshot_multi_module(live, "p0")
    assert dict(snapshot_module(live).weights).keys() == snap.weights.keys()
    rebuilt = rebuild_module(snap)
    obs = torch.linspace(-1, 1, 32).reshape(8, 4)
    ours = rebuilt.forward_inference({"p1": {"obs": obs}})["p1"]["action_dist_inputs"]
    theirs = live.forward_inference({"p1": {"obs": obs}})["p1"]["action_dist_inputs"]
    assert torch.equal(ours, theirs)
    with pytest.raises(InvalidInputError, match="module_id=, one of"):
        ModulePlayer(snap)
    player = ModulePlayer(snap, module_id="p1")
    played = [int(player.act(row.numpy())) for row in obs]
    assert played == [int(row.argmax()) for row in theirs]


def test_parameters_outside_of_the_modules_are_refused(shared: Any) -> None:
    live = shared.env_runner.module
    live.extra = torch.nn.Linear(1, 1)
    with pytest.raises(InvalidInputError, match=r"holds \['extra'\] outside of its modules"):
        snapshot_multi_module(live)
    del live.extra


def test_one_of_a_plain_multi_module(multi: Any) -> None:
    live = multi.learner_group._learner.module
    snap = snapshot_multi_module(live, "first")
    assert (
        snap.weights_digest == snapshot_from_algorithm(multi, "first", agent_ids=[0]).weights_digest
    )
    with pytest.raises(NotFoundError, match=r"no module 'x'"):
        snapshot_multi_module(live, "x")


def test_modules_that_cannot_be_kept() -> None:
    odd = cells._own(parts.OddStateHead).build()
    with pytest.raises(InvalidInputError, match="get_state of its own"):
        snapshot_module(odd)

    class Local(parts.Head):
        pass

    with pytest.raises(InvalidInputError, match="inside a function"):
        snapshot_module(cells._own(Local).build())


def test_config_value_without_a_form_is_listed_as_left_out() -> None:
    spec = snapshot_module(cells._own(parts.Head, thing=object(), half=lambda: 1).build()).spec
    assert sorted(spec.omitted) == ["config.model_config.half", "config.model_config.thing"]
    assert spec.config["model_config"] == {"width": 6}


def test_compiled_parts_have_plain_names() -> None:
    plain = cells._own(parts.Head).build()
    compiled = cells._own(parts.Head).build()
    compiled.load_state_dict(plain.state_dict())
    compiled.net = torch.compile(compiled.net, backend="eager")
    assert any("_orig_mod" in name for name in compiled.state_dict())
    assert snapshot_module(compiled).digest == snapshot_module(plain).digest
