"""Population based training: trials that continue from checkpoints of other trials."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import tune
from ray.rllib.algorithms.ppo import PPO
from ray.tune.schedulers import PopulationBasedTraining

import tests.support.tune_runs as parts
from policystore import PolicyStore
from policystore.rllib import publish
from tests.support.lineages import Held, Ledger, pages

TRIALS, INTERVAL, EXPLOITS = 4, 2, 2


def score(number: int, iteration: int) -> float:
    """Return a score with which each trial is twice in the worse half, at iterations 2 to 8."""
    return float((number + iteration // INTERVAL) % TRIALS)


def run(config: Any, folder: Path, *, synchronous: bool) -> list[Any]:
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        metric="score",
        mode="max",
        perturbation_interval=INTERVAL,
        quantile_fraction=0.5,
        hyperparam_mutations={"lr": tune.loguniform(1e-3, 1e-2)},
        synch=synchronous,
    )
    grid = tune.Tuner(
        PPO,
        param_space=config,
        tune_config=tune.TuneConfig(scheduler=scheduler, num_samples=TRIALS),
        run_config=tune.RunConfig(
            storage_path=str(folder), stop={"training_iteration": 9}, verbose=0
        ),
    ).fit()
    return [grid[i] for i in range(len(grid))]


@pytest.mark.long
@pytest.mark.wide
@pytest.mark.filterwarnings("ignore:Consider boosting PBT performance:UserWarning")
@pytest.mark.parametrize(
    ("stack", "seed", "synchronous"),
    [
        ("new", 1, True),
        ("new", 2, True),
        ("new", 3, False),
        ("old", 1, True),
    ],
)
def test_each_policy_that_a_trial_reported_is_under_its_name(
    ray_session: None, tmp_path: Path, stack: str, seed: int, synchronous: bool
) -> None:
    random.seed(seed)
    np.random.seed(seed)
    store, notes = PolicyStore(tmp_path / "store"), tmp_path / "notes"
    notes.mkdir()
    config = parts.PARTS[stack].configured().training(lr=tune.loguniform(1e-3, 1e-2))
    ledger = partial(Ledger, str(notes), score)
    config.callbacks(publish(store, {"main": "pbt/{trial}"}, max_pending=99, callbacks=ledger))
    results = run(config, tmp_path / "tune", synchronous=synchronous)
    assert [result.error for result in results] == [None] * TRIALS
    trials = pages(notes)
    assert len(trials) == TRIALS
    owner = {
        line["held"]: trial
        for trial, processes in trials.items()
        for process in processes
        for line in process
        if line["kind"] == "trained"
    }
    held = [line for each in trials.values() for process in each for line in process]
    assert len(owner) == sum(line["kind"] == "trained" for line in held)  # all differ
    exploits: Counter[str] = Counter()
    for trial, processes in trials.items():
        (name,) = (
            name for name in store.names("pbt/")
            if store.log(name, limit=1)[0].source["run"].endswith(trial)
        )  # fmt: skip
        found = Held(store, name)
        reported = [line for process in processes for line in process if line["kind"] == "trained"]
        assert Counter(found.prints) == Counter(line["held"] for line in reported)
        assert set(Counter(found.prints).values()) == {1}
        where = {print_: index for index, print_ in enumerate(found.prints)}
        lineage_of: dict[str, Any] = {}
        for process in processes:
            before, lineage, origin = None, None, None
            for line in process:
                if line["kind"] == "restored":
                    before = line["held"]
                    if owner[before] == trial:
                        version = found.versions[where[before]]
                        lineage = version.source.get("lineage")
                        origin = version.source.get("restored_from")
                    else:
                        exploits[trial] += 1
                        lineage, origin = "another", (owner[before], line["iteration"])
                    continue
                version = found.versions[where[line["held"]]]
                assert version.source["iteration"] == line["iteration"]
                assert found.parents[where[line["held"]]] == ([] if before is None else [before])
                if lineage == "another":
                    lineage, (donor, iteration) = version.source["lineage"], origin
                    assert lineage not in lineage_of
                    origin = version.source["restored_from"]
                    assert origin["run"].endswith(donor)
                    assert origin["iteration"] == iteration
                assert version.source.get("lineage") == lineage
                assert version.source.get("restored_from") == origin
                lineage_of[lineage or ""] = trial
                before = line["held"]
    if synchronous:
        assert exploits == dict.fromkeys(trials, EXPLOITS)
    else:
        assert exploits.total() >= 2
    for result in results:
        shown = result.metrics["policystore"]["publish"]["main"]
        assert shown["restored_from"] is None or ", iteration " in shown["restored_from"]
        assert shown["skipped"] == shown["failed"] == shown["repeated"] == 0
