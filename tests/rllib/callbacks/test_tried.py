"""Warm starts, publishing and restores, on Algorithms of all kinds and with Tune's schedulers.

``tests/support/tried_cells.py`` lists the cells, and docs/running.md shows them as a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.rllib.algorithms.callbacks import DefaultCallbacks
from ray.rllib.algorithms.ppo import PPO
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining

import tests.support.tried_algorithms as parts
import tests.support.tune_runs as tuning
from policystore import PolicyStore, Snapshot
from policystore.rllib import check_sync, publish, snapshot_all, warm_start
from tests.support.new_stack_algorithms import other, until
from tests.support.tried_cells import CALLBACKS, Cell, tried

pytestmark = [
    pytest.mark.long,
    # RLlib's metrics take the mean of lists that are still empty (utils/metrics/window_stat.py).
    pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Degrees of freedom <= 0:RuntimeWarning"),
    # RLlib's reader of recorded steps closes no files (offline/json_reader.py).
    pytest.mark.filterwarnings("ignore:.*FileIO:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:Consider boosting PBT performance:UserWarning"),
]


class Life:
    """An Algorithm that began with pushed weights and has published its policies twice."""

    def __init__(self, name: str, folder: Path) -> None:
        self.store, self.folder = PolicyStore(folder / "store"), folder
        self._name = name
        with parts.built(self._config("first")) as algo:
            self.began = {pid: other(snap, 2.0) for pid, snap in snapshot_all(algo).items()}
        for pid, snap in self.began.items():
            self.store.push(snap, f"begin/{pid}")
        config = self._config("second").callbacks(
            warm_start(
                self.store,
                {pid: f"begin/{pid}" for pid in self.began},
                callbacks=[publish(self.store, {pid: f"tuned/{pid}" for pid in self.began})],
            )
        )
        self.learned: list[dict[str, Snapshot]] = []
        self._running = parts.built(config)

    def _config(self, part: str) -> Any:
        return parts.CONFIGS[self._name](self.folder / part)

    def begin(self) -> None:
        self.algo = self._running.__enter__()

    def end(self) -> None:
        self._running.__exit__(None, None, None)

    def train(self) -> Any:
        result = self.algo.train()
        self.learned.append(snapshot_all(self.algo))
        return result


@pytest.fixture(scope="module")
def algo(
    request: pytest.FixtureRequest, ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Life | None]:
    """The Algorithm of a cell; None for Tune, which makes its own."""
    name, fault = request.param
    if fault:
        yield None
        return
    life = Life(name, tmp_path_factory.mktemp("tried"))
    life.begin()
    yield life
    life.end()


def try_warm_start(life: Life) -> None:
    """Before the first sample all workers hold what was pushed."""
    assert life.algo.iteration == 0
    parts.assert_held(life.algo, life.began)
    digests = {pid: str(snap.digest) for pid, snap in life.began.items()}
    for _ in range(2):
        assert life.train()["policystore"]["warm_start"] == digests


def try_publish(life: Life) -> None:
    """What is in the store is what the learners held after each iteration."""
    for _ in range(2 - len(life.learned)):
        life.train()

    def pushed() -> bool:
        names = set(life.store.names("tuned/"))
        wanted = {f"tuned/{pid}" for pid in life.began}
        return wanted <= names and all(len(list(life.store.log(n))) >= 2 for n in wanted)

    until(pushed, "two versions of each policy")
    asynchronous = type(life.algo).__name__ in ("IMPALA", "APPO")
    for pid in life.began:
        versions = list(life.store.log(f"tuned/{pid}"))[::-1]
        assert [version.metrics["iteration"] for version in versions[:2]] == [1, 2]
        for version, held in zip(versions, life.learned, strict=False):
            if not (asynchronous and pid == "main"):  # which may have learned since
                assert version.digest == held[pid].digest


def try_restore(life: Life) -> None:
    """All workers hold what the learners held at the checkpoint."""
    algo = life.algo
    algo.train()
    saved = snapshot_all(algo)
    path = str(life.folder / "checkpoint")
    algo.save(path)
    algo.train()
    algo.restore(path)
    if type(algo).__name__ not in ("IMPALA", "APPO"):
        parts.assert_held(algo, saved)
        assert {pid: snap.state_digest for pid, snap in snapshot_all(algo).items()} == {
            pid: snap.state_digest for pid, snap in saved.items()
        }

    def in_sync() -> bool:
        algo.train()
        return check_sync(algo).ok

    until(in_sync, "all workers are in sync")


CALLS: dict[str, Callable[[Life], None]] = {
    "warm_start": try_warm_start,
    "publish": try_publish,
    "restore": try_restore,
}


# Tune ---------------------------------------------------------------------------------------------


class Score(DefaultCallbacks):
    """The user's own: a value to compare trials by, and whether all workers are in sync."""

    def on_train_result(self, *, algorithm: Any, result: Any, **_: Any) -> None:
        result["score"] = 1000 * algorithm.config.lr + 0.01 * algorithm.iteration
        result["in_sync"] = check_sync(algorithm).ok


def scheduler(fault: str) -> Any:
    if fault == "ASHA stops trials":
        return ASHAScheduler(
            metric="score", mode="max", max_t=4, grace_period=1, reduction_factor=2
        )
    if fault == "trials are paused":
        return tuning.PauseOnce(2)
    if fault == "PBT exploits":
        return PopulationBasedTraining(
            time_attr="training_iteration",
            metric="score",
            mode="max",
            perturbation_interval=2,
            quantile_fraction=0.5,
            resample_probability=1.0,
            hyperparam_mutations={"lr": [0.01, 0.02, 0.03, 0.04]},
        )
    return None


def in_tune(cell: Cell, folder: Path) -> None:
    """All trials end without an error, begin with what was pushed, and push what they learned."""
    store, pages, pid = PolicyStore(folder / "store"), folder / "diary", "default_policy"
    config = parts.CONFIGS[cell.algorithm](folder)
    with parts.built(config.copy(copy_frozen=False)) as algo:
        algo.train()
        began = other(snapshot_all(algo)[pid], 2.0)
    store.push(began, "begin")
    mine = [tuning.diary(pages), Score]
    if cell.fault == "Tuner.restore":
        mine.append(tuning.crash(folder, 3))
    published = publish(store, {pid: "tuned/{trial}"}, metric="score", callbacks=mine)
    config.callbacks(warm_start(store, {pid: "begin"}, callbacks=[published]))
    config.training(lr=tune.grid_search([0.01, 0.02, 0.03]))
    tuner = tune.Tuner(
        PPO,
        param_space=config,
        tune_config=tune.TuneConfig(scheduler=scheduler(cell.fault), max_concurrent_trials=2),
        run_config=tune.RunConfig(
            storage_path=str(folder / "tune"),
            name="tried",
            stop={"training_iteration": 4},
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
        ),
    )
    results = tuner.fit()
    if cell.fault == "Tuner.restore":
        assert len(results.errors) == 1
        again = tune.Tuner.restore(
            str(folder / "tune" / "tried"), trainable=PPO, resume_errored=True, param_space=config
        )
        results = again.fit()
    assert [result.error for result in results] == [None] * 3
    assert all(set(result.metrics_dataframe["in_sync"]) == {True} for result in results)
    wanted = tuning.expected(began)
    everything = [line for page in tuning.notes(pages) for line in page]
    learned = [each["prints"][pid] for each in everything if each["kind"] == "result"]
    restored = [each for each in everything if each["kind"] == "restored"]
    assert bool(restored) == (cell.fault != "ASHA stops trials")
    for page in tuning.notes(pages):
        first = next((line for line in page if line["kind"] == "episode"), None)
        if first is not None:
            known = [wanted, *learned]
            assert any(tuning.within(each, first["prints"][pid]) for each in known)
    # Each trial's last weights are in the store.
    for result in results:
        last = [
            each["prints"][pid]
            for each in everything
            if each["kind"] == "result"
            and each["trial"] == result.config["lr"]
            and each["iteration"] == result.metrics["training_iteration"]
        ][-1]
        (name,) = (n for n in store.names("tuned/") if _trial_of(result) in n)
        pushed = [tuning.expected(store.pull(version)) for version in store.log(name)]
        assert last in pushed


def _trial_of(result: Any) -> str:
    """Return the part of a trial's folder name that is also in the name in the store."""
    return "_".join(Path(result.path).name.split("_")[2:4])


@tried(CALLBACKS)
def test_tried(algo: Life | None, cell: Cell, tmp_path: Path) -> None:
    if algo is None:
        in_tune(cell, tmp_path)
    else:
        CALLS[cell.call](algo)
