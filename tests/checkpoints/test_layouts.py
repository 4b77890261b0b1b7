"""Folders of every kind that hold policies, moved, cut, mixed up, and behind URLs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest

from policystore import (
    FormatError,
    InvalidInputError,
    MissingPackageError,
    NotFoundError,
    PolicyStoreError,
    StorageError,
)
from policystore.checkpoints import inspect_checkpoint, list_checkpoints, read_checkpoint
from tests.support.checkpoint_corpus import Given, given
from tests.support.fsspec_clouds import Attic

NEW = Given("2.60.0", "ppo_new_multi")
OLD = Given("2.60.0", "ppo_old_multi")
EARLIER = Given("2.24.0", "ppo_new_multi")


@pytest.fixture
def moved(tmp_path: Path) -> Any:
    """A copy of a checkpoint that a test may change."""

    def copy(one: Given, to: str = "moved") -> Path:
        shutil.copytree(one.path, tmp_path / to)
        return tmp_path / to

    return copy


@pytest.mark.parametrize(
    ("one", "inner", "kind"),
    [
        (NEW, "learner_group", "learner_group"),
        (NEW, "learner_group/learner", "learner"),
        (NEW, "learner_group/learner/rl_module", "multi_rl_module"),
        (EARLIER, "learner", "learner"),
    ],
)
def test_parts_of_an_algorithm(one: Given, inner: str, kind: str) -> None:
    whole = read_checkpoint(one.path)
    found = read_checkpoint(one.path / inner)
    assert inspect_checkpoint(one.path / inner).kind == kind
    assert found.keys() == whole.keys()
    for policy_id, snap in found.items():
        assert snap.weights_digest == whole[policy_id].weights_digest
        assert snap.spec.cls == whole[policy_id].spec.cls
        assert snap.spec.config == whole[policy_id].spec.config


@pytest.mark.parametrize(
    ("one", "inner"),
    [
        (OLD, "policies/p1"),
        (NEW, "learner_group/learner/rl_module/p1"),
        (EARLIER, "learner/module_state/p1"),
    ],
)
def test_one_policy_of_an_algorithm(one: Given, inner: str) -> None:
    (snap,) = read_checkpoint(one.path / inner).values()
    assert snap.weights_digest == read_checkpoint(one.path, ["p1"])["p1"].weights_digest


def test_a_moved_checkpoint_is_read_like_any_other(moved: Any) -> None:
    for number, one in enumerate((OLD, NEW, EARLIER)):
        there = moved(one, f"elsewhere/{number}")
        assert read_checkpoint(there) == read_checkpoint(one.path)


class Counting(Attic):
    """Notes which files are read."""

    read: list[str] = []  # noqa: RUF012

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> bytes:
        self.read.append(path)
        return super().cat_file(path, *args, **kwargs)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Any:
    from fsspec.registry import _registry

    monkeypatch.setitem(_registry, "attic", Counting)
    monkeypatch.setattr(Counting, "store", {})
    monkeypatch.setattr(Counting, "read", [])

    def put(one: Given, names: int = 0) -> str:
        fs = Counting()
        for path in one.path.rglob("*"):
            if path.is_file():
                key = path.relative_to(one.path).as_posix()
                fs.pipe_file(f"/box/ckpt/{key}", path.read_bytes())
                for number in range(names):
                    if "/p0/" in key:
                        copy = key.replace("/p0/", f"/q{number}/")
                        fs.pipe_file(f"/box/ckpt/{copy}", path.read_bytes())
        return "attic://box/ckpt"

    assert fsspec.get_filesystem_class("attic") is Counting
    return put


@pytest.mark.parametrize("one", [OLD, NEW, EARLIER], ids=str)
def test_one_policy_of_a_hundred_costs_one_policys_reading(one: Given, elsewhere: Any) -> None:
    url = elsewhere(one, names=100)
    found = read_checkpoint(url, ["q57"])
    assert found["q57"].weights_digest == read_checkpoint(one.path)["p0"].weights_digest
    mine = [path for path in Counting.read if "/q" in path or "/p" in path]
    assert mine
    assert all("/q57/" in path for path in mine)
    assert len(Counting.read) < 15
    Counting.read.clear()
    assert len(inspect_checkpoint(url).sizes) == 103
    assert len(Counting.read) < 4


def test_a_checkpoint_in_a_bucket(s3_endpoint: str, s3_bucket: str) -> None:
    from tests.support.s3_server import client

    raw = client(s3_endpoint)
    for one in (OLD, NEW):
        for path in one.path.rglob("*"):
            if path.is_file():
                key = f"runs/{one.kind}/{path.relative_to(one.path).as_posix()}"
                raw.put_object(Bucket=s3_bucket, Key=key, Body=path.read_bytes())
        url, options = f"s3://{s3_bucket}/runs/{one.kind}", {"endpoint_url": s3_endpoint}
        assert read_checkpoint(url, storage_options=options) == read_checkpoint(one.path)
        listed = inspect_checkpoint(url, storage_options=options)
        assert listed.sizes == inspect_checkpoint(one.path).sizes
        with pytest.raises(NotFoundError):
            read_checkpoint(url + "-not", storage_options=options)


def test_a_hundred_policies_come_all(elsewhere: Any) -> None:
    assert len(read_checkpoint(elsewhere(NEW, names=100))) == 103


def trial(root: Path, name: str, scores: list[float | None], *, time: int = 0) -> None:
    """As Tune writes it: the weights of each checkpoint differ by a file of another policy."""
    one = OLD
    folder = root / name
    lines = []
    for number, score in enumerate(scores):
        shutil.copytree(one.path, folder / f"checkpoint_{number:06}")
        note = folder / f"checkpoint_{number:06}" / "policies" / f"only_{name}_{number}"
        shutil.copytree(one.path / "policies" / "p0", note)
        result = {"training_iteration": number + 1, "checkpoint_dir_name": f"checkpoint_{number:06}",
                  "timestamp": time + number, "env_runners": {"episode_return_mean": score},
                  "config": {"lr": 0.1}}  # fmt: skip
        if score is None:
            del result["env_runners"]
        lines.append(json.dumps(result))
    (folder / "result.json").write_text("\n".join(lines) + "\n")
    (folder / "params.json").write_text("{}")


def only(found: dict[str, Any]) -> str:
    return next(name for name in found if name.startswith("only_")).removeprefix("only_")


def test_the_latest_and_the_best_of_a_trial_and_of_an_experiment(tmp_path: Path) -> None:
    trial(tmp_path, "a", [1.0, 9.0, None], time=2000)  # began later
    trial(tmp_path, "b", [float("nan"), 3.0, 2.0, -5.0], time=1000)
    metric = "env_runners/episode_return_mean"
    ids: dict[str, Any] = {
        "a": only(read_checkpoint(tmp_path / "a")),
        "best a": only(read_checkpoint(tmp_path / "a", metric=metric)),
        "worst a": only(read_checkpoint(tmp_path / "a", metric=metric, mode="min")),
        "best b": only(read_checkpoint(tmp_path / "b", metric=metric)),
        "all": only(read_checkpoint(tmp_path)),
        "best": only(read_checkpoint(tmp_path, metric=metric)),
        "worst": only(read_checkpoint(tmp_path, metric=metric, mode="min")),
        "listed": only(inspect_checkpoint(tmp_path, metric=metric).sizes),
    }
    assert ids == {"a": "a_2", "best a": "a_1", "worst a": "a_0", "best b": "b_1", "all": "a_2",
                   "best": "a_1", "worst": "b_3", "listed": "a_1"}  # fmt: skip
    with pytest.raises(NotFoundError, match=r"'no_such'.*timestamp, training_iteration"):
        read_checkpoint(tmp_path, metric="no_such")
    with pytest.raises(InvalidInputError, match="'max' or 'min'"):
        read_checkpoint(tmp_path, mode="best")


def test_a_result_that_was_cut_while_it_was_written(tmp_path: Path) -> None:
    trial(tmp_path, "a", [1.0, 2.0])
    results = tmp_path / "a" / "result.json"
    results.write_text(results.read_text() + '{"training_iteration": 3, "chec')
    assert only(read_checkpoint(tmp_path, metric="env_runners/episode_return_mean")) == "a_1"
    results.write_text("no json\n" + results.read_text())  # killed before, and gone on
    assert only(read_checkpoint(tmp_path, metric="env_runners/episode_return_mean")) == "a_1"


def test_checkpoints_of_some_iterations_have_their_own_results(tmp_path: Path) -> None:
    """Every tenth iteration, the last result cut off: no number is taken for an iteration."""
    trial(tmp_path, "a", [90.0, 50.0, 70.0, 60.0])
    results = tmp_path / "a" / "result.json"
    lines = []
    for iteration in range(1, 41):
        result = {
            "training_iteration": iteration,
            "reward": 1000.0 + iteration,
            "timestamp": iteration,
        }
        if iteration % 10 == 0:
            number = iteration // 10 - 1
            result |= {"reward": [90.0, 50.0, 70.0, 60.0][number],
                       "checkpoint_dir_name": f"checkpoint_{number:06}"}  # fmt: skip
        else:
            result |= {"checkpoint_dir_name": None}
        lines.append(json.dumps(result))
    results.write_text("\n".join(lines)[:-20])
    for path in (tmp_path / "a").rglob("algorithm_state.pkl"):
        path.unlink()  # which would say the iteration
        path.write_bytes(b"\x80\x05}.")
    found = {one.name: one.metric("reward") for one in list_checkpoints(tmp_path)}
    assert found["checkpoint_000000"] == 90.0
    assert found["checkpoint_000003"] is None
    assert only(read_checkpoint(tmp_path)) == "a_3"
    told = [(value, name) for name, value in found.items() if value is not None]
    assert only(read_checkpoint(tmp_path, metric="reward")) == f"a_{int(max(told)[1][-1])}"


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such folder, or it is empty"):
        read_checkpoint(tmp_path / "nothing")
    with pytest.raises(NotFoundError, match="empty"):
        read_checkpoint(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InvalidInputError, match=r"neither a checkpoint of RLlib.*notes\.txt"):
        read_checkpoint(tmp_path)
    with pytest.raises(InvalidInputError, match="is a file that RLlib does not write"):
        read_checkpoint(tmp_path / "notes.txt")
    assert read_checkpoint(OLD.path / "rllib_checkpoint.json") == read_checkpoint(OLD.path)
    for wrong in (5, None, b"x"):
        with pytest.raises(InvalidInputError):
            read_checkpoint(wrong)  # type: ignore[arg-type]


def test_ids_that_are_not_there() -> None:
    with pytest.raises(NotFoundError, match=r"'p9'.*its policies are 'p0', 'p1', 'p2'"):
        read_checkpoint(OLD.path, ["p0", "p9"])
    with pytest.raises(InvalidInputError, match="policy_ids"):
        read_checkpoint(OLD.path, "p0")
    assert list(read_checkpoint(OLD.path, ["p2", "p0"])) == ["p2", "p0"]
    assert read_checkpoint(OLD.path, []) == {}


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(one, marks=() if one in (OLD, NEW, EARLIER) else pytest.mark.long)
        for one in given()
    ],
    ids=str,
)
def test_half_of_a_checkpoint(one: Given, moved: Any) -> None:
    """Each file taken away in turn: what is read is as before, or it is said what is missing."""
    there = moved(one)
    whole = read_checkpoint(there)
    for path in sorted(path for path in there.rglob("*") if path.is_file()):
        data = path.read_bytes()
        path.unlink()
        try:
            found = read_checkpoint(there)
        except PolicyStoreError as error:
            assert str(there) in str(error)
        else:
            # Without what told of its class or Algorithm, the weights are the same ones.
            for policy_id, snap in found.items():
                assert snap.weights_digest == whole[policy_id].weights_digest
        path.write_bytes(data)
    assert read_checkpoint(there) == whole


@pytest.mark.parametrize("one", [OLD, NEW, Given("2.40.0", "ppo_old_msgpack"), EARLIER], ids=str)
def test_files_that_are_damaged_or_something_else(one: Given, moved: Any) -> None:
    there = moved(one)
    for path in sorted(there.rglob("*state*.*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        for other in (data[: len(data) // 2], data[:-1], b"", b"\0" * 100, b"PK\3\4nothing",
                      b"\x80\x05N.", b"\x80\x05K\x01.", b"{}", b"\xc0"):  # fmt: skip
            path.write_bytes(other)
            try:
                found = read_checkpoint(there)
            except PolicyStoreError as error:
                assert isinstance(error, FormatError)
                assert path.name in str(error)
            else:
                assert "optimizer" in str(path) or "env_runner" in str(path) or (
                    path.name.startswith(("algorithm_state", "learner_state", "state."))
                    or found == read_checkpoint(one.path)
                )  # fmt: skip
        path.write_bytes(data)


def test_a_file_that_cannot_be_read(moved: Any) -> None:
    there = moved(OLD)
    file = there / "policies" / "p0" / "policy_state.pkl"
    file.unlink()
    file.symlink_to(file)
    with pytest.raises(StorageError, match=r"policy_state\.pkl"):
        read_checkpoint(there)
    assert read_checkpoint(there, ["p1"])


def test_msgpack_is_asked_for_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "msgpack", None)
    assert read_checkpoint(OLD.path)
    with pytest.raises(MissingPackageError, match="pip install msgpack"):
        read_checkpoint(Given("2.40.0", "ppo_old_msgpack").path)


def test_a_number_that_is_larger_than_any_float_is_no_metric(tmp_path: Path) -> None:
    trial(tmp_path, "a", [1.0, 2.0])
    results = tmp_path / "a" / "result.json"
    results.write_text(results.read_text().replace(": 2.0", f": {10**400}"))
    assert only(read_checkpoint(tmp_path, metric="env_runners/episode_return_mean")) == "a_0"
