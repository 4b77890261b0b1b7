"""Tournaments: exact returns, the same on any number of workers, resumed where they ended."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

from policystore import MatchError, PolicyStore
from policystore.errors import InvalidInputError
from policystore.league import League
from policystore.league.tournament.play import play
from policystore.rllib import rebuild_player
from tests.support import player_pairs
from tests.support.tournament import SEEN, Numbers, plain_loop

CHOICES: Any = gym.spaces.Discrete(3)
UNEVEN = (Numbers, {"late": True, "dies": True})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PolicyStore:
    """Policies of both stacks, with and without a recurrent state."""
    store = PolicyStore(tmp_path_factory.mktemp("tournament"))
    torch.manual_seed(0)
    recurrent: dict[str, Any] = {"use_lstm": True, "lstm_cell_size": 8, "max_seq_len": 4}
    store.push(player_pairs.module(SEEN, CHOICES), "new")
    store.push(player_pairs.policy(SEEN, CHOICES), "old")
    store.push(player_pairs.module(SEEN, CHOICES, **recurrent), "new-lstm")
    store.push(player_pairs.policy(SEEN, CHOICES, **recurrent), "old-lstm")
    return store


@pytest.fixture
def league(store: PolicyStore, request: pytest.FixtureRequest) -> League:
    return League(store, request.node.name.partition("[")[0].replace("_", "-")[:60])


def plain_returns(players: Any, config: Any, seeds: Any) -> dict[str, Any]:
    """Return the returns of episodes, played one by one with ``player.act``."""
    played = [plain_loop(Numbers(config), players, seed) for seed in seeds]
    return {role: tuple(each[role] for each in played) for role in players}


@pytest.mark.parametrize("pair", [("new", "old-lstm"), ("old", "new-lstm")])
def test_returns_are_those_of_a_plain_loop(
    store: PolicyStore, league: League, pair: tuple[str, str]
) -> None:
    report = play(league, pair, env=UNEVEN, episodes=6, seed=8)
    assert report.played == 6
    rebuilt = {
        str(store.resolve(ref)): rebuild_player(store.pull(ref), env_spaces=(SEEN, CHOICES))
        for ref in pair
    }
    for match in report.matches:
        players = {role: rebuilt[player] for role, player in match.players.items()}
        plain = plain_returns(players, UNEVEN[1], match.seeds)
        assert match.episode_returns == plain
        for role, returns in plain.items():
            assert match.returns[role].sum == sum(map(Fraction, returns))


def test_both_sides_are_played_equally_often(league: League) -> None:
    report = play(league, ["new", "old"], env=Numbers, episodes=10)
    by_side = {match.players["p0"]: match.episodes for match in report.matches}
    assert sorted(by_side.values()) == [5, 5]
    record = report.to_records()[0]
    assert record["wins"] + record["draws"] + record["losses"] == record["episodes"] == 10


def test_a_second_call_plays_only_what_is_missing(league: League) -> None:
    refs = ["new", "old", "random"]
    first = play(league, refs, env=Numbers, episodes=4)
    again = play(league, refs, env=Numbers, episodes=4)
    assert (first.played, again.played, again.known) == (12, 0, 12)
    more = play(league, refs, env=Numbers, episodes=6)
    assert (more.played, more.known) == (6, 12)
    other = play(league, refs, env=Numbers, episodes=4, seed=1)
    assert other.known == 0
    explored = play(league, refs, env=Numbers, episodes=4, explore=True)
    assert explored.known == 0
    seeds = [seed for match in league.matches() for seed in match.seeds]
    assert len(seeds) == len(set(seeds)) == 12 + 6 + 12 + 12


def test_three_players_sit_in_all_orders(league: League) -> None:
    report = play(
        league, ["new", "old", "random"], env=(Numbers, {"agents": 3}), episodes=6, progress=False
    )
    lineups = {tuple(match.players.items()) for match in report.matches}
    assert len(lineups) == 6
    assert all(len(outcome.ranks) == 3 for match in report.matches for outcome in match.outcomes)


def test_a_crash_names_players_and_seed_and_keeps_what_was_played(league: League) -> None:
    seeds = [seed for m in play(league, ["new", "old"], env=Numbers, episodes=8, batch_size=1)
             .matches for seed in m.seeds]  # fmt: skip
    crashing = League(league.store, "crashing")
    with pytest.raises(MatchError, match="the field is flooded") as caught:
        play(
            crashing,
            ["new", "old"],
            env=(Numbers, {"crash": seeds[3]}),
            episodes=8,
            batch_size=1,
        )
    assert caught.value.seeds == (seeds[3],)
    assert str(league.store.resolve("new")) in str(caught.value)
    assert [seed for match in crashing.matches() for seed in match.seeds] == seeds[:3][::-1]


def test_one_side_is_refused(league: League) -> None:
    with pytest.raises(InvalidInputError, match="evaluate"):
        play(league, ["random", "new"], env="CartPole-v1", episodes=1)


@pytest.mark.long
def test_two_processes_give_what_one_gives(store: PolicyStore, league: League) -> None:
    refs = ["new", "old-lstm", "random"]
    here = play(league, refs, env=UNEVEN, episodes=8, explore=True, batch_size=3)
    there = League(store, "processes")
    report = play(there, refs, env=UNEVEN, episodes=8, explore=True, batch_size=3,
                  parallel="processes", workers=2)  # fmt: skip
    assert report.matches == here.matches
    assert report.played == 24


def test_exploring_is_seeded(store: PolicyStore, league: League) -> None:
    torch.manual_seed(1)
    one = play(league, ["new", "old"], env=Numbers, episodes=6, explore=True)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    other = play(League(store, "again"), ["new", "old"], env=Numbers, episodes=6, explore=True)
    assert one.matches == other.matches
    assert torch.equal(torch.get_rng_state(), before)
    plain = play(League(store, "plain"), ["new", "old"], env=Numbers, episodes=6)
    assert [match.episode_returns for match in plain.matches] != [
        match.episode_returns for match in one.matches
    ]


def test_until_goes_on_with_uncertain_pairs_only(league: League) -> None:
    """``always`` beats ``never`` in each episode; the two random players are even."""
    heuristics = {"always": "random", "one": "random", "worst": lambda seen: 9}
    report = play(
        league,
        ["heuristic:always", "heuristic:one", "heuristic:worst"],
        env=Numbers,
        heuristics=heuristics,
        episodes=20,
        until=0.12,
    )
    episodes = {(row["ref"], row["opponent_ref"]): row for row in report.to_records()}
    even, clear = episodes["always", "one"], episodes["always", "worst"]
    assert even["episodes"] > clear["episodes"]
    for row in episodes.values():
        assert (row["high"] - row["low"]) / 2 <= 0.12
        assert row["episodes"] % 20 == 0


def test_anchors_meet_all_others(league: League) -> None:
    report = play(
        league, ["new", "old"], env=Numbers, episodes=2, pairing="anchors", against=["random"]
    )
    met = {frozenset((row["ref"], row["opponent_ref"])) for row in report.to_records()}
    assert met == {frozenset(("new", "random")), frozenset(("old", "random"))}
    with pytest.raises(InvalidInputError, match="against="):
        play(league, ["new", "old"], env=Numbers, episodes=2, pairing="anchors")


def test_swiss_rounds_are_resumed(league: League) -> None:
    refs: list[object] = ["new", "old", "new-lstm", "old-lstm", "random"]
    arguments: dict[str, Any] = {"env": Numbers, "episodes": 2, "pairing": "swiss", "rounds": 3}
    report = play(league, refs, **arguments)
    assert report.played == 3 * 2 * 2
    assert [len(each) for each in report.resting] == [1, 1, 1]
    assert len({name for each in report.resting for name in each}) == 3
    again = play(league, refs, **arguments)
    assert (again.played, again.known, again.resting) == (0, 12, report.resting)
    assert again.to_records() == report.to_records()


def test_roles_and_teams(league: League) -> None:
    report = play(league, ["new", "old"], env=Numbers, episodes=4, roles={"new": "p1"})
    assert [match.refs for match in report.matches] == [{"p0": "old", "p1": "new"}]
    teams = {"p0": "red", "p1": "red", "p2": "blue"}
    report = play(league, ["new", "old"], env=(Numbers, {"agents": 3}), episodes=4, teams=teams)
    for match in report.matches:
        assert match.players["p0"] == match.players["p1"] != match.players["p2"]
        assert match.teams == {"p0": "red", "p1": "red"}
        assert all(each.ranks[0] == each.ranks[1] for each in match.outcomes)
    with pytest.raises(InvalidInputError, match="no role"):
        play(league, ["new", "old"], env=Numbers, episodes=4, roles={"new": "goal"})


def test_outcomes_of_the_caller(league: League) -> None:
    draw = play(league, ["new", "old"], env=Numbers, episodes=2,
                outcome=lambda returns, infos: dict.fromkeys(returns, 0))  # fmt: skip
    assert draw.to_records()[0]["draws"] == 2
    scores = play(League(league.store, "scores"), ["new", "old"], env=Numbers, episodes=2,
                  outcome=None)  # fmt: skip
    assert scores.to_records()[0]["win_rate"] is None
    assert "2 episodes" in str(scores)
    assert "<table" in draw._repr_html_()


def test_progress_counts_the_episodes(league: League) -> None:
    seen: list[tuple[int, int]] = []
    play(league, ["new", "old"], env=Numbers, episodes=4, batch_size=1,
         progress=lambda done, total: seen.append((done, total)))  # fmt: skip
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"episodes": 0}, "episodes"),
        ({"env": 3}, "env"),
        ({"seed": 1.5}, "seed"),
        ({"until": 0.9}, "until"),
        ({"pairing": "all"}, "pairing"),
        ({"parallel": "threads"}, "parallel"),
        ({"outcome": "wins"}, "outcome"),
        ({"players_per_match": 3}, "sides"),
        ({"teams": {"p9": "red", "p0": "red"}}, "no role"),
        ({"explore": "yes"}, "explore"),
        ({"progress": 3}, "progress"),
        ({"refs": "new"}, "list of players"),
        ({"refs": ["new", "heuristic:who"]}, "no heuristic"),
        ({"refs": ["new"]}, "no match to play"),
        ({"refs": [lambda seen: 1, lambda seen: 2]}, "two functions"),
    ],
)
def test_what_does_not_fit_is_refused(league: League, change: Any, message: str) -> None:
    arguments: Any = {"refs": ["new", "old"], "env": Numbers, "episodes": 2, **change}
    with pytest.raises(InvalidInputError, match=message):
        play(league, **arguments)
    assert list(league.matches()) == []


def test_a_killed_tournament_goes_on(store: PolicyStore, league: League) -> None:
    """The progress function ends the first call, as an interrupt would."""

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    whole = play(league, ["new", "old"], env=Numbers, episodes=6, batch_size=1)
    resumed = League(store, "resumed")
    arguments: dict[str, Any] = {"env": Numbers, "episodes": 6, "batch_size": 1}
    with pytest.raises(KeyboardInterrupt):
        play(resumed, ["new", "old"], progress=stop, **arguments)
    assert sum(match.episodes for match in resumed.matches()) == 3
    report = play(resumed, ["new", "old"], **arguments)
    assert (report.played, report.known) == (3, 3)
    returns = [
        {seed: {role: each[0] for role, each in match.episode_returns.items()}
         for match in one.matches for seed in match.seeds}
        for one in (whole, report)
    ]  # fmt: skip
    assert returns[0] == returns[1]


def test_a_file_of_the_tests_path_is_no_ref(tmp_path: Path, league: League) -> None:
    with pytest.raises(Exception, match="missing"):
        play(league, ["new", str(tmp_path / "missing.onnx")], env=Numbers, episodes=1)
