"""Opponent pools in population based training: trials that continue from other trials."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
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
from tests.support.waiting import until

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("ray_session")]

INTERVAL, LAST = 2, 5
SNAPSHOTS = (2, 3, 5)
EPISODES = {"new": 4, "old": 2}  # that end in an iteration
BEGUN = {"new": 0, "old": 1}
"""Of these, how many began at the end of the sample before: the old stack resets at once."""


def in_turn(number: int, iteration: int) -> float:
    """Return a score with which trial 1 exploits trial 0 at 2, and then 0 exploits 1 at 4.

    The first exploit is of the very weights of a snapshot.
    """
    return float((number + iteration // INTERVAL) % 2)


def first_ahead(notes: str, number: int, iteration: int) -> float:
    """Return a score with which trial 1 exploits trial 0 while both go on, and not in step.

    Trial 1 is ahead when trial 0 saves the checkpoint, and has to go back.
    """
    if (number, iteration) == (0, 2):  # Tune looks for the better half when it has both scores
        wait_for_note(notes, 1, "trained", 3)
    elif (number, iteration) == (1, 4):
        wait_for_note(notes, 0, "trained", 3)
    elif (number, iteration) == (0, 4):  # nobody exploits a trial that has finished
        wait_for_note(notes, 1, "restored", 2)
    return float(1 - number)


def wait_for_note(notes: str, number: int, kind: str, iteration: int) -> None:
    def noted() -> bool:
        trials = pages(Path(notes))
        return any(
            (line["kind"], line["iteration"]) == (kind, iteration)
            for trial, processes in trials.items()
            if f"_{number:05d}_" in trial
            for process in processes
            for line in process
        )

    until(noted, 600)  # Tune starts a process meanwhile


def due(progress: Any) -> bool:
    return progress.iteration in SNAPSHOTS


def run(config: Any, folder: Path, *, synch: bool) -> list[Any]:
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        metric="score",
        mode="max",
        perturbation_interval=INTERVAL,
        quantile_fraction=0.5,
        hyperparam_mutations={"lr": tune.loguniform(1e-3, 1e-2)},
        synch=synch,
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

    def __init__(self, pools: Mapping[str, Held], stack: str) -> None:
        self._pools = pools
        self._episodes, self._begun = EPISODES[stack], BEGUN[stack]
        self.seen = dict.fromkeys(pools, 0)
        self.booked: Counter[Any] = Counter()
        self.exploits: list[tuple[int, bool]] = []
        self.lineages: dict[Any, str] = {}
        # By the weights after an iteration: trial, lineage, restore, and snapshot booked under.
        self._after: dict[str, tuple[str, Any, Any, Version]] = {}
        # Lineage, restore, snapshot, and the snapshot at the end of the last sample.
        self._now: dict[str, tuple[Any, Any, Version, Version]] = {}

    def go(self, trials: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> None:
        """Go through what all processes of all trials noted, in the order in which they did."""
        lines = [
            (line["time"], trial, at == 0, line)
            for trial, processes in trials.items()
            for process in processes
            for at, line in enumerate(process)
        ]
        for _, trial, is_first, line in sorted(lines, key=lambda each: each[0]):
            if line["kind"] == "restored":
                self._restored(trial, line)
                continue
            if is_first:
                head = self._version(trial, 0, self._pools[trial].prints[0], None, None, None)
                self._now[trial] = None, None, head, head
            self._trained(trial, line)

    def _restored(self, trial: str, line: Mapping[str, Any]) -> None:
        owner, lineage, origin, head = self._after[line["held"]]
        if owner != trial:
            origin, lineage = (owner, line["iteration"]), (trial, line["time"])
            is_snapshot = line["held"] in self._pools[owner].prints
            self.exploits.append((line["iteration"], is_snapshot))
            head = self._version(trial, line["iteration"], line["held"], head, lineage, origin)
        self._now[trial] = lineage, origin, head, head

    def _trained(self, trial: str, line: Mapping[str, Any]) -> None:
        lineage, origin, head, before = self._now[trial]
        self.booked[line["iteration"], str(before.digest)] += self._begun
        self.booked[line["iteration"], str(head.digest)] += self._episodes - self._begun
        before = head
        if line["iteration"] in SNAPSHOTS:
            head = self._version(trial, line["iteration"], line["held"], head, lineage, origin)
        assert line["held"] not in self._after
        self._after[line["held"]] = trial, lineage, origin, head
        self._now[trial] = lineage, origin, head, before

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
@pytest.mark.parametrize(("stack", "synch"), [("new", True), ("old", True), ("new", False)])
def test_the_parents_and_the_matches_are_right_after_exploits(
    tmp_path: Path, stack: str, synch: bool
) -> None:
    random.seed(1)
    np.random.seed(1)
    notes, episodes = tmp_path / "notes", tmp_path / "episodes"
    notes.mkdir()
    store = PolicyStore(tmp_path / "store")
    league = League(store, "duo")
    score = in_turn if synch else partial(first_ahead, str(notes))
    pool = OpponentPool(
        league,
        "main",
        ["opponent_0"],
        snapshot=due,
        name="pbt/{trial}",
        learner_agents={"main": ["a"]},
        callbacks=[partial(Ledger, str(notes), score), witness(episodes)],
    )
    results = run(pool.configure(configured(stack)), tmp_path / "tune", synch=synch)

    assert [result.error for result in results] == [None] * 2
    trials = pages(notes)
    pools = {}
    for name in store.names("pbt/"):
        (trial,) = (each for each in trials if store.log(name)[0].source["run"].endswith(each))
        pools[trial] = Held(store, name)
    assert len(pools) == len(trials) == 2
    walk = Walk(pools, stack)
    walk.go(trials)
    assert {trial: len(pool.versions) for trial, pool in pools.items()} == walk.seen
    if synch:
        assert walk.exploits == [(2, True), (4, False)]
    else:
        assert walk.exploits[0] == (2, True)
    assert len(set(walk.lineages.values())) == len(walk.lineages) == 1 + len(walk.exploits)

    booked: Counter[Any] = Counter()
    for match in league.matches():
        booked[match.iteration, match.players["a"]] += match.episodes
    assert booked == +walk.booked
    assert league.totals().unknown == {}
    trial_of = {path.name.split(".")[-2]: path.name.rsplit(".", 2)[0] for path in notes.iterdir()}
    opponents: Counter[str] = Counter()
    for trial, held in pools.items():
        # Only of its own pool: policies of two trials may have the same weights.
        for process, seen in played(episodes, store, [held.name]).items():
            opponents += seen if trial_of[process] == trial else Counter()
    assert recorded(league) == opponents
