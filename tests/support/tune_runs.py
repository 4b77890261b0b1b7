"""Run experiments with Tune on tiny policies, and read what their workers recorded."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune
from ray.rllib.algorithms.callbacks import DefaultCallbacks
from ray.rllib.algorithms.ppo import PPO
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from policystore import PolicyStore, Snapshot
from policystore.rllib import snapshot_all
from tests.support import new_stack_algorithms, old_stack_algorithms
from tests.support.added_modules import Trio
from tests.support.new_stack_algorithms import until

PARTS = {"new": new_stack_algorithms, "old": old_stack_algorithms}
Prints = dict[str, dict[str, str]]


def prints_of(arrays: Mapping[str, Mapping[str, Any]]) -> Prints:
    """Return a short hash of each array of each policy."""
    return {
        pid: {
            name: hashlib.sha256(np.asarray(array).tobytes()).hexdigest()[:12]
            for name, array in named.items()
        }
        for pid, named in arrays.items()
    }


def expected(snap: Snapshot) -> dict[str, str]:
    """Return the hashes of the weights of a snapshot that acting needs."""
    acting = new_stack_algorithms.acting(snap) if snap.spec.stack == "new" else set(snap.weights)
    found = prints_of({"": {name: snap.weights[name] for name in acting}})
    return found[""]


def trio(stack: str) -> Any:
    """Return a config: ``main`` for agents ``a`` and ``b``, ``c`` for agent ``c``."""
    config = PARTS[stack].configured(runners=1).environment(Trio)
    return config.multi_agent(
        policies={"main", "c"},
        policy_mapping_fn=lambda agent, *_, **__: "c" if agent == "c" else "main",
        policies_to_train=["c"],
    )


class Diary(DefaultCallbacks):
    """Records in files the weights of workers at each episode, and of learners after training."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = Path(folder)
        self._mine: Path | None = None

    def _note(self, kind: str, **found: Any) -> None:
        if self._mine is None:
            count = len(list(self._folder.iterdir()))
            self._mine = self._folder / f"{count:04d}-{os.getpid()}.jsonl"
        with self._mine.open("a") as file:
            file.write(json.dumps({"kind": kind, **found}) + "\n")

    def on_episode_start(self, *, env_runner: Any = None, worker: Any = None, **_: Any) -> None:
        runner = env_runner or worker
        if hasattr(runner, "policy_map"):
            arrays = {pid: runner.policy_map[pid].get_weights() for pid in runner.policy_map}
            evaluating = runner.config.in_evaluation
        else:
            arrays = new_stack_algorithms.arrays_of(runner.module)
            evaluating = runner.config.in_evaluation
        self._note("episode", evaluating=bool(evaluating), prints=prints_of(arrays))

    def on_train_result(self, *, algorithm: Any, result: Any, **_: Any) -> None:
        held = {pid: expected(snap) for pid, snap in snapshot_all(algorithm).items()}
        found = result.get("policystore")
        self._note("result", trial=algorithm.config.lr, iteration=algorithm.iteration,
                   prints=held, reported=found)  # fmt: skip

    def on_checkpoint_loaded(self, *, algorithm: Any, **_: Any) -> None:
        self._note("restored", trial=algorithm.config.lr, iteration=algorithm.iteration)


class Crash(DefaultCallbacks):
    """Ends the process of a trial, once in an experiment."""

    def __init__(self, flag: str, iteration: int) -> None:
        super().__init__()
        self._flag = Path(flag)
        self._iteration = iteration

    def on_train_result(self, *, algorithm: Any, **_: Any) -> None:
        if algorithm.iteration != self._iteration:
            return
        try:
            self._flag.touch(exist_ok=False)
        except FileExistsError:
            return
        os._exit(1)


class CrashAfterPush(Crash):
    """Ends the process of a trial once, when the store has a version of the iteration.

    Each process draws its actions with a seed of its own, so that a repeated iteration learns other
    weights.
    """

    def __init__(self, flag: str, iteration: int, store: PolicyStore, name: str) -> None:
        super().__init__(flag, iteration)
        self._store, self._name = store, name

    def on_algorithm_init(self, *, algorithm: Any, **_: Any) -> None:
        torch.manual_seed(os.getpid())

    def on_train_result(self, *, algorithm: Any, **kwargs: Any) -> None:
        if algorithm.iteration == self._iteration:
            until(self._has_version, "the snapshot is pushed")
        super().on_train_result(algorithm=algorithm, **kwargs)

    def _has_version(self) -> bool:
        newest = self._store.log(self._name, limit=1)[0]
        return bool(newest.source["iteration"] == self._iteration)


class PauseOnce(FIFOScheduler):  # type: ignore[misc]
    """Pauses each trial once, after ``iteration`` iterations; another actor continues the trial."""

    def __init__(self, iteration: int) -> None:
        super().__init__()
        self._iteration = iteration
        self._paused: set[str] = set()

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if result["training_iteration"] == self._iteration and trial.trial_id not in self._paused:
            self._paused.add(trial.trial_id)
            return str(TrialScheduler.PAUSE)
        return str(TrialScheduler.CONTINUE)


def diary(folder: Path) -> Any:
    """Return callbacks that write into a folder."""
    folder.mkdir(exist_ok=True)
    return partial(Diary, str(folder))


def crash(tmp_path: Path, iteration: int) -> Any:
    return partial(Crash, str(tmp_path / "crashed"), iteration)


def notes(folder: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield the records of each process, in order."""
    for file in sorted(folder.iterdir()):
        yield [json.loads(line) for line in file.read_text().splitlines()]


def within(wanted: dict[str, str], held: dict[str, str]) -> bool:
    """Return whether arrays of the same name have the same hash."""
    names = wanted.keys() & held.keys()
    assert names
    return all(wanted[name] == held[name] for name in names)


def run(
    config: Any, folder: Path, iterations: int, *, by: str = "Tuner", failures: int = 0, **more: Any
) -> list[Any]:
    """Run an experiment, and return the results of its trials."""
    scheduler = more.pop("scheduler", None)
    if by == "tune.run":
        done = tune.run(
            PPO, config=config, stop={"training_iteration": iterations}, verbose=0,
            storage_path=str(folder), max_failures=failures, scheduler=scheduler,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
            raise_on_failed_trial=False, **more,
        )  # fmt: skip
        return [tune.ResultGrid(done)[i] for i in range(len(done.trials))]
    tuner = tune.Tuner(
        PPO,
        param_space=config,
        tune_config=tune.TuneConfig(scheduler=scheduler),
        run_config=tune.RunConfig(
            storage_path=str(folder),
            stop={"training_iteration": iterations},
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=failures),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
            **more,
        ),
    )
    grid = tuner.fit()
    return [grid[i] for i in range(len(grid))]
