"""Algorithms whose env runners play each episode against an opponent of their own choice.

The checks read tensors with functions of this file, and use nothing of the code under test. This
file is a module of its own, because Ray's workers import it by name.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.callbacks import DefaultCallbacks
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.sac import SACConfig

import tests.support.new_stack_algorithms as parts
import tests.support.old_stack_algorithms as old_parts
from policystore import PolicyStore, Snapshot
from policystore.rllib import load_local
from tests.support.restarts import OldDuo, arrays_of


def spread(number: int) -> str:
    """Return the opponent of an episode."""
    return f"league/main@{number % 3 + 1}"


class League(DefaultCallbacks):
    """Loads another opponent into ``foe`` for each episode, and records who really played.

    ``config.env_config["pool"]`` is the folder of a store.
    """

    def on_episode_created(self, *, env_runner: Any = None, worker: Any = None, **kw: Any) -> None:
        runner = env_runner or worker
        notes = runner.__dict__
        if "pool" not in notes:
            store = PolicyStore(runner.config.env_config["pool"], read_only=True)
            notes["pool"] = {spread(n): store.pull(spread(n)) for n in range(3)}
            notes["episodes"] = runner.worker_index
        notes["ref"] = spread(notes["episodes"])
        notes["episodes"] += 1
        snap = notes["pool"][notes["ref"]]
        load_local(runner, {"foe": snap}, refs={"foe": notes["ref"]})

    def on_episode_start(self, *, env_runner: Any = None, worker: Any = None, **kw: Any) -> None:
        self._look(env_runner or worker)

    def on_episode_step(self, *, env_runner: Any = None, worker: Any = None, **kw: Any) -> None:
        self._look(env_runner or worker)

    def on_episode_end(self, *, env_runner: Any = None, worker: Any = None, **kw: Any) -> None:
        self._look(env_runner or worker)

    def _look(self, runner: Any) -> None:
        held = parts.print_of(arrays_of(runner)["foe"])
        runner.__dict__.setdefault("games", set()).add((runner.__dict__["ref"], held))


def played(worker: Any) -> dict[str, Any]:
    """Return what a runner holds, and which weights it held in its episodes since ``forget``."""
    return {
        "pid": os.getpid(),
        "games": set(worker.__dict__.get("games", ())),
        "ref": worker.__dict__.get("ref"),
        "prints": {pid: parts.print_of(each) for pid, each in arrays_of(worker).items()},
        "names": {pid: sorted(each) for pid, each in arrays_of(worker).items()},
    }


def forget(worker: Any) -> None:
    worker.__dict__.pop("games", None)


def expected(snap: Snapshot, names: list[str]) -> str:
    return parts.print_of({name: snap.weights[name] for name in names})


def configured(cell: str, pool: Path, runners: int = 2, evals: int | None = 1) -> AlgorithmConfig:
    """Return a tiny config of two agents, ``main`` in training against the frozen ``foe``."""
    config: Any
    if cell == "old PPO":
        config = old_parts.configured(runners=runners, evals=evals)
        config.environment(OldDuo)
        config.evaluation(evaluation_config={"num_cpus_per_env_runner": 0.1})
    else:
        kind = {"PPO": PPOConfig, "SAC": SACConfig, "APPO": APPOConfig}[cell]
        config = parts.configured(kind, runners=runners, evals=evals)
    config.callbacks(League)
    config.environment(env_config={"pool": str(pool)})
    config.fault_tolerance(restart_failed_env_runners=True, delay_between_env_runner_restarts_s=0.1)
    return config
