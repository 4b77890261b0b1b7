"""One env runner of the new API stack with a pool: who plays, who holds what, what is recorded.

Env runners are made without an Algorithm, and without Ray. Who played is witnessed step by step by
a callback that uses nothing of the code under test.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.rllib.algorithms.ppo import PPOConfig

import tests.support.league_runner as league
from policystore import InvalidInputError, PolicyStore
from policystore.league.pool.messages import Candidate, DrawTable, RunnerRequest
from policystore.league.pool.runner import (
    PoolCallbacks,
    PoolMapping,
    PoolSettings,
    RunnerPool,
    assignment_of,
    exchange,
    reasons,
)
from tests.support.envs import Duo, Solo
from tests.support.league_runner import (
    LEARNER,
    RANDOM,
    Driver,
    Table,
    assert_true_returns,
    draws_of,
)

LONG = pytest.mark.long
pytestmark = [
    pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Degrees of freedom <= 0:RuntimeWarning"),
]


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    return PolicyStore(tmp_path / "store")


# Who plays ---------------------------------------------------------------------------------------


def test_each_sub_environment_plays_its_own_opponents(store: PolicyStore) -> None:
    table = Table(store, env={"lengths": [3, 4, 5]})
    table.give()
    table.sample(times=2)
    table.assert_as_witnessed()
    assert len(table.driver.records) > 10
    assert table.driver.opponents().keys() == {each.ref for each in table.candidates}
    assert table.driver.answer.swaps > 5
    roles = {role for r in table.driver.records.values() for role in r.match.refs}
    assert roles == {"a", "b"}
    assert_true_returns(table)
    for record in table.driver.records.values():
        assert not record.evaluation
        assert sorted(map(str, record.match.outcomes[0].ranks)) in (["0", "1"], ["0", "0"])
        ((_, (first, last)),) = record.match.played.items()
        assert first == last  # nothing trains here


@LONG
def test_the_same_seed_gives_the_same_opponents(store: PolicyStore) -> None:
    series = []
    for seed in (7, 7, 8):
        table = Table(store, env={"lengths": [3]})
        table.give(seed=seed)
        table.sample(times=2)
        series.append([record.match.players for record in table.driver.records.values()])
    assert series[0] == series[1] != series[2]


def test_a_policy_of_the_config_plays_itself(store: PolicyStore) -> None:
    table = Table(store)
    table.give(RANDOM, *table.candidates[:1])
    table.sample(times=2)
    table.assert_as_witnessed()
    players = {p for r in table.driver.records.values() for p in r.match.players.values()}
    assert players == {LEARNER, "heuristic:random", table.candidates[0].player}


def test_a_learner_in_the_table_is_recorded_with_the_weights_it_played(store: PolicyStore) -> None:
    table = Table(store, learners=("main", "foil"))
    foil = "blake3:" + "2" * 64
    table.give(
        Candidate(foil, "soccer/foil@1", "", "foil"), players={"main": LEARNER, "foil": foil}
    )
    table.sample()
    for record in table.driver.records.values():
        assert set(record.match.players.values()) == {LEARNER, foil}
        assert record.match.played.keys() == {"a", "b"}


def test_learners_play_only_agents_that_they_may(store: PolicyStore) -> None:
    table = Table(store, learner_agents={"main": ("b",)})
    table.give()
    table.sample(times=2)
    assert {r.match.players["b"] for r in table.driver.records.values()} == {LEARNER}
    assert table.pool._default("b") == "main"
    assert table.pool._default("a") == "o0"


def test_a_learner_without_an_agent_is_refused(store: PolicyStore) -> None:
    with pytest.raises(InvalidInputError, match="'main' play only .'middle'., .* .'a', 'b'."):
        Table(store, learner_agents={"main": ("middle",)})


@LONG
def test_teams_and_several_opponents(store: PolicyStore) -> None:
    teams = {"a": "red", "b": "red", "c": "blue"}
    table = Table(
        store,
        env={"agents": ["a", "b", "c", "d", "e"]},
        teams=teams,
        slots={"": tuple(f"o{n}" for n in range(6))},
    )
    table.give()
    table.sample(times=3)
    table.assert_as_witnessed()
    assert_true_returns(table)
    for record in table.driver.records.values():
        match = record.match
        assert match.teams == teams
        assert match.players["a"] == match.players["b"]
        assert list(match.players.values()).count(LEARNER) in (1, 2)
    assert len({tuple(r.match.players.values()) for r in table.driver.records.values()}) > 3


@LONG
def test_opponents_of_other_kinds_get_slots_of_their_kind(store: PolicyStore) -> None:
    table = Table(store, slots={"mlp": ("o0", "o1"), "wide": ("w0", "w1")})
    one, two, _ = table.candidates
    table.give(
        Candidate(one.player, one.ref, "mlp"),
        Candidate(two.player, two.ref, "wide"),
    )
    table.sample(times=2)
    table.assert_as_witnessed()
    policies = {
        seen for each in table.runner.witnessed.values() for s in each.values() for seen in s
    }
    assert {pid[0] for pid, _ in policies} == {"m", "o", "w"}


# Without a table, and with a bad one -------------------------------------------------------------


def test_without_tables_episodes_are_counted_and_not_recorded(store: PolicyStore) -> None:
    table = Table(store)
    table.sample()
    assert not table.driver.records
    assert table.driver.answer.unknown.keys() == {reasons.NOT_DRAWN}
    table.give()
    table.sample()
    assert table.driver.records


@LONG
def test_without_a_snapshot_of_the_learner_nothing_is_recorded(store: PolicyStore) -> None:
    table = Table(store)
    table.give(players={})
    table.sample()
    assert not table.driver.records
    assert table.driver.answer.unknown.keys() == {reasons.NO_PLAYER}


def test_an_older_table_that_arrives_late_is_ignored(store: PolicyStore) -> None:
    table = Table(store)
    table.number = 4
    table.give()
    table.number = 2
    table.give(RANDOM)
    assert table.driver.answer.round == 5


def test_the_learner_is_booked_under_its_snapshot_at_the_first_step(store: PolicyStore) -> None:
    table = Table(store, env={"lengths": [30]}, env_runners={"num_envs_per_env_runner": 1})
    table.give(refs={"main": "soccer/main@1"})
    table.sample(num_timesteps=20)
    with torch.no_grad():
        for parameter in table.runner.module["main"].parameters():
            parameter.add_(1.0)
    table.give(players={"main": "blake3:" + "3" * 64}, refs={"main": "soccer/main@2"})
    table.sample(num_timesteps=50)
    first, second = table.driver.records.values()
    assert LEARNER in first.match.players.values()
    assert "soccer/main@1" in first.match.refs.values()
    ((began, ended),) = first.match.played.values()
    assert began != ended
    assert "blake3:" + "3" * 64 in second.match.players.values()
    assert "soccer/main@2" in second.match.refs.values()
    assert list(second.match.played.values()) == [(ended, ended)]


# Records -----------------------------------------------------------------------------------------


def test_a_lost_answer_loses_nothing_and_doubles_nothing(store: PolicyStore) -> None:
    table = Table(store)
    table.give()
    for lost in (False, True, True, False, False, True, False):
        table.runner.sample(num_timesteps=20)
        table.driver.exchange(table.runner, lost=lost)
    assert len(table.driver.records) == len(table.true_returns())
    assert_true_returns(table)
    assert len(table.pool._buffer.records()) < len(table.driver.records)


@LONG
def test_a_driver_that_does_not_ask_costs_bounded_memory(store: PolicyStore) -> None:
    table = Table(store, env={"lengths": [2]}, max_records=5)
    table.give()
    table.runner.sample(num_timesteps=60)
    answer = exchange(table.runner, RunnerRequest(None))
    assert len(answer.records) == 5
    assert answer.unknown[reasons.NOT_FETCHED] + 5 == len(table.true_returns())


def test_another_life_confirms_nothing(store: PolicyStore) -> None:
    table = Table(store)
    table.give()
    table.runner.sample(num_timesteps=40)
    first = exchange(table.runner, RunnerRequest(None))
    again = exchange(table.runner, RunnerRequest(None, received=99, life="another"))
    assert again.records == first.records
    assert len({table.pool.life, RunnerPool(table.settings).life}) == 2
    copied = pickle.loads(pickle.dumps(table.pool))
    assert copied.life != table.pool.life
    assert copied.exchange(table.runner, RunnerRequest(None)).records == ()


@LONG
def test_episodes_cut_over_many_samples_have_all_their_returns(store: PolicyStore) -> None:
    table = Table(store, env={"lengths": [7, 23]})
    table.give()
    for _ in range(40):
        table.runner.sample(num_timesteps=6)
    table.driver.exchange(table.runner)
    table.assert_as_witnessed()
    assert_true_returns(table)
    assert len(table.driver.records) >= 5


@pytest.mark.parametrize("fragment", [5, pytest.param(200, marks=LONG)])
@pytest.mark.parametrize(
    "env",
    [
        {"turns": True, "lengths": [7, 13]},
        pytest.param(
            {"agents": ["a", "b", "c"], "turns": True, "lengths": [7, 10, 11]},
            marks=LONG,
        ),
        pytest.param(
            {"agents": ["a", "b", "c"], "dying": {"c": 3}, "lengths": [9, 2]},
            marks=LONG,
        ),
        pytest.param({"agents": ["a", "b", "c"], "late": {"c": 4}, "lengths": [9, 3]}, marks=LONG),
    ],
)
def test_agents_that_wait_die_or_come_late(store: PolicyStore, env: Any, fragment: int) -> None:
    slots = {"": ("o0", "o1", "o2", "o3")}
    table = Table(store, env=env, slots=slots)
    table.give()
    table.sample(times=200 // fragment, num_timesteps=fragment)
    table.assert_as_witnessed()
    assert_true_returns(table)


@LONG
def test_an_episode_whose_earlier_chunks_are_missing_is_not_recorded(store: PolicyStore) -> None:
    table = Table(store, env={"lengths": [9]}, env_runners={"num_envs_per_env_runner": 1})
    table.give()
    table.runner.sample(num_timesteps=5)
    table.runner._ongoing_episodes_for_metrics.clear()
    table.sample(num_timesteps=13)
    assert table.driver.answer.unknown == {reasons.INCOMPLETE: 1}
    assert len(table.driver.records) == 1


def test_an_evaluation_runner_says_so(store: PolicyStore) -> None:
    settings = league.settings_of(store)
    config = league.configured(settings)
    config.in_evaluation = True
    runner = league.runner_of(config, worker_index=1)
    candidates = league.push_opponents(store, runner.module["o0"], 2)
    driver = Driver()
    driver.exchange(runner, draws_of(candidates))
    runner.sample(num_episodes=3)
    driver.exchange(runner)
    assert driver.records
    assert all(record.evaluation for record in driver.records.values())


# Mapping, registry, single agents ----------------------------------------------------------------


@LONG
def test_the_mapping_is_stable_and_forgets(store: PolicyStore) -> None:
    from policystore.league.pool.runner.mapping import _ASSIGNED

    before = len(_ASSIGNED)
    table = Table(store, env={"lengths": [3]})
    table.give()
    table.runner.sample(num_timesteps=100)
    assert len(_ASSIGNED) - before <= 4
    (episode, _) = table.runner._ongoing_episodes
    chosen = assignment_of(episode)
    assert chosen == dict(table.pool.under_way[0].policies)
    assert {
        agent: table.settings and PoolMapping(table.settings)(agent, episode) for agent in "ab"
    } == chosen


def test_the_mapping_of_an_unknown_episode_is_the_learner(store: PolicyStore) -> None:
    mapping = pickle.loads(pickle.dumps(PoolMapping(league.settings_of(store))))
    assert [mapping("a", None), mapping("b", object(), worker=None)] == ["main", "main"]


def test_an_env_runner_without_a_pool_answers_without_a_life(store: PolicyStore) -> None:
    assert exchange(object.__new__(type("Runner", (), {})), RunnerRequest(None)).life == ""


def test_a_single_agent_algorithm_is_left_to_the_driver(store: PolicyStore) -> None:
    """An error in the process of an env runner would reach the user as the end of an actor."""
    callbacks = PoolCallbacks(league.settings_of(store))
    runner = type("Runner", (), {"config": PPOConfig()})()
    callbacks.on_environment_created(env_runner=runner)
    callbacks.on_sub_environment_created(worker=runner)
    assert exchange(runner, RunnerRequest(None)).life == ""


def test_an_environment_of_a_single_agent_is_refused(store: PolicyStore) -> None:
    """RLlib of the old stack looks at the environment itself, later."""
    callbacks = PoolCallbacks(league.settings_of(store))
    config = PPOConfig().multi_agent(policies={"main", "slot"})
    worker = type("Worker", (), {"config": config})()
    with pytest.raises(InvalidInputError, match=r"envs\.Solo is for a single agent"):
        callbacks.on_sub_environment_created(worker=worker, sub_environment=Solo())
    callbacks.on_sub_environment_created(worker=worker, sub_environment=Duo())


def test_settings_pickle(store: PolicyStore) -> None:
    settings = league.settings_of(store)
    again: PoolSettings = pickle.loads(pickle.dumps(settings))
    assert (again.league, again.slots, again.store.url) == ("soccer", settings.slots, store.url)


@LONG
def test_an_empty_table_draws_nothing(store: PolicyStore) -> None:
    table = Table(store)
    table.give(tables={"main": DrawTable(())})
    table.sample()
    assert table.driver.answer.unknown.keys() == {reasons.NOT_DRAWN}
