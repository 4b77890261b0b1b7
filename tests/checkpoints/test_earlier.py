"""Checkpoints of Ray before 2.40: their files, filters, connectors and classes."""

from __future__ import annotations

import pickle
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore import InvalidInputError, NotFoundError
from policystore.checkpoints import inspect_checkpoint, list_checkpoints, read_checkpoint
from tests.support.checkpoint_corpus import Given, experiments, given, named


def test_before_2_1_a_file_or_its_folder_or_the_folder_around() -> None:
    one = Given("1.13.0", "ppo_old_multi")
    folder = one.path / "checkpoint_000002"
    snaps = read_checkpoint(folder / "checkpoint-2")
    assert snaps == read_checkpoint(folder) == read_checkpoint(one.path)
    assert list(snaps) == ["p0", "p1", "p2"]
    info = inspect_checkpoint(folder)
    assert (info.kind, info.stack, info.ray_version) == ("algorithm", "old", "1.13.0")
    assert info.sizes["p0"] == (folder / "checkpoint-2").stat().st_size


def test_a_file_alone_has_no_config_and_says_so() -> None:
    one = Given("1.13.0", "broken_old_only_file")
    snaps = read_checkpoint(one.path)
    for snap in snaps.values():
        assert ".tune_metadata" in snap.spec.omitted["config"]
        assert snap.spec.observation_space is not None


def test_the_config_of_a_trial_where_no_metadata_tells_it(tmp_path: Path) -> None:
    one = Given("1.13.0", "tune_experiment")
    trial = sorted(path for path in one.path.iterdir() if path.is_dir())[0]
    shutil.copytree(trial, tmp_path / "trial")
    (checkpoint,) = (tmp_path / "trial").glob("checkpoint_000002")
    whole = read_checkpoint(checkpoint)["default_policy"].spec.config
    (checkpoint / "checkpoint-2.tune_metadata").unlink()
    snap = read_checkpoint(checkpoint)["default_policy"]
    assert "config" not in snap.spec.omitted
    assert snap.spec.config["model"]["fcnet_hiddens"] == whole["model"]["fcnet_hiddens"]


def test_several_files_in_one_folder(tmp_path: Path) -> None:
    source = Given("1.13.0", "ppo_old").path / "checkpoint_000002" / "checkpoint-2"
    for number in (1, 2):
        shutil.copy(source, tmp_path / f"checkpoint-{number}")
    with pytest.raises(InvalidInputError, match=r"several checkpoints: checkpoint-1, checkpoint-2"):
        read_checkpoint(tmp_path)
    assert read_checkpoint(tmp_path / "checkpoint-1")


FILTERED = [one for one in given() if one.kind.endswith("_meanstd")]


@pytest.mark.parametrize("one", FILTERED, ids=named)
def test_filters_of_every_version(one: Given) -> None:
    """The statistics are those of the live filter: std = sqrt(sum / (count - 1))."""
    (snap,) = read_checkpoint(one.path).values()
    truth = one.truth("default_policy")
    if one.stack == "old":
        (found,) = snap.state["connectors"]["agent"].values()
        clip, count = found["clip"], "count"
    else:
        found = snap.state["MeanStdFilter"][None]
        clip, count = found["clip_by_value"], "num_pushes"
    (stats,) = found["running_stats"]
    std = np.sqrt(stats["sum_sq_diff"] / (stats[count] - 1))
    np.testing.assert_allclose(stats["mean"], truth["__filter.mean"], rtol=1e-6)
    np.testing.assert_allclose(std, truth["__filter.std"], rtol=1e-6)
    filtered = (truth["__obs"] - stats["mean"]) / (std + 1e-6)
    if clip is not None:
        filtered = filtered.clip(-clip, clip)
    np.testing.assert_allclose(filtered, truth["__obs_filtered"], atol=1e-4)


@pytest.mark.parametrize("one", experiments(), ids=named)
def test_experiments_of_every_version(one: Given) -> None:
    for where, about in one.about["checkpoints"].items():
        (snap,) = read_checkpoint(one.folder / where).values()
        with np.load(one.folder / about["truth"]) as truth:
            for name, array in snap.weights.items():
                assert array.tobytes() == truth[f"default_policy/{name}"].tobytes()
    found = list_checkpoints(one.path)
    assert len(found) == len(one.about["checkpoints"])
    assert [each.metric("training_iteration") for each in found] == [1, 2, 1, 2]
    assert len(repr(found[0])) < 300


def test_a_metric_by_half_of_its_name() -> None:
    new, old = Given("2.60.0", "tune_experiment"), Given("2.37.0", "tune_experiment")
    with pytest.raises(NotFoundError, match=r"Did you mean 'env_runners/episode_return_mean'"):
        read_checkpoint(new.path, metric="episode_return_mean")
    with pytest.raises(NotFoundError, match=r"or 'env_runners/episode_reward_mean'\?"):
        read_checkpoint(old.path, metric="episode_return_mean")


def test_one_folder_too_high(tmp_path: Path) -> None:
    shutil.copytree(Given("2.60.0", "ppo_old").path, tmp_path / "runs" / "mine")
    with pytest.raises(InvalidInputError, match=r"it holds the checkpoint runs/mine; give the"):
        read_checkpoint(tmp_path)
    shutil.copytree(tmp_path / "runs" / "mine", tmp_path / "runs" / "yours")
    with pytest.raises(InvalidInputError, match=r"the checkpoints runs/mine, runs/yours; give one"):
        read_checkpoint(tmp_path)


def test_own_connectors_whose_order_no_file_tells(tmp_path: Path) -> None:
    """Ray 2.33 to 2.38: one own connector is kept, several are named as omitted."""
    there = tmp_path / "moved"
    shutil.copytree(Given("2.37.0", "ppo_new_meanstd").path, there)
    pipeline = there / "env_runner" / "env_to_module_connector"
    (snap,) = read_checkpoint(there).values()
    assert [entry["class"].value for entry in snap.spec.connectors["env_to_module"]] == [
        "ray.rllib.connectors.env_to_module.mean_std_filter:MeanStdFilter"
    ]
    shutil.copytree(pipeline / "MeanStdFilter", pipeline / "Mine")
    arguments = (pipeline / "Mine" / "class_and_ctor_args.pkl").read_bytes()
    (pipeline / "Mine" / "class_and_ctor_args.pkl").write_bytes(
        arguments.replace(b"mean_std_filter", b"mean_std_mylter")
    )
    (more,) = read_checkpoint(there).values()
    assert more.weights_digest == snap.weights_digest
    assert more.spec.connectors["env_to_module"] == []
    assert "no file tells their order" in more.spec.omitted["connectors.MeanStdFilter"]


@pytest.mark.parametrize("version", ["2.4.0", "2.9.3", "2.10.0"])
def test_one_policy_of_a_hybrid_is_the_same_everywhere(version: str, tmp_path: Path) -> None:
    one = Given(version, "ppo_new_multi")
    (root,) = [path.parent for path in one.path.rglob("policies")]
    whole = read_checkpoint(one.path)["p1"]
    inside = root / "policies" / "p1"
    (snap,) = read_checkpoint(inside).values()
    assert inspect_checkpoint(inside).stack == "new"
    assert snap.weights_digest == whole.weights_digest
    assert snap.spec.cls == whole.spec.cls
    shutil.copytree(inside, tmp_path / "alone")
    (alone,) = read_checkpoint(tmp_path / "alone").values()
    assert inspect_checkpoint(tmp_path / "alone").stack == "new"
    assert alone.weights_digest == whole.weights_digest
    assert alone.spec.cls == whole.spec.cls


def test_own_connectors_of_a_hybrid_are_named(tmp_path: Path) -> None:
    one = Given("2.10.0", "ppo_new")
    shutil.copytree(one.path / "policies" / "default_policy", tmp_path / "alone")
    file = tmp_path / "alone" / "policy_state.pkl"
    (snap,) = read_checkpoint(tmp_path / "alone").values()
    assert not any(place.startswith("connectors") for place in snap.spec.omitted)
    data = file.read_bytes()
    assert b"StateBufferConnector" in data
    file.write_bytes(data.replace(b"StateBufferConnector", b"StateBufferOfMyOwnXX"))
    (own,) = read_checkpoint(tmp_path / "alone").values()
    assert "old stack" in own.spec.omitted["connectors.StateBufferOfMyOwnXX"]
    assert own.weights_digest == snap.weights_digest


def test_a_learner_group_in_the_folder_learner(tmp_path: Path) -> None:
    """So the hybrids of Ray 2.33 to 2.37 lay their modules."""
    one = Given("2.37.0", "ppo_new_multi")
    there = tmp_path / "hybrid"
    (there / "learner").mkdir(parents=True)
    shutil.copytree(one.path / "learner_group" / "learner", there / "learner" / "learner")
    whole = read_checkpoint(one.path)
    for policy_id, snap in read_checkpoint(there).items():
        assert snap.weights_digest == whole[policy_id].weights_digest
        assert snap.spec.cls == whole[policy_id].spec.cls
    policy = there / "policies" / "p1"
    shutil.copytree(Given("2.10.0", "ppo_new").path / "policies" / "default_policy", policy)
    assert read_checkpoint(there)["p1"].weights_digest == whole["p1"].weights_digest


def write_policy(folder: Path, weights: Any, policy_class: str = "PPOTorchPolicy") -> Path:
    spec = {"policy_class": policy_class, "observation_space": None, "action_space": None,
            "config": {"framework": "torch"}}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    state = {"weights": weights, "policy_spec": spec}
    (folder / "policy_state.pkl").write_bytes(pickle.dumps(state))
    return folder


@pytest.mark.parametrize(
    ("weights", "shapes"),
    [
        (None, {}),
        ({}, {}),
        (np.zeros(5, np.float32), {"0000": (5,)}),
        ([np.zeros(2), np.ones(3)], {"0000": (2,), "0001": (3,)}),
        ({"_state": [np.zeros(2), np.ones(3)]}, {"_state/0000": (2,), "_state/0001": (3,)}),
        ({"a": {"b": [np.zeros(1), None]}}, {"a/b/0000": (1,)}),
        (OrderedDict(x=np.float32(1)), {"x": ()}),
    ],
)
def test_weights_of_other_forms(
    weights: Any, shapes: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    (snap,) = read_checkpoint(write_policy(tmp_path, weights, "mypkg.rules.Left")).values()
    assert {name: array.shape for name, array in snap.weights.items()} == shapes
    assert snap.spec.cls == "mypkg.rules:Left"


def by_value(module_in: str) -> bytes:
    """A class derived from PPOTorchPolicy as cloudpickle writes it by value."""

    def name(module: str, qualified: str) -> bytes:
        return f"c{module}\n{qualified}\n".encode()

    def text(value: str) -> bytes:
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    own = text("__module__") + text("mypkg") + b"s"
    made = (
        name("ray.cloudpickle.cloudpickle", "_make_skeleton_class")
        + b"(" + name("builtins", "type") + text("Mine")
        + name("ray.rllib.algorithms.ppo.ppo_torch_policy", "PPOTorchPolicy") + b"\x85"
        + b"}" + (own if module_in == "arguments" else b"") + text("id") + b"NtR"
    )  # fmt: skip
    if module_in == "state":
        made += (
            b"q\x01" + name("ray.cloudpickle.cloudpickle_fast", "_class_setstate")
            + b"h\x01}" + own + b"}\x86\x86R0"
        )  # fmt: skip
    weights = pickle.dumps({"a": np.zeros(2, np.float32)}, 2)[2:-1]
    spec = text("policy_class") + made + b"s" + text("config") + b"}" + text("x") + b"K\1ss"
    return (
        b"\x80\x02}" + text("weights") + weights + b"s" + text("policy_spec") + b"}" + spec + b"s."
    )


@pytest.mark.parametrize("module_in", ["arguments", "state", "nowhere"])
def test_a_class_that_was_pickled_by_value(module_in: str, tmp_path: Path) -> None:
    (tmp_path / "policy_state.pkl").write_bytes(by_value(module_in))
    (snap,) = read_checkpoint(tmp_path).values()
    assert list(snap.weights) == ["a"]
    assert snap.spec.cls == (None if module_in == "nowhere" else "mypkg:Mine")
    if module_in == "nowhere":
        assert "PPOTorchPolicy" in snap.spec.omitted["class"]


def test_agents_of_a_checkpoint() -> None:
    one = Given("2.60.0", "ppo_new_multi")
    snaps = read_checkpoint(one.path, ["p0"], agent_ids={"p0": [0]})
    assert snaps["p0"].spec.connectors["agents"] == [0]
    with pytest.raises(NotFoundError, match=r"no agent 9; its agents are 0, 1, 2"):
        read_checkpoint(one.path, ["p0"], agent_ids={"p0": [9]})
    with pytest.raises(InvalidInputError, match="agent_ids is a dict"):
        read_checkpoint(one.path, ["p0"], agent_ids=["a0"])  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="is a list of agents"):
        read_checkpoint(one.path, ["p0"], agent_ids={"p0": "a0"})
    with pytest.raises(InvalidInputError, match="'p1', which is not read"):
        read_checkpoint(one.path, ["p0"], agent_ids={"p1": ["a1"]})
    for one, policy_id in ((Given("2.60.0", "ppo_old_multi"), "p0"),
                           (Given("2.24.0", "ppo_new_multi"), "p0")):  # fmt: skip
        with pytest.raises(InvalidInputError, match="leave agent_ids out"):
            read_checkpoint(one.path, [policy_id], agent_ids={policy_id: ["a"]})
    single = Given("2.60.0", "ppo_new_meanstd")
    with pytest.raises(InvalidInputError, match="single agent"):
        read_checkpoint(single.path, agent_ids={"default_policy": ["a"]})
