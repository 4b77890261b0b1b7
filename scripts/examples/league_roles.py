"""Train a league with the three roles of AlphaStar: main agent, main exploiter, league exploiter.

    ./.venv/bin/python scripts/examples/league_roles.py                    # trains for 90 s or more
    ./.venv/bin/python scripts/examples/league_roles.py --store ./league   # run again: it goes on
    ./.venv/bin/python scripts/examples/league_roles.py --stack old

RLlib's own example of such a league (``self_play_league_based_callback.py``) adds a module for each
opponent, so every opponent stays in the memory of every env runner, and its results are gone with
the process. Here three policies are trained, the env runners have two slots, and all opponents and
matches are in a store.

The game is a duel of ten rounds. In each round a player attacks, defends or rests: an attack beats
rest, rest beats a defence, and a defence beats an attack. A player sees the last moves of both.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import warnings
from typing import Any

# Ray reads these variables when it is imported. The second hides log lines of Ray's C++ part.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"

import gymnasium as gym
import numpy as np
import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from policystore import PolicyStore, PolicyStoreError
from policystore.league import (
    League,
    OpponentPool,
    league_exploiter,
    main_agent,
    main_exploiter,
)

AGENTS = "left", "right"
MOVES, ROUNDS = 3, 10
ROLES = ("main", "main_exploiter", "league_exploiter")
WIN_RATE, AT_MOST = 0.6, 5  # a learner becomes an opponent at this win rate, or after 5 iterations


class Duel(MultiAgentEnv):  # type: ignore[misc]
    """Ten rounds of attack, defence and rest; the return is the wins less the losses."""

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.agents = self.possible_agents = list(AGENTS)
        seen: Any = gym.spaces.Box(0.0, 1.0, (2 * MOVES,), np.float32)
        self.observation_spaces = dict.fromkeys(AGENTS, seen)
        moves: Any = gym.spaces.Discrete(MOVES)
        self.action_spaces = dict.fromkeys(AGENTS, moves)
        self._round = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        """Start a duel; both agents have seen nothing yet."""
        self._round = 0
        return {agent: np.zeros(2 * MOVES, np.float32) for agent in AGENTS}, {}

    def step(self, action_dict: Any) -> tuple[Any, ...]:
        """Play one round."""
        self._round += 1
        left, right = (int(action_dict[agent]) for agent in AGENTS)
        won = ((left - right + 1) % MOVES) - 1  # 1: left wins, 0: a draw, -1: right wins
        over = {"__all__": self._round == ROUNDS}
        seen = {"left": _seen(left, right), "right": _seen(right, left)}
        return seen, {"left": float(won), "right": float(-won)}, over, {"__all__": False}, {}


def _seen(own: int, other: int) -> Any:
    seen = np.zeros(2 * MOVES, np.float32)
    seen[own] = seen[MOVES + other] = 1.0
    return seen


def pool_of(league: League) -> OpponentPool:
    """Return the pool; its roles say who plays whom, and when a learner becomes an opponent."""
    return OpponentPool(
        league,
        learner={
            "main": main_agent(self_play=0.35, win_rate=WIN_RATE, at_most=AT_MOST),
            "main_exploiter": main_exploiter(win_rate=WIN_RATE, at_most=AT_MOST),
            "league_exploiter": league_exploiter(win_rate=WIN_RATE, at_most=AT_MOST),
        },
        slots=["slot_0", "slot_1"],
        seed=1,
    )


def config_of(stack: str, runners: int) -> Any:
    """Return a small PPO without policies: the pool sets these."""
    config = (
        PPOConfig()
        .environment(Duel)
        .env_runners(num_env_runners=runners, num_cpus_per_env_runner=0.5)
        .training(train_batch_size=1500, minibatch_size=300, num_epochs=3, lr=0.003)
        .debugging(log_level="ERROR", seed=1)
    )
    if stack == "new":
        config.rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[32]))
    else:
        config.api_stack(
            enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False
        )
        config.training(model={"fcnet_hiddens": [32]})
    return config


def show(iteration: int, entries: Any) -> None:
    """Print one line for an iteration."""
    learners = "  ".join(
        f"{role} {entries[role]['win_rate']:.2f} ({entries[role]['snapshots']} snapshots)"
        for role in ROLES
    )
    print(f"  {iteration:>3}  {entries['episodes']:>6} episodes  {learners}", flush=True)


def run(options: argparse.Namespace, league: League) -> int:
    """Train, and print the league; return how many episodes were not recorded."""
    pool = pool_of(league)
    algo = pool.configure(config_of(options.stack, options.runners)).build_algo()
    entries: Any = {}
    end = time.monotonic() + options.seconds
    try:
        # On a busy machine the training takes longer: until each learner has become an opponent
        # once, and the main exploiter has begun anew.
        while time.monotonic() < end or algo.iteration <= AT_MOST:
            entries = algo.train()["policystore"]["opponent_pool"]
            if algo.iteration == 1 or algo.iteration % 5 == 0:
                show(algo.iteration, entries)
    finally:
        algo.stop()
    totals = league.totals()
    print(f"\n{totals.episodes} episodes of {totals.matches} matches in the league; not recorded:")
    print(f"  {dict(totals.unknown) or 'none'}")
    for role in ROLES:
        versions = league.store.log(f"{league.name}/{role}")
        resets = entries[role]["resets"]
        print(f"  {role}: {len(versions)} snapshots in the store, {resets} new beginnings")
    seconds = entries["seconds"]
    print(f"the last iteration took the pool {1000 * seconds:.0f} ms; {entries['swaps']} swaps\n")
    rows = sorted(league.ratings().to_records(), key=lambda row: -row["rating"])
    print("the strongest of all snapshots, by their matches:")
    for row in rows[:8]:
        print(f"  {row['ref'] or row['player'][:19]:<32}{row['rating']:>8.0f} ±{row['error']:.0f}")
    return int(totals.unknown.get("opponent not loaded", 0))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=90.0, help="how long to train")
    parser.add_argument("--runners", type=int, default=2, help="remote env runners")
    parser.add_argument("--stack", choices=("new", "old"), default="new", help="RLlib's API stack")
    parser.add_argument("--store", metavar="PATH", default="./league-roles", help="the store")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # RLlib warns of its own deprecated calls
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    started = time.monotonic()
    try:
        ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        lost = run(options, League(PolicyStore(options.store), "duel"))
    except PolicyStoreError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    finally:
        ray.shutdown()
    print(f"\n{time.monotonic() - started:.0f} s in all; run it again, and the league goes on.")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
