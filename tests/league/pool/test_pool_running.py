"""Opponent pools in running Algorithms: records, snapshots, refusals, restarts and resumes."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.rllib.connectors.env_to_module import MeanStdFilter

from policystore import PolicyStore
from policystore.errors import InvalidInputError, MismatchError
from policystore.league import League
from policystore.league.pool import (
    OpponentPool,
    Role,
    every,
    in_training,
    opponents_of,
    uniform,
)
from policystore.league.pool.driving.gather import LOST
from policystore.league.pool.messages import Draws
from policystore.league.pool.pool import driver_of
from policystore.rllib import check_sync
from policystore.testing import make_snapshot
from tests.support.envs import Solo
from tests.support.new_stack_algorithms import until
from tests.support.pool_parts import PARTS, configured, open_lists, shown

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("ray_session")]
STACKS = pytest.mark.parametrize("stack", ["new", "old"])
SLOTS = ["opponent_0"]


def league_of(folder: Path) -> League:
    return League(PolicyStore(folder / "store"), "duo")


def checkpoint_of(algo: Any, folder: Path) -> str:
    saved = algo.save(str(folder))
    return str(getattr(saved.checkpoint, "path", folder))


def booked(league: League) -> list[tuple[int | None, str]]:
    """Return, for each episode, its iteration and the player that the learner is booked under."""
    return [
        (each.iteration, each.players["a"])
        for each in league.matches()
        for _ in range(each.episodes)
    ]


def players(league: League) -> set[str]:
    return {player for total in league.totals().matchups for player in total.players.values()}


@STACKS
def test_a_training_records_its_matches_and_grows_its_pool(
    tmp_path: Path, stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    league = league_of(tmp_path)
    sent, put = [], ray.put
    monkeypatch.setattr(ray, "put", lambda value, **more: sent.append(value) or put(value, **more))
    pool = OpponentPool(league, "main", SLOTS, sampler=uniform(), snapshot=every(2), refresh=1)
    config = pool.configure(configured(stack, runners=2))
    with PARTS[stack].built(config) as algo:
        results = [shown(algo.train()) for _ in range(5)]
        holding = opponents_of(algo)
        report = check_sync(algo)

    # Tables were sent once to all env runners together.
    assert [each.round for each in sent if isinstance(each, Draws)] == [1, 2, 3, 4, 5, 6]
    log = league.store.log("duo/main")[::-1]
    assert [each.message for each in log] == ["start of training", *2 * ["every 2 iterations"]]
    assert [each.source["iteration"] for each in log] == [0, 2, 4]
    assert [list(each.parents) for each in log] == [[], [log[0].digest], [log[1].digest]]
    assert results[0]["main"]["candidates"] == 1
    assert [each["round"] for each in results] == [2, 3, 4, 5, 6]
    totals = league.totals()
    assert totals.episodes >= results[-1]["episodes"] > 5
    assert results[-1]["unknown"] == results[-1]["waiting"] == results[-1]["failed"] == 0
    assert players(league) <= {str(each.digest) for each in log}
    assert {each.iteration for each in league.matches()} >= {1, 2, 3, 4, 5}
    assert {each.env for each in league.matches()} == {"tests.support.envs:Duo"}
    assert {each.explore for each in league.matches()} == {True}
    assert set(holding) == {"train 1", "train 2"}
    assert all(held["opponent_0"].startswith("duo/main@") for held in holding.values())
    for name, held in holding.items():
        (row,) = (each for each in report if (each.worker, each.policy) == (name, "opponent_0"))
        assert row.status == "own"
        assert f"load_local loaded {held['opponent_0']}" in row.note
        assert row.note in str(report)
    assert report.ok
    assert open_lists(league) == 0


@STACKS
def test_a_resumed_training_goes_on_where_it_was(tmp_path: Path, stack: str) -> None:
    league = league_of(tmp_path)

    def config() -> Any:
        pool = OpponentPool(league_of(tmp_path), "main", SLOTS, snapshot=every(2), seed=3)
        return pool.configure(configured(stack))

    with PARTS[stack].built(config()) as algo:
        for _ in range(3):
            algo.train()
        saved = checkpoint_of(algo, tmp_path / "checkpoint")
        before = driver_of(algo)._state()
        recorded = league.totals().episodes
    with PARTS[stack].built(config()) as algo:
        algo.restore(saved)
        assert driver_of(algo)._state() == before
        result = shown(algo.train())

    log = league.store.log("duo/main")[::-1]
    assert [each.source["iteration"] for each in log] == [0, 2, 4]
    assert log[2].parents == (log[1].digest,)
    assert before["learners"]["main"]["player"] == str(log[1].digest)
    assert result["round"] == before["round"] + 2  # one after the restore, one after the iteration
    assert result["main"]["candidates"] == 2
    assert league.totals().episodes >= recorded + result["episodes"]
    ids = Counter((each.writer, each.time, each.iteration) for each in league.matches())
    assert ids.total() == league.totals().matches


@STACKS
def test_a_running_training_that_is_set_back_books_under_the_snapshot_of_the_checkpoint(
    tmp_path: Path, stack: str
) -> None:
    league = league_of(tmp_path)
    pool = OpponentPool(league, "main", SLOTS, snapshot=every(2), learner_agents={"main": ["a"]})
    with PARTS[stack].built(pool.configure(configured(stack))) as algo:
        for _ in range(3):
            algo.train()
        saved = checkpoint_of(algo, tmp_path / "checkpoint")
        for _ in range(4):
            algo.train()
        before = Counter(booked(league))
        algo.restore(saved)
        algo.train()
        after = Counter(booked(league))
        algo.train()

    log = league.store.log("duo/main")[::-1]
    assert [each.source["iteration"] for each in log] == [0, 2, 4, 6, 4]
    assert log[4].parents == (log[1].digest,)
    first, second = after - before, Counter(booked(league)) - after
    players = [str(each.digest) for each in log]
    # The old stack begins an episode at the end of each sample, here before the snapshot.
    begun = {"new": 0, "old": 1}[stack]
    assert first == {(4, players[1]): first.total()}  # not under what was learnt and given up
    expected = {(5, players[4]): second.total() - begun, (5, players[1]): begun}
    assert second == Counter(expected)
    assert first.total() > 0
    assert second.total() > begun


def test_a_killed_env_runner_gets_the_tables_again_and_its_episodes_are_unknown(
    tmp_path: Path,
) -> None:
    league = league_of(tmp_path)
    pool = OpponentPool(league, "main", SLOTS, snapshot=every(2))
    config = configured("new", runners=2)
    config.fault_tolerance(restart_failed_env_runners=True, delay_between_env_runner_restarts_s=0.1)
    with PARTS["new"].built(pool.configure(config)) as algo:
        algo.train()
        victim = algo.env_runner_group._worker_manager.actors()[1]
        pid = ray.get(victim.apply.remote(lambda runner: os.getpid()))
        before = driver_of(algo)._gatherer.lives["train 1"]
        os.kill(pid, signal.SIGKILL)

        def is_back() -> bool:
            algo.train()
            life = driver_of(algo)._gatherer.lives["train 1"]
            return life.id != before.id and life.received > 0

        until(is_back, "the env runner plays again")
        life = driver_of(algo)._gatherer.lives["train 1"]
        assert life.unknown["no opponents to draw from"] == 0
        unknown = driver_of(algo)._book.unknown
        assert set(unknown) <= {LOST}


@STACKS
def test_everything_wrong_is_refused_at_once(tmp_path: Path, stack: str) -> None:
    league = league_of(tmp_path)
    pool = OpponentPool(
        league, "mian", ["opponent_0", "main"], heuristics={"random": "random_policy"}
    )
    config = configured(stack).multi_agent(
        policies={"main", "opponent_0"}, policy_mapping_fn=lambda *_, **__: "main"
    )
    with pytest.raises(InvalidInputError, match="cannot begin") as raised:
        config.callbacks(pool).build_algo()
    text = str(raised.value)
    assert "no policy 'mian', which is a learner of the pool" in text
    assert "Did you mean 'main'?" in text or "main" in text
    assert "no policy 'random_policy', which is a heuristic" in text

    pool = OpponentPool(league, "main", ["opponent_0"])
    config = configured(stack).multi_agent(
        policies={"main", "opponent_0"},
        policy_mapping_fn=lambda *_, **__: "main",
        policies_to_train=["opponent_0"],
    )
    if stack == "old":
        config.env_runners(observation_filter="MeanStdFilter")
    else:
        config.env_runners(
            env_to_module_connector=lambda env, spaces, device: MeanStdFilter(multi_agent=True)
        )
    with pytest.raises(InvalidInputError, match="cannot begin") as raised:
        config.callbacks(pool).build_algo()
    text = str(raised.value)
    assert "the learner 'main' is not trained" in text
    assert "'opponent_0' would be trained" in text
    assert "policy_mapping_fn is not the pool's" in text
    assert "MeanStdFilter" in text

    config = configured(stack).multi_agent(
        policies={"main", "opponent_0"},
        policy_mapping_fn=pool.policy_mapping_fn,
        policies_to_train=None,
    )
    with pytest.raises(InvalidInputError, match="'opponent_0' would be trained") as raised:
        config.callbacks(pool).build_algo()
    assert str(raised.value).count("\n  - ") == 1
    assert not (tmp_path / "store").exists()


@STACKS
@pytest.mark.parametrize("runners", [0, pytest.param(1, marks=pytest.mark.wide)])
def test_a_config_of_one_agent_is_refused_with_what_can_be_done(
    tmp_path: Path, stack: str, runners: int
) -> None:
    config = configured(stack, runners=runners).environment(Solo)
    config.multi_agent(policies_to_train=None).callbacks(OpponentPool(league_of(tmp_path)))
    with pytest.raises(InvalidInputError, match="cannot begin") as raised:
        config.build_algo()
    assert "the config is for a single agent" in str(raised.value)
    assert "config.multi_agent(" in str(raised.value)


def test_stored_opponents_of_another_network_are_refused_before_the_first_sample(
    tmp_path: Path,
) -> None:
    league = league_of(tmp_path)
    league.store.push(make_snapshot(1), "duo/main")
    pool = OpponentPool(league, "main", SLOTS)
    with (
        PARTS["new"].built(pool.configure(configured("new"))) as algo,
        pytest.raises(MismatchError, match="duo/main@1: API stack 'old'"),
    ):
        algo.train()


@STACKS
def test_several_learners_play_each_other_and_begin_anew(tmp_path: Path, stack: str) -> None:
    league = league_of(tmp_path)
    pool = OpponentPool(
        league,
        {
            "main": Role(sampler=in_training(0.5, uniform()), live=["exploiter"]),
            "exploiter": Role(against=["main"], reset=1.0, snapshot=every(2)),
        },
        SLOTS,
        snapshot=every(2),
        sampler=uniform(),
    )
    with PARTS[stack].built(pool.configure(configured(stack, runners=1))) as algo:
        results = [shown(algo.train()) for _ in range(4)]

    store = league.store
    first = store.log("duo/exploiter")[-1]
    assert results[-1]["exploiter"]["resets"] == 2
    assert results[-1]["exploiter"]["player"] == str(first.digest)
    log = store.log("duo/exploiter")[::-1]
    assert [list(each.parents) for each in log] == [[], [first.digest], [first.digest]]
    assert len(store.log("duo/main")) == 3
    names = {str(each.digest): name for name in store.names() for each in store.log(name)}
    pairs = {
        frozenset(names[player] for player in total.players.values())
        for total in league.totals().matchups
    }
    assert frozenset({"duo/main", "duo/exploiter"}) in pairs
