"""A light game, and a program that plays a tournament of it beside others of its kind.

    python tests/support/played_at_once.py URL EPISODES MODE [FOLDER]

MODE is None, ``processes`` or ``ray``. Each line of output has the number of episodes that are
done; the last one is a JSON object. ``GUESS_PAUSE`` says how many seconds each step takes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from pettingzoo import ParallelEnv

from policystore import PolicyStore
from policystore.league import League
from policystore.league.tournament import records
from policystore.league.tournament.play import play

__all__ = ["HEURISTICS", "PLAYERS", "Guess", "play_all"]

PLAYERS = ["random", "heuristic:low", "heuristic:high"]
HEURISTICS = {"low": "random", "high": "random"}


class Guess(ParallelEnv):  # type: ignore[misc]
    """Two agents guess a number in three steps.

    Config: ``pids``: a folder in which each process that plays leaves a file with its id.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "guess"}

    def __init__(self, config: Any) -> None:
        self.config = dict(config)
        self.possible_agents = ["a", "b"]
        if "pids" in self.config:
            Path(self.config["pids"], str(os.getpid())).touch()

    def observation_space(self, agent: Any) -> Any:
        return gym.spaces.Box(0.0, 9.0, (1,), np.float32)

    def action_space(self, agent: Any) -> Any:
        return gym.spaces.Discrete(10)

    def reset(self, seed: Any = None, options: Any = None) -> Any:
        self.agents = list(self.possible_agents)
        self._numbers, self._step = np.random.default_rng(seed), 0
        return {agent: np.zeros(1, np.float32) for agent in self.agents}, {}

    def step(self, actions: Any) -> Any:
        time.sleep(float(os.environ.get("GUESS_PAUSE", "0")))
        self._step += 1
        aim = int(self._numbers.integers(10))
        rewards = {agent: -abs(float(action) - aim) for agent, action in actions.items()}
        seen = {agent: np.full(1, aim, np.float32) for agent in actions}
        over = dict.fromkeys(actions, self._step == 3)
        if self._step == 3:
            self.agents = []
        return seen, rewards, over, dict.fromkeys(actions, False), {}


def play_all(league: League, episodes: int, **options: Any) -> Any:
    """Play the tournament."""
    chosen = {"env": Guess, "batch_size": 4, **options}
    return play(league, PLAYERS, heuristics=HEURISTICS, episodes=episodes, **chosen)


def _main(url: str, episodes: str, mode: Any, folder: str = "") -> None:
    if mode == "ray":
        import ray

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    records._LONGEST_WAIT = 0.0  # each group of episodes is recorded as soon as it is played
    report = play_all(
        League(PolicyStore(url), "guess"),
        int(episodes),
        env=(Guess, {"pids": folder} if folder else {}),
        parallel=None if mode == "None" else mode,
        workers=2,
        progress=lambda done, total: print(done, flush=True),
    )
    print(json.dumps({"played": report.played, "episodes": report.episodes}), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
