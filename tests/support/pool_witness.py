"""Record who really played each episode, from the bytes that the slots of an env runner hold.

Nothing of the code under test is used. This file is a module of its own, because Ray's workers
import it by name.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ray.rllib.algorithms.callbacks import DefaultCallbacks

from policystore import PolicyStore
from policystore.league import League
from tests.support.new_stack_algorithms import arrays_of, print_of

Played = Counter[str]
"""Digest of an opponent -> number of episodes."""


class OpponentWitness(DefaultCallbacks):
    """Adds a line to a file of its process for each episode that ended: who played agent ``b``."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = Path(folder)

    def on_episode_end(
        self, *, episode: Any, env_runner: Any = None, worker: Any = None, **_: Any
    ) -> None:
        if worker is None:
            policy = episode.module_for("b")
            arrays = arrays_of(env_runner.module)[policy]
        else:
            policy = episode.policy_for("b")
            # Not get_weights(): of a slot it returns, for RLlib, what the slot had before.
            held = worker.policy_map[policy].model.state_dict()
            arrays = {name: each.detach().cpu().numpy() for name, each in held.items()}
        line = {"policy": policy, "names": sorted(arrays), "held": print_of(arrays)}
        with (self._folder / f"{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def witness(folder: Path) -> Any:
    """Return callbacks that write into a folder."""
    folder.mkdir(exist_ok=True)
    return partial(OpponentWitness, str(folder))


def played(folder: Path, store: PolicyStore, names: Iterable[str]) -> dict[str, Played]:
    """Return, by process, who played agent ``b``, as digests of versions of some names.

    An opponent that the store does not have is listed by the print of its weights.
    """
    digests = [each.digest for name in names for each in store.log(name)]
    snaps = {str(digest): store.pull(digest) for digest in digests}
    known: dict[tuple[str, ...], dict[str, str]] = {}
    found: dict[str, Played] = {}
    for path in sorted(folder.iterdir()):
        for line in map(json.loads, path.read_text().splitlines()):
            held = tuple(line["names"])
            prints = known.setdefault(held, _prints(snaps, held))
            found.setdefault(path.stem, Counter())[prints.get(line["held"], line["held"])] += 1
    return found


def recorded(league: League, role: str = "b") -> Played:
    """Return who played a role, as the matches of a league say."""
    counted: Played = Counter()
    for match in league.matches():
        counted[match.players[role]] += match.episodes
    return counted


def _prints(snaps: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    return {
        print_of({name: snap.weights[name] for name in names}): digest
        for digest, snap in snaps.items()
        if set(names) <= set(snap.weights)
    }
