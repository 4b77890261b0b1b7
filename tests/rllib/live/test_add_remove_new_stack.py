"""add_policy and remove_policy on the new API stack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.sac import SACConfig

import tests.support.added_modules as join
import tests.support.envs as envs
import tests.support.new_stack_algorithms as parts
from policystore import Snapshot
from policystore.errors import (
    InvalidInputError,
    MismatchError,
    SyncError,
    UntrustedError,
)
from policystore.rllib import add_policy, check_sync, remove_policy, snapshot, snapshot_all
from tests.support.added_modules import NEW, by
from tests.support.cells import sampled
from tests.support.rl_modules import DefaultAPPOTorchRLModule, DefaultPPOTorchRLModule

CELLS: dict[str, dict[str, Any]] = {
    "PPO": {"runners": 2, "evals": 1},
    "PPO, no local runner": {"runners": 1, "learners": 1, "local": False, "model": join.LSTM},
    "PPO, two learners": {"runners": 1, "learners": 2},
    "IMPALA": {"kind": IMPALAConfig, "runners": 1, "learners": 1},
    "APPO": {"kind": APPOConfig, "runners": 1, "evals": 0},
    "SAC": {"kind": SACConfig, "runners": 1},
    "DQN": {"kind": DQNConfig},
}
ALWAYS = ("PPO",)
WIDE = ("PPO, no local runner", "PPO, two learners", "APPO", "SAC", "DQN")
ASYNCHRONOUS = ("IMPALA", "APPO")


def only(*cells: str) -> Any:
    """Return the mark of a test of some of the cells."""
    always = [cell for cell in cells if cell in ALWAYS]
    wide = [cell for cell in cells if cell in WIDE]
    return pytest.mark.parametrize("algo", sampled(cells, *always, wide=wide), indirect=True)


@pytest.fixture(scope="module", params=sampled(CELLS, *ALWAYS, wide=WIDE))
def algo(request: Any, ray_session: None) -> Iterator[Any]:
    with parts.built(join.configured(**CELLS[request.param])) as made:
        # As in real training: updates behind it, and samples under way.
        parts.train_until_seq(made, 10)
        if made.eval_env_runner_group is not None:
            made.evaluate()
        yield made


def until_acts(algo: Any, pair: tuple[str, str]) -> None:
    parts.until(lambda: algo.train() and pair in join.acting_now(algo), f"steps of {pair}")


def test_a_frozen_one_comes_and_goes(algo: Any) -> None:
    """Another network, for what another agent sees and does."""
    before, frozen = join.everything(algo), join.frozen(algo)
    model = join.LSTM if algo.env_runner is None else None
    snap = join.pretrained(algo, 9.0, model=model)
    report = add_policy(algo, NEW, snap, policy_mapping_fn=by(c=NEW))
    parts.assert_proven(report, algo, {NEW: snap})
    join.assert_joined(algo, NEW, snap)
    assert check_sync(algo, [NEW]).rows == report.rows
    assert snapshot_all(algo)[NEW] == snap.replace(spec=snapshot_all(algo)[NEW].spec)
    parts.ask(algo, join.forget)
    until_acts(algo, ("c", NEW))
    join.goes_on(algo)
    if algo.eval_env_runner_group is not None:
        algo.evaluate()
        assert ("c", NEW) in join.acting_now(algo, "eval")
        assert ("c", "tiny") not in join.acting_now(algo, "eval")
    parts.assert_frozen(algo, snap, NEW)
    assert {row.digest for row in check_sync(algo, [NEW])} == {snap.acting_digest}

    report = remove_policy(algo, NEW, policy_mapping_fn=by())
    assert report.ok
    assert {row.policy for row in report} == {"main", "foe", "tiny"}
    join.assert_gone(algo, NEW)
    parts.ask(algo, join.forget)
    join.goes_on(algo)
    assert ("c", "tiny") in join.acting_now(algo)
    assert not {pair for pair in join.acting_now(algo) if NEW in pair}
    after = join.everything(algo)
    for name, was in before.items():
        if name.startswith("learner"):
            assert after[name]["tables"] == was["tables"]
            assert after[name]["of modules"] == was["of modules"]
    assert join.frozen(algo) == frozen


@pytest.fixture
def trained(algo: Any) -> Iterator[tuple[Any, Snapshot, list[str]]]:
    """An Algorithm that trains a new module, its snapshot, and the ids of all that are trained."""
    two = algo.config.num_learners == 2
    ids = [NEW] if two else ["main", NEW]
    snap = join.pretrained(algo, 5.0, agent="a" if two else "b")
    to_train: Any = ids
    if type(algo).__name__ in ("PPO", "SAC", "IMPALA") and algo.env_runner is not None:
        to_train = lambda mid, *_: mid in ids  # noqa: E731
    report = add_policy(
        algo,
        NEW,
        snap,
        policy_mapping_fn=by(a=NEW) if two else by(b=NEW),
        policies_to_train=to_train,
    )
    parts.assert_proven(report, algo, {NEW: snap})
    join.assert_joined(algo, NEW, snap)
    yield algo, snap, ids
    if NEW in algo.config.policies:
        remove_policy(algo, NEW, policy_mapping_fn=by(), policies_to_train=["main"])


def test_a_trained_one_learns_all_of_it_and_workers_follow(
    trained: tuple[Any, Snapshot, list[str]],
) -> None:
    algo, snap, ids = trained
    alphas = trainers(algo)
    parts.ask(algo, join.forget)
    until_acts(algo, ("a" if ids == [NEW] else "b", NEW))
    join.goes_on(algo, ids)
    # All of it: not only what a wrong optimizer happens to hold.
    matrices = [n for n in snap.weights if n.endswith(".weight") and not join.is_target(n)]

    def moved() -> bool:
        algo.train()
        now = join.at_rest(algo, NEW)
        return all((now[name] != snap.weights[name]).any() for name in matrices)

    parts.until(moved, "every matrix of it moved")
    for name, each in trainers(algo).items():
        assert each["all its own"], name
        assert each["steps"] >= 3, name
        assert (each["alpha"] is None) == (alphas[name]["alpha"] is None)
        assert each["alpha"] is None or each["alpha"] != alphas[name]["alpha"]

    def followed() -> bool:
        algo.train()
        samples = [
            seen["prints"][NEW]
            for name, found in parts.ask(algo, parts.read).items()
            if name.startswith("train")
            for drawn in found["drawn"]
            for seen in drawn
        ]
        return len(set(samples)) >= 3

    parts.until(followed, "samples with what it has learned")


@pytest.mark.long
def test_a_trained_one_goes_once_no_agent_is_mapped_to_it(
    trained: tuple[Any, Snapshot, list[str]],
) -> None:
    algo, _, ids = trained
    join.goes_on(algo, ids)
    with pytest.raises(Exception, match="names 'newcomer'"):
        remove_policy(algo, NEW, policies_to_train=["main"])
    report = remove_policy(algo, NEW, policy_mapping_fn=by(), policies_to_train=["main"])
    assert report.ok
    join.assert_gone(algo, NEW)
    join.goes_on(algo)
    assert algo.config.policies_to_train == ["main"]


@pytest.mark.long
def test_an_id_that_was_removed_serves_another_policy(
    trained: tuple[Any, Snapshot, list[str]],
) -> None:
    algo, _, ids = trained
    join.goes_on(algo, ids)
    remove_policy(algo, NEW, policy_mapping_fn=by(), policies_to_train=["main"])
    join.goes_on(algo)
    again = join.pretrained(algo, -7.0)
    report = add_policy(algo, NEW, again, policy_mapping_fn=by(c=NEW))
    parts.assert_proven(report, algo, {NEW: again})
    join.assert_joined(algo, NEW, again)
    parts.ask(algo, join.forget)
    until_acts(algo, ("c", NEW))
    join.goes_on(algo)
    parts.assert_frozen(algo, again, NEW)
    remove_policy(algo, NEW, policy_mapping_fn=by())
    join.assert_gone(algo, NEW)
    join.goes_on(algo)


def trainers(algo: Any) -> dict[str, Any]:
    learners = [name for name in parts.workers(algo) if name.startswith("learner")]
    return {name: join.on(algo, name, join.trainer_of, NEW) for name in learners}


@only("APPO", "SAC", "DQN")
def test_target_networks_that_a_snapshot_lacks(algo: Any) -> None:
    """They are copies of their networks, and no random ones."""
    full = join.pretrained(algo, 3.0)
    snap = join.without(full, *(name for name in full.weights if join.is_target(name)))
    assert len(snap.weights) < len(full.weights)
    parts.assert_proven(add_policy(algo, NEW, snap, policy_mapping_fn=by(c=NEW)), algo, {NEW: snap})
    ((_, found),) = ((n, e) for n, e in parts.ask(algo, parts.read).items() if "learner" in n)
    held = found["arrays"][NEW]
    assert set(held) == set(full.weights)
    for name in set(full.weights) - set(snap.weights):
        source = name.replace("_target_", "").replace("target_", "").replace("_old_", "")
        assert held[name].tobytes() == held[source].tobytes() == snap.weights[source].tobytes()
    remove_policy(algo, NEW, policy_mapping_fn=by())
    join.goes_on(algo)


@only("PPO")
def test_what_acts_is_enough_for_a_frozen_one(algo: Any) -> None:
    full = join.pretrained(algo, 3.0)
    snap = join.without(full, *(set(full.weights) - parts.acting(full)))
    snap = snap.replace(spec=snap.spec.replace(weights="inference-only"))
    assert 0 < len(snap.weights) < len(full.weights)
    before = join.everything(algo)
    with pytest.raises(MismatchError, match="missing"):
        add_policy(algo, NEW, snap, policies_to_train=["main", NEW])
    assert join.everything(algo) == before
    add_policy(algo, NEW, snap, policy_mapping_fn=by(c=NEW))
    parts.ask(algo, join.forget)
    join.goes_on(algo)
    parts.assert_held(algo, {NEW: snap}, targets=False)
    remove_policy(algo, NEW, policy_mapping_fn=by())


@only("PPO")
def test_a_class_of_the_user(algo: Any) -> None:
    snap = join.pretrained(algo, 3.0, cls=join.OfTheUser)
    before = join.everything(algo)
    with pytest.raises(UntrustedError, match="OfTheUser"):
        add_policy(algo, NEW, snap)
    assert join.everything(algo) == before
    report = add_policy(algo, NEW, snap, policy_mapping_fn=by(c=NEW), trust=[join.OfTheUser])
    parts.assert_proven(report, algo, {NEW: snap})
    classes = parts.ask(algo, lambda worker: type(worker.module[NEW].unwrapped()).__name__)
    assert set(classes.values()) == {"OfTheUser"}
    join.goes_on(algo)
    remove_policy(algo, NEW, policy_mapping_fn=by())


@only("PPO")
def test_target_networks_that_the_learner_does_not_make(algo: Any) -> None:
    """An opponent that APPO trained, in PPO, with all it has."""
    snap = join.pretrained(algo, 3.0, cls=DefaultAPPOTorchRLModule)
    assert any(join.is_target(name) for name in snap.weights)
    add_policy(algo, NEW, snap, policy_mapping_fn=by(c=NEW))
    join.assert_joined(algo, NEW, snap)
    join.goes_on(algo)
    remove_policy(algo, NEW, policy_mapping_fn=by())


# Filters -----------------------------------------------------------------------------------------


@pytest.mark.long
def test_filters_of_agents(ray_session: None) -> None:
    config = join.configured(runners=1, evals=0, filters=True).environment(envs.Duo)
    # Two agents that see the same: RLlib merges filters of one shape only (mean_std_filter.py:190).
    config.multi_agent(policies={"main", "foe"})
    with parts.built(config) as algo:
        parts.train_until_seq(algo, 4)
        algo.evaluate()
        stats = snapshot(algo, "foe", agent_ids=["b"])
        bare = join.pretrained(algo, 3.0, agent="b")
        snap = Snapshot(weights=bare.weights, spec=bare.spec, state=stats.state)
        count = parts.counts(algo.env_runner)["b"][0]
        algo.train()
        before = join.everything(algo)
        assert before["train 1"]["filters"]["b"][0] > count > 0
        with pytest.raises(InvalidInputError, match="filters belong to agents"):
            add_policy(algo, NEW, snap, policy_mapping_fn=by(b=NEW))
        with (
            join.planted(algo, "train 1", "module", "add_module", after=True),
            pytest.raises(SyncError, match="planted"),
        ):
            add_policy(algo, NEW, snap, policy_mapping_fn=by(b=NEW), agent_ids=["b"])
        assert join.everything(algo) == before
        add_policy(algo, NEW, snap, policy_mapping_fn=by(b=NEW), agent_ids=["b"])
        after = join.everything(algo)
        for name, was in before.items():
            if "filters" in was:
                assert after[name]["filters"]["b"][0] == count, name
                assert after[name]["filters"]["a"] == was["filters"]["a"], name
        algo.train()
        assert parts.counts(algo.env_runner)["b"][0] > count
        join.assert_joined(algo, NEW, snap)


# Failures ----------------------------------------------------------------------------------------


FAULTS: dict[str, tuple[str, str, str, str, bool]] = {
    "added half-way by a learner": (
        "add", "learner", "worker", "configure_optimizers_for_module", False,
    ),
    "added by a learner": ("add", "learner", "worker", "add_module", True),
    "added by a runner": ("add", "runner", "module", "add_module", True),
    "removed by a learner": ("remove", "learner", "module", "remove_module", True),
    "removed by a runner": ("remove", "runner", "module", "remove_module", True),
}  # fmt: skip


ALWAYS_FAULTY = [("PPO", "added by a learner"), ("PPO", "removed by a runner")]
FAULTY = [
    pytest.param(cell, fault, marks=() if (cell, fault) in ALWAYS_FAULTY else pytest.mark.long)
    for cell in ("PPO", "PPO, two learners", "IMPALA", "SAC")
    for fault in FAULTS
    # The other learner would wait for this one, in torch's DistributedDataParallel.
    if (cell, fault) != ("PPO, two learners", "added half-way by a learner")
]


@pytest.mark.parametrize(("algo", "fault"), FAULTY, indirect=["algo"], scope="module")
def test_what_fails_on_one_is_undone_on_all(algo: Any, fault: str) -> None:
    """Everyone is as before, training goes on, and then it works."""
    how, who, where, method, after = FAULTS[fault]
    two = algo.config.num_learners == 2
    names = list(parts.workers(algo))
    victim = [n for n in names if "learner" in n][-1] if who == "learner" else names[-1]
    snap = join.pretrained(algo, 3.0)
    adding: Any = {"policy_mapping_fn": by(c=NEW)}
    adding["policies_to_train"] = None if two else ["main", NEW]
    removing: Any = {"policy_mapping_fn": by(), "policies_to_train": ["main"]}
    trained = ["main"]
    if how == "remove":
        add_policy(algo, NEW, snap, **adding)
        trained = ["main"] if two else ["main", NEW]
        join.goes_on(algo, trained)
    before = join.everything(algo)
    with (
        join.planted(algo, victim, where, method, after=after),
        pytest.raises(SyncError, match=f"{victim}: RuntimeError: planted") as caught,
    ):
        if how == "add":
            add_policy(algo, NEW, snap, **adding)
        else:
            remove_policy(algo, NEW, **removing)
    now = join.everything(algo)
    report: Any = caught.value.report
    assert {row.policy for row in report} == set(before["driver"]["policies"])
    if type(algo).__name__ in ASYNCHRONOUS:
        assert not join.differing(join.less_what_moves(before), join.less_what_moves(now))
    else:
        assert not join.differing(before, now)
        assert report.rows == check_sync(algo).rows
    parts.ask(algo, join.forget)
    join.goes_on(algo, trained)
    assert (("c", NEW) in join.acting_now(algo)) == (how == "remove")
    if how == "add":
        add_policy(algo, NEW, snap, **adding)
    remove_policy(algo, NEW, **removing)
    join.assert_gone(algo, NEW)
    join.goes_on(algo)


@only("PPO")
def test_an_id_that_one_runner_has(algo: Any) -> None:
    join.on(algo, "train 2", join.smuggle, NEW)
    before = join.everything(algo)
    with pytest.raises(InvalidInputError, match="train 2: it has a module 'newcomer' already"):
        add_policy(algo, NEW, join.pretrained(algo, 3.0), policy_mapping_fn=by(c=NEW))
    assert join.everything(algo) == before
    join.on(algo, "train 2", lambda worker: worker.module.remove_module(NEW))
    join.goes_on(algo)


# Refusals ----------------------------------------------------------------------------------------


@only("PPO, two learners")
def test_several_learners_train_one_only(algo: Any) -> None:
    """They may list two in different orders, and would abort then."""
    snap = join.pretrained(algo, 3.0)
    for to_train in (["main", NEW], lambda mid, *_: mid in ("main", NEW)):
        call = lambda: add_policy(algo, NEW, snap, policies_to_train=to_train)  # noqa: B023, E731
        join.refused(algo, call, InvalidInputError, "2 learners and 'main', 'newcomer'")
    join.goes_on(algo)


@only("APPO")
def test_what_a_learner_cannot_train(algo: Any) -> None:
    """APPO needs target networks, and PPO's modules have none; to play one is fine."""
    snap = join.pretrained(algo, 3.0, cls=DefaultPPOTorchRLModule)
    with pytest.raises(InvalidInputError, match="cannot train .*: it is no TargetNetworkAPI"):
        add_policy(algo, NEW, snap, policies_to_train=["main", NEW])
    report = add_policy(algo, NEW, snap, policy_mapping_fn=by(c=NEW))
    parts.assert_proven(report, algo, {NEW: snap})
    join.goes_on(algo)
    remove_policy(algo, NEW, policy_mapping_fn=by())
    join.goes_on(algo)


@only("APPO", "SAC", "DQN")
def test_setups_that_rllib_could_not_go_on_with(algo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    field, number, words = {
        "APPO": ("num_aggregator_actors_per_learner", 1, "aggregator actors"),
        "SAC": ("num_learners", 2, "SAC with 2 learners"),
        "DQN": ("num_learners", 2, "DQN with 2 learners"),
    }[type(algo).__name__]
    monkeypatch.setitem(vars(algo.config), field, number)
    with pytest.raises(InvalidInputError, match=words):
        add_policy(algo, NEW, join.pretrained(algo, 3.0))
    with pytest.raises(InvalidInputError, match=words):
        remove_policy(algo, "tiny", policy_mapping_fn=by(c="foe"))
    monkeypatch.undo()
    assert set(join.at_rest(algo, "tiny"))
    join.goes_on(algo)
