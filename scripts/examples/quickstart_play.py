"""Play the policies of the quickstart, in a process without an Algorithm or a Ray cluster.

The arguments are the store, and a JSON file with the refs to pull and the episodes of the trained
Algorithms. The exit status is 1 if any action or return differs, or if Ray was started.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import gymnasium as gym
import ray
from quickstart_episodes import (
    Episode,
    count_actions,
    differing_actions,
    mean_return,
    play_alone,
    play_together,
)
from ray.rllib.examples.envs.classes.multi_agent import MultiAgentCartPole

from policystore import PolicyStore
from policystore.rllib import rebuild_player

ROW = "  {:<16}{:>9}{:>10}{:>10}{:>12}{:>16}{:>16}"
COLUMNS = "policy", "pulled", "rebuilt", "actions", "differing", "return trained", "return rebuilt"
_T = TypeVar("_T")


def main() -> int:
    logging.getLogger("ray").setLevel(logging.ERROR)  # RLlib warns of its own deprecated calls
    store = PolicyStore(sys.argv[1], read_only=True)
    expected = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    print(ROW.format(*COLUMNS))

    alone = expected["alone"]
    row, player = _load(store, alone["ref"])
    env = gym.make("CartPole-v1")
    played = []
    for seed in range(len(alone["episodes"])):
        player.reset()
        played.append(play_alone(env, seed, player.act))
    same = _report(row, alone["episodes"], played)

    together = {int(agent): given for agent, given in expected["together"].items()}
    loaded = {agent: _load(store, given["ref"]) for agent, given in together.items()}
    acts = {agent: player.act for agent, (_, player) in loaded.items()}
    both = MultiAgentCartPole({"num_agents": len(acts)})
    seeds = range(len(together[0]["episodes"]))
    rounds = []
    for seed in seeds:
        for _, player in loaded.values():
            player.reset()
        rounds.append(play_together(both, seed, acts))
    for agent, (row, _) in loaded.items():
        now = [episodes[agent] for episodes in rounds]
        same = _report(row, together[agent]["episodes"], now) and same

    started = ray.is_initialized()
    print(f"\n  ray.is_initialized() in this process, after all of it: {started}")
    return 0 if same and not started else 1


def _load(store: PolicyStore, ref: str) -> tuple[tuple[str, str, str], Any]:
    pulled, snap = _timed(lambda: store.pull(ref))
    rebuilt, player = _timed(lambda: rebuild_player(snap))
    return (ref, pulled, rebuilt), player


def _timed(call: Callable[[], _T]) -> tuple[str, _T]:
    start = time.perf_counter()
    result = call()
    return f"{(time.perf_counter() - start) * 1000:.0f} ms", result


def _report(row: tuple[str, str, str], given: Sequence[Episode], now: Sequence[Episode]) -> bool:
    differing = differing_actions(given, now)
    means = [f"{mean_return(episodes):.2f}" for episodes in (given, now)]
    print(ROW.format(*row, count_actions(given), differing, *means))
    return not differing and [e["reward"] for e in given] == [e["reward"] for e in now]


if __name__ == "__main__":
    sys.exit(main())
