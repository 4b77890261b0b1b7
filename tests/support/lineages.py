"""What a trial held after each iteration and each restore, compared with what is in a store.

The weights are read from the learner itself, and hashed here: nothing of the code under test is
used. This file is a module of its own, because Tune's trials import it by name.
"""

from __future__ import annotations

import json
import os
import re
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ray.rllib.algorithms.callbacks import DefaultCallbacks

from policystore import PolicyStore
from tests.support.new_stack_algorithms import arrays_of, print_of


def held(algorithm: Any, policy: str = "main") -> str:
    """Return a hash of the weights that training updates."""
    if algorithm.config.enable_rl_module_and_learner:
        return print_of(arrays_of(algorithm.learner_group._learner.module)[policy])
    model = algorithm.get_policy(policy).model
    return print_of({name: each.detach().numpy() for name, each in model.state_dict().items()})


def trial_of(algorithm: Any) -> str:
    return str(algorithm._storage.trial_dir_name)


class Ledger(DefaultCallbacks):
    """Records in a file for each process of a trial: restores, iterations, and hashes of weights.

    ``score`` ranks the trials: it gets the number of the trial and the iteration. Each process
    draws its actions with a seed of its own. With the seed of the config, a trial would learn the
    same weights as the trial whose checkpoint it continues, because the checkpoint's optimizer also
    brings that trial's learning rate.
    """

    def __init__(self, folder: str, score: Callable[[int, int], float]) -> None:
        super().__init__()
        self._folder, self._score = Path(folder), score

    def _note(self, algorithm: Any, kind: str) -> None:
        page = self._folder / f"{trial_of(algorithm)}.{os.getpid()}.jsonl"
        line = {"kind": kind, "iteration": algorithm.iteration, "held": held(algorithm)}
        line["time"] = time.time()
        with page.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def on_algorithm_init(self, *, algorithm: Any, **_: Any) -> None:
        torch.manual_seed(zlib.crc32(f"{trial_of(algorithm)} {os.getpid()}".encode()))

    def on_checkpoint_loaded(self, *, algorithm: Any, **_: Any) -> None:
        self._note(algorithm, "restored")

    def on_train_result(self, *, algorithm: Any, result: Any, **_: Any) -> None:
        self._note(algorithm, "trained")
        (number,) = re.findall(r"_(\d{5})_", trial_of(algorithm))
        result["score"] = self._score(int(number), algorithm.iteration)


def pages(folder: Path) -> dict[str, list[list[dict[str, Any]]]]:
    """Return the records of each trial, in order: a list for each of its processes."""
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_ctime_ns):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found.setdefault(path.name.rsplit(".", 2)[0], []).append(lines)
    return found


class Held:
    """The versions of a name, oldest first, with hashes of their weights."""

    def __init__(self, store: PolicyStore, name: str) -> None:
        self.name = name
        self.versions = list(reversed(store.log(name)))
        self.prints = [print_of(dict(store.pull(version).weights)) for version in self.versions]
        self.parents = [
            [print_of(dict(store.pull(str(parent)).weights)) for parent in version.parents]
            for version in self.versions
        ]

    @property
    def iterations(self) -> list[int]:
        return [version.source["iteration"] for version in self.versions]
