"""Env runners with an opponent pool, and a driver of the test's own that talks to them.

This file is a module of its own, because Ray's workers import it by name.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import ray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.callbacks import DefaultCallbacks
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner

from policystore import PolicyStore
from policystore.league.pool.messages import (
    Candidate,
    Draws,
    DrawTable,
    EpisodeRecord,
    RunnerAnswer,
    RunnerRequest,
)
from policystore.league.pool.runner import (
    PoolCallbacks,
    PoolMapping,
    PoolSettings,
    RunnerPool,
    exchange,
    pool_of,
)
from policystore.rllib import snapshot
from tests.support.league_envs import Arena
from tests.support.new_stack_algorithms import other, print_of

LEARNER = "blake3:" + "1" * 64
RANDOM = Candidate("heuristic:random", "random", "", "random")


class Witness(DefaultCallbacks):
    """Notes on the runner, step by step, which weights each policy held. Uses no code under test.

    ``runner.witnessed``: id of an episode -> agent -> fingerprints of the policies that played it.
    """

    def on_episode_step(self, *, episode: Any, env_runner: Any, **kwargs: Any) -> None:
        seen = env_runner.__dict__.setdefault("witnessed", {}).setdefault(episode.id_, {})
        for agent in episode.agent_ids:
            module = env_runner.module[episode.module_for(agent)].unwrapped()
            arrays = {n: t.detach().cpu().numpy() for n, t in module.state_dict().items()}
            seen.setdefault(agent, set()).add((episode.module_for(agent), print_of(arrays)))


def witnessed(runner: Any) -> dict[str, Any]:
    return dict(runner.__dict__.get("witnessed", {}))


def names_in(runner: Any, module_id: str) -> list[str]:
    return list(runner.module[module_id].unwrapped().state_dict())


def settings_of(store: PolicyStore, **changes: Any) -> PoolSettings:
    given: dict[str, Any] = {"slots": {"": ("o0", "o1")}, "learners": ("main",)}
    return PoolSettings(store=store, league="soccer", **(given | changes))


def configured(settings: PoolSettings, env: Any = None, **env_runners: Any) -> AlgorithmConfig:
    """Return a config for env runners that can be made without an Algorithm, and without Ray."""
    slots = [slot for each in settings.slots.values() for slot in each]
    return (
        PPOConfig()
        .environment(Arena, env_config=env or {})
        .env_runners(**({"num_env_runners": 0, "num_envs_per_env_runner": 2} | env_runners))
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[4]))
        .multi_agent(
            policies={*settings.learners, *slots, "random"},
            policy_mapping_fn=PoolMapping(settings),
            policies_to_train=list(settings.learners),
        )
        .callbacks([functools.partial(PoolCallbacks, settings), Witness])
        .debugging(log_level="ERROR", seed=1)
    )


def runner_of(config: AlgorithmConfig, **kwargs: Any) -> MultiAgentEnvRunner:
    return MultiAgentEnvRunner(config=config, **kwargs)


def push_opponents(store: PolicyStore, module: Any, count: int) -> tuple[Candidate, ...]:
    """Push other weights for the module of a slot, and return them as candidates."""
    taken = snapshot(module)
    versions = [store.push(other(taken, float(n + 1)), "soccer/main") for n in range(count)]
    return tuple(Candidate(str(version.digest), version.ref) for version in versions)


def draws_of(candidates: Sequence[Candidate], number: int = 1, **changes: Any) -> Draws:
    table = DrawTable(tuple(candidates), (1 / len(candidates),) * len(candidates))
    given: dict[str, Any] = {
        "round": number,
        "seed": 7,
        "tables": {"main": table},
        "shares": {"main": 1.0},
        "players": {"main": LEARNER},
    }
    return Draws(**(given | changes))


class Driver:
    """Talks to one env runner as the driver of a pool does.

    Attributes:
        records: all records, by id of the episode; each was sent once, or again with its number.
        answer: the last answer.
    """

    def __init__(self) -> None:
        self.records: dict[str, EpisodeRecord] = {}
        self.numbers: dict[int, str] = {}
        self.answer = RunnerAnswer("", 1, ())

    def exchange(self, runner: Any, draws: Draws | None = None, *, lost: bool = False) -> None:
        """Exchange with an env runner; ``lost`` loses the answer."""
        last = self.answer.first + len(self.answer.records) - 1
        request = RunnerRequest(draws, last, self.answer.life)
        if isinstance(runner, ray.actor.ActorHandle):
            answer = ray.get(runner.apply.remote(exchange, request), timeout=60)
        else:
            answer = exchange(runner, request)
        assert answer.error == ""
        if lost:
            return
        for number, record in enumerate(answer.records, answer.first):
            assert self.numbers.setdefault(number, record.episode_id) == record.episode_id
            self.records[record.episode_id] = record
        self.answer = answer
        assert len(self.records) == len(self.numbers)
        assert answer.started == len(self.records) + sum(answer.unknown.values()) + answer.ongoing

    def opponents(self) -> Counter[str]:
        """Count the labels of all players that are not the learner."""
        return Counter(
            record.match.refs[role]
            for record in self.records.values()
            for role, player in record.match.players.items()
            if player != LEARNER
        )


def expected_print(store: PolicyStore, player: str, module: Any) -> str:
    """Return the fingerprint of a stored policy's weights, of those that the module has."""
    snap = store.pull(player)
    return print_of({name: snap.weights[name] for name in module.unwrapped().state_dict()})


def assert_as_witnessed(driver: Driver, store: PolicyStore, runner: Any) -> None:
    """Check that each recorded opponent played each step of its episode with its own weights."""
    assert driver.records
    for episode_id, record in driver.records.items():
        for role, player in record.match.players.items():
            seen = runner.witnessed[episode_id][role]
            if player.startswith("blake3:") and player != LEARNER:
                ((module_id, held),) = seen
                assert held == expected_print(store, player, runner.module[module_id])
            else:
                assert {module_id for module_id, _ in seen} <= {"main", "random"}


class Table:
    """An env runner with its pool, opponents in the store, and a driver."""

    def __init__(
        self, store: PolicyStore, *, env: Any = None, opponents: int = 3, **changes: Any
    ) -> None:
        env_runners = changes.pop("env_runners", {})
        self.store = store
        self.settings = settings_of(store, **changes)
        self.runner = runner_of(configured(self.settings, env, **env_runners))
        slot = next(iter(self.settings.slots.values()))[0]
        self.candidates = push_opponents(store, self.runner.module[slot], opponents)
        self.driver = Driver()
        self.number = 0

    @property
    def pool(self) -> RunnerPool:
        pool = pool_of(self.runner)
        assert pool is not None
        return pool

    def give(self, *candidates: Candidate, **changes: Any) -> None:
        self.number += 1
        given = candidates or self.candidates
        self.driver.exchange(self.runner, draws_of(given, self.number, **changes))

    def sample(self, *, times: int = 1, **kwargs: Any) -> None:
        for _ in range(times):
            self.runner.sample(**(kwargs or {"num_timesteps": 40}))
        self.driver.exchange(self.runner)

    def assert_as_witnessed(self) -> None:
        assert_as_witnessed(self.driver, self.store, self.runner)

    def true_returns(self) -> list[dict[str, float]]:
        """Return the environments' own sums, of all episodes that ended."""
        return [each for env in self.runner.env.envs for each in env.unwrapped.history]


def returns_of(record: Any) -> dict[str, float]:
    return {role: round(float(each.sum), 6) for role, each in record.match.returns.items()}


def assert_true_returns(table: Table, *, all_of_them: bool = True) -> None:
    """Check that each record has the returns that an environment saw."""
    true = [{str(a): round(r, 6) for a, r in each.items()} for each in table.true_returns()]
    for record in table.driver.records.values():
        assert returns_of(record) in true
        true.remove(returns_of(record))
    assert not (all_of_them and true)
