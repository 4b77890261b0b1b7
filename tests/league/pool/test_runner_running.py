"""Pools in the env runners of running Algorithms of the new API stack, asked by a driver by hand."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest

import tests.support.league_runner as league
import tests.support.new_stack_algorithms as parts
import tests.support.restarts as restarts
from policystore import PolicyStore
from policystore.league.pool.messages import Candidate, Draws
from policystore.league.pool.runner import PoolCallbacks, PoolMapping
from policystore.rllib import check_sync, load_into, snapshot
from policystore.rllib.live.steering import set_mapping
from tests.support.cells import sampled
from tests.support.league_envs import Arena
from tests.support.league_runner import Driver, draws_of

CELLS = {"PPO": 2, "PPO alone": 0, "APPO": 2, "SAC": 1}
pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Degrees of freedom <= 0:RuntimeWarning"),
]


class Played:
    """A running Algorithm with a pool, and a driver for each env runner that samples."""

    def __init__(self, algo: Any, store: PolicyStore) -> None:
        self.algo, self.store = algo, store
        self.drivers: dict[str, Driver] = {}
        self.number = 0
        taken = snapshot(algo, "o0")
        versions = [store.push(parts.other(taken, float(n + 1)), "soccer/main") for n in range(3)]
        self.candidates = [Candidate(str(each.digest), each.ref) for each in versions]

    def names(self) -> list[str]:
        found = [name for name in parts.workers(self.algo) if not name.startswith("learner")]
        remote = {name.split()[0] for name in found if not name.endswith("local")}
        return [n for n in found if not n.endswith("local") or n.split()[0] not in remote]

    def draws(self) -> Draws:
        self.number += 1
        return draws_of(self.candidates, self.number)

    def exchange(self, draws: Draws | None = None) -> None:
        for name in self.names():
            driver = self.drivers.setdefault(name, Driver())
            driver.exchange(parts.workers(self.algo)[name], draws)

    def ask(self, name: str, function: Any, *arguments: Any) -> Any:
        """Run a function on one env runner."""
        if name.endswith("local"):
            return function(parts.workers(self.algo)[name], *arguments)
        return restarts.ask(self.algo, name, function, *arguments)


@pytest.fixture(scope="module", params=sampled(CELLS, "PPO", wide=("PPO alone", "APPO", "SAC")))
def cell(request: Any) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def played(
    cell: str, ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Played]:
    from ray.rllib.algorithms.appo import APPOConfig
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.algorithms.sac import SACConfig

    store = PolicyStore(tmp_path_factory.mktemp("pool"))
    settings = league.settings_of(store)
    kind = {"PPO": PPOConfig, "APPO": APPOConfig, "SAC": SACConfig}[cell.split()[0]]
    config = parts.configured(kind, runners=CELLS[cell], evals=1)
    config.environment(Arena, env_config={"lengths": [3, 14]})
    config.env_runners(num_envs_per_env_runner=2, num_cpus_per_env_runner=0.1)
    config.multi_agent(
        policies={"main", "o0", "o1"},
        policy_mapping_fn=PoolMapping(settings),
        policies_to_train=["main"],
    )
    config.callbacks([functools.partial(PoolCallbacks, settings), league.Witness])
    config.fault_tolerance(restart_failed_env_runners=True, delay_between_env_runner_restarts_s=0.1)
    with parts.built(config) as algo:
        made = Played(algo, store)
        made.exchange(made.draws())
        yield made


def until_recorded(played: Played, more: int = 5) -> None:
    """Train and evaluate until each env runner has more records."""
    before = {name: len(driver.records) for name, driver in played.drivers.items()}

    def enough() -> bool:
        played.algo.train()
        played.algo.evaluate()
        played.exchange()
        return all(len(d.records) >= before[n] + more for n, d in played.drivers.items())

    parts.until(enough, "records of each env runner")


def assert_as_witnessed(played: Played) -> None:
    for name, driver in played.drivers.items():
        seen = played.ask(name, league.witnessed)
        checked = 0
        for episode_id, record in driver.records.items():
            for role, player in record.match.players.items():
                if player != league.LEARNER and episode_id in seen:
                    ((module_id, held),) = seen[episode_id][role]
                    assert module_id in ("o0", "o1")
                    weights = played.store.pull(player).weights
                    names = played.ask(name, league.names_in, module_id)
                    assert held == parts.print_of({each: weights[each] for each in names})
                    checked += 1
        assert checked, name


def test_every_recorded_opponent_played_with_its_own_weights(played: Played) -> None:
    until_recorded(played)
    assert_as_witnessed(played)
    for name, driver in played.drivers.items():
        assert {r.evaluation for r in driver.records.values()} == {name.startswith("eval")}
        assert len(driver.opponents()) >= 2, name
    ids = [each for driver in played.drivers.values() for each in driver.records]
    assert len(ids) == len(set(ids))


def test_check_sync_knows_who_sits_where(played: Played) -> None:
    until_recorded(played, 1)
    report = check_sync(played.algo)
    report.raise_if_bad()
    for row in report:
        if row.policy in ("o0", "o1") and row.worker in played.drivers:
            assert row.status == "own", str(report)
            assert played.drivers[row.worker].answer.holding[row.policy] in row.note


def test_the_learner_goes_on_learning_and_is_recorded_so(played: Played) -> None:
    until_recorded(played, 10)
    for name, driver in played.drivers.items():
        pairs = [pair for r in driver.records.values() for pair in r.match.played.values()]
        assert len({digest for pair in pairs for digest in pair}) >= 2, name


def test_load_into_makes_episodes_under_way_unknown_and_no_wrong_record(played: Played) -> None:
    until_recorded(played, 1)
    load_into(played.algo, {"o0": parts.other(snapshot(played.algo, "o0"), 9.0)})
    until_recorded(played)
    for driver in played.drivers.values():
        assert driver.answer.holding.keys() == {"o0", "o1"}
    assert_as_witnessed(played)


def test_the_mapping_passes_the_checks_of_set_mapping(played: Played, cell: str) -> None:
    mapping = played.algo.config.policy_mapping_fn
    report = set_mapping(played.algo, mapping)
    assert not [note for note in report.notes if "raised" in note]
    until_recorded(played, 1)


def test_a_restarted_env_runner_is_another_life(played: Played) -> None:
    name = "eval 1"
    lives = {each: driver.answer.life for each, driver in played.drivers.items()}
    restarts.kill_unnoticed(played.algo, name)
    played.algo.evaluate()
    played.drivers[name] = Driver()
    played.exchange(played.draws())
    until_recorded(played)
    assert played.drivers[name].answer.life != lives.pop(name)
    for other, life in lives.items():
        assert played.drivers[other].answer.life == life
    assert_as_witnessed(played)
