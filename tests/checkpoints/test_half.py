"""Half a checkpoint: files that are missing, empty, cut short, or replaced by something else."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from policystore import FormatError, InvalidInputError, NotFoundError, PolicyStoreError, Snapshot
from policystore.checkpoints import inspect_checkpoint, read_checkpoint
from tests.support.cells import sampled
from tests.support.checkpoint_corpus import Given, broken, named

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
LAYOUTS = {
    "before 2.1": Given("2.0.1", "ppo_old_meanstd"),
    "old": Given("2.60.0", "ppo_old_multi"),
    "hybrid": Given("2.10.0", "ppo_new_multi"),
    "learner": Given("2.24.0", "ppo_new_multi"),
    "2.37": Given("2.37.0", "ppo_new_meanstd"),
    "new": Given("2.60.0", "ppo_new_multi"),
}
DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda data: None,
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "pointer": lambda data: POINTER,
    "page": lambda data: b"<!DOCTYPE html>\n<html><body>Sign in</body></html>",
}


def make_socket(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{folder}/{path.name}")  # the path itself may be too long
    finally:
        os.close(folder)


STANDING_IN: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "socket": make_socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "nowhere": lambda path: path.symlink_to("nowhere"),
}


def weights_of(snaps: dict[str, Snapshot]) -> dict[str, str]:
    return {policy_id: str(snap.weights_digest) for policy_id, snap in snaps.items()}


@pytest.mark.parametrize(
    ("layout", "damage"),
    [
        pytest.param(
            layout,
            damage,
            marks=()
            if damage == "missing" or layout == "before 2.1" or (layout, damage) == ("new", "pipe")
            else pytest.mark.long,
        )
        for layout in LAYOUTS
        for damage in (*DAMAGES, *STANDING_IN)
    ],
)
def test_one_file_at_a_time(layout: str, damage: str, tmp_path: Path) -> None:
    """What is read is right, and what is lost is said, with the name of the file."""
    there = tmp_path / "moved"
    shutil.copytree(LAYOUTS[layout].path, there)
    whole = read_checkpoint(there)
    read = refused = 0
    for path in sorted(path for path in there.rglob("*") if path.is_file()):
        data = path.read_bytes()
        path.unlink()
        if damage in STANDING_IN:
            STANDING_IN[damage](path)
        elif (changed := DAMAGES[damage](data)) is not None:
            path.write_bytes(changed)
        try:
            snaps = read_checkpoint(there)
        except PolicyStoreError as error:
            refused += 1
            assert path.name in str(error), error
            listed = inspect_checkpoint(there) if "checkpoint-" not in path.name else None
            if listed is not None and len(whole) > 1:
                others = [pid for pid in listed.sizes if f"/{pid}/" not in str(path)]
                assert others, f"{path}: nobody else can be read"
                assert weights_of(read_checkpoint(there, others)) == weights_of(
                    {pid: whole[pid] for pid in others}
                )
        else:
            read += 1
            assert weights_of(snaps) == weights_of(whole), path
            for policy_id, snap in snaps.items():
                if snap != whole[policy_id]:
                    assert snap.spec.omitted != whole[policy_id].spec.omitted or (
                        # The version of Ray, the kind and the like are in no snapshot.
                        snap.spec.replace(omitted={}) == whole[policy_id].spec.replace(omitted={})
                    ), path
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        path.write_bytes(data)
    assert read
    assert refused or layout == "hybrid"  # which holds all weights twice
    assert read_checkpoint(there) == whole


@pytest.mark.parametrize("one", broken(), ids=named)
def test_real_halves(one: Given) -> None:
    whole_ids = list(one.about["policies"])
    what = one.kind.removeprefix("broken_")
    if what.endswith("lfs"):
        with pytest.raises(FormatError, match="Git LFS pointer.*git lfs pull"):
            read_checkpoint(one.path)
        return
    if what == "old_missing_policy":
        with pytest.raises(NotFoundError, match=r"p1.policy_state\.pkl is missing.*\['p0', 'p2'\]"):
            read_checkpoint(one.path)
        whole_ids.remove("p1")
        info = inspect_checkpoint(one.path)
        assert list(info.sizes) == ["p0", "p2"]
        assert list(info.missing) == ["p1"]
        assert "p1  missing: " in str(info)
    snaps = read_checkpoint(one.path, whole_ids)
    assert list(snaps) == whole_ids
    for policy_id, snap in snaps.items():
        wanted = one.weights(policy_id)
        assert {name: array.tobytes() for name, array in snap.weights.items()} == {
            name: array.tobytes() for name, array in wanted.items()
        }
        assert snap.spec.cls is not None
        assert snap.spec.observation_space is not None


def test_slim_but_whole_enough(tmp_path: Path) -> None:
    for one, kept in (
        (LAYOUTS["old"], "policies"),
        (LAYOUTS["new"], "learner_group"),
        (LAYOUTS["learner"], "learner"),
    ):
        there = tmp_path / one.kind / one.version
        shutil.copytree(one.path / kept, there / kept)
        assert weights_of(read_checkpoint(there)) == weights_of(read_checkpoint(one.path))


def test_a_folder_that_the_module_map_names(tmp_path: Path) -> None:
    there = tmp_path / "moved"
    shutil.copytree(LAYOUTS["new"].path, there)
    shutil.rmtree(there / "learner_group/learner/rl_module/p1")
    with pytest.raises(NotFoundError, match=r"p1.module_state.*is missing.*\['p0', 'p2'\]"):
        read_checkpoint(there)
    assert list(inspect_checkpoint(there).missing) == ["p1"]
    assert list(read_checkpoint(there, ["p0", "p2"])) == ["p0", "p2"]
    with pytest.raises(NotFoundError, match="p1"):
        read_checkpoint(there, ["p1"])


def test_the_module_map_describes_a_module_as_its_own_file_does(tmp_path: Path) -> None:
    for version in ("2.37.0", "2.40.0", "2.60.0"):
        one = Given(version, "ppo_new_multi")
        there = tmp_path / version
        shutil.copytree(one.path, there)
        (there / "learner_group/learner/rl_module/p1/class_and_ctor_args.pkl").unlink()
        assert read_checkpoint(there)["p1"] == read_checkpoint(one.path)["p1"]


def test_nothing_holds_weights(tmp_path: Path) -> None:
    (tmp_path / "rllib_checkpoint.json").write_text(json.dumps({"type": "Algorithm"}))
    with pytest.raises(
        InvalidInputError, match=r"'Algorithm'.*none of its files holds the weights"
    ):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (POINTER, "git lfs pull"),
        (b"/annex/objects/SHA256E-s1--ab.pkl\n", "git annex get"),
        (b"\n <HTML><head>", "web page"),
        (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "XML"),
        (b"\x1f\x8b\x08\0\0", "gzip"),
        (b"", "empty"),
        (b"\0" * 4096, "zero bytes"),
    ],
    ids=["lfs", "annex", "html", "xml", "gzip", "empty", "zeros"],
)
@pytest.mark.parametrize(
    "name", sampled(["policy_state.pkl", "policy_state.msgpck"], "policy_state.pkl")
)
def test_what_stands_in_place_of_a_file(data: bytes, said: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FormatError, match=f"{name} is .*{said}"):
        read_checkpoint(tmp_path)


def test_inspect_says_that_pointers_stand_in_place_of_weights(tmp_path: Path) -> None:
    for kind, name in (
        ("old", "policies/p1/policy_state.pkl"),
        ("new", "learner_group/learner/rl_module/p1/module_state.pkl"),
    ):
        there = tmp_path / kind
        shutil.copytree(LAYOUTS[kind].path, there)
        (file,) = there.glob(name.replace(".pkl", ".*"))
        file.write_bytes(POINTER)
        info = inspect_checkpoint(there)
        assert list(info.sizes) == ["p0", "p2"], kind
        assert list(info.missing) == ["p1"], kind
        assert info.missing["p1"].startswith(f"{file} is a Git LFS pointer"), kind
        assert "Run `git lfs pull` in the repository" in str(info), kind
        with pytest.raises(FormatError, match="git lfs pull"):
            read_checkpoint(there)
        assert list(read_checkpoint(there, ["p0", "p2"])) == ["p0", "p2"]


def test_a_filter_is_never_lost_without_a_word(tmp_path: Path) -> None:
    """Without its statistics a player would act on other observations, so it refuses."""
    for version, gone in (
        ("2.9.3", "policies"),
        ("2.37.0", "env_runner/env_to_module_connector/MeanStdFilter"),
        ("2.60.0", "env_runner/env_to_module_connector/MeanStdFilter"),
    ):
        there = tmp_path / version
        shutil.copytree(Given(version, "ppo_new_meanstd").path, there)
        shutil.rmtree(there / gone)
        (snap,) = read_checkpoint(there).values()
        assert any(place.startswith("connectors.") for place in snap.spec.omitted), version
    one = Given("2.2.0", "ppo_old_meanstd")
    alone = one.path / "checkpoint_000002" / "policies" / "default_policy"
    (snap,) = read_checkpoint(alone).values()
    assert "MeanStdFilter" in snap.spec.omitted["connectors.filter"]
    there = tmp_path / "empty"
    shutil.copytree(Given("2.60.0", "ppo_new_meanstd").path, there)
    state = there / "env_runner/env_to_module_connector/MeanStdFilter/state.pkl"
    state.write_bytes(b"\x80\x05}.")
    (snap,) = read_checkpoint(there).values()
    assert "without statistics" in snap.spec.omitted["connectors.MeanStdFilter"]


def test_policies_that_only_the_algorithm_names(tmp_path: Path) -> None:
    for version, gone in (("2.2.0", "checkpoint_000002/policies/p1"),
                          ("2.24.0", "learner/module_state/p1")):  # fmt: skip
        kind = "ppo_old_multi" if version == "2.2.0" else "ppo_new_multi"
        there = tmp_path / version
        shutil.copytree(Given(version, kind).path, there)
        shutil.rmtree(there / gone)
        with pytest.raises(NotFoundError, match=r"p1.*is missing"):
            read_checkpoint(there)
        assert list(inspect_checkpoint(there).missing) == ["p1"]


def test_a_hybrid_holds_its_weights_twice(tmp_path: Path) -> None:
    one = Given("2.9.3", "ppo_new_multi")
    there = tmp_path / "moved"
    shutil.copytree(one.path, there)
    (there / "learner/module_state/p0/module_state_dir/module_state.pt").write_bytes(POINTER)
    snaps = read_checkpoint(there)
    assert inspect_checkpoint(there).missing == {}
    assert weights_of(snaps) == weights_of(read_checkpoint(one.path))
    assert "git lfs pull" in snaps["p0"].spec.omitted["module"]


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    there = tmp_path / "moved"
    shutil.copytree(LAYOUTS["new"].path, there)
    whole = weights_of(read_checkpoint(there))
    for name in ("rllib_checkpoint.json", "env_runner/class_and_ctor_args.pkl"):
        (there / name).unlink()
        (there / name).symlink_to("../.git/annex/objects/x")
        assert weights_of(read_checkpoint(there)) == whole


@pytest.mark.parametrize("value", [2**63, "\ud800", [[[[]]]] * 9], ids=["integer", "text", "lists"])
def test_a_value_that_no_spec_holds_costs_its_entry_only(value: object, tmp_path: Path) -> None:
    there = tmp_path / "moved"
    shutil.copytree(Given("2.60.0", "ppo_old_policy").path, there)
    file = there / "policy_state.pkl"
    (before,) = read_checkpoint(there).values()
    assert isinstance(before.spec.config["model"], dict)
    data = file.read_bytes()
    key = b"\x8c\x0dfcnet_hiddens\x94"
    assert key in data
    packed = pickle.dumps({"seed": value}, 2)[2:-1]
    extra = b"\x8c\x13custom_model_config" + packed
    file.write_bytes(data.replace(b"\x95", b"\x95", 1).replace(key, extra + key, 1))
    (snap,) = read_checkpoint(there).values()
    assert snap.weights_digest == before.weights_digest
