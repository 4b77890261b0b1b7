"""What happens when RLlib starts all sub-environments anew, and when they share slots."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from policystore import PolicyStore
from policystore.league.pool.runner import reasons
from tests.support.league_envs import Arena
from tests.support.league_runner import LEARNER, Table

pytestmark = [
    pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Degrees of freedom <= 0:RuntimeWarning"),
]


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    return PolicyStore(tmp_path / "store")


def test_shared_slots_change_only_when_no_episode_plays_with_them(store: PolicyStore) -> None:
    table = Table(store, env={"lengths": [3, 5]}, slots={"": ("o0",)})
    table.give()
    table.sample()
    assert len(table.driver.records) > 5
    assert len(table.driver.opponents()) == 1
    assert table.driver.answer.swaps == 1
    (note,) = table.driver.answer.notes
    assert "1 slots" in note
    assert "Give 2 slots" in note
    table.assert_as_witnessed()


@pytest.mark.long
def test_shared_slots_change_when_all_sub_environments_start_anew(store: PolicyStore) -> None:
    table = Table(store, env={"lengths": [3, 5]}, slots={"": ("o0",)})
    table.give()
    table.sample(times=12, num_episodes=2)
    assert len(table.driver.opponents()) == 3
    assert 3 <= table.driver.answer.swaps <= 12
    table.assert_as_witnessed()


@pytest.mark.long
def test_new_tables_can_restart_the_episodes_of_shared_slots(store: PolicyStore) -> None:
    table = Table(store, env={"lengths": [9]}, slots={"": ("o0",)}, restart_for_round=True)
    for _ in range(6):
        table.give()
        table.sample(num_timesteps=30)
    assert len(table.driver.opponents()) > 1
    assert table.driver.answer.unknown.keys() == {reasons.UNFINISHED}
    table.assert_as_witnessed()


@pytest.mark.long
def test_slots_of_their_own_need_no_restart(store: PolicyStore) -> None:
    table = Table(store, env={"lengths": [9]}, restart_for_round=True)
    for _ in range(3):
        table.give()
        table.sample(num_timesteps=30)
    assert not table.driver.answer.unknown
    assert not table.driver.answer.notes


@pytest.mark.long
def test_two_opponents_in_one_slot_are_one_opponent(store: PolicyStore) -> None:
    table = Table(
        store,
        env={"agents": ["a", "b", "c"]},
        slots={"": ("o0",)},
        env_runners={"num_envs_per_env_runner": 1},
    )
    table.give()
    table.sample(times=2)
    for record in table.driver.records.values():
        assert len(set(record.match.players.values()) - {LEARNER}) == 1
    assert len(table.driver.opponents()) == 3
    table.assert_as_witnessed()


def test_unfinished_episodes_are_counted_with_one_warning(store: PolicyStore) -> None:
    table = Table(store, env={"lengths": [2, 30]})
    table.give()
    table.sample(times=6, num_episodes=3)
    answer = table.driver.answer
    assert answer.unknown.keys() == {reasons.UNFINISHED}
    assert [note for note in answer.notes if "short episodes" in note] == list(answer.notes)
    assert len(answer.notes) == 1
    assert len(table.driver.records) == 18
    table.assert_as_witnessed()


@pytest.mark.long
def test_one_sub_environment_drops_no_episode(store: PolicyStore) -> None:
    table = Table(store, env={"lengths": [2, 30]}, env_runners={"num_envs_per_env_runner": 1})
    table.give()
    table.sample(times=4, num_episodes=2)
    assert not table.driver.answer.unknown
    assert not table.driver.answer.notes
    assert len(table.driver.records) == 8


def lengths(store: PolicyStore, episodes: int, **changes: Any) -> tuple[list[int], Table]:
    """Return the lengths of the recorded episodes of 12 samples of 8 sub-environments."""
    seen = []
    Arena.made = 0  # the same random numbers, whatever ran before

    def outcome(ended: Any) -> Any:
        seen.append(ended.length)
        return ended.returns

    table = Table(
        store,
        env={"lengths": [2, 12]},
        opponents=1,
        slots={"": tuple(f"o{n}" for n in range(8))},
        outcome=outcome,
        env_runners={"num_envs_per_env_runner": 8, "batch_mode": "complete_episodes"},
        **changes,
    )
    table.give()
    table.sample(times=12, num_episodes=episodes)
    return seen, table


@pytest.mark.long
def test_the_first_episodes_have_no_bias_if_all_of_them_end(store: PolicyStore) -> None:
    """Lengths of 2 and 12 are equally frequent: their mean is 7, with an error of 0.5."""
    biased, _ = lengths(store, 8)
    assert mean(biased) < 4
    fair, table = lengths(store, 32, first_episodes=1)
    assert len(fair) == len(table.driver.records) == 12 * 8
    assert abs(mean(fair) - 7) < 4 * 0.51
    assert table.driver.answer.unknown.keys() == {reasons.LATER_EPISODE}
    assert not table.driver.answer.notes


@pytest.mark.long
def test_first_episodes_that_did_not_end_are_counted(store: PolicyStore) -> None:
    _, table = lengths(store, 8, first_episodes=1)
    unknown = table.driver.answer.unknown
    assert unknown.keys() == {reasons.LATER_EPISODE, reasons.UNFINISHED}
    assert len(table.driver.records) + unknown[reasons.UNFINISHED] == 11 * 8 + (
        8 - sum(e.ordinal == 1 for e in table.pool.under_way.values())
    )


@pytest.mark.long
def test_first_episodes_are_all_episodes_where_nothing_is_dropped(store: PolicyStore) -> None:
    table = Table(store, env={"lengths": [3]}, first_episodes=1)
    table.give()
    table.sample(times=2)
    assert len(table.driver.records) == len(table.true_returns()) > 10
