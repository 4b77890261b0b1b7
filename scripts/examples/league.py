"""Train connect four against a league of its own past, which outlives the process.

    ./.venv/bin/python scripts/examples/league.py ./league --minutes 4

Kill it at any time, and start it again with the same folder: it goes on from its last checkpoint,
and each game stands in the league once. At the end it prints the ratings of all members from the
games of the training, and lets the policy that was trained play 200 games against every member of
the pool, to see whether it still beats the old ones. ``league_by_hand.py`` is the same program
without policystore and these games, and ``docs/league-example.md`` compares the two.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import ray
from connect_four import make_connect_four
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.tune.registry import register_env

from policystore import PolicyStore
from policystore.league import League, OpponentPool, prioritised, when_better
from policystore.rllib import snapshot

RUNNERS, ENVS = 2, 4
SLOTS = [f"opponent_{number}" for number in range(ENVS)]
BETTER, GAMES = 0.7, 60  # main joins the pool when it wins this share of this many games


def save(algo: Any, folder: Path) -> None:
    """Save a checkpoint that is whole or absent, and remove the one before."""
    place = folder / "checkpoints" / f"{algo.iteration:06d}"
    part = place.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    algo.save_to_path(part)
    part.rename(place)
    for old in sorted((folder / "checkpoints").glob("[0-9]*[0-9]"))[:-1]:
        shutil.rmtree(old)


def build(league: League) -> Any:
    register_env("connect_four", make_connect_four)
    pool = OpponentPool(
        league,
        learner="main",
        slots=SLOTS,
        sampler=prioritised(power=2),
        snapshot=when_better(BETTER, episodes=GAMES),
    )
    config = (
        PPOConfig()
        .environment("connect_four")
        .env_runners(num_env_runners=RUNNERS, num_envs_per_env_runner=ENVS)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64, 64]))
        .training(train_batch_size=2000, minibatch_size=200, num_epochs=10, lr=2e-3)
        .training(gamma=0.95, lambda_=0.9, use_kl_loss=False, entropy_coeff=0.01)
    )
    return pool.configure(config).build_algo()


def play_all(league: League, final: str, games: int) -> None:
    """Let a policy play against every member, the oldest first, and print who won how often."""
    members = [version.ref for version in reversed(league.store.log("connect-four/main"))]
    report = league.play(
        [final],
        env=make_connect_four,
        episodes=games,
        pairing="anchors",
        against=members,
        explore=True,  # as in training; without chance, two policies play one game for each side
    )
    found = {row["opponent_ref"]: row for row in report.to_records() if row["ref"] == final}
    print(f"{final} against every member, {games} games each: its win rate, and the 95 % interval")
    for ref in members:
        row = found.get(ref)  # none for the very policy, which does not play against itself
        shown = f"{row['win_rate']:6.1%}   {row['low']:.1%} to {row['high']:.1%}" if row else "-"
        print(f"  {ref:<22}{shown}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=4.0, help="how long to train")
    parser.add_argument("--games", type=int, default=200, help="against each member, at the end")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    league = League(PolicyStore(folder / "store"), "connect-four")

    ray.init(include_dashboard=False)
    algo = build(league)
    saved = sorted((folder / "checkpoints").glob("[0-9]*[0-9]"))
    if saved:
        algo.restore_from_path(saved[-1])
    end = time.monotonic() + 60 * arguments.minutes
    while time.monotonic() < end:
        result = algo.train()
        main = result["policystore"]["opponent_pool"]["main"]
        games, rate = result["env_runners"]["num_episodes"], main["win_rate"]
        print(
            f"iteration {algo.iteration}: {games:.0f} games, {main['candidates']} opponents, "
            f"win rate {rate:.2f}",
            flush=True,
        )
        if algo.iteration % 5 == 0:
            save(algo, folder)
    final = league.store.push(snapshot(algo, "main"), "connect-four/final").ref
    algo.stop()
    print(league.ratings())
    play_all(league, final, arguments.games)


if __name__ == "__main__":
    main()
