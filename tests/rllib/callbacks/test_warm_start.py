"""Warm starts: what users asked RLlib for, and what cannot be done, said before any sample."""

from __future__ import annotations

import inspect
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import cloudpickle
from ray.rllib.callbacks.callbacks import RLlibCallback

import tests.support.tune_runs as parts
from policystore import (
    InvalidInputError,
    MismatchError,
    NotFoundError,
    PolicyStore,
    Snapshot,
    StorageError,
)
from policystore.rllib import check_sync, snapshot, snapshot_all
from policystore.rllib.callbacks.warm_start import warm_start
from tests.support.cells import sampled

other = parts.new_stack_algorithms.other
STACKS = pytest.mark.parametrize("stack", ["new", "old"], scope="module")
OLD = pytest.mark.parametrize("stack", sampled(["new", "old"], "old"), scope="module")
NEW = pytest.mark.parametrize("stack", sampled(["new", "old"], "new"), scope="module")
NEW_BY_CI = pytest.mark.parametrize(
    "stack", sampled(["new", "old"], "new", wide=["old"]), scope="module"
)


class Pushed:
    """A store with what was pre-trained on the environment with two agents."""

    def __init__(self, stack: str, folder: Path) -> None:
        self.stack, self.own = stack, parts.PARTS[stack]
        self.store = PolicyStore(folder / "store")
        with self.own.built(self.own.configured()) as algo:
            self.snaps: dict[str, Snapshot] = {
                pid: other(snap, 4.0 + len(pid)) for pid, snap in snapshot_all(algo).items()
            }
        for pid, snap in self.snaps.items():
            self.store.push(snap, f"duo/{pid}")
        self.store.tag("duo/main", "champion")


@pytest.fixture(scope="module")
def pushed(stack: str, ray_session: None, tmp_path_factory: Any) -> Pushed:
    return Pushed(stack, tmp_path_factory.mktemp(stack))


# What users asked for ----------------------------------------------------------------------------


def foe_is_main(agent: str, *_: Any, **__: Any) -> str:
    return "main"


@NEW_BY_CI
def test_load_one_of_n_agents_and_keep_using_tune(pushed: Pushed, tmp_path: Path) -> None:
    """Of a trained pair one is taken, the other begins anew; and it is all Tune's."""
    pages = tmp_path / "diary"
    config = pushed.own.configured(runners=1)
    config.callbacks(
        warm_start(pushed.store, {"main": "duo/main@champion"}, callbacks=parts.diary(pages))
    )
    (result,) = parts.run(config, tmp_path / "tune", 1)
    assert result.error is None
    wanted = {pid: parts.expected(snap) for pid, snap in pushed.snaps.items()}
    episodes = [
        line["prints"] for page in parts.notes(pages) for line in page if line["kind"] == "episode"
    ]
    assert episodes
    for prints in episodes:
        assert parts.within(prints["main"], wanted["main"])
        assert not parts.within(prints["foe"], wanted["foe"])


@pytest.mark.long
@NEW
def test_my_new_policy_mapping_fn_is_overwritten_by_the_one_in_the_checkpoint(
    pushed: Pushed, tmp_path: Path
) -> None:
    config = pushed.own.configured(runners=1)
    config.multi_agent(policy_mapping_fn=foe_is_main)
    config.callbacks(warm_start(pushed.store, {pid: f"duo/{pid}" for pid in pushed.snaps}))
    with pushed.own.built(config) as algo:
        algo.train()
        for name, mapping in pushed.own.ask(algo, mapping_of).items():
            if name != "learner":
                assert [mapping(agent, None) for agent in "ab"] == ["main", "main"]
        pushed.own.assert_held(algo, {"foe": pushed.snaps["foe"]})


def mapping_of(worker: Any) -> Any:
    if hasattr(worker, "policy_map"):
        return worker.policy_mapping_fn
    return worker.config.policy_mapping_fn


@pytest.mark.long
@NEW_BY_CI
def test_a_restored_c_new_with_another_observation_space(pushed: Pushed, tmp_path: Path) -> None:
    """``main`` comes from a store of another environment; ``c`` sees something else, and is new."""
    pages = tmp_path / "diary"
    config = parts.trio(pushed.stack)
    config.callbacks(
        warm_start(pushed.store, {"main": "duo/main"}, callbacks=parts.diary(pages))
    )  # fmt: skip
    (result,) = parts.run(config, tmp_path / "tune", 2, by="tune.run")
    assert result.error is None
    wanted = parts.expected(pushed.snaps["main"])
    first = next(
        line["prints"] for page in parts.notes(pages) for line in page if line["kind"] == "episode"
    )
    assert parts.within(first["main"], wanted)
    assert first.keys() == {"main", "c"}


# Callbacks ---------------------------------------------------------------------------------------


class Counting(RLlibCallback):
    """The user's own."""

    def on_train_result(self, *, result: Any, **_: Any) -> None:
        result["mine"] = result.get("mine", 0) + 1


@OLD
def test_the_users_own_callbacks(pushed: Pushed) -> None:
    refs = {"main": "duo/main"}
    forms = {
        "beside": warm_start(pushed.store, refs, callbacks=Counting),
        "several": warm_start(pushed.store, refs, callbacks=[Counting, Counting]),
        "two of ours": warm_start(
            pushed.store, refs, callbacks=[Counting, warm_start(pushed.store, {"foe": "duo/foe"})]
        ),
    }
    if pushed.stack == "new":
        forms["a list"] = [warm_start(pushed.store, refs), Counting]
    for form, callbacks in forms.items():
        with pushed.own.built(pushed.own.configured().callbacks(callbacks)) as algo:
            assert snapshot(algo, "main").weights_digest == pushed.snaps["main"].weights_digest
            result = algo.train()
            assert result["mine"] == (2 if form == "several" else 1), form
            started = result["policystore"]["warm_start"]
            assert started["main"] == str(pushed.snaps["main"].digest)
            assert set(started) == ({"main", "foe"} if form == "two of ours" else {"main"})


@pytest.mark.parametrize("stack", ["new"], scope="module")
def test_every_hook_reaches_all(pushed: Pushed) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []

    def noting() -> RLlibCallback:
        found = RLlibCallback()
        for name in dir(RLlibCallback):
            if name.startswith("on_"):
                setattr(found, name, lambda _name=name, **given: heard.append((_name, given)))
        return found

    made = warm_start(pushed.store, {"main": "duo/main"}, callbacks=[noting, noting])()
    hooks = [name for name in dir(RLlibCallback) if name.startswith("on_")]
    assert len(hooks) > 15
    for name in set(hooks) - {"on_algorithm_init", "on_train_result"}:
        getattr(made, name)(**arguments(name))
    assert sorted(name for name, _ in heard) == sorted(
        2 * list(set(hooks) - {"on_algorithm_init", "on_train_result"})
    )
    assert all(given == arguments(name) for name, given in heard)


def arguments(hook: str) -> dict[str, Any]:
    """What RLlib's own method wants at least."""
    wanted = inspect.signature(getattr(RLlibCallback, hook)).parameters.values()
    return {each.name: f"{hook} {each.name}" for each in wanted if each.kind == each.KEYWORD_ONLY}


@pytest.mark.parametrize("stack", ["new"], scope="module")
def test_it_pickles_and_refs_are_fixed(pushed: Pushed, tmp_path: Path) -> None:
    store = PolicyStore(tmp_path)
    first = store.push(pushed.snaps["main"], "duo/main")
    made = warm_start(str(tmp_path), {"main": "duo/main"}, callbacks=Counting)
    store.push(other(pushed.snaps["main"], 9.0), "duo/main")
    copy = cloudpickle.loads(cloudpickle.dumps(made))
    assert repr(copy) == repr(made) == repr(pickle.loads(pickle.dumps(made)))
    assert str(first.digest) in repr(made)
    assert "Counting" in repr(made)
    config = pushed.own.configured().callbacks(made)
    assert repr(config.copy().callbacks_class) == repr(made)
    assert "CallbackFactory" in str(config.serialize()["callbacks"])


# What cannot be done -----------------------------------------------------------------------------


@pytest.mark.parametrize("stack", ["new"], scope="module")
def test_refs_that_mean_nothing(pushed: Pushed, tmp_path: Path) -> None:
    store = pushed.store
    for ref in ("duo/nobody", "duo/main@77", "duo/main@loser", "blake3:" + 64 * "0"):
        with pytest.raises(
            NotFoundError, match=f"warm start of 'main' from '{ref}' in {store.url}"
        ):
            warm_start(store, {"main": "duo/main", "foe": "duo/foe"} | {"main": ref})
    with pytest.raises(NotFoundError, match=f"{tmp_path}/none"):
        warm_start(tmp_path / "none", {"main": "duo/main"})
    with pytest.raises(StorageError, match="warm start of 'main'"):
        (tmp_path / "file").write_text("")
        warm_start(tmp_path / "file", {"main": "duo/main"})
    wrong: list[Any] = [{}, ["main"], "duo/main", {7: "duo/main"}, {"main": 7}, {"main": "a//b"}]
    for policies in wrong:
        with pytest.raises(InvalidInputError):
            warm_start(store, policies)
    with pytest.raises(InvalidInputError, match=r"store comes first.*warm_start\(store, \{'main'"):
        warm_start({"main": "duo/main"}, store)  # type: ignore[arg-type]
    snaps: Any = pushed.snaps
    with pytest.raises(
        InvalidInputError, match=r"warm_start\(store, \{'main': 'soccer/main@7'\}\)"
    ):
        warm_start(store, snaps["main"])
    for words, given in {
        "agent_ids names the policies \\['mian'\\].* Did you mean 'main'": {
            "agent_ids": {"mian": ["a"]}
        },
        "agent_ids is a list": {"agent_ids": "a"},
        "timeout is a number": {"timeout": "60"},
        "spaces is": {"spaces": "any"},
    }.items():
        options: Any = given
        with pytest.raises(InvalidInputError, match=words):
            warm_start(store, {"main": "duo/main"}, **options)
    for beside in (Counting(), "Counting", [7]):
        with pytest.raises(InvalidInputError, match="callback classes"):
            warm_start(store, {"main": "duo/main"}, callbacks=beside)


@STACKS
def test_a_policy_that_the_config_lacks(pushed: Pushed) -> None:
    config = pushed.own.configured()
    config.callbacks(warm_start(pushed.store, {"fo": "duo/main", "main": "duo/main"}))
    with pytest.raises(
        NotFoundError, match="warm start of 'fo' from 'duo/main'.* in .* Did you mean 'foe'"
    ):
        config.build_algo()


@STACKS
def test_a_snapshot_that_does_not_fit(pushed: Pushed) -> None:
    store, main = pushed.store, pushed.snaps["main"]
    name = sorted(main.weights)[0]
    weights = {**main.weights, name: np.zeros((3, 3), np.float32)}
    version = store.push(Snapshot(weights=weights, spec=main.spec), "duo/wide")
    config = pushed.own.configured().callbacks(warm_start(store, {"main": version}))
    with pytest.raises(MismatchError, match="warm start of 'main' from 'duo/wide@1' in") as caught:
        config.build_algo()
    assert list(caught.value.wrong) == [name]
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert list(again.wrong) == [name]


@pytest.mark.long
@pytest.mark.wide
@pytest.mark.parametrize("stack", ["new"], scope="module")
def test_a_trial_says_why_it_failed(pushed: Pushed, tmp_path: Path) -> None:
    """In Tune as well, and before any sample: a misfit, and a store that is gone by then."""
    away = PolicyStore(tmp_path / "away")
    away.push(pushed.snaps["main"], "duo/main")
    pages = tmp_path / "diary"
    mine = parts.diary(pages)
    cases = {
        "nobody": (
            warm_start(pushed.store, {"nobody": "duo/main"}, callbacks=mine),
            f"warm start of 'nobody' from 'duo/main' in {pushed.store.url}",
        ),
        "away": (
            warm_start(away, {"main": "duo/main"}, callbacks=mine),
            f"warm start of 'main' from 'duo/main' in {away.url}: there is no policy store",
        ),
    }
    shutil.rmtree(away.url)
    for case, (callbacks, words) in cases.items():
        config = pushed.own.configured().callbacks(callbacks)
        (result,) = parts.run(config, tmp_path / "tune", 1)
        assert isinstance(result.error, NotFoundError), case
        assert words in str(result.error), case
        assert not list(parts.notes(pages)), case


@pytest.mark.parametrize("stack", ["new"], scope="module")
def test_a_store_of_this_process(pushed: Pushed) -> None:
    store = PolicyStore("memory://warm")
    store.push(pushed.snaps["main"], "duo/main")
    config = pushed.own.configured().callbacks(warm_start(store, {"main": "duo/main"}))
    with pushed.own.built(config) as algo:
        assert snapshot(algo, "main").weights_digest == pushed.snaps["main"].weights_digest
        assert check_sync(algo, ["main"]).ok
