"""Algorithms of either stack, restored from their checkpoints into the config they began with."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

import tests.support.tune_runs as parts
from policystore import MismatchError, PolicyStore, Snapshot, StorageError
from policystore.rllib import add_policy, check_sync, load_into, snapshot, snapshot_all
from policystore.rllib.callbacks.factory import CallbackFactory
from policystore.rllib.callbacks.restore import restore_added_policies
from policystore.rllib.callbacks.warm_start import warm_start
from tests.support.cells import sampled

other = parts.new_stack_algorithms.other
STACKS = pytest.mark.parametrize(
    "stack", sampled(["new", "old"], "new", wide=["old"]), scope="module"
)


def third(agent: str, *_: Any, **__: Any) -> str:
    return "third" if agent == "b" else "main"


class Life:
    """An Algorithm that got a policy while it ran, and its checkpoint."""

    def __init__(self, stack: str, folder: Path) -> None:
        self.stack, self.own = stack, parts.PARTS[stack]
        self.folder = str(folder / "checkpoint")
        self.store = PolicyStore(folder / "store")
        with self.own.built(self.own.configured()) as algo:
            snap = snapshot(algo, "foe")
        self.store.push(other(snap, 3.0), "duo/foe")
        with self.own.built(self.config(workers=False)) as algo:
            add_policy(
                algo,
                "third",
                other(snap, 7.0),
                policy_mapping_fn=third,
                policies_to_train=["main", "third"],
            )
            algo.train()
            algo.train()
            load_into(algo, {"foe": other(snap, -5.0)})
            algo.save(self.folder)
            self.held = snapshot_all(algo)
            self.moments = moments(algo) if stack == "new" else None

    def config(self, *, workers: bool = True) -> Any:
        """Return the config that it began with; ``workers`` says whether there are remote ones."""
        config = self.own.configured(runners=1, evals=1) if workers else self.own.configured()
        return config.callbacks(warm_start(self.store, {"foe": "duo/foe"}))


def moments(algo: Any) -> dict[str, Any]:
    learner = algo.learner_group._learner
    return {
        pid: [
            state["exp_avg"].numpy().copy()
            for state in learner.get_optimizer(pid).state.values()
        ]
        for pid in ("main", "third")
    }  # fmt: skip


@pytest.fixture(scope="module")
def life(stack: str, ray_session: None, tmp_path_factory: Any) -> Life:
    return Life(stack, tmp_path_factory.mktemp(stack))


@pytest.fixture(scope="module")
def restored(life: Life) -> Iterator[Any]:
    with life.own.built(life.config()) as algo:
        before = check_sync(algo)
        assert {row.policy for row in before} == {"main", "foe"}
        algo.restore(life.folder)
        yield algo


@STACKS
def test_what_was_added_is_there_again_everywhere(life: Life, restored: Any) -> None:
    now = snapshot_all(restored)
    assert now.keys() == {"main", "foe", "third"}
    for pid, snap in life.held.items():
        assert now[pid].weights_digest == snap.weights_digest
    life.own.assert_held(restored, life.held)
    assert {row.worker for row in check_sync(restored)} >= {"train 1", "eval 1"}
    if life.moments is not None:
        found = moments(restored)
        for pid, arrays in life.moments.items():
            assert len(arrays) == len(found[pid]) > 0
            assert all((a == b).all() for a, b in zip(arrays, found[pid], strict=True))


@pytest.mark.long
@STACKS
def test_it_plays_and_trains_as_before(life: Life, restored: Any) -> None:
    runner = restored.env_runner_group.local_env_runner
    mapping = runner.config.policy_mapping_fn if life.stack == "new" else runner.policy_mapping_fn
    assert [mapping(agent, None) for agent in "ab"] == ["main", "third"]
    if life.stack == "new":
        for config in (restored.config, runner.config):
            assert config.policies_to_train == ["main", "third"]
    else:
        assert runner.is_policy_to_train("third")
    before = {pid: snap.weights_digest for pid, snap in snapshot_all(restored).items()}
    restored.train()
    assert restored.iteration == 3
    after = {pid: snap.weights_digest for pid, snap in snapshot_all(restored).items()}
    assert [pid for pid in sorted(before) if before[pid] != after[pid]] == ["main", "third"]
    restored.evaluate()
    assert check_sync(restored).ok


@pytest.mark.long
@STACKS
def test_who_restarts_gets_what_was_restored(life: Life, restored: Any) -> None:
    """Not the warm start, which the guard of the fresh Algorithm had been given."""
    actor = restored.env_runner_group._worker_manager.actors()[1]

    def process() -> int | None:
        try:
            return ray.get(actor.apply.remote(lambda worker: os.getpid()), timeout=60)
        except ray.exceptions.RayActorError:
            return None

    killed = process()
    ray.kill(actor, no_restart=False)
    parts.new_stack_algorithms.until(lambda: process() not in (None, killed), "another process")
    parts.new_stack_algorithms.until(lambda: check_sync(restored, ["foe"]).ok, "a restart")
    life.own.assert_held(restored, {"foe": life.held["foe"]})


@pytest.mark.long
@STACKS
@pytest.mark.parametrize("runners", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_checkpoint_needs_its_store_no_more(life: Life, tmp_path: Path, runners: int) -> None:
    away = PolicyStore(tmp_path / "away")
    away.push(life.held["foe"], "duo/foe")
    config = life.own.configured(runners=runners)
    config.callbacks(warm_start(away, {"foe": "duo/foe"}))
    with life.own.built(config) as algo:
        algo.train()
        algo.save(str(tmp_path / "checkpoint"))
        held = snapshot_all(algo)
    shutil.rmtree(away.url)
    algo = Algorithm.from_checkpoint(str(tmp_path / "checkpoint"))
    try:
        life.own.assert_held(algo, held)
        result = algo.train()
        assert result["policystore"]["warm_start"] == {"foe": str(life.held["foe"].digest)}
    finally:
        algo.stop()
    with life.own.built(config) as fresh:
        save = functools.partial(fresh.save, str(tmp_path / "held"))
        for call in (fresh.train, fresh.evaluate, save, fresh.training_step, fresh.train):
            with pytest.raises(StorageError, match="warm start of 'foe' from .*away is gone"):
                call()
        fresh.restore(str(tmp_path / "checkpoint"))
        fresh.train()
        assert fresh.iteration == 2


class Adds(RLlibCallback):
    """The user's own, of a league: a policy joins after the first iteration."""

    def on_train_result(self, *, algorithm: Any, result: Any, **_: Any) -> None:
        if algorithm.iteration == 1:
            foe = snapshot(algorithm, "foe")
            add_policy(algorithm, "third", other(foe, 7.0), policy_mapping_fn=third)
        algorithm.evaluate()
        report = check_sync(algorithm)
        result["held"] = sorted({row.policy for row in report})
        result["in_sync"] = report.ok
        result["third"] = str(snapshot(algorithm, "third").weights_digest)


@pytest.mark.long
@STACKS
def test_a_trial_that_crashed_has_it_again(life: Life, tmp_path: Path) -> None:
    """In Tune, which restores into the config that the trial began with."""
    config = life.own.configured(runners=1, evals=1)
    users = CallbackFactory(Adds, {}, parts.crash(tmp_path, 3))
    if life.stack == "new":
        config.callbacks(users, on_algorithm_init=restore_added_policies)
    else:
        config.callbacks(users)  # RLlib brings back the old stack's policies by itself
    (result,) = parts.run(config, tmp_path / "tune", 4, failures=1)
    assert result.error is None
    assert (tmp_path / "crashed").exists()
    assert result.metrics["training_iteration"] == 4
    assert result.metrics["held"] == ["foe", "main", "third"]
    assert result.metrics["in_sync"]
    assert len(set(result.metrics_dataframe["third"])) == 1  # not trained, and never another


@pytest.mark.long
@pytest.mark.parametrize("stack", ["new"], scope="module")
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_runners_that_rllib_does_not_reach(life: Life, tmp_path: Path, scheme: str) -> None:
    """Busy ones, as they are just after they were made; and those with newer numbers."""
    path = str(tmp_path / "checkpoint")
    with life.own.built(life.own.configured(runners=2)) as algo:
        algo.train()
        algo.save_to_path(path)
        held = snapshot_all(algo)
    config = life.own.configured(runners=2, evals=1).callbacks(
        on_algorithm_init=restore_added_policies
    )
    with life.own.built(config) as algo:
        algo.restore_from_path(scheme + path)  # at once
        life.own.assert_held(algo, held)
        for _ in range(3):
            algo.train()
        algo.restore_from_path(scheme + path)
        life.own.assert_held(algo, held)
        assert {row.seq for row in check_sync(algo)} == {1}
        algo.train()
        assert {row.seq for row in check_sync(algo) if row.worker.startswith("train")} == {2}


@pytest.mark.long
@pytest.mark.parametrize("stack", ["new"], scope="module")
def test_what_rllib_added_comes_back_too(life: Life, tmp_path: Path) -> None:
    """Without a word of policystore in the Algorithm that wrote the checkpoint."""
    own = life.own
    with own.built(own.configured()) as algo:
        like = algo.get_module("foe")
        algo.add_module(
            "late",
            RLModuleSpec(
                module_class=type(like),
                observation_space=like.observation_space,
                action_space=like.action_space,
                model_config={"fcnet_hiddens": [5]},
            ),
            new_should_module_be_updated=["main", "late"],
        )
        algo.train()
        algo.save(str(tmp_path))
        held = snapshot_all(algo)
    with own.built(own.configured(runners=1)) as algo:
        restore_added_policies(algo)
        restore_added_policies(algo)  # once is enough
        algo.restore(str(tmp_path))
        own.assert_held(algo, held)


@pytest.mark.long
@pytest.mark.parametrize("stack", ["new"], scope="module")
def test_what_cannot_come_back_is_named(life: Life, tmp_path: Path, monkeypatch: Any) -> None:
    copy = tmp_path / "checkpoint"
    shutil.copytree(life.folder, copy)
    made_of = copy / "learner_group" / "learner" / "rl_module" / "third"
    (made_of / "class_and_ctor_args.pkl").write_bytes(b"\x80\x04cnowhere\nNothing\n.")
    with life.own.built(life.config(workers=False)) as algo:
        was: dict[str, Snapshot] = snapshot_all(algo)
        with pytest.raises(MismatchError, match="could not be added: 'third' .*nowhere"):
            algo.restore(str(copy))
        assert snapshot_all(algo) == was
        algo.train()


@pytest.mark.long
@pytest.mark.parametrize("stack", ["new"], scope="module")
def test_what_the_checkpoint_lacks_is_said(life: Life, tmp_path: Path, caplog: Any) -> None:
    own = life.own
    with own.built(own.configured()) as algo:
        algo.save(str(tmp_path))
        held = snapshot_all(algo)
    config = own.configured().multi_agent(policies={"main", "foe", "more"})
    with own.built(config) as algo:
        restore_added_policies(algo)
        kept = snapshot(algo, "more")
        algo.restore(str(tmp_path))
        own.assert_held(algo, {**held, "more": kept})
    assert "has no module 'more', so that module keeps its present weights" in caplog.text
