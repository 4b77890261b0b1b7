"""Warm starts from snapshots, and from policies that are adapted to the config's own policy."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle
from ray.rllib.connectors.env_to_module import MeanStdFilter

import tests.support.tune_runs as parts
from policystore import InvalidInputError, MismatchError, PolicyStore, Snapshot
from policystore.rllib import adapted, check_sync, publish, snapshot, snapshot_all, warm_start
from tests.support.cells import sampled

STACKS = pytest.mark.parametrize("stack", sampled(["new", "old"], "new"), scope="module")
NEW = pytest.mark.parametrize("stack", ["new"], scope="module")
HEADS = {"new": ["pi.", "vf."], "old": ["_logits.", "_value_branch."]}


class Pushed:
    """A store with what was trained before on the environment with two agents."""

    def __init__(self, stack: str, folder: Path) -> None:
        self.own, self.heads = parts.PARTS[stack], HEADS[stack]
        self.store = PolicyStore(folder / "store")
        with self.own.built(self.own.configured()) as algo:
            self.snaps: dict[str, Snapshot] = {
                pid: parts.new_stack_algorithms.other(snap, 4.0 + len(pid))
                for pid, snap in snapshot_all(algo).items()
            }
        self.main = self.snaps["main"]
        self.store.push(self.main, "duo/main")

    def built(self, *callbacks: Any) -> Any:
        return self.own.built(self.own.configured().callbacks(*callbacks))

    def is_head(self, name: str) -> bool:
        return name.startswith(tuple(self.heads))


@pytest.fixture(scope="module")
def pushed(stack: str, ray_session: None, tmp_path_factory: Any) -> Pushed:
    return Pushed(stack, tmp_path_factory.mktemp(stack))


@STACKS
def test_snapshots_and_recipes(pushed: Pushed, tmp_path: Path) -> None:
    """``foe`` starts with a snapshot, and ``main`` with all of a pushed policy but its heads."""
    store = PolicyStore(pushed.store.url)
    starts = {"main": adapted("duo/main", keep=pushed.heads), "foe": pushed.snaps["foe"]}
    made = warm_start(store, starts, callbacks=publish(store, {"main": f"{tmp_path.name}/main"}))

    with pushed.built(made) as algo:
        held = snapshot(algo, "main")
        assert {row.policy: row.ref for row in check_sync(algo)} == {
            "main": "duo/main (adapted)",
            "foe": None,
        }
        result = algo.train()
        assert snapshot(algo, "foe").weights_digest == pushed.snaps["foe"].weights_digest

    for name, array in held.weights.items():
        equal = array.tobytes() == pushed.main.weights[name].tobytes()
        assert equal != pushed.is_head(name), name
    entries = result["policystore"]
    digests = {pid: str(snap.digest) for pid, snap in pushed.snaps.items()}
    assert entries["warm_start"] == digests
    kept = sum(pushed.is_head(name) for name in held.weights)
    assert entries["adapted"] == {
        "main": {
            "digest": digests["main"],
            "recipe": f"adapted('duo/main', keep={pushed.heads!r})",
            "taken": len(held.weights) - kept,
            "renamed": 0,
            "follows": 0,
            "kept": kept,
            "left": 0,
        }
    }
    # The parent of the first version is the policy from which weights were taken.
    assert store.log(f"{tmp_path.name}/main")[0].parents == (pushed.main.digest,)


@NEW
def test_a_snapshot_needs_no_store(pushed: Pushed, tmp_path: Path) -> None:
    store = PolicyStore(tmp_path / "other")
    made = warm_start(None, {"main": pushed.main}, callbacks=publish(store, {"main": "duo/main"}))

    with pushed.built(made) as algo:
        assert snapshot(algo, "main").weights_digest == pushed.main.weights_digest
        result = algo.train()

    assert result["policystore"]["warm_start"] == {"main": str(pushed.main.digest)}
    assert "adapted" not in result["policystore"]
    # The store to which the run publishes does not have the parent.
    assert store.log("duo/main")[0].parents == ()


@NEW
def test_recipes_and_configs_pickle(pushed: Pushed) -> None:
    store = pushed.store
    recipe = adapted(
        pushed.main,
        rename={"a.": "b."},
        only=["b."],
        keep=["b.1."],
        spaces="snapshot",
        state="target",
    )
    assert repr(recipe) == (
        f"adapted({pushed.main.digest.short!r}, rename={{'a.': 'b.'}}, only=['b.'], "
        "keep=['b.1.'], spaces='snapshot', state='target')"
    )
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    version = store.log("duo/main")[0]
    assert repr(adapted(version)) == "adapted('duo/main@1')"
    made = warm_start(store, {"main": recipe, "foe": adapted(version)})
    copy = cloudpickle.loads(cloudpickle.dumps(pushed.own.configured().callbacks(made)))
    assert repr(copy.callbacks_class) == repr(made)
    # The snapshot travels once, uncompressed; a ref takes no space.
    size = len(cloudpickle.dumps(warm_start(store, {"main": pushed.main})))
    assert (
        0
        < size - len(cloudpickle.dumps(warm_start(store, {"main": "duo/main"})))
        < (pushed.main.nbytes + 5000)
    )


@NEW
def test_what_does_not_fit_is_said_before_any_sample(pushed: Pushed) -> None:
    renamed = {f"old/{name}": array for name, array in pushed.main.weights.items()}
    strange = Snapshot(weights=renamed, spec=pushed.main.spec.replace(acting=None))
    cases: dict[str, tuple[Any, type[Exception]]] = {
        r"adapted\('blake3:.*nothing would be taken": (adapted(strange), MismatchError),
        r"adapted\('duo/main', keep=\['pj\.'\]\).*Did you mean 'pi\.'": (
            adapted("duo/main", keep=["pj."]),
            InvalidInputError,
        ),
    }
    for words, (start, kind) in cases.items():
        config = pushed.own.configured().callbacks(warm_start(pushed.store, {"main": start}))
        with pytest.raises(kind, match=f"(?s)warm start of 'main' from .*{words}"):
            config.build_algo()


def test_other_forms(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="store is None. The store comes first"):
        warm_start(None, {"main": "duo/main"})
    with pytest.raises(InvalidInputError, match="store is None"):
        warm_start(None, {"main": adapted("duo/main")})
    wrong: Any = 7
    with pytest.raises(InvalidInputError, match="adapted takes a ref or a Snapshot"):
        adapted(wrong)
    with pytest.raises(InvalidInputError, match="keep is a list"):
        adapted("duo/main", keep="pi.")


def filtering(pushed: Pushed, *callbacks: Any, **options: Any) -> Any:
    config = pushed.own.configured(**options).env_runners(
        env_to_module_connector=lambda *_, **__: MeanStdFilter(multi_agent=True)
    )
    return pushed.own.built(config.callbacks(*callbacks) if callbacks else config)


@pytest.mark.long
@NEW
def test_filters_of_agents(pushed: Pushed) -> None:
    """Statistics go to the agents of ``agent_ids=``, as with a ref."""
    with filtering(pushed) as algo:
        algo.train()
        snap = snapshot(algo, "main", agent_ids=["a"])
    (trained,) = snap.state["MeanStdFilter"].values()
    recipe = {"main": adapted(snap, keep=pushed.heads)}

    with filtering(pushed, warm_start(None, recipe, agent_ids={"main": ["a"]}), runners=1) as algo:
        for agent, expected in (("a", trained["running_stats"][0]["num_pushes"]), ("b", 0)):
            state = snapshot(algo, "main", agent_ids=[agent]).state["MeanStdFilter"][agent]
            assert state["running_stats"][0]["num_pushes"] == expected, agent
    with filtering(pushed, warm_start(None, recipe, agent_ids={"main": []})) as algo:
        state = snapshot(algo, "main", agent_ids=["a"]).state["MeanStdFilter"]["a"]
        assert state["running_stats"][0]["num_pushes"] == 0
    lacking = filtering(pushed, warm_start(None, recipe))
    with pytest.raises(InvalidInputError, match=r"pass agent_ids=\{'main': \[…\]\}"), lacking:
        pass


@pytest.mark.long
@NEW
def test_filters_that_are_not_merged(pushed: Pushed) -> None:
    """The empty filters of a new Algorithm are all alike, so any env runner's will do."""
    config = pushed.own.configured(multi=False)
    config.env_runners(env_to_module_connector=lambda *_, **__: MeanStdFilter())
    with pushed.own.built(config) as algo:
        algo.train()
        snap = snapshot(algo)
    config = pushed.own.configured(multi=False, runners=1).env_runners(
        env_to_module_connector=lambda *_, **__: MeanStdFilter(),
        merge_env_runner_states=False,
        broadcast_env_runner_states=False,
    )
    config.callbacks(warm_start(None, {"default_policy": adapted(snap, keep=pushed.heads)}))
    with pushed.own.built(config) as algo:
        assert snapshot(algo, from_runner=1).state_digest == snap.state_digest


TUNE = {"new, a crash": ("new", "crash"), "old, a pause": ("old", "pause")}


@pytest.mark.long
@pytest.mark.wide
@pytest.mark.parametrize("cell", TUNE)
def test_trials_go_on_with_what_they_learned(cell: str, ray_session: None, tmp_path: Path) -> None:
    """As with a ref: a restored trial has its checkpoint's weights, and the same results."""
    stack, interruption = TUNE[cell]
    pushed = Pushed(stack, tmp_path)
    pages = tmp_path / "diary"
    beside = [parts.diary(pages)]
    if interruption == "crash":
        beside.append(parts.crash(tmp_path, 2))
    recipe = adapted(pushed.main, keep=pushed.heads)
    config = pushed.own.configured(runners=1)
    config.callbacks(
        warm_start(None, {"main": recipe, "foe": pushed.snaps["foe"]}, callbacks=beside)
    )

    (result,) = parts.run(
        config,
        tmp_path / "tune",
        3,
        failures=1,
        scheduler=parts.PauseOnce(1) if interruption == "pause" else None,
    )

    assert result.error is None
    everything = [line for page in parts.notes(pages) for line in page]
    assert len([line for line in everything if line["kind"] == "restored"]) == 1
    results = [line for line in everything if line["kind"] == "result"]
    assert len({repr(line["reported"]["adapted"]) for line in results}) == 1
    assert results[0]["reported"]["adapted"]["main"]["digest"] == str(pushed.main.digest)
    foe, body = parts.expected(pushed.snaps["foe"]), parts.expected(pushed.main)
    body = {name: value for name, value in body.items() if not pushed.is_head(name)}
    firsts = [
        next(line["prints"] for line in page if line["kind"] == "episode")
        for page in parts.notes(pages)
        if any(line["kind"] == "episode" for line in page)
    ]
    assert len(firsts) == 2
    assert all(parts.within(first["foe"], foe) for first in firsts)
    fresh = [parts.within(first["main"], body) for first in firsts]
    assert fresh == [True, False]
    learned = [line["prints"]["main"] for line in results]
    assert any(parts.within(firsts[1]["main"], each) for each in learned)
