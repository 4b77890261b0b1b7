"""Policies that are pushed while they are trained, on both stacks and through Tune."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import tune
from ray.rllib.callbacks.callbacks import RLlibCallback

import tests.support.tune_runs as parts
from policystore import (
    FormatError,
    InvalidInputError,
    NotFoundError,
    PolicyStore,
    PolicyStoreError,
    ReadOnlyError,
    StorageError,
)
from policystore.rllib import check_sync, publish, snapshot_all, warm_start
from policystore.rllib.callbacks import upload_queue
from tests.support import waiting
from tests.support.cells import sampled

BY_POLICY = {"new": "module_episode_returns_mean", "old": "policy_reward_mean"}
STACKS = pytest.mark.parametrize("stack", ["new", "old"])
OLD = pytest.mark.parametrize("stack", sampled(["new", "old"], "old"))


@pytest.fixture
def own(stack: str, ray_session: None) -> Any:
    return parts.PARTS[stack]


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    return PolicyStore(tmp_path / "store")


class Scores(RLlibCallback):
    """The user's own: a number to compare by."""

    def __init__(self, values: Any = (3.0, 9.0, 4.0, 1.0, 7.0, 2.0)) -> None:
        super().__init__()
        self._values = values

    def on_train_result(self, *, algorithm: Any, result: Any, **_: Any) -> None:
        result["score"] = self._values[algorithm.iteration - 1]


class Waits(RLlibCallback):
    """Goes on when something was pushed."""

    def __init__(self, url: str, name: str) -> None:
        super().__init__()
        self._store, self._name = PolicyStore(url), name

    def on_train_result(self, **_: Any) -> None:
        end = time.monotonic() + 60
        while self._name not in self._store.names():
            assert time.monotonic() < end
            time.sleep(0.05)


class Pushed(RLlibCallback):
    """Goes on in an iteration when two policies of all earlier iterations were pushed."""

    def __init__(self, url: str, iteration: int) -> None:
        super().__init__()
        self._store, self._iteration = PolicyStore(url), iteration

    def on_train_result(self, *, algorithm: Any, **_: Any) -> None:
        if algorithm.iteration == self._iteration:
            waiting.until(self._all_are_there)

    def _all_are_there(self) -> bool:
        pushed = [len(self._store.log(name)) for name in self._store.names()]
        return sum(pushed) >= 2 * (self._iteration - 1)


def until(algo: Any, condition: Any) -> Any:
    """Train on until a result shows it."""
    end = time.monotonic() + 60
    while True:
        status = algo.train()["policystore"]["publish"]["main"]
        if condition(status):
            return status
        assert time.monotonic() < end, status


@STACKS
@pytest.mark.parametrize("runners", [0, pytest.param(1, marks=pytest.mark.long)])
def test_what_is_pushed_is_what_was_held(
    own: Any, store: PolicyStore, runners: int, stack: str
) -> None:
    names = {"main": "duo/main", "foe": "duo/{trial}/foe"}
    config = own.configured(runners=runners)
    config.callbacks(
        publish(
            store,
            names,
            interval=2,
            metric=f"env_runners/{BY_POLICY[stack]}/{{policy}}",
            max_pending=9,
        )
    )
    held = {}
    with own.built(config) as algo:
        assert not store.names()
        for iteration in range(1, 7):
            result = algo.train()
            if iteration % 2 == 0:
                held[iteration] = snapshot_all(algo), result["env_runners"][BY_POLICY[stack]]
    (foe,) = (name for name in store.names() if name.endswith("/foe"))
    for name, pid in (("duo/main", "main"), (foe, "foe")):
        versions = list(reversed(store.log(name)))
        metric = f"env_runners/{BY_POLICY[stack]}/{pid}"
        assert [version.metrics["iteration"] for version in versions] == [2, 4, 6]
        for version in versions:
            snaps, returns = held[version.metrics["iteration"]]
            assert version.digest == snaps[pid].digest
            assert version.metrics[metric] == pytest.approx(returns[pid])
            assert version.metrics["env_steps"] > 0
            assert version.source["policy"] == pid
        values = [version.metrics[metric] for version in versions]
        assert store.tags(name)["best"].number == values.index(max(values)) + 1
    shown = result["policystore"]["publish"]["main"]
    if shown["pushed"]:
        assert str(store.log("duo/main")[-shown["pushed"]].digest) == shown["digest"]
    assert shown["failed"] == shown["skipped"] == 0


@OLD
@pytest.mark.long
def test_reports_name_what_was_pushed(own: Any, store: PolicyStore, stack: str) -> None:
    made = publish(store, {"main": "duo/main", "foe": "duo/foe"})
    with own.built(own.configured().callbacks(made)) as algo:
        until(algo, lambda _: set(store.names()) == {"duo/main", "duo/foe"})
        algo.train()
        for row in check_sync(algo, ["foe"]):
            assert row.ref is not None
            assert row.ref.startswith("duo/foe@")


@OLD
def test_beside_others(own: Any, store: PolicyStore, stack: str) -> None:
    made = publish(store, {"main": "duo/main"}, metric="score", max_pending=9)
    forms = {
        "with the user's": publish(store, {"main": "duo/other"}, metric="score", callbacks=Scores)
    }
    if stack == "new":
        forms["a list"] = [Scores, made]
    with own.built(own.configured().callbacks(forms["with the user's"])) as algo:
        algo.train()
    assert store.log("duo/other")[0].metrics["score"] == 3.0
    forms["both of ours"] = warm_start(store, {"main": "duo/other"}, callbacks=[Scores, made])
    for form in list(forms)[1:]:
        with own.built(own.configured().callbacks(forms[form])) as algo:
            for _ in range(3):
                result = algo.train()
            assert result["score"] == 4.0
        newest = store.log("duo/main")[0]
        assert (newest.metrics["iteration"], newest.metrics["score"]) == (3, 4.0)
        assert store.tags("duo/main")["best"].metrics["score"] == 9.0


# What goes wrong with the store ------------------------------------------------------------------


@pytest.fixture
def slow(store: PolicyStore, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls of ``push`` do what is in ``slow.then``."""
    from types import SimpleNamespace

    monkeypatch.setattr(upload_queue, "_FIRST_PAUSE", 0.001)
    found = SimpleNamespace(then=lambda: None)
    push = store.push

    def pushing(*args: Any, **kwargs: Any) -> Any:
        found.then()
        return push(*args, **kwargs)

    monkeypatch.setattr(store, "push", pushing)
    return found


def in_process(own: Any, store: PolicyStore, **options: Any) -> Any:
    """Callbacks with this very store, not a copy of it that went through a pickle."""
    from policystore.rllib.callbacks.factory import CallbackFactory
    from policystore.rllib.callbacks.publish import Publish

    made = publish(store, {"main": "duo/main"}, **options)

    class Here(CallbackFactory):
        def __deepcopy__(self, memo: Any) -> Any:
            return self

        def __reduce__(self) -> Any:
            return publish, (store.url, {"main": "duo/main"})

    here = Here(Publish, made.settings, made.callbacks)
    return own.configured().callbacks(here)


@OLD
def test_a_slow_store_stops_no_training(own: Any, store: PolicyStore, slow: Any) -> None:
    import threading

    gate = threading.Event()
    slow.then = lambda: gate.wait(60)
    algo = in_process(own, store, max_pending=2).build_algo()
    for _ in range(5):
        result = algo.train()  # with a push under way all the time
    status = result["policystore"]["publish"]["main"]
    assert (status["waiting"], status["skipped"], status["pushed"]) == (3, 2, None)
    gate.set()
    algo.stop()
    assert [version.metrics["iteration"] for version in store.log("duo/main")] == [5, 4, 1]


@OLD
def test_an_absent_store_is_reported_and_raised_at_the_end(
    own: Any, store: PolicyStore, slow: Any, caplog: Any
) -> None:
    def away() -> None:
        raise StorageError("the bucket is away")

    slow.then = away
    algo = in_process(own, store).build_algo()
    status = until(algo, lambda status: status["failed"])
    assert "the bucket is away" in status["error"]
    slow.then = lambda: None
    until(algo, lambda status: status["pushed"] and status["error"] is None)
    with pytest.raises(StorageError, match="copies were not pushed:\n.*the bucket is away"):
        algo.stop()
    assert "copies were not pushed" in caplog.text
    algo.stop()  # says it once
    assert store.log("duo/main")


@OLD
def test_a_store_that_refuses_ends_the_training(own: Any, store: PolicyStore, slow: Any) -> None:
    def refuse() -> None:
        raise ReadOnlyError("you may not write")

    slow.then = refuse
    algo = in_process(own, store).build_algo()
    end = time.monotonic() + 60
    with pytest.raises(
        ReadOnlyError, match="publish of policy 'main' .* to 'duo/main' in .*not wr"
    ):
        while time.monotonic() < end:
            algo.train()
    with pytest.raises(StorageError, match="you may not write"):
        algo.stop()


@pytest.mark.long
@STACKS
def test_a_metric_that_is_not_there(own: Any, store: PolicyStore) -> None:
    made = publish(store, {"main": "duo/main"}, metric="env_runners/epsode_return_mean")
    with (
        own.built(own.configured().callbacks(made)) as algo,
        pytest.raises(NotFoundError, match="Did you mean 'env_runners/episode_return_mean'"),
    ):
        algo.train()
    assert not store.names()


@pytest.mark.long
@pytest.mark.parametrize("stack", ["new"])
def test_a_metric_that_is_no_number(own: Any, store: PolicyStore) -> None:
    """Infinite, an array, a text: pushed, and never the best."""
    values = (2.0, float("inf"), np.ones(3), "7", float("nan"), 1.0)
    made = publish(store, {"main": "duo/main"}, metric="score", max_pending=9, timeout=float("inf"))
    with own.built(own.configured().callbacks([partial(Scores, values), made])) as algo:
        for _ in values:
            algo.train()
    versions = store.log("duo/main")
    assert [version.metrics.get("score") for version in reversed(versions)] == [
        2.0, None, None, None, None, 1.0,
    ]  # fmt: skip
    assert store.tags("duo/main")["best"].number == 1


# Wrong arguments ---------------------------------------------------------------------------------


def test_wrong_arguments(store: PolicyStore, tmp_path: Path) -> None:
    names = {"main": "duo/main"}
    wrong: list[tuple[Any, dict[str, Any]]] = [
        ({}, {}), (["main"], {}), ({7: "a"}, {}), ({"main": 7}, {}), ({"main": "a//b"}, {}),
        ({"main": "a", "foe": "a"}, {}), ({"main": "{run}"}, {}),
        (names, {"interval": 0}), (names, {"interval": 1.5}), (names, {"interval": True}),
        (names, {"max_pending": 0}), (names, {"mode": "best"}), (names, {"metric": 3}),
        (names, {"mode": "min"}), (names, {"metric": "env_runners/{policy_id}"}),
        ({"main": "a" * 50 + "{trial}"}, {}), ({"main": "duo/{trail}"}, {}), (names, {"metric": ""}), (names, {"timeout": -1}), (names, {"timeout": "1"}),
        (names, {"callbacks": 3}),
    ]  # fmt: skip
    for policies, options in wrong:
        with pytest.raises(InvalidInputError):
            publish(store, policies, **options)
    with pytest.raises(ReadOnlyError, match="publish"):
        publish(PolicyStore(tmp_path, read_only=True), names)


@STACKS
def test_a_policy_that_the_config_lacks(own: Any, store: PolicyStore) -> None:
    config = own.configured().callbacks(publish(store, {"fo": "duo/main"}))
    with pytest.raises(NotFoundError, match="publish of 'fo' to 'duo/main' in .* mean 'foe'"):
        config.build_algo()


@pytest.mark.long
@pytest.mark.parametrize("stack", ["new"])
def test_what_is_no_store(own: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a store")
    config = own.configured().callbacks(publish(tmp_path, {"main": "duo/main"}))
    with own.built(config) as algo, pytest.raises(FormatError, match="publish of 'main' to"):
        algo.train()


# Tune --------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("stack", sampled(["new", "old"], "new", wide=["old"]))
def test_a_trial_that_crashes_pushes_nothing_twice(
    own: Any, store: PolicyStore, tmp_path: Path
) -> None:
    """It dies in its fourth iteration, and goes on from the checkpoint of its third or second."""
    config = own.configured()
    config.callbacks(
        publish(
            store,
            {"main": "duo/main", "foe": "duo/{trial}/foe"},
            metric="score",
            max_pending=9,
            # What waits in the process that dies would be lost.
            callbacks=[Scores, partial(Pushed, store.url, 4), parts.crash(tmp_path, 4)],
        )
    )
    (result,) = parts.run(config, tmp_path / "tune", 6, failures=1)
    assert result.error is None
    assert (tmp_path / "crashed").exists()
    (foe,) = (name for name in store.names() if name.endswith("/foe"))
    for name in ("duo/main", foe):
        pushed = [version.metrics["iteration"] for version in reversed(store.log(name))]
        assert len(pushed) == len(set(pushed))
        assert {1, 2, 5, 6} <= set(pushed)
        assert store.tags(name)["best"].metrics["score"] == 9.0
        (run,) = {version.source["run"] for version in store.log(name)}
        assert result.path.endswith(run)
    shown = result.metrics["policystore"]["publish"]["main"]
    assert str(store.log("duo/main")[-shown["pushed"]].digest) == shown["digest"]


@pytest.mark.long
@pytest.mark.parametrize("stack", ["new"])
def test_a_trial_that_begins_anew_pushes_nothing_twice(
    own: Any, store: PolicyStore, tmp_path: Path
) -> None:
    """It dies before its first checkpoint; and its folder has a long name."""
    config = own.configured()
    many = {"lr": 1e-4, "gamma": 0.9, "lambda_": 0.5, "clip_param": 0.25, "vf_clip_param": 7.5,
            "vf_loss_coeff": 0.75, "grad_clip": 3.25, "kl_coeff": 0.125}  # fmt: skip
    config.training(**{name: tune.grid_search([value]) for name, value in many.items()})
    made = publish(store, {"main": "duo/main", "foe": "{trial}/foe"}, max_pending=9)
    others = [partial(Waits, store.url, "duo/main"), parts.crash(tmp_path, 1)]
    config.callbacks([made, *others])
    (result,) = parts.run(config, tmp_path / "tune", 2, failures=1)
    assert result.error is None
    assert (tmp_path / "crashed").exists()
    assert len(Path(result.path).name) > 100
    (foe,) = (name for name in store.names() if name.endswith("/foe"))
    for name in ("duo/main", foe):
        assert [version.metrics["iteration"] for version in store.log(name)] == [2, 1]


@pytest.mark.long
@pytest.mark.parametrize("stack", ["new"])
def test_a_trial_says_why_it_failed(own: Any, store: PolicyStore, tmp_path: Path) -> None:
    config = own.configured().callbacks(publish(store, {"nobody": "duo/main"}))
    (result,) = parts.run(config, tmp_path / "tune", 1)
    assert isinstance(result.error, PolicyStoreError)
    assert "publish of 'nobody' to 'duo/main' in" in str(result.error)
