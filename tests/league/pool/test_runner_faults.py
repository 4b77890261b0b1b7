"""Writes into slots, stores that fail and other faults, in one env runner of the new API stack."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from policystore import PolicyStore
from policystore.errors import StorageError
from policystore.league.pool.messages import Candidate, RunnerRequest
from policystore.league.pool.runner import exchange, reasons
from policystore.rllib.worker_code.state_lock import lock_of
from policystore.rllib.worker_code.tensors import PolicyAccess
from tests.support.league_runner import Table
from tests.support.new_stack_algorithms import other

LONG = pytest.mark.long
pytestmark = [
    pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Degrees of freedom <= 0:RuntimeWarning"),
]


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    return PolicyStore(tmp_path / "store")


# Weights -----------------------------------------------------------------------------------------


def test_what_rllib_sends_reaches_the_learner_and_no_slot(store: PolicyStore) -> None:
    table = Table(store)
    table.give()
    state = table.runner.module.get_state()
    for _ in range(4):
        table.runner.sample(num_timesteps=16)
        table.runner.set_state({"rl_module": state})
    table.driver.exchange(table.runner)
    table.assert_as_witnessed()
    assert not table.driver.answer.unknown
    assert len(table.driver.records) == len(table.true_returns())


def overwrite(module: Any, how: str) -> None:
    """Write other weights into a module, past its lock."""
    tensors = list(module.unwrapped().state_dict(keep_vars=True).values())
    changed = {
        name: tensor.detach() + 1 for name, tensor in module.unwrapped().state_dict().items()
    }
    if how == "load_state_dict":
        module.unwrapped().load_state_dict(changed)
    elif how == "in place":
        with torch.no_grad():
            tensors[0].add_(1.0)
    elif how == "data":
        tensors[0].data.add_(1.0)
    elif how == "numpy":
        tensors[0].detach().numpy()[...] += 1
    else:
        type(module.unwrapped()).set_state(module.unwrapped(), changed)


@pytest.mark.parametrize(
    "how",
    [
        "in place",
        "data",
        *(pytest.param(each, marks=LONG) for each in ("load_state_dict", "numpy", "set_state")),
    ],
)
@pytest.mark.parametrize("when", ["under way", pytest.param("before the end", marks=LONG)])
def test_an_opponent_that_somebody_changed_is_not_recorded(
    store: PolicyStore, how: str, when: str
) -> None:
    table = Table(
        store, env={"lengths": [10]}, opponents=1, env_runners={"num_envs_per_env_runner": 1}
    )
    table.give()
    table.sample(num_timesteps=10)
    assert len(table.driver.records) == 1
    played = 4 if when == "under way" else 9
    table.runner.sample(num_timesteps=played)
    overwrite(table.runner.module["o0"], how)
    table.sample(num_timesteps=10 - played)
    assert table.driver.answer.unknown == {reasons.CHANGED: 1}
    assert len(table.driver.records) == 1
    table.sample(num_timesteps=30)
    # torch counts no writes through .data and numpy. These show in the hash of the exchange, and by
    # then the next episode had begun with the same weights.
    hidden = how in ("data", "numpy")
    assert table.driver.answer.unknown == {reasons.CHANGED: 1 + hidden}
    assert len(table.driver.records) == 4 - hidden
    table.assert_as_witnessed()


def test_the_same_bytes_written_again_change_nothing(store: PolicyStore) -> None:
    table = Table(store, env={"lengths": [10]}, env_runners={"num_envs_per_env_runner": 1})
    table.give()
    table.runner.sample(num_timesteps=5)
    module = table.runner.module["o0"].unwrapped()
    module.load_state_dict(copy.deepcopy(module.state_dict()))
    table.sample(num_timesteps=10)
    assert len(table.driver.records) == 1
    assert not table.driver.answer.unknown


def test_a_policy_of_another_choice_than_the_pools_is_not_recorded(store: PolicyStore) -> None:
    table = Table(store)
    table.give()
    table.runner.config = table.runner.config.copy(copy_frozen=False)
    table.runner.config.policy_mapping_fn = lambda agent, *_, **__: "random"
    table.runner.sample(num_timesteps=80)
    table.driver.exchange(table.runner)
    assert table.driver.answer.unknown.keys() == {reasons.OTHER_POLICIES}


def test_reports_name_what_a_slot_holds(store: PolicyStore) -> None:
    table = Table(store, opponents=1)
    table.give()
    table.sample()
    ref = table.candidates[0].ref
    assert table.driver.answer.holding == {"o0": ref, "o1": ref}
    lock = lock_of(PolicyAccess(table.runner), "o0")
    assert lock is not None
    assert ref in lock.label


# Faults ------------------------------------------------------------------------------------------


class Broken(PolicyStore):
    """A store that cannot be read while ``down`` is set."""

    down: Any = None

    def pull(self, ref: Any, **kwargs: Any) -> Any:
        if Broken.down is not None:
            raise Broken.down
        return super().pull(ref, **kwargs)


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Broken:
    monkeypatch.setattr(Broken, "down", None)
    return Broken(tmp_path / "store")


@pytest.mark.parametrize(
    "error",
    [
        StorageError("the network is down"),
        pytest.param(OSError("no disk"), marks=LONG),
    ],
)
def test_a_store_that_fails_leaves_the_present_opponent(
    broken: Broken, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    table = Table(broken, cached_bytes=0)
    table.give(table.candidates[0])
    table.sample()
    swaps = table.driver.answer.swaps
    monkeypatch.setattr(Broken, "down", error)
    table.give(*table.candidates[1:])
    table.sample()
    answer = table.driver.answer
    assert answer.swaps == swaps
    assert answer.failed == 2  # each opponent is tried once until the next exchange
    assert not answer.unknown
    assert set(table.driver.opponents()) == {table.candidates[0].ref}
    assert len(answer.notes) == 1
    assert str(error) in answer.notes[0]
    monkeypatch.setattr(Broken, "down", None)
    table.sample()
    assert len(table.driver.opponents()) == 3
    table.assert_as_witnessed()


def test_a_store_that_never_answered_makes_episodes_unknown(
    broken: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(broken)
    monkeypatch.setattr(Broken, "down", StorageError("the network is down"))
    table.give()
    table.sample()
    assert table.driver.answer.unknown.keys() == {reasons.NOT_LOADED}
    assert not table.driver.records


def test_an_opponent_that_was_pruned_or_does_not_fit(store: PolicyStore) -> None:
    table = Table(store, opponents=1)
    snap = store.pull(table.candidates[0].player)
    wide = other(snap, 1.0)
    weights = {name: array.repeat(2, axis=0) for name, array in wide.weights.items()}
    unfit = store.push(type(snap)(weights=weights, spec=snap.spec))
    gone = Candidate("blake3:" + "f" * 64, "soccer/main@9")
    table.give(Candidate(str(unfit.digest), "unfit"), gone)
    table.sample()
    assert table.driver.answer.failed == 2
    assert table.driver.answer.unknown.keys() == {reasons.NOT_LOADED}
    assert len(table.driver.answer.notes) == 2


@LONG
def test_an_error_inside_never_ends_a_sample(
    store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(store)
    table.give()
    for name in ("seat", "holds"):
        with monkeypatch.context() as patched:
            patched.setattr(table.pool.slots, name, lambda *_: 1 / 0)
            table.sample()
    answer = table.driver.answer
    assert answer.unknown[reasons.FAILED] > 5
    assert any("ZeroDivisionError" in note for note in answer.notes)
    before = len(table.driver.records)
    table.sample()
    assert len(table.driver.records) > before


def test_a_failed_exchange_keeps_the_records(
    store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(store, opponents=1)
    table.give()
    table.runner.sample(num_timesteps=40)
    with monkeypatch.context() as patched:
        patched.setattr(table.pool.slots, "look", lambda *_: 1 / 0)
        assert "ZeroDivisionError" in exchange(table.runner, RunnerRequest(None)).error
    table.driver.exchange(table.runner)
    assert len(table.driver.records) == len(table.true_returns())


@LONG
def test_an_outcome_function_that_fails_costs_the_record(store: PolicyStore) -> None:
    table = Table(store, outcome=lambda ended: 1 / 0)
    table.give()
    table.sample()
    assert table.driver.answer.unknown.keys() == {reasons.OUTCOME_FAILED}
    assert len(table.driver.answer.notes) == 1


def test_an_outcome_function_sees_the_whole_episode(store: PolicyStore) -> None:
    seen = []

    def outcome(ended: Any) -> Any:
        seen.append(ended)
        return {"a": 0.0, "b": 0.0}

    table = Table(store, env={"lengths": [9]}, outcome=outcome)
    table.give()
    table.sample(times=6, num_timesteps=8)
    assert seen
    for each in seen:
        assert each.length == 9
        assert (each.terminated, each.truncated) == (True, False)
        assert sum(len(chunk) for chunk in [*each.chunks, each.episode]) == 9
    assert {r.match.outcomes[0].ranks for r in table.driver.records.values()} == {(0, 0)}
