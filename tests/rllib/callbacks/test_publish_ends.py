"""The first and the last version of a run: their parent, and when the last copy is made.

The Algorithm is an imitation with the calls of RLlib's that ``publish`` wraps.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.rllib.algorithms.algorithm import Algorithm

from policystore import NotFoundError, PolicyStore, ReadOnlyError, StorageError
from policystore.backends.base import Backend
from policystore.rllib import publish
from policystore.rllib.callbacks.lineage import Ancestor, start_of
from policystore.rllib.callbacks.publish import Publish
from policystore.rllib.callbacks.restore import block_until_restored
from policystore.testing import make_snapshot
from policystore.testing.storage import Intercepted


class Imitation:
    """An Algorithm of the old stack, whose weights are the number of the iteration."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(
            enable_rl_module_and_learner=False, policies={"main"}, evaluation_interval=None
        )
        self.iteration = 0
        self.calls: list[str] = []
        self.fails = False

    def step(self) -> dict[str, Any]:
        if self.fails:
            raise ZeroDivisionError
        return {"env_runners": {"num_episodes": 1, "episode_return_mean": float(self.iteration)}}

    def training_step(self) -> None: ...

    def evaluate(self) -> None: ...

    def save_checkpoint(self) -> None: ...

    def save_to_path(self) -> None: ...

    def cleanup(self) -> None:
        self.calls.append("cleanup")

    def __getstate__(self) -> dict[str, Any]:
        return {"training_iteration": self.iteration}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.iteration = state["training_iteration"]


class Run:
    """An imitated Algorithm with ``publish``, trained and stopped as RLlib does it."""

    def __init__(self, store: PolicyStore, monkeypatch: pytest.MonkeyPatch, **given: Any) -> None:
        settings = publish(store, {"main": "a"}, **given).settings
        self.algo = Imitation()
        self.callbacks = Publish(**{**settings, "store": store})
        self.snapshots = 0

        def snapshot(*_: Any) -> Any:
            self.snapshots += 1
            return make_snapshot(self.algo.iteration)

        monkeypatch.setattr(self.callbacks, "_snapshot", snapshot)
        monkeypatch.setattr("policystore.rllib.callbacks.publish.restore_added_policies", id)
        self.callbacks.on_algorithm_init(algorithm=self.algorithm)

    @property
    def algorithm(self) -> Algorithm:
        algorithm: Any = self.algo
        return algorithm

    def train(self, iterations: int) -> Any:
        for _ in range(iterations):
            result = self.algo.step()
            self.algo.iteration += 1
            result["training_iteration"] = self.algo.iteration
            self.callbacks.on_train_result(algorithm=self.algorithm, result=result)
        return result["policystore"]["publish"]["main"]

    def stop(self) -> None:
        self.algo.cleanup()


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    return PolicyStore(tmp_path / "store")


def iterations(store: PolicyStore) -> list[Any]:
    return [each.metrics["iteration"] for each in reversed(store.log("a"))] if store.names() else []


class _OnlyReading(Intercepted):
    """A bucket that lets this user only read; it refuses also a write that it would turn down."""

    def __init__(self, store: PolicyStore) -> None:
        super().__init__(store._backend)
        self.writes: list[str] = []

    def create(self, key: str, data: bytes) -> bool:  # type: ignore[override]
        self.writes.append(key)
        raise ReadOnlyError("you may only read")


def test_a_store_without_the_right_to_write_is_found_before_training(
    store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.push(make_snapshot(0), "a")
    bucket = _OnlyReading(store)
    run = Run(PolicyStore.over(cast(Backend, bucket)), monkeypatch)
    with pytest.raises(ReadOnlyError, match="publish of 'main' to 'a' in .*: you may only read"):
        run.algo.training_step()
    assert bucket.writes == ["policystore.json"]


def test_the_check_of_the_right_to_write_changes_nothing(
    store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    Run(store, monkeypatch).algo.training_step()
    assert not Path(store.url).exists()  # the first push makes the store
    store.push(make_snapshot(0), "a")
    before = {path: path.read_bytes() for path in Path(store.url).rglob("*") if path.is_file()}
    Run(store, monkeypatch).algo.training_step()
    after = {path: path.read_bytes() for path in Path(store.url).rglob("*") if path.is_file()}
    assert after == before


# The last copy -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "trained", "pushed"),
    [(3, 0, []), (3, 2, [2]), (3, 3, [3]), (3, 4, [3, 4]), (3, 6, [3, 6]), (1, 2, [1, 2])],
)
def test_the_last_iteration_is_pushed_once(
    store: PolicyStore, monkeypatch: Any, interval: int, trained: int, pushed: list[int]
) -> None:
    run = Run(store, monkeypatch, interval=interval, metric="env_runners/episode_return_mean")
    if trained:
        run.train(trained)
    for _ in range(2):
        run.stop()
    assert iterations(store) == pushed
    assert run.algo.calls == ["cleanup"] * 2
    assert run.snapshots == 1 + len(pushed)  # one when the Algorithm is built
    for version in store.log("a") if pushed else []:
        iteration = version.metrics["iteration"]
        assert version.digest == make_snapshot(iteration).digest
        assert version.metrics["env_runners/episode_return_mean"] == iteration - 1
        assert version.source["iteration"] == iteration
    if pushed:
        assert store.tags("a")["best"].metrics["iteration"] == pushed[-1]


def test_weights_of_a_failed_iteration_are_not_pushed(store: PolicyStore, monkeypatch: Any) -> None:
    run = Run(store, monkeypatch, interval=3)
    run.train(4)
    run.algo.fails = True
    with pytest.raises(ZeroDivisionError):
        run.train(1)
    run.stop()
    assert iterations(store) == [3]


def test_restored_weights_are_not_pushed(store: PolicyStore, monkeypatch: Any) -> None:
    run = Run(store, monkeypatch, interval=3)
    run.train(2)
    state = run.algo.__getstate__()
    run.algo.__setstate__(state)
    run.stop()
    assert iterations(store) == []


def test_a_last_copy_that_fails_keeps_no_worker_alive(store: PolicyStore, monkeypatch: Any) -> None:
    run = Run(store, monkeypatch, interval=3)
    run.train(2)

    def fail(*_: Any) -> Any:
        raise RuntimeError("the learner is gone")

    monkeypatch.setattr(run.callbacks, "_snapshot", fail)
    with pytest.raises(StorageError, match="policy 'main' of iteration 2: the learner is gone"):
        run.stop()
    assert run.algo.calls == ["cleanup"]
    run.stop()


# The first version -------------------------------------------------------------------------------


def test_the_first_version_descends_from_the_warm_start(
    store: PolicyStore, monkeypatch: Any
) -> None:
    begun = store.push(make_snapshot(77), "start")
    run = Run(store, monkeypatch)
    # warm_start may be called after publish, and a checkpoint may come before the first version.
    start_of(run.algorithm)["main"] = Ancestor(0, begun.digest, pushed=True)
    record = run.algo.__getstate__()["policystore_publish"]
    assert record["copies"] == {"main": [[0, str(begun.digest), True]]}
    run.train(2)
    run.stop()
    second, first = store.log("a")
    assert first.parents == (begun.digest,)
    assert second.parents == (first.digest,)


def test_a_warm_start_from_another_store_is_no_parent(store: PolicyStore, monkeypatch: Any) -> None:
    run = Run(store, monkeypatch)
    start_of(run.algorithm)["main"] = Ancestor(0, make_snapshot(77).digest, pushed=True)
    run.train(2)
    run.stop()
    assert store.log("a")[1].parents == ()


def test_a_restored_run_does_not_descend_from_its_warm_start(
    store: PolicyStore, monkeypatch: Any
) -> None:
    begun = store.push(make_snapshot(77), "start")
    run = Run(store, monkeypatch)
    start_of(run.algorithm)["main"] = Ancestor(0, begun.digest, pushed=True)
    run.algo.__setstate__({"training_iteration": 5})  # the store has no policy of iteration 5
    run.train(1)
    run.stop()
    assert store.log("a")[0].parents == ()


# The metric --------------------------------------------------------------------------------------


def test_a_mistake_in_the_metric_ends_the_first_iteration(
    store: PolicyStore, monkeypatch: Any
) -> None:
    run = Run(store, monkeypatch, interval=10, metric="episode_return_mean")
    with pytest.raises(
        NotFoundError, match="publish of 'main' to 'a' in .*mean 'env_runners/episode_return_mean'"
    ):
        run.train(1)
    run.stop()
    assert not store.names()


# The trial ---------------------------------------------------------------------------------------


def test_versions_name_the_hyperparameters(store: PolicyStore, monkeypatch: Any) -> None:
    told: list[Any] = [None, None, {"params": {"lr": 0.5}}]
    monkeypatch.setattr(
        "policystore.rllib.callbacks.trial.TrialParams.source",
        lambda _: told[0] if len(told) == 1 else told.pop(0),
    )
    monkeypatch.setattr("policystore.rllib.callbacks.upload_versions._TRIAL_PAUSE", 0.001)
    run = Run(store, monkeypatch)
    shown = run.train(1)
    run.stop()
    assert shown["store"] == store.url
    assert store.log("a")[0].source == {
        "run": shown["run"], "policy": "main", "iteration": 1, "params": {"lr": 0.5},
    }  # fmt: skip


# Blocked Algorithms ------------------------------------------------------------------------------


def test_a_block_that_is_lifted_leaves_other_wrappers_in_place(
    store: PolicyStore, monkeypatch: Any
) -> None:
    """A warm start may have blocked the Algorithm before ``publish`` wraps its ``step``."""
    from policystore.rllib.callbacks.restore import _unblock

    run = Run(store, monkeypatch, interval=3)
    for text in ("the first", "the second"):
        block_until_restored(run.algorithm, NotFoundError(text))
        with pytest.raises(NotFoundError, match=text):
            run.train(1)
    _unblock(run.algorithm)
    run.train(4)
    run.algo.fails = True
    with pytest.raises(ZeroDivisionError):
        run.train(1)
    run.stop()
    assert iterations(store) == [3]
