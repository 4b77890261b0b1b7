"""Calls that change or ask running Algorithms, on Algorithms and under faults of all kinds.

``tests/support/tried_cells.py`` lists the cells, and docs/running.md shows them as a table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import ray

import policystore.errors as errors
import tests.support.tried_algorithms as parts
from policystore import Snapshot
from policystore.rllib import (
    SyncReport,
    add_policy,
    check_sync,
    load_into,
    remove_policy,
    snapshot_all,
)
from policystore.rllib.workers.calls import Calls
from tests.support.new_stack_algorithms import other, until
from tests.support.tried_cells import LIVE, REFUSED, WORKS, Cell, tried

pytestmark = [
    pytest.mark.long,
    # RLlib's metrics take the mean of lists that are still empty (utils/metrics/window_stat.py).
    pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Degrees of freedom <= 0:RuntimeWarning"),
    # RLlib's reader of recorded steps closes no files (offline/json_reader.py).
    pytest.mark.filterwarnings("ignore:.*FileIO:pytest.PytestUnraisableExceptionWarning"),
]
NEW = "late"


@pytest.fixture(scope="module")
def algo(
    request: pytest.FixtureRequest, ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """An Algorithm that has trained. Tries without a fault leave its policies as they were."""
    name, _ = request.param
    with parts.built(parts.CONFIGS[name](tmp_path_factory.mktemp("tried"))) as made:
        for _ in range(2):
            made.train()
        if made.eval_env_runner_group is not None:
            # Until then evaluation workers hold their own weights of policies that are not trained.
            made.evaluate()
        yield made


def other_weights(algo: Any) -> dict[str, Snapshot]:
    return {pid: other(snap, 2.0) for pid, snap in snapshot_all(algo).items()}


# Each function makes a call with other weights for all policies. It returns the report of the call,
# and the weights that all workers hold then.
Weights = Mapping[str, Snapshot]
Called = tuple[SyncReport | None, Weights]


def call_snapshot(algo: Any, weights: Weights) -> Called:
    return None, snapshot_all(algo)


def call_load_into(algo: Any, weights: Weights) -> Called:
    return load_into(algo, weights), weights


def call_check_sync(algo: Any, weights: Weights) -> Called:
    return check_sync(algo), {}


def call_add_policy(algo: Any, weights: Weights) -> Called:
    snap = last(weights)
    return add_policy(algo, NEW, snap), {NEW: snap}


def call_remove_policy(algo: Any, weights: Weights) -> Called:
    return remove_policy(algo, NEW if NEW in weights else next(iter(weights))), {}


def last(weights: Weights) -> Snapshot:
    """Return the weights of a policy that is not trained, if there is one."""
    return weights.get("foe", next(iter(weights.values())))


CALLS: dict[str, Callable[[Any, Weights], Called]] = {
    "snapshot": call_snapshot,
    "load_into": call_load_into,
    "check_sync": call_check_sync,
    "add_policy": call_add_policy,
    "remove_policy": call_remove_policy,
}


# Faults -------------------------------------------------------------------------------------------

# The number of the wait for answers at which the change is under way: the waits before are for
# descriptions and checks.
UNDER_WAY = {
    ("load_into", "learner"): 2,
    ("load_into", "env runner"): 2,
    ("check_sync", "learner"): 2,
    ("check_sync", "env runner"): 2,
    ("add_policy", "learner"): 3,
    ("add_policy", "env runner"): 3,
    # Env runners stop using the policy, then learners remove it.
    ("remove_policy", "env runner"): 3,
    ("remove_policy", "learner"): 4,
}


def asleep(worker: Any) -> None:
    time.sleep(30)


@contextmanager
def killing(algo: Any, monkeypatch: pytest.MonkeyPatch, call: str, who: str) -> Iterator[None]:
    """Kill the first learner or env runner while the call waits for answers to its change.

    The actor is put to sleep before the change is sent, so it dies before it makes the change.
    """
    group = algo.learner_group if who == "learner" else algo.env_runner_group
    victim = group._worker_manager.actors()[1 if who == "env runner" else 0]
    collect, waits = Calls.collect, []

    def collected(self: Any, *arguments: Any, **named: Any) -> Any:
        waits.append(None)
        if len(waits) == UNDER_WAY[call, who]:
            ray.kill(victim, no_restart=who == "learner")
        found = collect(self, *arguments, **named)
        if len(waits) == UNDER_WAY[call, who] - 1:
            victim.apply.remote(asleep)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Calls, "collect", collected)
        yield
    assert len(waits) >= UNDER_WAY[call, who]


def fault(algo: Any, monkeypatch: Any, cell: Cell) -> AbstractContextManager[None]:
    if not cell.fault:
        return nullcontext()
    return killing(algo, monkeypatch, cell.call, cell.fault.removesuffix(" killed"))


def the_dead(cell: Cell) -> set[str]:
    return {"learner killed": {"learner 0"}, "env runner killed": {"train 1"}}.get(
        cell.fault, set()
    )


# The tries ----------------------------------------------------------------------------------------


@tried(LIVE)
def test_tried(algo: Any, cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    if cell.call == "remove_policy" and cell.outcome != REFUSED:
        add_policy(algo, NEW, last(other_weights(algo)))
    weights, before = other_weights(algo), parts.everyone(algo)
    dead = the_dead(cell)
    if cell.outcome != WORKS:
        with (
            fault(algo, monkeypatch, cell),
            pytest.raises(getattr(errors, cell.outcome)),
        ):
            CALLS[cell.call](algo, weights)
        after = parts.everyone(algo)
        assert before.keys() - after.keys() <= dead
        assert at_rest(algo, after) == at_rest(algo, {name: before[name] for name in after})
        if not dead:
            algo.train()
        return
    with fault(algo, monkeypatch, cell):
        report, snaps = CALLS[cell.call](algo, weights)
    if report is None:
        held = parts.everyone(algo)
        leader = next(iter(held.values()))
        for pid, snap in snaps.items():
            assert leader[pid] == {n: parts.hash_of(array) for n, array in snap.weights.items()}
        return
    assert {row.worker for row in report} == parts.workers(algo).keys()
    for row in report:
        # An env runner that is back already has random weights until RLlib restores it.
        assert row.status in (("unreachable", "bad") if row.worker in dead else ("ok", "behind"))
    parts.assert_held(algo, snaps, absent=dead)
    if cell.call == "remove_policy":
        assert not [name for name, each in parts.everyone(algo).items() if NEW in each]
    if "learner 0" not in dead:
        goes_on(algo, snaps)
    if cell.call == "add_policy" and not dead:
        remove_policy(algo, NEW)


def at_rest(algo: Any, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what each worker holds, without what updates that are under way may change."""
    moving = {"main"} if type(algo).__name__ in ("IMPALA", "APPO") else set()
    return {
        name: {pid: None if pid in moving else each for pid, each in policies.items()}
        for name, policies in found.items()
    }


def goes_on(algo: Any, snaps: Mapping[str, Snapshot]) -> None:
    """Train on until all workers are back and in sync; policies that are not trained have stayed."""

    def in_sync() -> bool:
        algo.train()
        return check_sync(algo).ok

    until(in_sync, "all workers are in sync")
    assert parts.everyone(algo).keys() == parts.workers(algo).keys()
    resting = {pid: snap for pid, snap in snaps.items() if pid in ("foe", NEW)}
    # DQN and SAC also update the target networks of policies that are not trained.
    parts.assert_held(algo, {pid: acting_only(snap) for pid, snap in resting.items()})


def acting_only(snap: Snapshot) -> Snapshot:
    acting = snap.weights if snap.spec.acting is None else snap.spec.acting
    return Snapshot(weights={name: snap.weights[name] for name in acting}, spec=snap.spec)
