from __future__ import annotations

import copy
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore import (
    FormatError,
    InvalidInputError,
    NotFoundError,
    PolicyStore,
    Snapshot,
    Spec,
)

Make = Callable[..., Snapshot]


def test_it_owns_its_arrays() -> None:
    live = {"w": np.ones(3)}
    filters = {"mean": np.ones(2)}
    snap = Snapshot(weights=live, state={"f": filters})
    before = snap.digest
    live["w"][:] = 7
    live["x"] = np.ones(1)
    filters["mean"][:] = 7
    assert snap.weights["w"].tolist() == [1, 1, 1]
    assert snap.state["f"]["mean"].tolist() == [1, 1]
    assert Snapshot(weights=snap.weights, state=snap.state).digest == before


def test_what_it_hands_out_is_read_only() -> None:
    snap = Snapshot(weights={"w": np.ones(3)}, state={"f": np.ones(2), "l": [1]})
    with pytest.raises(TypeError):
        snap.weights["v"] = np.ones(1)  # type: ignore[index]
    for array in (snap.weights["w"], snap.state["f"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 2
    snap.state["l"].append(2)
    snap.state["new"] = 1
    assert snap.state["l"] == [1]
    assert "new" not in snap.state
    assert snap._state_json == {"f": {"~array": 0}, "l": [1]}
    with pytest.raises(AttributeError):
        snap.spec = Spec()  # type: ignore[misc]


def test_equality_is_of_content(make_snapshot: Make) -> None:
    assert make_snapshot(1) == make_snapshot(1)
    assert len({make_snapshot(1), make_snapshot(1), make_snapshot(2)}) == 2
    one = Snapshot(weights={"w": np.ones(3)})
    assert one != Snapshot(weights={"w": np.ones(3, np.float32)})
    assert one != Snapshot(weights={"w": np.ones((3, 1))})
    assert one != Snapshot(weights={"v": np.ones(3)})
    assert one != Snapshot(weights={"w": np.ones(3)}, state={"a": 1})
    assert one != Snapshot(weights={"w": np.ones(3)}, spec=Spec(algorithm="PPO"))
    assert one != "x"
    assert Snapshot(weights={"w": np.array(0.0)}) != Snapshot(weights={"w": np.array(-0.0)})


@pytest.mark.parametrize("large", [False, True])
def test_pickles_and_copies_stay_equal_and_read_only(make_snapshot: Make, large: bool) -> None:
    snap = make_snapshot(large=large)
    for again in (pickle.loads(pickle.dumps(snap)), copy.copy(snap), copy.deepcopy(snap)):
        assert again == snap
        assert again.state["MeanStdFilter"][0]["n"] == 0
        with pytest.raises(ValueError, match="read-only"):
            again.weights["encoder.bias"][0] = 1


@pytest.mark.parametrize("large", [False, True])
def test_save_and_load(make_snapshot: Make, tmp_path: Path, large: bool) -> None:
    snap = make_snapshot(large=large)
    file = tmp_path / "main.safetensors"
    snap.save(file)
    again = Snapshot.load(str(file))
    assert again == snap
    assert again.spec == snap.spec
    assert list(again.state["MeanStdFilter"]) == [0]
    assert again.weights["steps"].shape == ()
    make_snapshot(5).save(file)
    assert Snapshot.load(file) == make_snapshot(5)
    assert again == snap
    assert list(tmp_path.iterdir()) == [file]


def test_a_saved_file_has_the_permissions_of_any_new_file(
    make_snapshot: Make, tmp_path: Path
) -> None:
    before = os.umask(0o027)
    try:
        make_snapshot().save(tmp_path / "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_save_that_fails_leaves_the_old_file(
    make_snapshot: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "main.safetensors"
    make_snapshot(1).save(file)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"No space left.*free some space"):
        make_snapshot(2).save(file)
    monkeypatch.undo()
    assert Snapshot.load(file) == make_snapshot(1)
    assert list(tmp_path.iterdir()) == [file]


def test_bad_files(make_snapshot: Make, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no-such-file"):
        Snapshot.load(tmp_path / "no-such-file")
    with pytest.raises(OSError, match="is a folder"):
        Snapshot.load(tmp_path)
    with pytest.raises(OSError, match="no-such-folder"):
        make_snapshot().save(tmp_path / "no-such-folder" / "x")
    (tmp_path / "empty").touch()
    with pytest.raises(FormatError, match="empty"):
        Snapshot.load(tmp_path / "empty")
    make_snapshot().save(tmp_path / "cut")
    data = (tmp_path / "cut").read_bytes()
    (tmp_path / "cut").write_bytes(data[:-3])
    with pytest.raises(FormatError, match="cut short"):
        Snapshot.load(tmp_path / "cut")


def test_spec_and_state_of_other_types_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="spec: expected a Spec"):
        Snapshot(weights={}, spec={"stack": "old"})  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="state: expected a dict"):
        Snapshot(weights={}, state=[1])  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=r"state\['f'\]"):
        Snapshot(weights={}, state={"f": object()})
    with pytest.raises(InvalidInputError, match="acting"):
        Snapshot(weights={"a": np.ones(1)}, spec=Spec(acting=["b"]))


def test_bytes_that_can_change_are_copied(make_snapshot: Make) -> None:
    data = bytearray(b"".join(make_snapshot(1)._encode(inline=True).policy.chunks))
    snap = Snapshot.from_bytes(data)
    data[-10:] = b"\x00" * 10
    assert snap._encode().policy.digest == make_snapshot(1).digest


def test_no_weights_at_all_is_a_policy_too() -> None:
    heuristic = Snapshot(weights={}, spec=Spec(stack="old", cls="ray.rllib.x:RandomPolicy"))
    assert pickle.loads(pickle.dumps(heuristic)) == heuristic
    assert heuristic.nbytes == 0


def test_replace_keeps_the_rest(make_snapshot: Make) -> None:
    snap = make_snapshot()
    other = snap.replace(spec=Spec(stack="new"))
    assert other.weights_digest == snap.weights_digest
    assert other.state_digest == snap.state_digest
    assert snap.replace(state={}).state == {}
    assert snap.replace() == snap


def test_replaced_weights_are_whole(make_snapshot: Make) -> None:
    snap = make_snapshot()
    weights = {name: array + 1 for name, array in snap.weights.items()}
    other = snap.replace(weights=weights)
    assert other == Snapshot(weights=weights, spec=snap.spec, state=snap.state)
    assert other.weights_digest != snap.weights_digest
    assert (other.state_digest, other.spec) == (snap.state_digest, snap.spec)
    assert other.replace(weights=snap.weights) == snap
    one = snap.replace(weights={"only": np.ones(1)})
    assert list(one.weights) == ["only"]
    assert snap.replace(weights={}).nbytes < snap.nbytes
    changed = snap.replace(weights={**snap.weights, "steps": np.array(7)})
    assert {n for n in snap.weights if (changed.weights[n] != snap.weights[n]).any()} == {"steps"}
    both = snap.replace(weights=weights, spec=Spec(), state={"a": 1})
    assert (both.spec, both.state) == (Spec(), {"a": 1})


def test_a_spec_that_names_weights_needs_them() -> None:
    snap = Snapshot(weights={"pi": np.ones(1), "vf": np.ones(1)}, spec=Spec(acting=["pi"]))
    assert list(snap.replace(weights={"pi": np.zeros(1)}).weights) == ["pi"]
    with pytest.raises(InvalidInputError, match=r"does not have: \['pi'\].*\*\*snap\.weights"):
        snap.replace(weights={"vf": np.zeros(1)})


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        (Snapshot(weights={}), r"found a Snapshot: weights=snap\.weights"),
        ({"p0": {"w": np.ones(1)}}, r"weights\['p0'\].*not nested: give weights\['p0'\] alone"),
        ({"w": [1.0, 2.0]}, r"weights\['w'\]: expected a numpy array, found builtins\.list"),
        ([np.ones(1)], "expected a mapping"),
    ],
)
def test_weights_of_other_forms_are_refused(weights: Any, match: str) -> None:
    for call in (Snapshot, Snapshot(weights={}).replace):
        with pytest.raises(InvalidInputError, match=match):
            call(weights=weights)


def test_a_pulled_snapshot_knows_its_ref_and_so_do_its_copies(make_snapshot: Make) -> None:
    store = PolicyStore("memory://snapshot-refs")
    version = store.push(make_snapshot(1), "soccer/main")
    store.tag("soccer/main", "best")

    pulled = [store.pull(ref) for ref in ("soccer/main", "soccer/main@1", "soccer/main@best")]
    pulled.append(store.pull(version))
    by_digest = [store.pull(ref) for ref in (version.digest, version.digest.short)]

    assert [snap.ref for snap in pulled] == ["soccer/main@1"] * 4
    assert [snap.ref for snap in by_digest] == [str(version.digest)] * 2
    assert store.pull_many([version, version])[version].ref == "soccer/main@1"
    assert store.pull_many(["soccer/main"])["soccer/main"].ref == "soccer/main@1"
    for snap in (pulled[0], by_digest[0]):
        for again in (pickle.loads(pickle.dumps(snap)), copy.copy(snap), copy.deepcopy(snap)):
            assert again.ref == snap.ref
            assert again == make_snapshot(1)
        assert snap.replace(state={}).ref is None
        assert snap.digest == make_snapshot(1).digest
    assert make_snapshot(1).ref is None
    assert pickle.loads(pickle.dumps(make_snapshot(1))).ref is None


@pytest.mark.parametrize("others", [0, 2])
def test_a_version_of_another_store_gives_a_snapshot_the_ref_of_its_digest(
    make_snapshot: Make, others: int
) -> None:
    source = PolicyStore(f"memory://snapshot-source-{others}")
    target = PolicyStore(f"memory://snapshot-target-{others}")
    source.push(make_snapshot(1), "soccer/main")
    version = source.push(make_snapshot(2), "soccer/main")
    for seed in range(others):  # so soccer/main@2 is another policy here
        target.push(make_snapshot(10 + seed), "soccer/main")
    target.push(make_snapshot(2))

    pulled = target.pull(version)

    assert pulled == make_snapshot(2)
    assert pulled.ref == str(version.digest)


def test_a_diff_names_the_refs_of_what_was_pulled(make_snapshot: Make) -> None:
    store = PolicyStore("memory://snapshot-diffs")
    for seed in (1, 2):
        store.push(make_snapshot(seed), "soccer/main")

    named = store.diff("soccer/main@1", "soccer/main@2")
    other = store.diff("soccer/main@1", make_snapshot(1))
    by_digest = store.diff(make_snapshot(1).digest, "soccer/main")

    assert (named.a_ref, named.b_ref) == ("soccer/main@1", "soccer/main@2")
    assert str(named).splitlines()[0] == f"a: {named.a}  soccer/main@1"
    assert "a: soccer/main@1, b: soccer/main@2:" in named._repr_html_()
    assert (other.a_ref, other.b_ref) == ("soccer/main@1", None)
    assert str(other) == f"soccer/main@1 and {other.b.short}: equal"
    assert str(by_digest).splitlines()[0] == f"a: {by_digest.a}"
    assert named.to_dict()["a_ref"] == "soccer/main@1"
