"""Opponent pools in population based training: trials that continue from other trials."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import tune
from ray.rllib.algorithms.ppo import PPO
from ray.tune.schedulers import PopulationBasedTraining

from policystore import PolicyStore
from policystore.format.records import Version
from policystore.league import League
from policystore.league.pool import OpponentPool
from tests.support.lineages import Held, Ledger, pages
from tests.support.pool_parts import configured
from tests.support.pool_witness import played, recorded, witness

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("ray_session")]

INTERVAL, LAST, EPISODES = 2, 5, 4
SNAPSHOTS = (2, 3, 5)
"""Exploits are at 2 and 4: the first one is of the very weights of a snapshot."""


def score(number: int, iteration: int) -> float:
    """Return a score with which trial 1 exploits trial 0, and then 0 exploits 1."""
    return float((number + iteration // INTERVAL) % 2)


def due(progress: Any) -> bool:
    return progress.iteration in SNAPSHOTS


def run(config: Any, folder: Path) -> list[Any]:
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        metric="score",
        mode="max",
        perturbation_interval=INTERVAL,
        quantile_fraction=0.5,
        hyperparam_mutations={"lr": tune.loguniform(1e-3, 1e-2)},
        synch=True,
    )
    grid = tune.Tuner(
        PPO,
        param_space=config.training(lr=tune.loguniform(1e-3, 1e-2)),
        tune_config=tune.TuneConfig(scheduler=scheduler, num_samples=2),
        run_config=tune.RunConfig(
            storage_path=str(folder), stop={"training_iteration": LAST}, verbose=0
        ),
    ).fit()
    return [grid[i] for i in range(len(grid))]


class Walk:
    """Goes through what the trials noted, in order, and looks at each version that must be there.

    Attributes:
        seen: trial -> number of its versions so far.
        booked: (iteration, the player that the learner has to be booked under) -> episodes.
        exploits: iteration of each exploit, and whether its weights are those of a snapshot.
        lineages: lineage -> its id in the versions.
    """

    def __init__(self, pools: Mapping[str, Held]) -> None:
        self._pools = pools
        self.seen = dict.fromkeys(pools, 0)
        self.booked: Counter[Any] = Counter()
        self.exploits: list[tuple[int, bool]] = []
        self.lineages: dict[Any, str] = {}
        # By the weights after an iteration: trial, lineage, restore, and snapshot booked under.
        self._after: dict[str, tuple[str, Any, Any, Version]] = {}

    def go(self, trial: str, lines: list[dict[str, Any]]) -> None:
        """Go through what one process of a trial noted."""
        restored = lines[0] if lines[0]["kind"] == "restored" else None
        if restored is None:
            lineage, origin = None, None
            head = self._version(trial, 0, self._pools[trial].prints[0], None, lineage, origin)
        else:
            owner, lineage, origin, head = self._after[restored["held"]]
            if owner != trial:
                lineage, origin = (trial, restored["iteration"]), (owner, restored["iteration"])
                is_snapshot = restored["held"] in self._pools[owner].prints
                self.exploits.append((restored["iteration"], is_snapshot))
                head = self._version(
                    trial, restored["iteration"], restored["held"], head, lineage, origin
                )
        for line in lines if restored is None else lines[1:]:
            self.booked[line["iteration"], str(head.digest)] += EPISODES
            if line["iteration"] in SNAPSHOTS:
                head = self._version(trial, line["iteration"], line["held"], head, lineage, origin)
            assert line["held"] not in self._after
            self._after[line["held"]] = trial, lineage, origin, head

    def _version(
        self, trial: str, iteration: int, held: str, parent: Any, lineage: Any, origin: Any
    ) -> Version:
        """Check the next version of a trial, and return it."""
        pool, number = self._pools[trial], self.seen[trial]
        version = pool.versions[number]
        assert version.source["iteration"] == iteration
        assert pool.prints[number] == held
        assert version.parents == (() if parent is None else (parent.digest,))
        assert self.lineages.setdefault(lineage, version.source.get("lineage", "")) == (
            version.source.get("lineage", "")
        )
        if origin is not None:
            assert version.source["restored_from"]["run"].endswith(origin[0])
            assert version.source["restored_from"]["iteration"] == origin[1]
        self.seen[trial] += 1
        return version


@pytest.mark.wide
@pytest.mark.filterwarnings("ignore:Consider boosting PBT performance:UserWarning")
@pytest.mark.parametrize("stack", ["new", "old"])
def test_the_parents_and_the_matches_are_right_after_exploits(tmp_path: Path, stack: str) -> None:
    random.seed(1)
    np.random.seed(1)
    notes, episodes = tmp_path / "notes", tmp_path / "episodes"
    notes.mkdir()
    store = PolicyStore(tmp_path / "store")
    league = League(store, "duo")
    pool = OpponentPool(
        league,
        "main",
        ["opponent_0"],
        snapshot=due,
        name="pbt/{trial}",
        learner_agents={"main": ["a"]},
        callbacks=[partial(Ledger, str(notes), score), witness(episodes)],
    )
    results = run(pool.configure(configured(stack)), tmp_path / "tune")

    assert [result.error for result in results] == [None] * 2
    trials = pages(notes)
    pools = {}
    for name in store.names("pbt/"):
        (trial,) = (each for each in trials if store.log(name)[0].source["run"].endswith(each))
        pools[trial] = Held(store, name)
    assert len(pools) == len(trials) == 2
    walk = Walk(pools)
    for number in range(LAST // INTERVAL + 1):  # the checkpoint of a process is of the one before
        for trial, processes in trials.items():
            walk.go(trial, processes[number])
    assert {trial: len(pool.versions) for trial, pool in pools.items()} == walk.seen
    assert walk.exploits == [(2, True), (4, False)]
    assert len(set(walk.lineages.values())) == len(walk.lineages) == 3

    booked: Counter[Any] = Counter()
    for match in league.matches():
        booked[match.iteration, match.players["a"]] += match.episodes
    assert booked == walk.booked
    assert league.totals().unknown == {}
    by_process = played(episodes, store, store.names("pbt/"))
    assert recorded(league) == sum(by_process.values(), Counter())
    trial_of = {path.name.split(".")[-2]: path.name.rsplit(".", 2)[0] for path in notes.iterdir()}
    for process, opponents in by_process.items():
        own = {str(version.digest) for version in pools[trial_of[process]].versions}
        assert set(opponents) <= own
