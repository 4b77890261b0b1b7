"""Replays: the same returns again, over stacks and seeds; what differs is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.tune.registry import register_env

from policystore import MatchError, PolicyStore
from policystore.errors import InvalidInputError
from policystore.league import League
from policystore.league.tournament.play import play
from policystore.league.tournament.replay import replay
from tests.support import player_pairs
from tests.support.tournament import SEEN, Numbers

CHOICES: Any = gym.spaces.Discrete(3)
RECURRENT: dict[str, Any] = {"use_lstm": True, "lstm_cell_size": 8, "max_seq_len": 4}


class Drifting(Numbers):
    """An environment whose rewards do not follow from the seed."""

    drift = 0.0

    def step(self, actions: Any) -> Any:
        seen, rewards, *more = super().step(actions)
        return seen, {agent: each + self.drift for agent, each in rewards.items()}, *more


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> League:
    store = PolicyStore(tmp_path_factory.mktemp("replay"))
    torch.manual_seed(0)
    store.push(player_pairs.module(SEEN, CHOICES), "new")
    store.push(player_pairs.policy(SEEN, CHOICES), "old")
    store.push(player_pairs.module(SEEN, CHOICES, **RECURRENT), "new-lstm")
    store.push(player_pairs.policy(SEEN, CHOICES, **RECURRENT), "old-lstm")
    return League(store, "replay")


@pytest.mark.parametrize("pair", [("new", "old"), ("new-lstm", "old-lstm"), ("old-lstm", "random")])
def test_the_same_returns_again(league: League, pair: tuple[str, str]) -> None:
    env = (Numbers, {"late": True})
    play(league, pair, env=env, episodes=6, seed=2)
    players = {str(league.store.resolve(ref)) for ref in pair if ref != "random"}
    matches = [each for each in league.matches() if players <= set(each.players.values())]
    assert matches
    for match in matches:
        again = replay(league, match, env=env)
        assert again.returns == match.episode_returns
        assert [each["seed"] for each in again.to_records()] == list(match.seeds)


def test_the_first_episode_that_differs_is_named(
    league: League, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = play(league, ["new", "old"], env=Drifting, episodes=6, seed=3)
    match = report.matches[0]
    monkeypatch.setattr(Drifting, "drift", 1.0)
    with pytest.raises(MatchError, match="episode 0 with the seed") as caught:
        replay(league, match, env=Drifting)
    assert caught.value.seeds == match.seeds[:1]
    monkeypatch.setattr(Drifting, "drift", 0.0)
    # The last bit of one return of the third episode, changed on purpose.
    returns = list(match.episode_returns["p1"])
    returns[2] = float(np.nextafter(returns[2], np.inf))
    changed = replace(match, episode_returns={**match.episode_returns, "p1": tuple(returns)})
    with pytest.raises(MatchError, match="episode 2") as caught:
        replay(league, changed, env=Drifting)
    assert caught.value.seeds == (match.seeds[2],)


def test_sums_and_outcomes_are_compared_where_episodes_are_not_known(league: League) -> None:
    match = play(league, ["new", "old"], env=Numbers, episodes=4, seed=4).matches[0]
    bare = replace(match, episode_returns={})
    assert replay(league, bare, env=Numbers).returns == match.episode_returns
    sums = bare.returns["p0"]
    wrong = replace(bare, returns={**bare.returns, "p0": replace(sums, sum=sums.sum + 1)})
    with pytest.raises(MatchError, match="the returns of p0 differ"):
        replay(league, wrong, env=Numbers)
    with pytest.raises(MatchError, match="outcomes differ"):
        replay(league, bare, env=Numbers, outcome=lambda returns, infos: dict.fromkeys(returns, 0))


def test_a_registered_environment_need_not_be_given(league: League) -> None:
    register_env("replay-numbers", lambda config: Numbers(config))
    match = play(league, ["new", "old"], env="replay-numbers", episodes=2).matches[0]
    assert replay(league, match).returns == match.episode_returns
    other = play(league, ["new", "old"], env=("replay-numbers", {"steps": 2}), episodes=2)
    assert replay(league, other.matches[0]).returns == other.matches[0].episode_returns
    with pytest.raises(InvalidInputError, match="config of the match"):
        replay(league, other.matches[0], env=("replay-numbers", {"steps": 3}))


def test_a_match_says_how_its_actions_were_taken_and_when_it_was_cut_off(league: League) -> None:
    how: dict[str, Any] = {"explore": True, "max_steps": 4}
    match = play(league, ["new", "old"], env=Numbers, episodes=8, seed=7, **how).matches[0]
    assert (match.explore, match.max_steps) == (True, 4)
    stored = next(each for each in league.matches() if each.seeds == match.seeds)
    again = replay(league, stored, env=Numbers)
    assert again.returns == stored.episode_returns
    assert set(again.lengths) == {4}
    for other in ({"explore": False}, {"max_steps": 5}):
        with pytest.raises(MatchError):
            replay(league, stored, env=Numbers, **other)
    # A record without the two is played as one without them was.
    bare = replace(stored, explore=None, max_steps=None)
    with pytest.raises(MatchError):
        replay(league, bare, env=Numbers)
    assert replay(league, bare, env=Numbers, **how).returns == stored.episode_returns
    plain = play(league, ["new", "old"], env=Numbers, episodes=2, seed=7).matches[0]
    assert (plain.explore, plain.max_steps) == (False, None)


def test_what_cannot_be_replayed_is_refused(league: League) -> None:
    match = play(league, ["new", "old"], env=Numbers, episodes=2, seed=5).matches[0]
    with pytest.raises(InvalidInputError, match="no seeds"):
        replay(league, replace(match, seeds=(), episode_returns={}), env=Numbers)
    digest = match.players["p0"]
    with pytest.raises(InvalidInputError, match="changed during this match"):
        replay(league, replace(match, played={"p0": (digest, digest)}), env=Numbers)
    with pytest.raises(InvalidInputError, match="pass env="):
        replay(league, replace(match, env="os:getcwd"))
    with pytest.raises(InvalidInputError, match="takes a Match"):
        replay(league, "new")  # type: ignore[arg-type]
