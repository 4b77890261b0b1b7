"""Train connect four against a growing pool of old opponents, with RLlib and files alone.

This is the program that ``league.py`` replaces: the same environment, network, opponents, ratings
and resume, written by hand and without policystore. ``docs/league-example.md`` compares the two.

    ./.venv/bin/python scripts/examples/league_by_hand.py ./by-hand --minutes 4

Kill it at any time, and start it again with the same folder: it goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import time
import uuid
import zlib
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from connect_four import AGENTS, make_connect_four
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.tune.registry import register_env

RUNNERS, ENVS = 2, 4
SLOTS = [f"opponent_{number}" for number in range(ENVS)]
BETTER, GAMES = 0.7, 60  # main joins the pool when it wins this share of this many games


def write(path: Path, data: bytes) -> None:
    """Write a file so that a reader finds the old one or the new one, also after a crash."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def mapping(agent_id: Any, episode: Any, **_: Any) -> str:
    """Let main play one side of a game, and the slot of the sub-environment the other side.

    RLlib calls this before it copies ``custom_data`` to the next chunk of a game that it has cut,
    so both answers come from the id of the game.
    """
    name, _, slot = episode.id_.rpartition("/")
    return "main" if AGENTS[zlib.crc32(name.encode()) % 2] == agent_id else SLOTS[int(slot or 0)]


class Pool(RLlibCallback):
    """Swaps opponents and writes down games on the env runners; counts and decides on the driver.

    Args:
        folder: where everything is kept.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.loaded: dict[str, str] = {}  # slot -> opponent, on an env runner
        self.games: Any = None  # the file of this life of an env runner
        self.draw = random.Random()  # noqa: S311
        self.read_to: dict[Path, int] = {}  # how much of each file the driver has counted
        self.won: dict[tuple[str, str], float] = defaultdict(float)  # (main's version, opponent)
        self.played: dict[tuple[str, str], int] = defaultdict(int)

    # On each env runner

    def on_episode_created(
        self, *, episode: Any, env_runner: Any, env_index: int, **_: Any
    ) -> None:
        """Draw an opponent and load its weights into the slot of this sub-environment."""
        episode.id_ += f"/{env_index}"
        slot, table = SLOTS[env_index], json.loads((self.folder / "table.json").read_text())
        opponent = self.draw.choices(table["opponents"], table["weights"])[0]
        if self.loaded.get(slot) != opponent:
            module = env_runner.module[slot].unwrapped()
            # RLlib sends the learner's copy of each slot after each update, over our weights.
            module.set_state = lambda state: None
            with np.load(self.folder / "pool" / f"{opponent}.npz") as weights:
                tensors = {key: torch.from_numpy(weights[key]) for key in module.state_dict()}
            module.load_state_dict(tensors)
            self.loaded[slot] = opponent
        episode.custom_data.update(main=table["main"], opponent=opponent)

    def on_episode_end(self, *, episode: Any, prev_episode_chunks: Any = (), **_: Any) -> None:
        """Write down who played, and main's return over all chunks of the game."""
        agent = next(agent for agent in AGENTS if episode.module_for(agent) == "main")
        chunks = [each.agent_episodes.get(agent) for each in [*prev_episode_chunks, episode]]
        total = sum(each.get_return() for each in chunks if each is not None)
        if self.games is None:
            self.games = (self.folder / "games" / f"{uuid.uuid4().hex}.jsonl").open("a")
        game = {**episode.custom_data, "score": (np.sign(total) + 1) / 2}
        self.games.write(json.dumps(game) + "\n")

    def on_sample_end(self, **_: Any) -> None:
        """Make the games of this sample durable."""
        if self.games is not None:
            self.games.flush()
            os.fsync(self.games.fileno())

    # On the driver

    def on_algorithm_init(self, *, algorithm: Any, **_: Any) -> None:
        """Make the first opponent: main before its first update."""
        if not (self.folder / "table.json").exists():
            self.snapshot(algorithm, "0000")
            self.write_table("0000")

    def on_train_result(self, *, algorithm: Any, result: Any, **_: Any) -> None:
        """Count the games of this iteration, and perhaps let main join the pool."""
        self.count()
        main = self.main()
        pairs = [pair for pair in self.played if pair[0] == main]
        games = sum(self.played[pair] for pair in pairs)
        rate = sum(self.won[pair] for pair in pairs) / max(1, games)
        if games >= GAMES and rate > BETTER:
            main = f"{int(self.opponents()[-1]) + 1:04d}"
            self.snapshot(algorithm, main)
        self.write_table(main)
        result["pool"] = {"size": len(self.opponents()), "games": games, "win_rate": rate}

    def main(self) -> str:
        """Return which version main was when it last joined the pool."""
        return str(json.loads((self.folder / "table.json").read_text())["main"])

    def opponents(self) -> list[str]:
        """Return the names of the pool, oldest first."""
        return sorted(path.stem for path in (self.folder / "pool").glob("*.npz"))

    def snapshot(self, algorithm: Any, name: str) -> None:
        """Save what acting needs of main: the env runners' local copy may be behind the learner."""
        state = algorithm.learner_group.get_state(
            components="learner/rl_module/main", inference_only=True
        )
        path = self.folder / "pool" / f"{name}.part"
        with path.open("wb") as file:
            np.savez(file, **state["learner"]["rl_module"]["main"])
            file.flush()
            os.fsync(file.fileno())
        path.replace(path.with_suffix(".npz"))

    def count(self) -> None:
        """Add the games that the env runners have written since the last count."""
        for path in (self.folder / "games").glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self.read_to.get(path, 0))
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]  # the last line may be half written
            self.read_to[path] = self.read_to.get(path, 0) + len(whole)
            for line in whole.splitlines():
                game = json.loads(line)
                self.won[game["main"], game["opponent"]] += game["score"]
                self.played[game["main"], game["opponent"]] += 1

    def write_table(self, main: str) -> None:
        """Tell the env runners whom to draw: most often those that main beats least."""
        opponents = self.opponents()
        weights = []
        for opponent in opponents:
            pairs = [pair for pair in self.played if pair[1] == opponent][-5:]
            games = sum(self.played[pair] for pair in pairs)
            rate = (sum(self.won[pair] for pair in pairs) + 1) / (games + 2)
            weights.append((1 - rate) ** 2)
        table = {"main": main, "opponents": opponents, "weights": weights}
        write(self.folder / "table.json", json.dumps(table).encode())

    def ratings(self) -> dict[str, float]:
        """Return Bradley-Terry ratings in points of Elo, by Hunter's MM steps; the first has 0."""
        names = sorted({name for pair in self.played for name in pair})
        strength = dict.fromkeys(names, 1.0)
        for _ in range(500):
            new = {}
            for name in names:
                won, expected = 0.5, 1 / (strength[name] + 1)  # half a win and a loss against 1.0
                for (main, opponent), games in self.played.items():
                    if name in (main, opponent) and main != opponent:
                        score = self.won[main, opponent]
                        won += score if name == main else games - score
                        expected += games / (strength[main] + strength[opponent])
                new[name] = won / expected
            strength = new
        return {name: 400 * float(np.log10(strength[name] / strength[names[0]])) for name in names}


def save(algo: Any, folder: Path, main: str) -> None:
    """Save a checkpoint that is whole or absent, and remove the one before."""
    place = folder / "checkpoints" / f"{algo.iteration:06d}"
    part = place.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    algo.save_to_path(part)
    (part / "main.txt").write_text(main)
    part.rename(place)
    for old in sorted((folder / "checkpoints").glob("[0-9]*[0-9]"))[:-1]:
        shutil.rmtree(old)


def build(folder: Path) -> Any:
    register_env("connect_four", make_connect_four)
    config = (
        PPOConfig()
        .environment("connect_four")
        .multi_agent(
            policies={"main", *SLOTS}, policy_mapping_fn=mapping, policies_to_train=["main"]
        )
        .env_runners(num_env_runners=RUNNERS, num_envs_per_env_runner=ENVS)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64, 64]))
        .training(train_batch_size=2000, minibatch_size=200, num_epochs=10, lr=2e-3)
        .training(gamma=0.95, lambda_=0.9, use_kl_loss=False, entropy_coeff=0.01)
        .callbacks(partial(Pool, str(folder)))
    )
    return config.build_algo()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=4.0)
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    for part in ("pool", "games", "checkpoints"):
        (folder / part).mkdir(parents=True, exist_ok=True)

    ray.init(include_dashboard=False)
    algo = build(folder)
    pool = algo.callbacks[0]
    pool.count()
    saved = sorted((folder / "checkpoints").glob("[0-9]*[0-9]"))
    if saved:
        algo.restore_from_path(saved[-1])
        pool.write_table((saved[-1] / "main.txt").read_text())
    end = time.monotonic() + 60 * arguments.minutes
    while time.monotonic() < end:
        result = algo.train()
        print(algo.iteration, result["pool"])
        if algo.iteration % 5 == 0:
            save(algo, folder, pool.main())
    for name, rating in pool.ratings().items():
        print(f"{name}  {rating:6.0f}")
    algo.stop()


if __name__ == "__main__":
    main()
