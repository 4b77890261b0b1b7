"""Continuous actions, and players of exported files, in tournaments, replays and evaluations."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from policystore import MatchError, PolicyStore, Snapshot
from policystore.errors import InvalidInputError
from policystore.league import League
from policystore.league.tournament.evaluation import evaluate
from policystore.play import load_player
from policystore.rllib import export, rebuild_player
from tests.support import player_pairs
from tests.support.tournament import FORCES, SEEN, Numbers, Pull, plain_loop

EPISODES = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of policies of both stacks, and files that were exported from some of them."""
    folder = tmp_path_factory.mktemp("continuous")
    store = PolicyStore(folder / "store")
    torch.manual_seed(0)
    recurrent: dict[str, Any] = {"use_lstm": True, "lstm_cell_size": 8, "max_seq_len": 4}
    snaps = {
        "new": scaled(player_pairs.module(SEEN, FORCES)),
        "old": player_pairs.policy(SEEN, FORCES),
        "filed": scaled(player_pairs.module(SEEN, FORCES, **recurrent)),
        "guess": player_pairs.module(SEEN, gym.spaces.Discrete(3)),
    }
    for name, snap in snaps.items():
        store.push(snap, name)
    spaces = {"filed": (SEEN, FORCES), "guess": (SEEN, gym.spaces.Discrete(3))}
    for name, pair in spaces.items():
        export(snaps[name], folder / f"{name}.onnx", env_spaces=pair)
    return folder


def scaled(snap: Snapshot) -> Snapshot:
    """Return a snapshot that says how its actions go back, as those of an Algorithm do."""
    return snap.replace(spec=snap.spec.replace(normalize_actions=True, clip_actions=False))


def player(folder: Path, ref: str) -> Any:
    if ref.endswith(".onnx"):
        return load_player(ref)
    return rebuild_player(PolicyStore(folder / "store").pull(ref), env_spaces=(SEEN, FORCES))


def test_continuous_actions_are_those_of_a_plain_loop(folder: Path) -> None:
    league = League(folder / "store", "pull")
    refs = ["new", "old", str(folder / "filed.onnx")]
    report = league.play([*refs, "random"], env=Pull, episodes=EPISODES, batch_size=1)
    assert report.played == 6 * EPISODES
    players = {str(player(folder, ref).digest): player(folder, ref) for ref in refs}
    compared = 0
    for match in league.matches():
        if set(match.players.values()) <= set(players):
            compared += 1
            lineup = {role: players[each] for role, each in match.players.items()}
            assert {role: each[0] for role, each in match.episode_returns.items()} == plain_loop(
                Pull(), lineup, match.seeds[0]
            )
    assert compared == 3 * EPISODES


def test_a_policy_that_does_not_say_how_its_actions_go_back(folder: Path) -> None:
    league = League(folder / "store", "bare")
    snap = player_pairs.module(SEEN, FORCES)
    with pytest.raises(MatchError, match="give the player that rebuild_player"):
        league.play([snap, "random"], env=Pull, episodes=2)
    rebuilt = rebuild_player(snap, env_spaces=(SEEN, FORCES), normalize_actions=True)
    for match in league.play([rebuilt, "random"], env=Pull, episodes=2).matches:
        again = league.replay(match, players=[rebuilt])
        assert again.returns == match.episode_returns


def test_a_replay_of_continuous_actions(folder: Path) -> None:
    league = League(folder / "store", "replays")
    league.play(["new", "old", "random"], env=Pull, episodes=EPISODES)
    matches = list(league.matches())
    assert len(matches) == 6
    for match in matches:
        assert league.replay(match).returns == match.episode_returns


def test_a_replay_takes_the_files_that_have_played(folder: Path) -> None:
    league = League(folder / "store", "files")
    file = folder / "filed.onnx"
    league.play([file, "new"], env=Pull, episodes=EPISODES)
    for match in league.matches():
        with pytest.raises(InvalidInputError, match=r"players=.*filed\.onnx"):
            league.replay(match)
        assert league.replay(match, players=[file]).returns == match.episode_returns
        assert league.replay(match, players=[load_player(file)]).returns == match.episode_returns
        with pytest.raises(InvalidInputError, match="did not play in this match"):
            league.replay(match, players=["old"])


def test_a_file_and_its_policy_are_one_player(folder: Path) -> None:
    league = League(folder / "store", "one")
    with pytest.raises(InvalidInputError, match="two forms of one policy"):
        league.play(["filed", folder / "filed.onnx", "new"], env=Pull, episodes=EPISODES)
    assert list(league.matches()) == []


@pytest.mark.long
def test_files_in_other_processes(folder: Path) -> None:
    refs = [folder / "guess.onnx", "random"]
    here = League(folder / "store", "here").play(refs, env=Numbers, episodes=8)
    there = League(folder / "store", "there").play(
        refs, env=Numbers, episodes=8, parallel="processes", workers=2
    )
    assert there.matches == here.matches


def test_evaluations_of_files_and_of_continuous_actions(folder: Path) -> None:
    for ref in ("new", str(folder / "filed.onnx")):
        found = evaluate(ref, Pull, 3, store=PolicyStore(folder / "store"), batch_size=1,
                         roles="left", others="random")  # fmt: skip
        assert len(set(found.returns.tolist())) == 3
    observations: Any = gym.spaces.Box(np.float32([-1, -1, -8]), np.float32([1, 1, 8]))
    torque: Any = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)
    snap = scaled(player_pairs.module(observations, torque))
    export(snap, folder / "pendulum.onnx", env_spaces=(observations, torque))
    rebuilt, filed = (
        evaluate(each, "Pendulum-v1", 3, max_steps=20) for each in (snap, folder / "pendulum.onnx")
    )
    assert rebuilt.seeds == filed.seeds
    assert rebuilt.player == filed.player
    np.testing.assert_allclose(rebuilt.returns, filed.returns, rtol=1e-4)


def test_files_take_deterministic_actions_only(folder: Path) -> None:
    with pytest.raises((InvalidInputError, MatchError), match="explore"):
        evaluate(folder / "guess.onnx", Numbers, 2, explore=True)


def test_the_label_of_a_file_is_only_a_label(folder: Path) -> None:
    """Whoever writes a ledger may call a policy of the store as a file."""
    league = League(folder / "store", "labels")
    match = league.play(["new", "random"], env=Pull, episodes=2).matches[0]
    role = next(role for role, name in match.players.items() if name.startswith("blake3:"))
    named = replace(match, refs={role: "main.onnx"})
    assert league.replay(named, players=["new"]).returns == match.episode_returns
    assert Counter(match.players.values())["heuristic:random"] == 1
