"""Compare the episodes a second of tournaments with those of a plain loop.

    ./.venv/bin/python scripts/benchmarks/bench_tournament.py

Both play the same episodes with the same players. The plain loop is what one would write by hand:
one environment, one ``act`` for each agent and step.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
sys.path.insert(0, str(Path(__file__).parents[2]))

import gymnasium as gym
import numpy as np
import torch

import policystore
from policystore import PolicyStore
from policystore.league import League
from policystore.league.tournament.play import play
from policystore.rllib import rebuild_player
from tests.support import player_pairs
from tests.support.tournament import SEEN, Numbers, plain_loop

POLE: Any = (gym.spaces.Box(-np.inf, np.inf, (4,), np.float32), gym.spaces.Discrete(2))
RECURRENT: Any = {"use_lstm": True, "lstm_cell_size": 64, "max_seq_len": 20}
ENV = (Numbers, {"steps": 50})


def plain_evaluation(player: Any, seeds: Any) -> list[float]:
    """Evaluate as anyone would write it."""
    env: Any = gym.make("CartPole-v1")
    returns = []
    for seed in seeds:
        player.reset()
        observation, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(player.act(observation))
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return returns


def compare_evaluations(episodes: int) -> None:
    """Print a line for each kind of policy."""
    for kind, snap in (
        ("new stack", player_pairs.module(*POLE)),
        ("old stack", player_pairs.policy(*POLE)),
        ("new stack, LSTM", player_pairs.module(*POLE, **RECURRENT)),
        ("old stack, LSTM", player_pairs.policy(*POLE, **RECURRENT)),
    ):
        policystore.evaluate(snap, "CartPole-v1", 1, progress=False)  # rebuilds the player
        player = rebuild_player(snap, env_spaces=POLE)
        begun = time.perf_counter()
        evaluation = policystore.evaluate(snap, "CartPole-v1", episodes, progress=False)
        batched = time.perf_counter() - begun
        begun = time.perf_counter()
        returns = plain_evaluation(player, evaluation.seeds)
        plain = time.perf_counter() - begun
        report(f"CartPole-v1, {kind}", episodes, plain, batched)
        if returns != evaluation.returns.tolist():
            print("  the returns differ")


def compare_tournaments(episodes: int, workers: int) -> None:
    """Print lines for a match of two policies: in one process, and in several."""
    with tempfile.TemporaryDirectory() as folder:
        store = PolicyStore(folder)
        choices: Any = gym.spaces.Discrete(3)
        store.push(player_pairs.module(SEEN, choices), "new")
        store.push(player_pairs.policy(SEEN, choices), "old")
        refs = ["new", "old"]
        play(League(store, "rebuilt"), refs, env=ENV, episodes=2, progress=False)
        players_of = {
            str(store.resolve(ref)): rebuild_player(store.pull(ref), env_spaces=(SEEN, choices))
            for ref in refs
        }
        begun = time.perf_counter()
        found = play(League(store, "one"), refs, env=ENV, episodes=episodes, progress=False)
        batched = time.perf_counter() - begun
        begun = time.perf_counter()
        for match in found.matches:
            players = {role: players_of[player] for role, player in match.players.items()}
            for seed in match.seeds:
                plain_loop(Numbers(ENV[1]), players, seed)
        plain = time.perf_counter() - begun
        report("two agents, new and old stack", episodes, plain, batched)
        if workers:
            begun = time.perf_counter()
            play(League(store, "many"), refs, env=ENV, episodes=episodes, progress=False,
                 parallel="processes", workers=workers)  # fmt: skip
            report(f"  {workers} processes, with their start", episodes, plain,
                   time.perf_counter() - begun)  # fmt: skip


def report(label: str, episodes: int, plain: float, batched: float) -> None:
    print(
        f"{label:<34}{episodes / plain:>8.0f} {episodes / batched:>8.0f} episodes/s"
        f"{plain / batched:>7.1f} x",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--episodes", type=int, default=128)
    parser.add_argument("--workers", type=int, default=0, help="processes to try as well")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    torch.manual_seed(0)
    print(f"{'':<34}{'plain':>8} {'batched':>8}")
    compare_evaluations(options.episodes)
    compare_tournaments(options.episodes, options.workers)


if __name__ == "__main__":
    main()
