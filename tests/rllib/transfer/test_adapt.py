"""adapt on modules of the new stack: what is taken, and that the result fits strictly."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

import policystore.torch
from policystore import InvalidInputError, MismatchError, PolicyStore, Snapshot, UntrustedError
from policystore.rllib import adapt, rebuild_module, snapshot
from policystore.spaces import space_to_json
from tests.support.new_stack_matrix import MODULES, VECTOR
from tests.support.new_stack_modules import TiedHead
from tests.support.transfer import BC_NET, appo_module, bc, dqn, ppo, same, with_spaces


def check_fit(result: Snapshot, target: Snapshot) -> None:
    """Check that a snapshot has the names, shapes, dtypes and spec of a target, and is built."""
    assert result.weights.keys() == target.weights.keys()
    for name, array in result.weights.items():
        assert array.shape == target.weights[name].shape, name
        assert array.dtype == target.weights[name].dtype, name
    assert result.spec == target.spec
    module = rebuild_module(result)
    assert {n: t.numpy().tobytes() for n, t in module.state_dict().items()} == {
        name: array.tobytes() for name, array in result.weights.items()
    }


def logits(snap: Snapshot) -> Any:
    module = rebuild_module(snap)
    obs = torch.from_numpy(np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4))
    with torch.no_grad():
        return module.forward_inference({Columns.OBS: obs})[Columns.ACTION_DIST_INPUTS].numpy()


# Typical uses ------------------------------------------------------------------------------------


def test_the_encoder_only() -> None:
    trained, target = ppo(), ppo()

    result = adapt(trained, target, only=["encoder."])

    check_fit(result.snapshot, target)
    for name in target.weights:
        source = trained if name.startswith("encoder.") else target
        assert same(result.snapshot, name, source)
    assert result.report.names("taken") == [n for n in target.weights if n.startswith("encoder.")]
    assert {row.why for row in result.report.tensors if row.status == "kept"} == {
        "not listed in only="
    }


def test_the_net_of_bc_into_ppo() -> None:
    trained, target = bc(), ppo()

    result = adapt(trained, target, rename=BC_NET)

    check_fit(result.snapshot, target)
    assert np.array_equal(logits(result.snapshot), logits(trained))
    critic = [n for n in target.weights if n.startswith(("vf.", "encoder.critic_encoder."))]
    assert result.report.names("kept") == critic
    assert all(same(result.snapshot, name, target) for name in critic)
    assert result.report.counts == {
        "taken": 0, "renamed": 9, "follows": 0, "kept": 9, "left": 0
    }  # fmt: skip


def test_a_head_of_another_size_is_kept() -> None:
    trained, target = ppo(7), ppo(3)

    result = adapt(trained, target, keep=["pi."])

    check_fit(result.snapshot, target)
    assert same(result.snapshot, "encoder.actor_encoder.net.mlp.0.weight", trained)
    assert same(result.snapshot, "vf.net.mlp.2.weight", trained)
    assert same(result.snapshot, "pi.net.mlp.2.weight", target)
    assert result.report.names("kept") == [n for n in target.weights if n.startswith("pi.")]


def test_bounds_of_an_earlier_gymnasium() -> None:
    """CartPole's largest bounds were the greatest float32 up to Ray 2.10, and are inf today."""
    most = np.array([4.8, np.finfo(np.float32).max, 0.42, np.finfo(np.float32).max], np.float32)
    today = np.array([4.8, np.inf, 0.42, np.inf], np.float32)
    trained = with_spaces(ppo(), gym.spaces.Box(-most, most))
    target = with_spaces(ppo(), gym.spaces.Box(-today, today))

    result = adapt(trained, target)

    assert result.snapshot.weights_digest == trained.weights_digest
    assert result.snapshot.spec == target.spec
    (row,) = [row for row in result.report.rows if row.kind == "space"]
    assert (row.name, row.status) == ("observation_space", "kept")
    assert "the snapshot has Box(" in row.why

    kept = adapt(trained, target, spaces="snapshot")

    assert kept.snapshot.spec.observation_space == trained.spec.observation_space
    assert kept.snapshot.spec.action_space == target.spec.action_space


def test_spaces_of_the_snapshot_stay_only_where_bounds_differ() -> None:
    wide = gym.spaces.Box(-2.0, 2.0, (4,), np.float32)
    trained, target = with_spaces(ppo(5), wide), ppo(3)

    result = adapt(trained, target, keep=["pi."], spaces="snapshot")

    assert result.snapshot.spec.observation_space == space_to_json(wide)
    assert result.snapshot.spec.action_space == target.spec.action_space
    rows = {row.name: row for row in result.report.rows if row.kind == "space"}
    assert rows["observation_space"].status == "taken"
    assert rows["action_space"].status == "kept"
    assert "more than bounds" in rows["action_space"].why


def test_an_inference_only_snapshot_into_a_full_module() -> None:
    trained, target = ppo(inference_only=True), ppo()
    assert trained.weights.keys() < target.weights.keys()

    result = adapt(trained, target)

    check_fit(result.snapshot, target)
    assert result.snapshot.spec.weights == "full"
    assert np.array_equal(logits(result.snapshot), logits(trained))
    assert set(result.report.names("taken")) == set(trained.weights)


def test_a_full_snapshot_into_an_inference_only_module() -> None:
    trained, target = ppo(), ppo(inference_only=True)

    result = adapt(trained, target)

    check_fit(result.snapshot, target)
    assert set(result.report.names("left")) == trained.weights.keys() - target.weights.keys()


def test_a_plain_torch_net_into_a_module() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 16))
    trained, target = policystore.torch.snapshot(net), ppo()

    result = adapt(trained, target, rename={"": "encoder.actor_encoder.net.mlp."})

    check_fit(result.snapshot, target)
    assert same(result.snapshot, "encoder.actor_encoder.net.mlp.2.weight", trained, "2.weight")
    assert result.report.counts["renamed"] == 4


# Weights that belong together --------------------------------------------------------------------


def test_target_networks_follow_if_the_snapshot_has_none() -> None:
    trained, learner = ppo(), appo_module()
    before = snapshot(learner)

    for target in (learner, before):  # a live module, and its snapshot
        result = adapt(trained, target)

        check_fit(result.snapshot, before)
        copies = [name for name in before.weights if name.startswith("_old_")]
        assert result.report.names("follows") == copies
        for name in copies:
            assert same(result.snapshot, name, trained, name.removeprefix("_old_"))
    assert snapshot(learner).digest == before.digest


def test_target_networks_follow_only_networks_that_got_a_tensor() -> None:
    trained, target = ppo(), snapshot(appo_module())

    result = adapt(trained, target, only=["encoder."])

    assert same(result.snapshot, "_old_encoder.actor_encoder.net.mlp.0.bias", result.snapshot,
                "encoder.actor_encoder.net.mlp.0.bias")  # fmt: skip
    assert all(row.status == "kept" for row in result.report.tensors if "_old_pi." in row.name)


def test_target_networks_of_the_snapshot_are_taken() -> None:
    trained = dqn()
    lagging = {n: a * 0.5 if n.startswith("_target_") else a for n, a in trained.weights.items()}
    trained = trained.replace(weights=lagging)

    result = adapt(trained, dqn())

    assert result.snapshot.weights_digest == trained.weights_digest
    assert result.report.counts["follows"] == 0


def test_the_target_network_of_a_kept_head_is_kept() -> None:
    trained, target = dqn(5), dqn(3)

    result = adapt(trained, target, keep=["af."])

    check_fit(result.snapshot, target)
    for name in target.weights:
        kept = name.startswith(("af.", "_target_af."))
        assert same(result.snapshot, name, target if kept else trained), name


def test_target_networks_listed_in_keep_do_not_follow() -> None:
    target = snapshot(appo_module())

    result = adapt(ppo(), target, keep=["_old_"])

    assert all(same(result.snapshot, n, target) for n in target.weights if n.startswith("_old_"))


def tied() -> Any:
    return MODULES["module-tied"]().build()


def test_a_tied_parameter_follows_the_other_name() -> None:
    trained, target = snapshot(tied()), tied()

    result = adapt(trained, target, only=["net.1."])

    assert same(result.snapshot, "net.3.weight", trained, "net.1.weight")
    rebuild_module(result.snapshot, trust=[TiedHead])
    (row,) = [row for row in result.report.tensors if row.status == "follows"]
    assert (row.name, row.source, row.why) == (
        "net.3.weight", "net.1.weight", "one tensor under two names"
    )  # fmt: skip


def test_a_tied_parameter_with_two_values_is_refused() -> None:
    trained = snapshot(tied())
    weights = {**trained.weights, "net.3.weight": trained.weights["net.1.weight"] + 1}
    with pytest.raises(MismatchError, match="one tensor under several names") as caught:
        adapt(trained.replace(weights=weights), tied(), keep=["out."])
    assert list(caught.value.wrong) == ["net.1.weight"]


def test_half_of_a_tied_parameter_cannot_be_kept() -> None:
    with pytest.raises(InvalidInputError, match=r"'net\.3\.weight' and 'net\.1\.weight' are one"):
        adapt(snapshot(tied()), tied(), keep=["net.3.weight"])


def test_a_snapshot_of_a_module_of_ones_own_has_to_be_trusted() -> None:
    trained, target = snapshot(tied()), snapshot(tied())
    with pytest.raises(UntrustedError, match="adapt builds the target once"):
        adapt(trained, target, only=["net.1."])
    result = adapt(trained, target, only=["net.1."], trust=[TiedHead])
    assert same(result.snapshot, "net.3.weight", trained)
    # Nothing has to be known if all weights are taken.
    assert adapt(trained, target).snapshot.weights_digest == trained.weights_digest


# Several modules ---------------------------------------------------------------------------------


def test_one_module_of_several() -> None:
    multi = MultiRLModule(rl_module_specs={})
    for module_id in ("p0", "p1"):
        multi.add_module(module_id, MODULES["module-discrete-separate"]().build())
    trained = ppo()

    result = adapt(trained, multi, "p1")

    assert result.snapshot.weights_digest == trained.weights_digest
    with pytest.raises(InvalidInputError, match="has 2 modules: pass its id"):
        adapt(trained, multi)


# What is refused ---------------------------------------------------------------------------------


def test_other_shapes_are_all_listed() -> None:
    with pytest.raises(MismatchError, match=r"keep=\['pi\.net\.mlp\.2\.'\]") as caught:
        adapt(ppo(7), ppo(3))
    assert list(caught.value.wrong) == ["pi.net.mlp.2.bias", "pi.net.mlp.2.weight"]
    assert caught.value.wrong["pi.net.mlp.2.bias"] == (
        "the target needs float32[3], the snapshot has float32[7]"
    )


def test_dtypes_that_would_be_rounded_are_refused() -> None:
    target = ppo()
    name = "vf.net.mlp.2.bias"
    wide = {**target.weights, name: target.weights[name].astype(np.float64)}
    with pytest.raises(MismatchError, match="would be rounded") as caught:
        adapt(target.replace(weights=wide), target)
    assert list(caught.value.wrong) == [name]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtypes_that_hold_more_are_filled_exactly(dtype: str) -> None:
    target = ppo()
    kept = {n: torch.tensor(a).to(getattr(torch, dtype)) for n, a in target.weights.items()}
    trained = target.replace(weights=kept)

    result = adapt(trained, target)

    check_fit(result.snapshot, target)
    for name, array in trained.weights.items():
        assert np.array_equal(result.snapshot.weights[name], array.astype(np.float32))
    assert {row.why for row in result.report.tensors} == {f"exactly, from {dtype}"}


def test_a_snapshot_without_a_common_name_is_refused() -> None:
    with pytest.raises(MismatchError, match="nothing would be taken") as caught:
        adapt(bc(), ppo())
    assert "'_encoder.': 'encoder.actor_encoder.'" in str(caught.value)
    assert "'_pi_head.': 'pi.'" in str(caught.value)


def test_renames_are_suggested_if_only_a_part_found_a_place() -> None:
    """The names of the actor's encoder differ, and so only the heads are taken."""
    result = adapt(ppo(shared=True), ppo())

    assert "encoder.encoder.net.mlp.0.weight" in result.report.names("left")
    assert any(
        "4 tensors of the snapshot found no place in the target" in note
        and "{'encoder.encoder.': 'encoder.actor_encoder.'}" in note
        for note in result.report.notes
    )


def test_a_note_says_that_acting_does_not_change() -> None:
    result = adapt(ppo(), ppo(), only=["vf."])
    assert any("acts as the target does" in note for note in result.report.notes)
    assert not any("acts as" in note for note in adapt(ppo(), ppo()).report.notes)


def test_another_activation_is_noted() -> None:
    result = adapt(ppo(fcnet_activation="relu"), ppo())
    assert any("fcnet_activation is 'tanh', and 'relu' in the" in n for n in result.report.notes)
    assert adapt(ppo(), ppo()).report.notes == ()


def test_keep_and_only_that_leave_out_everything() -> None:
    with pytest.raises(MismatchError, match="keep= and only= leave out all tensors"):
        adapt(ppo(), ppo(), only=["vf."], keep=["vf."])


def test_renames_are_suggested_among_what_only_leaves() -> None:
    """With shared layers, the encoder has another name than that of an actor of its own."""
    with pytest.raises(MismatchError, match="only= leave out all") as caught:
        adapt(ppo(), ppo(shared=True), only=["encoder."])

    said = str(caught.value)
    assert "the snapshot has 'encoder.actor_encoder.', 'encoder.critic_encoder.', and" in said
    assert "the target 'encoder.encoder.'." in said
    renames = {"encoder.actor_encoder.": "encoder.encoder."}
    assert f"rename={renames}." in said
    result = adapt(ppo(), ppo(shared=True), only=["encoder."], rename=renames)
    assert len(result.report.names("renamed")) == 4
    assert all(name.startswith("encoder.encoder.") for name in result.report.names("renamed"))


def test_a_prefix_without_effect_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"keep= lists 'pj\.'.*Did you mean 'pi\.'"):
        adapt(ppo(), ppo(), keep=["pj."])


@pytest.mark.parametrize(
    ("like", "words"),
    [
        ("soccer/main", r"a Policy or an RLModule\. expected a Snapshot.*store\.pull"),
        (None, "found NoneType"),
        (torch.nn.Linear(2, 2), r"policystore\.torch\.snapshot\(module\)"),
    ],
    ids=["ref", "None", "torch"],
)
def test_other_targets(like: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        adapt(ppo(), like)


def test_arguments_of_the_wrong_form() -> None:
    snap: Any = ppo()
    for words, given in {
        'spaces is "target" or "snapshot"': {"spaces": "shape"},
        'state is "snapshot" or "target"': {"state": "mine"},
        "trust is a list": {"trust": "mypkg."},
        "policy_id='main' is for an Algorithm": {"policy_id": "main"},
    }.items():
        options: Any = given
        with pytest.raises(InvalidInputError, match=words):
            adapt(snap, snap, **options)
    with pytest.raises(InvalidInputError, match="store.pull"):
        adapt("soccer/main", snap)  # type: ignore[arg-type]


def test_the_report_names_a_ref(tmp_path: Any) -> None:
    store = PolicyStore(tmp_path)
    store.push(ppo(), "soccer/main")
    trained = store.pull("soccer/main")

    result = adapt(trained, trained)

    assert result.report.source_ref == "soccer/main@1"
    assert str(result.report).splitlines()[0] == (
        f"soccer/main@1 ({trained.digest.short}) adapted to soccer/main@1 ({trained.digest.short})"
    )


def test_a_heuristic_without_weights_takes_nothing() -> None:
    target = RLModuleSpec(
        module_class=MODULES["module-random"]().module_class,
        observation_space=VECTOR,
        action_space=gym.spaces.Discrete(3),
    ).build()
    with pytest.raises(MismatchError, match="the target no tensors"):
        adapt(ppo(), target)
