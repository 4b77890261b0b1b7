"""Environments of four libraries: who acts, and which rewards count."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pyspiel
import pytest
from pettingzoo import ParallelEnv
from pettingzoo.classic.connect_four import connect_four
from ray.rllib.env.multi_agent_env import make_multi_agent
from ray.rllib.env.wrappers.open_spiel import OpenSpielEnv
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv, PettingZooEnv
from ray.rllib.examples.envs.classes.multi_agent import MultiAgentCartPole
from ray.tune.registry import register_env

from policystore import PolicyStore
from policystore.errors import InvalidInputError, NotFoundError
from policystore.league import League
from policystore.league.tournament.evaluation import evaluate
from policystore.league.tournament.play import play
from policystore.league.tournament.playing.env_source import env_source
from policystore.league.tournament.playing.environments import GameEnv, adapt_env
from tests.support.tournament import Numbers


class Race(ParallelEnv):  # type: ignore[misc]
    """Three runners; each leaves when it has arrived."""

    metadata: ClassVar[dict[str, Any]] = {"name": "race"}

    def __init__(self) -> None:
        self.possible_agents = ["a", "b", "c"]

    def observation_space(self, agent: Any) -> Any:
        return gym.spaces.Box(0.0, 99.0, (1,), np.float32)

    def action_space(self, agent: Any) -> Any:
        return gym.spaces.Discrete(3)

    def reset(self, seed: Any = None, options: Any = None) -> Any:
        self.agents = list(self.possible_agents)
        self._rng = np.random.default_rng(seed)
        self._places = dict.fromkeys(self.agents, 0)
        return {agent: np.zeros(1, np.float32) for agent in self.agents}, {}

    def step(self, actions: Any) -> Any:
        assert set(actions) == set(self.agents)
        for agent, action in actions.items():
            self._places[agent] += int(action) + int(self._rng.integers(2))
        acting = list(actions)
        ended = {agent: self._places[agent] >= 6 for agent in acting}
        self.agents = [agent for agent in acting if not ended[agent]]
        seen = {agent: np.full(1, self._places[agent], np.float32) for agent in acting}
        return seen, dict.fromkeys(acting, -1.0), ended, dict.fromkeys(acting, False), {}


def first_legal(observation: Any) -> int:
    return int(np.flatnonzero(observation["action_mask"])[0])


def last_legal(observation: Any) -> int:
    return int(np.flatnonzero(observation["action_mask"])[-1])


def episode(env: GameEnv, seed: int, choose: Any) -> tuple[dict[str, float], list[list[str]]]:
    """Play an episode; return the returns, and who acted in each step."""
    turn = env.reset(seed)
    returns = dict.fromkeys(env.roles, 0.0)
    acted = []
    while not turn.over:
        acted.append(sorted(turn.observations))
        turn = env.step({role: choose(seen) for role, seen in turn.observations.items()})
        for role, reward in turn.rewards.items():
            returns[role] += reward
    return returns, acted


def test_connect_four_is_the_same_with_and_without_the_wrapper_of_rllib() -> None:
    plain = episode(adapt_env(connect_four.env()), 3, first_legal)
    wrapped = episode(adapt_env(PettingZooEnv(connect_four.env())), 3, first_legal)
    assert plain == wrapped
    # Both fill column 0, then column 1, …: the first one has four in a row at the bottom first.
    assert sorted(plain[0].values()) == [-1.0, 1.0]
    assert all(len(each) == 1 for each in plain[1])


def test_agents_of_a_parallel_environment_leave() -> None:
    for env in (Race(), ParallelPettingZooEnv(Race())):
        returns, acted = episode(adapt_env(env), 2, lambda seen: 2 if seen[0] < 2 else 0)
        assert acted[0] == ["a", "b", "c"]
        assert all(returns[role] == -sum(role in each for each in acted) for role in returns)
        assert len(acted[-1]) < 3 or len(set(returns.values())) == 1


def test_agents_of_rllib_come_and_go() -> None:
    env = adapt_env(Numbers({"agents": 3, "late": True, "dies": True}))
    _, acted = episode(env, 1, lambda seen: 0)
    assert acted[0] == ["p0", "p1"]
    assert acted[2] == ["p0", "p1", "p2"]
    assert acted[4] == ["p1", "p2"]


def test_chance_follows_from_the_seed_of_the_episode() -> None:
    """RLlib's OpenSpielEnv draws chance from numpy's global numbers; Kuhn poker deals cards."""
    np.random.seed(5)
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    one, other = (adapt_env(OpenSpielEnv(pyspiel.load_game("kuhn_poker"))) for _ in range(2))
    alone = [episode(one, seed, lambda seen: 1)[0] for seed in range(8)]
    turns = [one.reset(0), other.reset(1)]  # two episodes at the same time
    while not all(turn.over for turn in turns):
        for number, env in enumerate((one, other)):
            if not turns[number].over:
                turns[number] = env.step(dict.fromkeys(turns[number].observations, 1))
    assert [turn.rewards for turn in turns] == alone[:2]
    assert len({each["0"] for each in alone}) > 1
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]


def test_names_of_registries_classes_and_functions_make_environments() -> None:
    register_env("tournament-numbers", lambda config: Numbers({"agents": 4, **config}))
    for env, count in (
        ("tournament-numbers", 4),
        (("tournament-numbers", {"agents": 5}), 5),
        (Numbers, 2),
        (lambda config: Numbers(config), 2),
        ((Numbers, {"agents": 3}), 3),
        ("CartPole-v1", 1),
        (gym.spec("CartPole-v1"), 1),
        (make_multi_agent("CartPole-v1"), 1),
        ((MultiAgentCartPole, {"num_agents": 2}), 2),
        (connect_four.env, 2),
        ((connect_four.env, {"render_mode": "rgb_array"}), 2),
    ):
        opened = env_source(env).open()
        assert len(opened.roles) == count, env
        opened.close()


def test_what_makes_no_environment_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="made already"):
        env_source(Numbers())
    with pytest.raises(InvalidInputError, match="pair"):
        env_source((Numbers, 3))
    with pytest.raises(NotFoundError, match="NoSuchEnv"):
        env_source("NoSuchEnv-v0").open()
    with pytest.raises(InvalidInputError, match="expected an environment"):
        env_source(dict).open()


def test_a_league_of_connect_four(tmp_path: Any) -> None:
    league = League(PolicyStore(tmp_path), "four")
    heuristics = {"first": first_legal, "last": last_legal}
    report = play(
        league,
        ["heuristic:first", "heuristic:last", "random"],
        env=connect_four.env,
        heuristics=heuristics,
        episodes=10,
        seed=4,
    )
    totals = league.totals()
    assert totals.episodes == report.episodes == 30
    for match in report.matches:
        assert match.returns["player_0"].sum == -match.returns["player_1"].sum
    wrapped = play(
        League(league.store, "wrapped"),
        ["heuristic:first", "heuristic:last", "random"],
        env=lambda config: PettingZooEnv(connect_four.env()),
        heuristics=heuristics,
        episodes=10,
        seed=4,
    )
    returns = [[each.episode_returns for each in one.matches] for one in (report, wrapped)]
    assert returns[0] == returns[1]


def test_several_cart_poles_are_played_as_one_each() -> None:
    many = evaluate("random", (MultiAgentCartPole, {"num_agents": 3}), 5)
    assert sorted(many.role_returns) == ["0", "1", "2"]
    # Each agent earns 1 in each step until its pole falls; the episode ends with the last one.
    for number, length in enumerate(many.lengths):
        assert max(each[number] for each in many.role_returns.values()) == length
