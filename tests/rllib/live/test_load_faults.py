from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import ray

import tests.support.new_stack_algorithms as new
import tests.support.old_stack_algorithms as old
from policystore import (
    InvalidInputError,
    MismatchError,
    NotFoundError,
    Snapshot,
    StorageError,
    SyncError,
)
from policystore.rllib import check_sync, load_into, snapshot
from policystore.rllib.workers.calls import Calls
from policystore.spaces import space_to_json
from tests.support.cells import sampled
from tests.support.new_stack_algorithms import other, until

pytestmark = pytest.mark.usefixtures("ray_session")
PARTS: dict[str, Any] = {"new": new, "old": old}


@pytest.fixture(scope="module", params=sampled(["new", "old"]))
def running(request: pytest.FixtureRequest, ray_session: None) -> Iterator[tuple[Any, Any]]:
    """An Algorithm with two remote workers whose policies are known everywhere."""
    parts = PARTS[request.param]
    config = parts.configured(runners=2)
    config.restart_failed_env_runners = True
    config.delay_between_env_runner_restarts_s = 0.1
    with parts.built(config) as algo:
        load_into(algo, {pid: snapshot(algo, pid) for pid in ("main", "foe")})
        algo.train()
        yield parts, algo


def table(algo: Any) -> list[tuple[str, str, str, Any]]:
    return [(row.worker, row.policy, row.status, row.digest) for row in check_sync(algo)]


def changed(snap: Snapshot, **weights: Any) -> Snapshot:
    """With tensors replaced, added, or left out (None)."""
    kept = {**dict(snap.weights), **weights}
    return Snapshot(weights={n: a for n, a in kept.items() if a is not None}, spec=snap.spec)


def test_what_does_not_fit_is_refused_before_anything_is_sent(running: Any) -> None:
    parts, algo = running
    good = {pid: snapshot(algo, pid) for pid in ("main", "foe")}
    before = table(algo)
    snap = good["foe"]
    name = next(
        n
        for n in snap.weights
        if n.endswith("weight") and "vf" not in n.lower() and "value" not in n
    )
    array = snap.weights[name]
    cases = {
        "missing": changed(snap.replace(spec=snap.spec.replace(acting=None)), **{name: None}),
        "unexpected": changed(snap, bogus=np.zeros(3, np.float32)),
        "shape": changed(snap, **{name: np.zeros((3, 3), np.float32)}),
        "dtype": changed(snap, **{name: array.astype(np.float64)}),
    }
    for what, bad in cases.items():
        # Also beside one that fits: then that one is not sent either.
        with pytest.raises(MismatchError) as caught:
            load_into(algo, {"main": other(good["main"], 2.0), "foe": bad})
        lists = (caught.value.missing, caught.value.unexpected, caught.value.wrong)
        assert [bool(each) for each in lists] == [
            what == "missing", what == "unexpected", what in ("shape", "dtype"),
        ]  # fmt: skip
    with pytest.raises(NotFoundError, match=r"'nobody'.*'foe', 'main'"):
        load_into(algo, {"nobody": snap})
    for wrong in ({}, [snap], {"foe": "foe@1"}, {3: snap}):
        with pytest.raises(InvalidInputError):
            load_into(algo, wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="timeout"):
        load_into(algo, {"foe": snap}, timeout=0)
    with pytest.raises(InvalidInputError, match="expected a running Algorithm"):
        load_into(good, {"foe": snap})  # type: ignore[arg-type]
    with pytest.raises(NotFoundError):
        check_sync(algo, ["nobody"])
    assert table(algo) == before
    parts.assert_held(algo, {"foe": good["foe"]})
    algo.train()


def test_other_spaces_are_told(running: Any) -> None:
    _, algo = running
    snap = snapshot(algo, "foe")
    three = snap.spec.replace(action_space=space_to_json(gym.spaces.Discrete(3)))
    with pytest.raises(MismatchError, match=r"action space is Discrete\(3\).*Discrete\(2\)"):
        load_into(algo, {"foe": snap.replace(spec=three)})


def test_nan_is_allowed_and_told(running: Any) -> None:
    parts, algo = running
    good = snapshot(algo, "foe")
    name = next(iter(good.weights))
    bad = changed(good, **{name: np.full_like(good.weights[name], np.nan)})
    report = load_into(algo, {"foe": bad})
    assert report.ok
    assert any(name in note and "NaN" in note for note in report.notes)
    parts.assert_held(algo, {"foe": bad})
    assert load_into(algo, {"foe": good}).notes == ()


def test_a_note_tells_that_training_goes_on_with_the_optimizer(running: Any) -> None:
    parts, algo = running
    good = {pid: snapshot(algo, pid) for pid in ("main", "foe")}
    (note,) = load_into(algo, good).notes
    assert "loaded weights of 'main' with the optimizer as it was" in note
    assert load_into(algo, {"foe": good["foe"]}).notes == ()
    with parts.built(parts.configured(runners=0)) as fresh:  # whose optimizers did no step
        assert load_into(fresh, good).notes == ()


def asleep(worker: Any, seconds: float) -> None:
    time.sleep(seconds)


def remote(algo: Any, index: int) -> Any:
    return algo.env_runner_group._worker_manager.actors()[index]


@pytest.mark.long
def test_a_worker_that_does_not_answer(running: Any) -> None:
    parts, algo = running
    old_one = snapshot(algo, "foe")
    nap = remote(algo, 2).apply.remote(asleep, 6.0)
    with pytest.raises(SyncError, match="train 2: no answer in time") as caught:
        load_into(algo, {"foe": other(old_one, 3.0)}, timeout=1.5)
    report = pickle.loads(pickle.dumps(caught.value)).report
    statuses = {row.worker: row.status for row in report if row.policy == "foe"}
    assert statuses.pop("train 2") == "pending"
    assert set(statuses.values()) == {"ok"}
    pending = {row.worker: row.status for row in check_sync(algo, ["foe"], timeout=0.5)}
    assert pending["train 2"] == "pending"
    ray.get(nap, timeout=60)
    # It has had the weights by now, and given them back.
    parts.assert_held(algo, {"foe": old_one})
    assert check_sync(algo, ["foe"]).ok
    algo.train()
    parts.assert_held(algo, {"foe": old_one})


def reshape(worker: Any, pid: str) -> None:
    """Somebody changed a network by hand."""
    import torch

    old_stack = hasattr(worker, "policy_map")
    module = worker.policy_map[pid].model if old_stack else worker.module[pid]
    parameter = next(iter(module.parameters()))
    worker.kept_by_test = parameter.data
    parameter.data = torch.zeros(1)


def reshape_back(worker: Any, pid: str) -> None:
    old_stack = hasattr(worker, "policy_map")
    module = worker.policy_map[pid].model if old_stack else worker.module[pid]
    next(iter(module.parameters())).data = worker.__dict__.pop("kept_by_test")


def test_a_worker_that_refuses(running: Any) -> None:
    parts, algo = running
    old_ones = {pid: snapshot(algo, pid) for pid in ("main", "foe")}
    ray.get(remote(algo, 1).apply.remote(reshape, "foe"), timeout=60)
    with pytest.raises(SyncError, match="train 1: 'foe'"):
        load_into(algo, {pid: other(snap, 3.0) for pid, snap in old_ones.items()})
    found = {(row.worker, row.policy): row.status for row in check_sync(algo)}
    assert found.pop(("train 1", "foe")) == "bad"
    assert "bad" not in found.values()
    ray.get(remote(algo, 1).apply.remote(reshape_back, "foe"), timeout=60)
    parts.assert_held(algo, {"foe": old_ones["foe"]})
    algo.train()


def test_an_interrupt_in_the_middle(running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, algo = running
    old_one = snapshot(algo, "foe")
    collect = Calls.collect
    calls: list[int] = []

    def interrupted(self: Any, deadline: Any) -> Any:
        found = collect(self, deadline)
        calls.append(len(found))
        if len(calls) == 2:  # the first asks the leader, the second sends the weights
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Calls, "collect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_into(algo, {"foe": other(old_one, 3.0)})
    monkeypatch.undo()
    parts.assert_held(algo, {"foe": old_one})
    assert check_sync(algo, ["foe"]).ok


@pytest.mark.long
def test_a_worker_that_is_killed(running: Any) -> None:
    parts, algo = running
    good = other(snapshot(algo, "foe"), 0.5)
    ray.kill(remote(algo, 1), no_restart=False)
    report = load_into(algo, {"foe": good})
    rows = {row.worker: row.status for row in report}
    assert rows.pop("train 1") in ("unreachable", "ok")
    assert set(rows.values()) == {"ok"}

    def back() -> bool:
        algo.train()
        return all(row.status == "ok" for row in check_sync(algo, ["foe"]))

    until(back, "the killed worker is back with the weights")
    parts.assert_held(algo, {"foe": good})


@pytest.mark.long
def test_a_stopped_algorithm(ray_session: None) -> None:
    for parts in PARTS.values():
        with parts.built(parts.configured(runners=1)) as algo:
            snap = snapshot(algo, "foe")
        for call in (lambda a=algo, s=snap: load_into(a, {"foe": s}), lambda a=algo: check_sync(a)):
            with pytest.raises(InvalidInputError, match="was stopped"):
                call()


@pytest.mark.long
def test_a_learner_that_is_killed(ray_session: None) -> None:
    with new.built(new.configured(runners=1, learners=2)) as algo:
        algo.train()
        snap = snapshot(algo, "foe")
        ray.kill(algo.learner_group._worker_manager.actors()[1])
        # Before it is asked, or by the time that it gets the weights.
        with pytest.raises((StorageError, SyncError), match="learner 1"):
            load_into(algo, {"foe": other(snap, 2.0)})
        report = check_sync(algo, ["foe"])
        assert {row.worker: row.status for row in report} == {
            "learner 0": "ok",
            "learner 1": "unreachable",
            "train local": "ok",
            "train 1": "ok",
        }
        assert not report.ok
        held = ray.get(remote(algo, 1).apply.remote(new.read), timeout=60)["arrays"]["foe"]
        for name, array in held.items():
            assert array.tobytes() == snap.weights[name].tobytes()
