"""load_local and unlock_local on the module of one env runner, called by hand; both API stacks."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import ray
from ray import cloudpickle
from ray.rllib.connectors.env_to_module.mean_std_filter import MeanStdFilter
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModule

import tests.support.league_slots as league
import tests.support.new_stack_algorithms as parts
from policystore import InvalidInputError, MismatchError, NotFoundError, Snapshot, SyncError
from policystore.rllib import (
    add_policy,
    check_sync,
    load_into,
    load_local,
    remove_policy,
    snapshot,
    unlock_local,
)
from policystore.rllib.live import transaction
from policystore.rllib.live.checks.compatibility import plan_of, prepare
from policystore.rllib.worker_code.messages.requests import LoadRequest, ReplayEntry, ReplayProgram
from policystore.rllib.worker_code.messages.wire import to_wire
from policystore.rllib.worker_code.replay import catch_up
from policystore.rllib.worker_code.rollback import MARK, RESTARTED
from policystore.rllib.worker_code.weights import describe
from policystore.spaces import space_to_json
from tests.support.cells import sampled
from tests.support.restarts import arrays_of


@pytest.fixture(scope="module", params=sampled(["PPO", "old PPO"], "PPO"))
def algo(request: Any, ray_session: None, tmp_path_factory: Any) -> Iterator[Any]:
    config = league.configured(request.param, tmp_path_factory.mktemp("pool"), runners=0, evals=0)
    with parts.built(config.callbacks(None)) as made:
        yield made


@pytest.fixture
def old(algo: Any) -> bool:
    return hasattr(algo.env_runner, "policy_map")


@pytest.fixture(scope="module")
def home(algo: Any) -> dict[str, Snapshot]:
    """What all workers hold of each policy, before each test."""
    snaps = {pid: parts.other(snapshot(algo, pid), 1.0) for pid in ("main", "foe")}
    load_into(algo, snaps)
    return snaps


@pytest.fixture
def runner(algo: Any, home: dict[str, Snapshot]) -> Iterator[Any]:
    """The env runner that samples; afterwards it has no lock, and all hold the same again."""
    yield algo.env_runner
    for each in (algo.env_runner, algo.eval_env_runner_group.local_env_runner):
        unlock_local(each, ["foe"])
        send(each, home)


@pytest.fixture
def base(home: dict[str, Snapshot]) -> Snapshot:
    return home["foe"]


def held(runner: Any, pid: str = "foe") -> str:
    return parts.print_of(arrays_of(runner)[pid])


def print_for(runner: Any, snap: Snapshot, pid: str = "foe") -> str:
    return league.expected(snap, sorted(arrays_of(runner)[pid]))


def send(runner: Any, snaps: dict[str, Snapshot]) -> None:
    """Set weights as RLlib does."""
    weights = {pid: {n: np.array(a) for n, a in s.weights.items()} for pid, s in snaps.items()}
    if hasattr(runner, "policy_map"):
        runner.set_weights(weights)
    else:
        runner.set_state({"rl_module": weights})


def nudge(runner: Any, pid: str) -> None:
    old = hasattr(runner, "policy_map")
    network = runner.policy_map[pid].model if old else runner.module[pid]
    next(iter(network.parameters())).data.view(-1)[0] += 1


def rows(algo: Any, pid: str = "foe") -> dict[str, Any]:
    return {row.worker: row for row in check_sync(algo, [pid])}


# What is loaded, and what of RLlib's writes comes through ---------------------------------------


def test_one_module_of_one_runner_changes(algo: Any, runner: Any, base: Snapshot) -> None:
    mine = parts.other(base, 4.0)
    main = held(runner, "main")

    load_local(runner, {"foe": mine})

    assert held(runner) == print_for(runner, mine)
    assert held(runner, "main") == main
    assert held(algo.eval_env_runner_group.local_env_runner) == print_for(runner, base)


def test_rllibs_writes_reach_the_other_modules_only(runner: Any, base: Snapshot) -> None:
    mine = parts.other(base, 4.0)
    load_local(runner, {"foe": mine})

    sent = parts.other(base, 6.0)
    send(runner, {"foe": sent, "main": sent})

    assert held(runner) == print_for(runner, mine)
    assert held(runner, "main") == print_for(runner, sent, "main")


def test_a_whole_state_does_not_come_through(runner: Any, base: Snapshot) -> None:
    state = copy.deepcopy(runner.get_state())
    mine = parts.other(base, 4.0)
    load_local(runner, {"foe": mine})

    runner.set_state(state)

    assert held(runner) == print_for(runner, mine)


def test_a_checkpoint_does_not_come_through(
    runner: Any, base: Snapshot, old: bool, tmp_path: Path
) -> None:
    if old:
        state = runner.policy_map["foe"].get_state()
    else:
        runner.save_to_path(tmp_path)
    mine = parts.other(base, 4.0)
    load_local(runner, {"foe": mine})

    if old:
        runner.policy_map["foe"].set_state(state)
    else:
        runner.restore_from_path(tmp_path)

    assert held(runner) == print_for(runner, mine)


def test_the_next_load_goes_past_the_lock(runner: Any, base: Snapshot) -> None:
    for level in (4.0, 5.0, 4.0):
        mine = parts.other(base, level)
        load_local(runner, {"foe": mine})
        assert held(runner) == print_for(runner, mine)


def test_the_weights_that_acting_needs_are_enough(runner: Any, base: Snapshot, old: bool) -> None:
    names = sorted(parts.acting(base))
    assert old or set(names) < set(base.weights)
    mine = parts.other(base, 4.0)
    lean = Snapshot(
        weights={name: mine.weights[name] for name in names},
        spec=mine.spec.replace(weights="inference-only", acting=None),
    )

    load_local(runner, {"foe": lean})

    assert held(runner) == print_for(runner, mine)


def test_weights_by_hand_may_have_a_critic(runner: Any, base: Snapshot) -> None:
    mine = Snapshot(weights=parts.other(base, 4.0).weights)

    load_local(runner, {"foe": mine})

    assert held(runner) == print_for(runner, mine)


# Giving it back -----------------------------------------------------------------------------------


def test_unlocking_gives_back_what_was_there(algo: Any, runner: Any, base: Snapshot) -> None:
    load_local(runner, {"foe": parts.other(base, 4.0)})
    load_local(runner, {"foe": parts.other(base, 5.0)})

    unlock_local(runner, ["foe"])

    assert held(runner) == print_for(runner, base)
    assert {row.status for row in check_sync(algo, ["foe"])} == {"ok"}


def test_unlocking_gives_what_rllib_sent_last(runner: Any, base: Snapshot) -> None:
    load_local(runner, {"foe": parts.other(base, 4.0)})
    sent = [parts.other(base, level) for level in (6.0, 7.0)]
    for each in sent:
        send(runner, {"foe": each})

    unlock_local(runner, ["foe"])

    assert held(runner) == print_for(runner, sent[-1])
    send(runner, {"foe": sent[0]})
    assert held(runner) == print_for(runner, sent[0])


def test_what_rllib_sent_is_copied(runner: Any, base: Snapshot) -> None:
    """A learner's tensors change after they were sent."""
    load_local(runner, {"foe": parts.other(base, 4.0)})
    arrays = {name: np.array(array) for name, array in base.weights.items()}
    if hasattr(runner, "policy_map"):
        runner.set_weights({"foe": arrays})
    else:
        runner.set_state({"rl_module": {"foe": arrays}})
    for array in arrays.values():
        array += 1

    unlock_local(runner, ["foe"])

    assert held(runner) == print_for(runner, base)


def test_unlocking_what_is_not_locked_changes_nothing(runner: Any, base: Snapshot) -> None:
    unlock_local(runner, ["foe", "main"])

    assert held(runner) == print_for(runner, base)


# Reports ------------------------------------------------------------------------------------------


def test_check_sync_names_what_was_loaded(algo: Any, runner: Any, base: Snapshot) -> None:
    mine = parts.other(base, 4.0)
    load_local(runner, {"foe": mine}, refs={"foe": "league/main@3"})

    report = check_sync(algo)

    assert report.ok, str(report)
    found = {row.worker: row for row in report if row.policy == "foe"}
    assert {name for name, row in found.items() if row.status == "own"} == {"train local"}
    assert found["train local"].digest == mine.acting_digest
    assert "league/main@3" in found["train local"].note
    assert mine.acting_digest.short in found["train local"].note
    assert all(row.digest == base.acting_digest for row in found.values() if row.status == "ok")


def test_own_weights_that_were_changed_are_bad(algo: Any, runner: Any, base: Snapshot) -> None:
    load_local(runner, {"foe": parts.other(base, 4.0)}, refs={"foe": "league/main@3"})
    nudge(runner, "foe")

    (bad,) = check_sync(algo, ["foe"]).bad

    assert (bad.worker, bad.status) == ("train local", "bad")
    assert "league/main@3" in bad.note


def test_own_weights_of_a_trained_policy_are_never_behind(
    algo: Any, runner: Any, base: Snapshot
) -> None:
    """Weights of an evaluation worker may be behind; RLlib does not replace those under a lock."""
    other = algo.eval_env_runner_group.local_env_runner
    load_local(other, {"main": parts.other(base, 4.0)})
    try:
        nudge(other, "main")

        (bad,) = check_sync(algo, ["main"]).bad

        assert (bad.worker, bad.status) == ("eval local", "bad")
    finally:
        unlock_local(other, ["main"])


def test_all_others_are_compared_with_what_rllib_means(
    algo: Any, runner: Any, base: Snapshot, old: bool
) -> None:
    """On the old stack RLlib's weights are those of the local worker, beneath its own ones."""
    mine = parts.other(base, 4.0)
    load_local(runner, {"foe": mine})
    other = algo.eval_env_runner_group.local_env_runner
    assert {name: row.status for name, row in rows(algo).items() if "eval" in name} == {
        "eval local": "ok"
    }

    send(runner, {"foe": parts.other(base, 6.0)})
    if not old:
        send(other, {"foe": parts.other(base, 6.0)})

    found = rows(algo)
    assert found["train local"].status == "own"
    assert found["eval local"].status == "behind"


# Changes of the whole Algorithm -------------------------------------------------------------------


def test_load_into_is_for_everybody(algo: Any, runner: Any, base: Snapshot) -> None:
    load_local(runner, {"foe": parts.other(base, 4.0)})
    common = parts.other(base, 8.0)

    report = load_into(algo, {"foe": common})

    assert {row.status for row in report} == {"ok"}
    assert held(runner) == print_for(runner, common)
    assert {row.status for row in check_sync(algo, ["foe"])} == {"ok"}
    # The lock has ended.
    send(runner, {"foe": base})
    assert held(runner) == print_for(runner, base)
    load_into(algo, {"foe": base})


def test_a_load_that_is_rolled_back_leaves_the_lock(
    algo: Any, runner: Any, base: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = parts.other(base, 4.0)
    load_local(runner, {"foe": mine})
    monkeypatch.setattr(transaction, "_differing", lambda *_: "it is to fail")

    with pytest.raises(SyncError, match="it is to fail"):
        load_into(algo, {"foe": parts.other(base, 8.0)})

    assert held(runner) == print_for(runner, mine)
    assert rows(algo)["train local"].status == "own"
    send(runner, {"foe": parts.other(base, 6.0)})
    assert held(runner) == print_for(runner, mine)
    send(runner, {"foe": base})
    unlock_local(runner, ["foe"])
    assert held(runner) == print_for(runner, base)


def test_a_late_replay_goes_beneath_the_lock(runner: Any, base: Snapshot, old: bool) -> None:
    """A runner that missed a load plays on with its own weights, and has the load below them."""
    mine, missed = parts.other(base, 4.0), parts.other(base, 8.0)
    load_local(runner, {"foe": mine})
    info = describe(runner, ["foe"], 1.0).policies["foe"]
    weights = {name: missed.weights[name] for name in info.tensors}
    lean = Snapshot(weights=weights, spec=missed.spec.replace(acting=None))
    fit = prepare("foe", lean, info, "old" if old else "new")
    load = LoadRequest(token="t", plans={"foe": plan_of(info)}, timeout=1.0)
    program = ReplayProgram(
        [ReplayEntry("load", ("foe",), load, ray.put({"foe": fit.arrays}), generation=10**6)], None
    )
    had = {name: value for name, value in vars(runner).items() if name in (MARK, RESTARTED)}
    try:
        catch_up(runner, 10**6, to_wire(program))

        assert vars(runner)[MARK] == 10**6
    finally:
        for name in (MARK, RESTARTED):
            vars(runner).pop(name, None)
        vars(runner).update(had)
    assert held(runner) == print_for(runner, mine)
    unlock_local(runner, ["foe"])
    assert held(runner) == print_for(runner, missed)


def test_a_removed_module_loses_its_lock(algo: Any, runner: Any, base: Snapshot) -> None:
    add_policy(algo, "late", base, policies_to_train=["main"])
    load_local(runner, {"late": parts.other(base, 4.0)})
    remove_policy(algo, "late")
    with pytest.raises(NotFoundError, match="'foe', 'main'"):
        load_local(runner, {"late": base})

    add_policy(algo, "late", base, policies_to_train=["main"])

    try:
        assert {row.status for row in rows(algo, "late").values()} == {"ok"}
        sent = parts.other(base, 6.0)
        send(runner, {"late": sent})
        assert held(runner, "late") == print_for(runner, sent, "late")
    finally:
        remove_policy(algo, "late")


# Copies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "checkpoint", "spec"])
def test_a_copy_of_the_module_has_no_lock(
    how: str, runner: Any, base: Snapshot, old: bool, tmp_path: Path
) -> None:
    mine, sent = parts.other(base, 4.0), parts.other(base, 6.0)
    load_local(runner, {"foe": mine})
    first = print_for(runner, mine)
    if old:
        # RLlib copies policies of the old stack by their state alone, and those of the local worker
        # are the Algorithm's.
        assert how
        first = print_for(runner, base)
        copied = type(runner.policy_map["foe"]).from_state(runner.policy_map["foe"].get_state())
        weights = copied.get_weights
    else:
        if how == "deepcopy":
            copied = copy.deepcopy(runner.module)["foe"]
        elif how == "pickle":
            copied = cloudpickle.loads(cloudpickle.dumps(runner.module))["foe"]
        elif how == "checkpoint":
            runner.module.save_to_path(tmp_path)
            copied = RLModule.from_checkpoint(tmp_path)["foe"]
        else:
            copied = MultiRLModuleSpec.from_module(runner.module).build()["foe"]
            copied.set_state(runner.module["foe"].get_state())
        weights = copied.get_state
    assert parts.print_of(weights()) == first

    arrays = {name: np.array(sent.weights[name]) for name in weights()}
    copied.set_weights(arrays) if old else copied.set_state(arrays)

    assert parts.print_of(weights()) == print_for(runner, sent)
    send(runner, {"foe": sent})
    assert held(runner) == print_for(runner, mine)


def test_rllib_reads_no_own_weights_of_the_local_worker(
    algo: Any, runner: Any, base: Snapshot, old: bool
) -> None:
    """On the old stack it is the source of all others' weights; on the new one the learner is."""
    mine = parts.other(base, 4.0)
    load_local(runner, {"foe": mine})

    algo.evaluate()

    assert held(algo.eval_env_runner_group.local_env_runner) == print_for(runner, base)
    if old:
        for read in (
            runner.get_weights()["foe"],
            runner.get_state()["policy_states"]["foe"]["weights"],
        ):
            assert parts.print_of(read) == print_for(runner, base)
    assert held(runner) == print_for(runner, mine)
    send(runner, {"foe": base})
    assert held(runner) == print_for(runner, mine)


def test_the_lock_does_not_outlive_the_modules_place(
    runner: Any, base: Snapshot, old: bool
) -> None:
    """RLlib stashes policies of the old stack, and gives their objects another policy's state."""
    load_local(runner, {"foe": parts.other(base, 4.0)})
    table = runner.policy_map.cache if old else runner.module._rl_modules
    holder = table.pop("foe")
    sent = {n: np.array(base.weights[n]) for n in (holder.model if old else holder).state_dict()}
    try:
        holder.set_weights(sent) if old else holder.set_state(sent)
    finally:
        table["foe"] = holder

    assert held(runner) == print_for(runner, base)


# Refused: nothing changes -------------------------------------------------------------------------


def untouched(runner: Any, base: Snapshot) -> None:
    """Check that the module holds what it held, and has no lock."""
    assert held(runner) == print_for(runner, base)
    sent = parts.other(base, 6.0)
    send(runner, {"foe": sent})
    assert held(runner) == print_for(runner, sent)


def test_unknown_modules(runner: Any, base: Snapshot) -> None:
    with pytest.raises(NotFoundError, match="no module 'fo'; it has 'foe', 'main'"):
        load_local(runner, {"foe": parts.other(base, 4.0), "fo": base})
    with pytest.raises(NotFoundError, match="no module 'fo'; it has 'foe', 'main'"):
        unlock_local(runner, ["fo"])
    untouched(runner, base)


def test_weights_that_do_not_fit(runner: Any, base: Snapshot) -> None:
    name = sorted(parts.acting(base))[0]
    arrays = dict(base.weights)
    wrong = {
        "missing": {n: a for n, a in arrays.items() if n != name},
        "unexpected": {**arrays, "extra.weight": arrays[name]},
        "wrong": {**arrays, name: arrays[name].astype(np.float64)},
    }
    for kind, weights in wrong.items():
        spec = base.spec.replace(acting=None)
        with pytest.raises(MismatchError) as caught:
            load_local(runner, {"foe": Snapshot(weights=weights, spec=spec)})
        assert getattr(caught.value, kind), kind
    shape = {**arrays, name: np.zeros((3, 3), np.float32)}
    with pytest.raises(MismatchError, match=r"float32\[3, 3\]"):
        load_local(runner, {"foe": Snapshot(weights=shape, spec=base.spec)})
    untouched(runner, base)


def test_all_or_none(algo: Any, runner: Any, base: Snapshot) -> None:
    add_policy(algo, "late", base, policies_to_train=["main"])
    try:
        bad = Snapshot(weights={"w": np.zeros(3)})
        with pytest.raises(MismatchError):
            load_local(runner, {"foe": parts.other(base, 4.0), "late": bad})
        untouched(runner, base)
    finally:
        remove_policy(algo, "late")


def test_other_spaces_and_the_other_stack(runner: Any, base: Snapshot, old: bool) -> None:
    spaces = base.spec.replace(action_space=space_to_json(gym.spaces.Discrete(2, start=1)))
    with pytest.raises(MismatchError, match="action space"):
        load_local(runner, {"foe": base.replace(spec=spaces)})
    stack = base.spec.replace(stack="new" if old else "old")
    with pytest.raises(MismatchError, match="API stack"):
        load_local(runner, {"foe": base.replace(spec=stack)})
    untouched(runner, base)


def test_a_policy_in_training(runner: Any, base: Snapshot) -> None:
    with pytest.raises(InvalidInputError, match="policies_to_train"):
        load_local(runner, {"main": base})


def test_an_evaluation_runner_may_play_another_main(algo: Any, runner: Any, base: Snapshot) -> None:
    other = algo.eval_env_runner_group.local_env_runner
    load_local(other, {"main": parts.other(base, 4.0)})
    assert {row.status for row in check_sync(algo, ["main"])} == {"ok", "own"}

    unlock_local(other, ["main"])

    assert {row.status for row in check_sync(algo, ["main"])} == {"ok"}


def test_what_is_no_env_runner(algo: Any, runner: Any, base: Snapshot, old: bool) -> None:
    learners = [] if old else [algo.learner_group._learner]
    for each in (algo, object(), *learners):
        with pytest.raises(InvalidInputError, match="expected the env runner"):
            load_local(each, {"foe": base})
        with pytest.raises(InvalidInputError, match="expected the env runner"):
            unlock_local(each, ["foe"])
    early = types.SimpleNamespace(module=None, config=algo.config)
    with pytest.raises(InvalidInputError, match="on_episode_created"):
        load_local(early, {"foe": base})


def test_arguments_of_another_form(runner: Any, base: Snapshot) -> None:
    for arguments, options in (
        ([base], {}),
        ([{"foe": "league/main@3"}], {}),
        ([{"foe": base}], {"refs": {"fo": "league/main@3"}}),
        ([{"foe": base}], {"refs": {"foe": 3}}),
        ([{"foe": base}], {"refs": "league/main@3"}),
        ([{"foe": base}], {"filters": "merge"}),
        ([{"foe": base.replace(spec=base.spec.replace(modules={"foe": base.spec}))}], {}),
    ):
        with pytest.raises(InvalidInputError):
            load_local(runner, *arguments, **options)
    with pytest.raises(InvalidInputError, match="list of ids"):
        unlock_local(runner, "foe")
    untouched(runner, base)


def test_policies_that_are_stashed(
    runner: Any, base: Snapshot, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if old:
        monkeypatch.setattr(runner.policy_map, "capacity", 1)
        with pytest.raises(InvalidInputError, match="policy_map_capacity is 1"):
            load_local(runner, {"foe": base})
        monkeypatch.undo()
    untouched(runner, base)


def test_modules_that_share_weights(runner: Any, base: Snapshot, old: bool) -> None:
    one, two = (
        runner.policy_map[pid].model if old else runner.module[pid] for pid in ("foe", "main")
    )
    path, _, name = next(iter(dict(one.named_parameters()))).rpartition(".")
    kept = getattr(one.get_submodule(path), name)
    try:
        setattr(one.get_submodule(path), name, getattr(two.get_submodule(path), name))
        with pytest.raises(InvalidInputError, match="shares weights with 'main'"):
            load_local(runner, {"foe": base})
    finally:
        setattr(one.get_submodule(path), name, kept)
    untouched(runner, base)


# Filters ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=sampled(["PPO", "old PPO"]))
def filtered(request: Any, ray_session: None, tmp_path_factory: Any) -> Iterator[Any]:  # fmt: skip
    """An Algorithm that normalises observations."""
    config = league.configured(request.param, tmp_path_factory.mktemp("pool"), 0, None)
    config.callbacks(None)
    if request.param == "PPO":
        config.env_runners(env_to_module_connector=lambda *_, **__: MeanStdFilter(multi_agent=True))
    else:
        config.observation_filter = "MeanStdFilter"
    with parts.built(config) as made:
        made.train()
        yield made


def test_filter_statistics_are_refused_or_ignored(filtered: Any) -> None:
    runner = filtered.env_runner
    options = {} if hasattr(runner, "policy_map") else {"agent_ids": ["b"]}
    snap = parts.other(snapshot(filtered, "foe", **options), 4.0)
    assert snap.state
    before = held(runner)
    with pytest.raises(MismatchError, match="filters='ignore'"):
        load_local(runner, {"foe": snap})
    assert held(runner) == before

    load_local(runner, {"foe": snap}, filters="ignore")

    assert held(runner) == print_for(runner, snap)
    filtered.train()
    assert held(runner) == print_for(runner, snap)
    unlock_local(runner, ["foe"])


def test_a_snapshot_without_statistics_where_there_is_a_filter(filtered: Any) -> None:
    runner = filtered.env_runner
    options = {} if hasattr(runner, "policy_map") else {"agent_ids": ["b"]}
    snap = parts.other(snapshot(filtered, "foe", **options), 4.0).replace(state={})
    before = held(runner)
    with pytest.raises(MismatchError, match="has no filter statistics"):
        load_local(runner, {"foe": snap})
    assert held(runner) == before

    load_local(runner, {"foe": snap}, filters="ignore")

    assert held(runner) == print_for(runner, snap)
    unlock_local(runner, ["foe"])
