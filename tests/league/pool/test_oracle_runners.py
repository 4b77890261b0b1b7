"""Env runners of both API stacks record exactly what the environments saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import ray
import torch

from policystore import PolicyStore
from policystore.league.pool.messages import Candidate
from policystore.league.pool.runner import PoolMapping, PoolSettings
from policystore.rllib import load_into, load_local, unlock_local
from tests.support.league_driver import TestDriver, call, callbacks_of, runners_of
from tests.support.league_games import configured
from tests.support.league_oracle import read_log
from tests.support.new_stack_algorithms import built, other

pytestmark = pytest.mark.long


class Arranged(NamedTuple):
    """A running Algorithm, its driver, and the folder of the environments' records."""

    algo: Any
    driver: TestDriver
    log: Path


@pytest.fixture(
    scope="module", params=["old PPO", "new PPO", pytest.param("new APPO", marks=pytest.mark.wide)]
)
def distributed(
    request: pytest.FixtureRequest, ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Arranged]:
    """Two env runners with two sub-environments each, one that evaluates, and a heuristic."""
    folder = tmp_path_factory.mktemp("league")
    (folder / "log").mkdir()
    store = PolicyStore(folder / "store")
    settings = PoolSettings(
        store=store,
        league="duel",
        learners=("main",),
        slots={"": ("opponent_0", "opponent_1")},
    )
    config = configured(
        request.param,
        folder / "log",
        callbacks=callbacks_of(settings),
        mapping=PoolMapping(settings),
        runners=2,
        envs=2,
        evals=1,
        parallel=request.param == "new PPO",
        heuristics=["fixed"],
        fragment=15,
    )
    heuristic = Candidate("heuristic:fixed", "fixed", policy_id="fixed")
    with built(config) as algo:
        driver = TestDriver(algo, store, {"main": "duel/main"}, [heuristic])
        driver.begin()
        driver.train(4)
        yield Arranged(algo, driver, folder / "log")


def _check(arranged: Arranged, **settings: Any) -> Any:
    """Compare with the oracle; the exact lineage only where weights and tables arrive in order."""
    if "APPO" in type(arranged.algo).__name__:
        settings["history"] = None
    verdict = arranged.driver.verdict(arranged.log, **settings)
    assert verdict.faults == []
    return verdict


def test_each_episode_is_recorded_once_with_the_weights_that_played(distributed: Arranged) -> None:
    verdict = _check(distributed)

    driver = distributed.driver
    assert verdict.recorded >= 30
    assert driver.ended_unknown == 0
    assert {record.evaluation for record in driver.records.values()} == {False, True}
    opponents = {match.players[role] for match in driver.matches for role in match.players}
    assert {"heuristic:fixed", *driver.lineage["main"][:1]} <= opponents
    # The learner changes in the middle of episodes.
    assert any(first != last for m in driver.matches for first, last in m.played.values())


def test_lost_answers_lose_no_record(distributed: Arranged) -> None:
    before = len(distributed.driver.records)

    distributed.driver.train(1, lose_answers=["train 1"])
    distributed.driver.train(1, lose_answers=["train 2", "eval 1"])
    distributed.driver.train(1, lose_answers=["train 1", "train 2", "eval 1"])
    distributed.driver.train(1, skip=["train 1"])
    distributed.driver.exchange()

    _check(distributed)
    assert len(distributed.driver.records) > before


def _tensors(runner: Any, pid: str) -> list[torch.Tensor]:
    if hasattr(runner, "policy_map"):
        return list(runner.policy_map[pid].model.state_dict().values())
    return list(runner.module[pid].unwrapped().state_dict().values())


def _write_data(runner: Any, pid: str, snap: Any) -> None:
    for tensor in _tensors(runner, pid):
        tensor.data.add_(0.25)


def _write_numpy(runner: Any, pid: str, snap: Any) -> None:
    for tensor in _tensors(runner, pid):
        tensor.detach().numpy()[...] += 0.25


def _write_counted(runner: Any, pid: str, snap: Any) -> None:
    with torch.no_grad():
        for tensor in _tensors(runner, pid):
            tensor.add_(0.25)


def _set_past_the_lock(runner: Any, pid: str, snap: Any) -> None:
    if hasattr(runner, "policy_map"):
        policy = runner.policy_map[pid]
        type(policy).set_weights(policy, {n: a + 0.25 for n, a in policy.get_weights().items()})
    else:
        module = runner.module[pid].unwrapped()
        state = {name: tensor + 0.25 for name, tensor in module.get_state().items()}
        type(module).set_state(module, state)


def _load_another(runner: Any, pid: str, snap: Any) -> None:
    load_local(runner, {pid: snap})


def _unlock(runner: Any, pid: str, snap: Any) -> None:
    unlock_local(runner, [pid])


@pytest.mark.parametrize(
    "overwrite",
    [_write_data, _write_numpy, _write_counted, _set_past_the_lock, _load_another, _unlock],
)
def test_an_overwritten_slot_makes_its_episodes_unknown(
    distributed: Arranged, overwrite: Callable[..., None]
) -> None:
    driver = distributed.driver
    snap = other(driver.snaps[0], 0.5)
    before = driver.unknown["opponent's weights changed"]

    # All sub-environments may be at an episode's end, or play against the heuristic.
    for _ in range(10):
        for name, runner in runners_of(distributed.algo).items():
            if name.startswith("train") and not name.endswith("local"):
                for slot in ("opponent_0", "opponent_1"):
                    call(runner, overwrite, slot, snap)
        driver.train(1)
        if driver.unknown["opponent's weights changed"] > before:
            break

    verdict = _check(distributed)
    assert driver.unknown["opponent's weights changed"] > before
    assert verdict.mixed <= {seen.id for seen in verdict.missing}


def test_load_into_a_slot_makes_its_episodes_unknown(distributed: Arranged) -> None:
    driver = distributed.driver
    snap = other(driver.snaps[0], 0.75)

    load_into(distributed.algo, {"opponent_0": snap, "opponent_1": snap})
    driver.train(2)

    verdict = _check(distributed)
    assert verdict.mixed <= {seen.id for seen in verdict.missing}


def test_weights_loaded_into_the_learner_are_those_recorded(distributed: Arranged) -> None:
    driver = distributed.driver
    snap = other(driver.snaps[0], 1.0)

    load_into(distributed.algo, {"main": snap})
    driver.note_weights("main")
    for _ in range(10):  # of an asynchronous Algorithm, samples arrive later
        driver.train(1)
        acted = {
            each for match in driver.matches for pair in match.played.values() for each in pair
        }
        if str(snap.acting_digest) in acted:
            break

    _check(distributed)
    assert str(snap.acting_digest) in acted


def test_a_killed_env_runner_begins_another_life(distributed: Arranged) -> None:
    driver, algo = distributed.driver, distributed.algo
    started = len(read_log(distributed.log))

    ray.kill(algo.env_runner_group._worker_manager.actors()[1], no_restart=False)
    for _ in range(20):
        driver.train(1)
        if driver.lives["train 1"] > 1:
            break
    driver.train(2)

    assert driver.lives["train 1"] == 2
    assert len(read_log(distributed.log)) > started
    verdict = _check(distributed, lost=True, unknown=10**9)
    alive = {record.episode_id for record in driver.records.values()}
    assert any(
        seen.worker == 1 and seen.id in alive for seen in read_log(distributed.log)[started:]
    )
    # Of the runner that lives on nothing is lost.
    lost = [s for s in verdict.missing if s.worker != 1 or s.evaluation]
    assert len(lost) <= driver.ended_unknown
