"""load_into and check_sync on the new API stack: PPO with two policies, whoever holds them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig

import tests.support.new_stack_algorithms as parts
from policystore.rllib import check_sync, load_into, snapshot_all
from tests.support.cells import sampled

CELLS: dict[str, dict[str, Any]] = {
    "alone": {"runners": 0},
    "evaluating locally": {"runners": 2, "evals": 0},
    "evaluating remotely": {"runners": 0, "evals": 1},
    "all remote": {"runners": 2, "evals": 1, "learners": 2},
}


@pytest.fixture(scope="module", params=sampled(CELLS, "evaluating remotely"))
def algo(request: Any, ray_session: None) -> Iterator[Any]:
    made = parts.configured(PPOConfig, lr=1e-4, **CELLS[request.param]).build_algo()
    yield made
    made.stop()


def groups(algo: Any) -> list[str]:
    return ["train"] if algo.eval_env_runner_group is None else ["train", "eval"]


def play(algo: Any, group: str) -> None:
    parts.ask(algo, parts.forget)
    if group == "train":
        algo.train()
    else:
        algo.evaluate()


def load_and_play(algo: Any, level: float) -> None:
    """Load both policies and look everywhere; then see what samples are drawn with."""
    now = snapshot_all(algo)
    for step, group in enumerate(groups(algo)):
        snaps = {
            pid: parts.other(snap, level + 3 * step + 20 * (pid == "foe"))
            for pid, snap in now.items()
        }
        report = load_into(algo, snaps)
        parts.assert_proven(report, algo, snaps)
        parts.assert_held(algo, snaps)
        parts.assert_proven(check_sync(algo), algo, snaps)
        assert snapshot_all(algo) == snaps
        play(algo, group)
        parts.assert_first_sample(algo, snaps, group)
        if group == "train":
            # It was trained on from there, not from what there was before.
            assert_trained_on_from(algo, level)
        parts.assert_frozen(algo, snaps["foe"], "foe")


def assert_trained_on_from(algo: Any, level: float) -> None:
    for name, found in parts.ask(algo, parts.read).items():
        # While remote runners train, the local one keeps what was loaded.
        assert abs(parts.level_of(found["arrays"]["main"]) - level) < 0.5, name
    learned = {parts.print_of(found["arrays"]["main"]) for found in learners(algo)}
    assert len(learned) == 1


def learners(algo: Any) -> list[dict[str, Any]]:
    found = parts.ask(algo, parts.read)
    return [each for name, each in found.items() if name.startswith("learner")]


def test_before_the_first_train(algo: Any) -> None:
    assert algo.iteration == 0
    load_and_play(algo, 2.0)


@pytest.mark.long
def test_after_many_updates(algo: Any) -> None:
    parts.train_until_seq(algo, 10)
    load_and_play(algo, 7.0)
    # And once more from there: numbers of updates do not add up to anything.
    load_and_play(algo, -4.0)


def test_training_goes_on_from_it(algo: Any) -> None:
    """Learners take further steps from the weights, and their runners follow."""
    snaps = {"main": parts.other(snapshot_all(algo)["main"], 5.0)}
    load_into(algo, snaps)
    parts.ask(algo, parts.forget)
    for _ in range(3):
        algo.train()
    found = parts.ask(algo, parts.read)
    learned = learners(algo)[0]["arrays"]["main"]
    matrices = [name for name in snaps["main"].weights if name.endswith(".weight")]
    assert len(matrices) == 3
    assert all((learned[name] != snaps["main"].weights[name]).any() for name in matrices)
    for name, each in found.items():
        if not each["drawn"] or not name.startswith("train"):
            continue
        assert len({seen["prints"]["main"] for drawn in each["drawn"] for seen in drawn}) == 3
        held = each["arrays"]["main"]
        assert parts.print_of(held) == parts.print_of({n: learned[n] for n in held})


def test_frozen_stays_frozen(algo: Any) -> None:
    frozen = parts.other(snapshot_all(algo)["foe"], 11.0)
    load_into(algo, {"foe": frozen})
    parts.ask(algo, parts.forget)
    for _ in range(4):
        algo.train()
        if algo.eval_env_runner_group is not None:
            algo.evaluate()
    parts.assert_frozen(algo, frozen, "foe")
    report = check_sync(algo, ["foe"])
    assert {row.digest for row in report} == {frozen.acting_digest}


def test_other_policies_are_left_alone(algo: Any) -> None:
    before = parts.ask(algo, parts.read)
    report = load_into(algo, {"foe": parts.other(snapshot_all(algo)["foe"], -8.0)})
    assert {row.policy for row in report} == {"foe"}
    after = parts.ask(algo, parts.read)
    for name, found in before.items():
        main = parts.print_of(found["arrays"]["main"])
        assert parts.print_of(after[name]["arrays"]["main"]) == main, name
        assert parts.print_of(after[name]["arrays"]["foe"]) != parts.print_of(
            found["arrays"]["foe"]
        )


@pytest.mark.long
def test_optimizers_keep_their_moments(algo: Any) -> None:
    algo.train()
    before = parts.ask(algo, moments)
    assert any(before.values())
    load_into(algo, {"main": parts.other(snapshot_all(algo)["main"], 1.5)})
    assert parts.ask(algo, moments) == before
    algo.train()
    assert parts.ask(algo, moments) != before


def moments(worker: Any) -> list[str]:
    optimizers = getattr(worker, "_named_optimizers", {})
    return [
        parts.print_of({key: value.numpy() for key, value in state.items()})
        for optimizer in optimizers.values()
        for state in optimizer.state_dict()["state"].values()
    ]


@pytest.mark.long
def test_a_snapshot_is_not_trained_along(algo: Any) -> None:
    """Nobody's parameters share memory with the arrays that they came from, nor with each other."""
    snap = parts.other(snapshot_all(algo)["main"], 3.0)
    bits = {name: array.tobytes() for name, array in snap.weights.items()}
    load_into(algo, {"main": snap, "foe": snap})
    algo.train()
    assert {name: array.tobytes() for name, array in snap.weights.items()} == bits
    # One snapshot in two policies: only the trained one went on.
    parts.assert_held(algo, {"foe": snap})
    assert parts.print_of(learners(algo)[0]["arrays"]["main"]) != parts.print_of(snap.weights)


def test_check_sync_tells_who_differs(algo: Any) -> None:
    """One number changed in one worker: found there, and nowhere else."""
    snaps = {pid: parts.other(snap, 6.0) for pid, snap in snapshot_all(algo).items()}
    if algo.eval_env_runner_group is not None:
        # An evaluation worker of an older number would be behind: RLlib updates it.
        algo.evaluate()
    load_into(algo, snaps)
    assert check_sync(algo).ok
    victim = [name for name in parts.workers(algo) if not name.startswith("learner")][-1]
    worker = parts.workers(algo)[victim]
    if isinstance(worker, ray.actor.ActorHandle):
        ray.get(worker.apply.remote(nudge))
    else:
        nudge(worker)
    report = check_sync(algo)
    assert [(row.worker, row.policy) for row in report.bad] == [(victim, "foe")], str(report)
    load_into(algo, {"foe": snaps["foe"]})
    assert check_sync(algo).ok
    parts.assert_held(algo, snaps)


def nudge(runner: Any) -> None:
    """The last bit of one number."""
    with torch.no_grad():
        parameter = next(iter(runner.module["foe"].parameters()))
        parameter.view(torch.int32).view(-1)[0] ^= 1
