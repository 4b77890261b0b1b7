"""What is checked when a slot gets another opponent, and what need not be checked again."""

from __future__ import annotations

import pytest
import torch
from gymnasium.spaces import Box

from policystore import MismatchError, PolicyStore
from policystore.format.spec import Spec
from policystore.league.pool.messages import Candidate, DrawTable
from policystore.league.pool.runner import reasons
from policystore.rllib import load_local
from policystore.rllib.live.checks import own_weights
from policystore.rllib.worker_code.state_lock import lock_of
from policystore.rllib.worker_code.tensors import PolicyAccess
from tests.support.league_runner import Table

pytestmark = [
    pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Degrees of freedom <= 0:RuntimeWarning"),
]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """One env runner for all tests; each episode lasts 10 steps."""
    return Table(
        PolicyStore(tmp_path_factory.mktemp("store")),
        env={"lengths": [10]},
        env_runners={"num_envs_per_env_runner": 1},
        cached_bytes=0,
    )


def in_turn(table: Table) -> None:
    """Let each episode have another opponent than the one before."""
    table.give(tables={"main": DrawTable(table.candidates, sequence=(0, 1, 2))})


def counts(table: Table) -> tuple[int, int]:
    return len(table.driver.records), table.driver.answer.unknown.get(reasons.CHANGED, 0)


@pytest.mark.parametrize("how", ["data", "numpy", "counted"])
def test_a_write_is_found_when_the_slot_is_loaded_anew(table: Table, how: str) -> None:
    in_turn(table)
    table.sample(num_timesteps=10)
    records, changed = counts(table)
    swaps = table.driver.answer.swaps
    table.runner.sample(num_timesteps=4)
    (slot,) = table.pool.under_way[0].seats
    tensor = next(iter(table.runner.module[slot].unwrapped().parameters()))
    if how == "data":
        tensor.data.add_(1.0)
    elif how == "numpy":
        tensor.detach().numpy()[...] += 1.0
    else:
        with torch.no_grad():
            tensor.add_(1.0)
    table.sample(num_timesteps=26)  # the end of this episode, and two more with other opponents
    assert table.driver.answer.swaps == swaps + 3
    assert counts(table) == (records + 2, changed + 1)
    table.assert_as_witnessed()


def test_a_stored_policy_is_hashed_once_for_its_lock(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_turn(table)
    table.sample(num_timesteps=30)
    monkeypatch.setattr(own_weights, "part_digest", lambda *_: 1 / 0)
    records, changed = counts(table)
    swaps = table.driver.answer.swaps
    table.sample(num_timesteps=30)
    assert table.driver.answer.swaps == swaps + 3
    assert counts(table) == (records + 3, changed)
    table.assert_as_witnessed()


def test_what_fits_once_does_not_let_others_in(table: Table) -> None:
    snap = table.store.pull(table.candidates[0].player)
    load_local(table.runner, {"o0": snap})
    lock = lock_of(PolicyAccess(table.runner), "o0")
    assert lock is not None
    own = lock.own
    name = next(iter(snap.weights))
    longer = {**snap.weights, name: snap.weights[name].repeat(2, axis=0)}
    other_dtype = {**snap.weights, name: snap.weights[name].astype("float64")}
    fewer = {each: array for each, array in snap.weights.items() if each != name}
    for bad in (
        snap.replace(weights=longer),
        snap.replace(weights=other_dtype),
        snap.replace(weights=fewer, spec=snap.spec.replace(acting=None)),
        snap.replace(spec=snap.spec.replace(observation_space=Box(-9.0, 9.0, (17,)))),
        snap.replace(spec=Spec(stack="old")),
    ):
        with pytest.raises(MismatchError):
            load_local(table.runner, {"o0": bad})
        assert lock.own == own


def test_the_tables_of_what_was_checked_stay_small() -> None:
    kept: dict[int, int] = {}
    for number in range(100):
        own_weights._keep(kept, number, number, 10)
    assert list(kept) == list(range(90, 100))


def test_an_opponent_that_cannot_be_seated_is_no_record_of_another_game(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mapping of an unknown episode lets the learner play all agents."""
    in_turn(table)
    table.sample(num_timesteps=10)
    records = len(table.driver.records)
    failed = table.driver.answer.unknown.get(reasons.FAILED, 0)
    with monkeypatch.context() as patched:
        patched.setattr(table.pool.slots, "seat", lambda *_: 1 / 0)
        table.sample(num_timesteps=20)
    table.sample(num_timesteps=10)
    assert table.driver.answer.unknown[reasons.FAILED] >= failed + 2
    assert len(table.driver.records) <= records + 2
    for record in table.driver.records.values():
        assert len(set(record.match.players.values())) == 2


def test_a_candidate_of_no_kind_is_told(table: Table) -> None:
    candidate = Candidate(table.candidates[0].player, table.candidates[0].ref, "other")
    before = table.driver.answer.unknown.get(reasons.FAILED, 0)
    table.give(candidate)
    table.sample(num_timesteps=20)
    assert table.driver.answer.unknown[reasons.FAILED] > before
    assert any("other" in note for note in table.driver.answer.notes)
