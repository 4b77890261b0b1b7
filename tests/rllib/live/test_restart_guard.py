"""Env runners that die, or are added, after a load: none samples with what it was made with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection, Iterator
from typing import Any

import pytest
import ray
from ray import cloudpickle
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule

import tests.support.new_stack_algorithms as parts
import tests.support.restarts as restarts
from policystore.rllib import check_sync, load_into, snapshot_all
from policystore.rllib.live import restart_guard as ours
from policystore.rllib.worker_code.messages.requests import ReplayEntry, ReplayProgram
from policystore.rllib.worker_code.messages.wire import to_wire
from policystore.rllib.worker_code.replay import catch_up
from policystore.rllib.worker_code.rollback import MARK
from policystore.rllib.workers.by_value import ship
from policystore.rllib.workers.compat import actor_manager
from tests.support.cells import sampled

CELLS = ["PPO", "PPO, no local runner", "IMPALA", "old PPO"]
pytestmark = [
    # RLlib's metrics average what has no entries yet (utils/metrics/window_stat.py).
    pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Degrees of freedom <= 0:RuntimeWarning"),
]


def only(*cells: str, always: Collection[str] = ()) -> Any:
    """Return the mark of a test of some of the cells, of which only ``always`` are not long.

    Each test takes seconds, because it waits for processes to start anew.
    """
    return pytest.mark.parametrize("cell", sampled(cells, *always), indirect=True, scope="module")


@pytest.fixture(scope="module")
def cell(request: Any) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def algo(cell: str, ray_session: None) -> Iterator[Any]:
    with parts.built(restarts.configured(cell)) as made:
        made.train()
        yield made


def load(algo: Any, level: float, *pids: str) -> dict[str, Any]:
    """Load these policies, and forget the samples of before; ``foe`` is 20 levels above ``main``."""
    now = snapshot_all(algo)
    snaps = {pid: parts.other(now[pid], level + 20 * (pid == "foe")) for pid in pids or now}
    report = load_into(algo, snaps)
    assert report.ok, str(report)
    for name in names(algo):
        restarts.ask(algo, name, restarts.forget)
    return snaps


def names(algo: Any) -> list[str]:
    return [row.worker for row in check_sync(algo, ["foe"]) if row.worker[-1].isdigit()
            and not row.worker.startswith("learner")]  # fmt: skip


def guard_of(group: Any) -> ours.Guard:
    return getattr(actor_manager(group), ours._GUARD)


def set_mapping(worker: Any) -> None:
    if hasattr(worker, "policy_map"):
        worker.set_policy_mapping_fn(restarts.second)
    else:
        worker.config.multi_agent(policy_mapping_fn=restarts.second)


def leading(algo: Any) -> Any:
    """The trained policy, where training keeps it."""
    return snapshot_all(algo)["main"]


def assert_follows(algo: Any, name: str) -> None:
    """A runner gets what is learned, as the others do."""
    if restarts.ask(algo, name)["seq"] is None or "IMPALA" not in type(algo).__name__:
        algo.train()
        held = restarts.ask(algo, name)["arrays"]["main"]
        assert parts.print_of(held) == restarts.expected(leading(algo), held)
        return
    seq = parts.learner_seq(algo)
    parts.until(lambda: algo.train() and restarts.ask(algo, name)["seq"] > seq, "newer weights")


@only("IMPALA")
def test_what_was_never_loaded(algo: Any) -> None:
    """The load's number must not keep out what RLlib restores (env/multi_agent_env_runner.py:757)."""
    load(algo, 2.0, "main")
    local = parts.arrays_of(algo.env_runner_group.local_env_runner.module)["foe"]
    restarts.kill_unnoticed(algo, "train 1")
    parts.until(lambda: algo.train() and restarts.ask(algo, "train 1")["noted"], "a sample")
    held = restarts.ask(algo, "train 1")["arrays"]["foe"]
    assert parts.print_of(held) == parts.print_of({name: local[name] for name in held})
    restarts.assert_drawn(algo, "train 1", {}, 2.0, "first")


@pytest.mark.long
@only(*CELLS, always=["PPO"])
def test_a_restart_that_nobody_noticed(algo: Any, cell: str) -> None:
    snaps = load(algo, 3.0)
    for group in (algo.env_runner_group, algo.eval_env_runner_group):
        group.foreach_env_runner(set_mapping)
    for guard in ours.guards_of(algo):
        guard.mapping = restarts.second  # as add_policy says it
    for name, found in restarts.kill_unnoticed(algo, "train 1", "eval 1").items():
        held = found["arrays"]["foe"]
        assert parts.print_of(held) != restarts.expected(snaps["foe"], held), name
        assert found["mapping"] == "first"
    foe = {"foe": snaps["foe"]}
    algo.evaluate()
    restarts.assert_drawn(algo, "eval 1", foe, 3.0, "second")
    restored = restored_workers(algo)
    parts.until(lambda: algo.train() and restarts.ask(algo, "train 1")["noted"], "a sample")
    restarts.assert_drawn(algo, "train 1", foe, 3.0, "second")
    assert_follows(algo, "train 1")
    # RLlib's own restore ran, once.
    assert restored_workers(algo) == restored + 1
    restarts.assert_drawn(algo, "train 1", foe, 3.0, "second")
    restarts.assert_drawn(algo, "train 2", foe, 3.0, "second")


def restored_workers(algo: Any) -> int:
    return int(algo._counters["total_num_restored_workers"])


@only("PPO", "IMPALA", "old PPO")  # without a local runner it takes no other way
def test_a_restart_that_rllib_notices(algo: Any) -> None:
    snaps = load(algo, 6.0)
    before = restarts.ask(algo, "train 2")["pid"]
    restarts.kill(algo, "train 2")

    def sampled() -> bool:
        algo.train()
        found = restarts.answers(algo, "train 2")
        return bool(found and found["pid"] != before and found["noted"])

    parts.until(sampled, "a sample of the restarted runner")
    foe = {"foe": snaps["foe"]}
    restarts.assert_drawn(algo, "train 2", foe, 6.0, "second")
    assert_follows(algo, "train 2")
    restarts.assert_drawn(algo, "train 2", foe, 6.0, "second")


@only("PPO")
def test_each_policy_has_the_last_that_it_was_given(algo: Any) -> None:
    """Loads of several policies, and of one of them again; and nothing is done to those who live."""
    guard = guard_of(algo.env_runner_group)
    first = load(algo, 9.0)
    second = load(algo, 12.0, "foe")
    load_into(algo, {"foe": second["foe"]})
    # Who took part has nothing to do any more.
    assert restarts.ask(algo, "train 2", getattr, MARK) == guard._generation
    algo.train()
    held = restarts.ask(algo, "train 2")["arrays"]["main"]
    restarts.kill_unnoticed(algo, "train 1")
    report = check_sync(algo, ["foe"])
    assert report.ok, str(report)
    found = restarts.ask(algo, "train 1")["arrays"]
    assert parts.print_of(found["foe"]) == restarts.expected(second["foe"], found["foe"])
    assert parts.print_of(found["main"]) == restarts.expected(first["main"], found["main"])
    # The other one trained on from the load.
    assert parts.print_of(restarts.ask(algo, "train 2")["arrays"]["main"]) == parts.print_of(held)
    assert [entry.policies for entry in guard._entries] == [("main",), ("foe",)]
    # A load reaches some that have not been called since their restart: they have the rest as well.
    restarts.kill_unnoticed(algo, "train 1", "eval 1")
    assert load(algo, 15.0, "main").keys() == {"main"}
    algo.evaluate()
    algo.train()
    for name in ("train 1", "eval 1"):
        restarts.assert_drawn(algo, name, {"foe": second["foe"]}, 15.0, "second")


@only("PPO")
def test_what_cannot_be_done_anew_is_said(algo: Any) -> None:
    snaps = load(algo, 4.0)
    guard = guard_of(algo.env_runner_group)
    (entry,) = guard._entries
    payload = ray.put({pid: {"no such name": None} for pid in snaps})
    guard._entries = [entry.replace(payload=payload)]
    guard._program = None
    restarts.kill_unnoticed(algo, "train 1")
    (bad,) = check_sync(algo, ["foe"]).bad
    assert bad.worker == "train 1"
    assert "not everything could be done anew" in bad.note
    assert "TypeError" in bad.note
    # Calls go through; and once it can be done, it is.
    pid = restarts.ask(algo, "train 1")["pid"]
    guard._entries = [entry]
    guard._program = None
    parts.until(lambda: check_sync(algo, ["foe"]).ok, "done anew")
    found = restarts.ask(algo, "train 1")
    assert found["pid"] == pid
    held = found["arrays"]["foe"]
    assert parts.print_of(held) == restarts.expected(snaps["foe"], held)


@only("PPO", "old PPO")
def test_a_policy_of_the_config_that_left(algo: Any, cell: str) -> None:
    load(algo, 5.0)
    guard = guard_of(algo.eval_env_runner_group)
    later = guard._generation + 1
    program = to_wire(ReplayProgram([ReplayEntry("remove", ("foe",), generation=later)], None))
    restarts.ask(algo, "eval 1", ship(catch_up), later, program)
    found = restarts.ask(algo, "eval 1")
    assert found["arrays"].keys() == {"main"}
    assert found["filters"] == ({"main"} if cell == "old PPO" else set())
    restarts.kill_unnoticed(algo, "eval 1")
    assert check_sync(algo, ["foe"]).ok


@only(*CELLS)
def test_an_added_policy(algo: Any, cell: str) -> None:
    from policystore.rllib import add_policy

    foe = load(algo, 7.0)["foe"]
    late = parts.other(foe, 40.0)
    report = add_policy(
        algo, "late", late, policy_mapping_fn=restarts.third, policies_to_train=["main"]
    )
    assert report.ok, str(report)
    restarts.kill_unnoticed(algo, "train 1", "eval 1")
    algo.evaluate()
    parts.until(lambda: algo.train() and restarts.ask(algo, "train 1")["noted"], "a sample")
    for name in ("train 1", "eval 1"):
        restarts.assert_drawn(algo, name, {"late": late, "foe": foe}, 7.0, "third")
    assert check_sync(algo, ["late", "foe"]).ok


@only("PPO", "old PPO")
def test_a_removed_policy(algo: Any) -> None:
    from policystore.rllib import remove_policy

    load(algo, 10.0, "late")
    report = remove_policy(algo, "late", policy_mapping_fn=restarts.second)
    assert report.ok, str(report)
    restarts.kill_unnoticed(algo, "train 1")
    assert check_sync(algo, ["foe"]).ok
    found = restarts.ask(algo, "train 1")
    assert found["arrays"].keys() == {"main", "foe"}
    assert found["mapping"] == "second"


@only(*CELLS)
def test_workers_that_are_added(algo: Any, cell: str) -> None:
    """Last, as there is one more from here on."""
    mapping = restarts.ask(algo, "train 1")["mapping"]
    snaps = load(algo, 8.0)
    algo.env_runner_group.add_workers(1)
    new = restarts.ask(algo, "train 3")
    assert parts.print_of(new["arrays"]["foe"]) != restarts.expected(
        snaps["foe"], new["arrays"]["foe"]
    )
    parts.until(lambda: algo.train() and restarts.ask(algo, "train 3")["noted"], "a sample")
    restarts.assert_drawn(algo, "train 3", {"foe": snaps["foe"]}, 8.0, mapping)
    assert_follows(algo, "train 3")
    restarts.assert_drawn(algo, "train 3", {"foe": snaps["foe"]}, 8.0, mapping)


# Without an Algorithm ----------------------------------------------------------------------------


class Manager:
    def actors(self) -> dict[int, Any]:
        return {}

    def _call_actors(self) -> None: ...

    def probe_unhealthy_actors(self) -> None: ...


class Group:
    def __init__(self) -> None:
        self._worker_manager = Manager()


def test_what_is_kept() -> None:
    """One load for each policy at most, one addition, and that a policy of the config left."""
    guard = ours.Guard("train", Group())

    def record(kind: str, *pids: str) -> None:
        guard.record([ReplayEntry(kind, pids)])

    def kept() -> list[tuple[Any, ...]]:
        return [(entry.generation, entry.kind, *entry.policies) for entry in guard._entries]

    record("load", "a", "b")
    record("load", "b")
    record("add", "c")
    record("load", "c")
    record("load", "c", "a")
    assert kept() == [(2, "load", "b"), (3, "add", "c"), (5, "load", "c", "a")]
    record("remove", "c")
    assert kept() == [(2, "load", "b"), (5, "load", "a")]
    record("remove", "a")
    record("load")  # without remote workers
    record("add", "a")
    assert kept() == [(2, "load", "b"), (7, "remove", "a"), (9, "add", "a")]
    record("remove", "a")
    assert kept() == [(2, "load", "b"), (7, "remove", "a")]
    assert guard._generation == 10


def test_nodes_need_no_policystore(ray_session: None) -> None:
    """What goes along with each call, and what is fetched by those who lack something."""
    gated = ours._Gated(3, None, MultiRLModule.__len__)
    program = (ship(catch_up), to_wire(ReplayProgram([], None)))
    script = """
import sys, types, json
sys.modules["policystore"] = None
from ray import cloudpickle
gated, program = cloudpickle.loads(bytes.fromhex(sys.stdin.read()))
worker = types.SimpleNamespace(_policystore_mark=3, _rl_modules=[1, 2])
replay, wire = program
replay(worker, 4, wire)
print(json.dumps([gated(worker), worker._policystore_mark]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=cloudpickle.dumps((gated, program)).hex(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [2, 4]


def test_a_ray_that_does_not_tell(monkeypatch: Any, caplog: Any, ray_session: None) -> None:
    """Who restarted is then unknown, said once; who is new is not."""
    monkeypatch.delattr("ray._private.state.actors")
    ours._warn.cache_clear()
    assert ours._restarts(["00"]) == {}
    assert ours._restarts(["00"]) == {}
    assert len(caplog.records) == 1
    ours._warn.cache_clear()
