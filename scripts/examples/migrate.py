"""Move an old-stack PPO policy to the new API stack, and train it on there.

    ./.venv/bin/python scripts/examples/migrate.py [--iterations N] [CHECKPOINT]

The checkpoint is one of CartPole; without an argument it is the one that Ray 2.4 wrote for the
tests. The script

1. reads the checkpoint, converts the policy, and loads it into a new-stack PPO;
2. shows by digests that the learner and every env runner hold the converted weights;
3. evaluates the running Algorithm in 20 episodes, and lets the old policy play the same episodes;
4. trains on for N iterations.

The script ends with status 1 if a worker holds other weights, or if the evaluation differs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tarfile
import tempfile
import warnings
from pathlib import Path
from typing import Any

# Ray reads these variables when it is imported.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"

import gymnasium as gym
import ray
from ray.rllib.algorithms.ppo import PPO, PPOConfig

from policystore import Snapshot
from policystore.rllib import (
    check_sync,
    load_into,
    read_checkpoint,
    rebuild_player,
    to_new_stack,
)

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINTS = ROOT / "tests" / "data" / "checkpoints" / "ray-2.4.0.tar.xz"
POLICY = "default_policy"
EPISODES = 20


class SameEpisodes(gym.Wrapper):  # type: ignore[type-arg]
    """CartPole whose episodes start with the seeds 0 to 19, in turn, again and again."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(gym.make("CartPole-v1"))
        self._episode = -1

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        """Start the next episode; the given seed is ignored."""
        self._episode = (self._episode + 1) % EPISODES
        return super().reset(seed=self._episode)


def return_of(snap: Snapshot) -> float:
    """Return the mean return of a policy in the 20 episodes."""
    player, env, total = rebuild_player(snap), SameEpisodes(), 0.0
    for _ in range(EPISODES):
        player.reset()
        observation, _ = env.reset()
        done = False
        while not done:
            observation, reward, terminated, truncated, _ = env.step(player.act(observation))
            total += float(reward)
            done = terminated or truncated
    return total / EPISODES


def new_stack_ppo(snap: Snapshot) -> PPO:
    """Build a PPO of the new stack whose module has the networks of a converted snapshot."""
    config = (
        PPOConfig()
        .environment(SameEpisodes)
        .env_runners(num_env_runners=2, num_cpus_per_env_runner=0.5)
        .evaluation(
            evaluation_num_env_runners=1,
            evaluation_duration=EPISODES,
            evaluation_config={"explore": False},
        )
        .rl_module(model_config=snap.spec.config["model_config"])
        .training(lr=5e-4, train_batch_size_per_learner=2000, minibatch_size=250, num_epochs=10)
        .resources(num_gpus=0)
        .debugging(seed=1, log_level="ERROR")
    )
    return getattr(config, "build_algo", config.build)()  # type: ignore[no-any-return]


def evaluated(algo: PPO) -> float:
    """Return the mean return of an Algorithm's evaluation."""
    return float(algo.evaluate()["env_runners"]["episode_return_mean"])


def checkpoint_of_ray_2_4(folder: str) -> Path:
    """Unpack the checkpoint that Ray 2.4 wrote for the tests."""
    with tarfile.open(CHECKPOINTS) as archive:
        archive.extractall(folder, filter="data")
    return Path(folder, "ray-2.4.0", "ppo_old", "checkpoint")


def main() -> int:
    """Convert, load, evaluate and train on."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", nargs="?", help="a checkpoint of an old-stack PPO")
    parser.add_argument("--iterations", type=int, default=4)
    given = parser.parse_args()
    folder = tempfile.TemporaryDirectory(prefix="migrate-")
    path = given.checkpoint or checkpoint_of_ray_2_4(folder.name)

    old = read_checkpoint(path, [POLICY])[POLICY]
    new = to_new_stack(old)
    print(f"old: {old!r}\nnew: {new!r}")

    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    algo = new_stack_ppo(new)
    # Versions of gymnasium before 1.0 wrote 3.4e38 for the bounds that are infinite today.
    report = load_into(algo, {POLICY: new}, spaces="shape")
    print(report)
    if not report.ok or not check_sync(algo).ok:
        print("a worker holds other weights")
        return 1

    before, now = return_of(old), evaluated(algo)
    print(f"mean return of {EPISODES} episodes: old policy {before:.2f}, new Algorithm {now:.2f}")
    if before != now:
        print("the evaluation differs")
        return 1
    for _ in range(given.iterations):
        result = algo.train()
        trained = result["env_runners"]["episode_return_mean"]
        print(f"iteration {algo.iteration}: mean return in training {trained:.1f}")
    after = evaluated(algo)
    print(f"mean return after training on: {after:.2f}")
    algo.stop()
    ray.shutdown()
    folder.cleanup()
    return 0


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    sys.exit(main())
