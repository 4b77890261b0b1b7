"""Algorithms that are restored while they run: every worker holds what was restored."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.utils.metrics import ALL_MODULES

import tests.support.new_stack_algorithms as parts
import tests.support.old_stack_algorithms as old
import tests.support.restores as restores
from policystore import StorageError
from policystore.rllib import (
    check_sync,
    load_into,
    restore_added_policies,
    snapshot,
    snapshot_all,
)
from policystore.rllib.callbacks import restore
from tests.support.cells import sampled

ASYNCHRONOUS = ("IMPALA", "APPO")


class Run:
    """An Algorithm with loaded weights, and what it held when it was saved.

    Attributes:
        saved: the weights of the first learner, by policy.
        filters: the filters of the local runner or the driver; None where they are not compared.
    """

    def __init__(self, cell: str, algo: Any, folder: Path) -> None:
        self.cell, self.algo, self.folder = cell, algo, str(folder)
        self.asynchronous = any(kind in cell for kind in ASYNCHRONOUS)
        restore_added_policies(algo)
        self.load(2.0)
        if not self.asynchronous:
            algo.train()
        algo.save(self.folder)
        self.saved = restores.leading(algo)["arrays"]
        # Runners of an asynchronous Algorithm have observations that RLlib merges any time.
        self.filters = None if self.asynchronous else restores.filters_of(algo)

    def load(self, level: float) -> None:
        """Load random weights into all policies, so that the guards have entries."""
        if "shared" in self.cell:
            load_into(self.algo, {ALL_MODULES: snapshot(self.algo)})
            return
        if self.cell.startswith("old"):
            snaps = snapshot_all(self.algo)
        else:
            modules = self.algo.learner_group._learner.module
            snaps = {pid: snapshot(modules[pid]) for pid in modules.keys()}  # noqa: SIM118
        load_into(self.algo, {pid: parts.other(snap, level) for pid, snap in snaps.items()})

    def go_on(self) -> None:
        """Load other weights and train, so that nobody holds the saved weights any more."""
        self.load(12.0)
        for _ in range(2):
            self.algo.train()
        if self.asynchronous:
            parts.train_until_seq(self.algo, parts.learner_seq(self.algo) + 10)


WIDE = (
    "new, one agent, filter",
    "new, no local runner, filter",
    "new, shared encoder",
    "new, local runner alone",
    "new, IMPALA, broadcasting",
    "new, APPO",
    "old, one agent, filter",
    "old, local worker alone",
)


@pytest.fixture(
    scope="module", params=sampled(restores.CELLS, "new, several agents, filter", wide=WIDE)
)
def run(request: Any, ray_session: None, tmp_path_factory: Any) -> Iterator[Run]:
    algo = restores.configured(request.param).build_algo()
    try:
        yield Run(request.param, algo, tmp_path_factory.mktemp("run") / "checkpoint")
    finally:
        algo.stop()


def test_everyone_holds_what_was_restored(run: Run, caplog: Any) -> None:
    run.go_on()
    run.algo.restore(run.folder)
    restores.assert_everywhere(run.algo, run.saved, run.filters)
    assert all(row.status == "ok" for row in check_sync(run.algo)), str(check_sync(run.algo))
    assert "after the restore" not in caplog.text


@pytest.mark.long
def test_it_trains_on(run: Run) -> None:
    run.go_on()
    run.algo.restore(run.folder)
    for _ in range(3):
        run.algo.train()
    if run.algo.eval_env_runner_group is not None:
        run.algo.evaluate()
    assert check_sync(run.algo).ok, str(check_sync(run.algo))
    held = restores.ask(run.algo)
    for name, found in held.items():
        for pid in ("foe",) if "foe" in run.saved else ():
            restores.assert_same({pid: found["arrays"][pid]}, {pid: run.saved[pid]}, name)


@pytest.mark.long
def test_who_restarts_gets_what_was_restored(run: Run) -> None:
    groups = [run.algo.env_runner_group, run.algo.eval_env_runner_group]
    remote = [each for each in groups if each is not None and each.num_remote_env_runners()]
    run.go_on()
    run.algo.restore(run.folder)
    for group in remote:
        restores.restart(run.algo, group)
        # As RLlib calls it before it samples.
        for found in group.foreach_env_runner(restores.read, local_env_runner=False):
            restores.assert_same(found["arrays"], run.saved, "restarted")
            if run.filters is not None:
                assert found["filters"] == run.filters


@pytest.mark.long
def test_other_calls_that_restore(run: Run) -> None:
    """A part of the checkpoint, and on the new stack a state without a checkpoint."""
    if run.cell.startswith("old"):
        run.go_on()
        run.algo.__setstate__(run.algo.__getstate__())
    else:
        run.algo.restore(run.folder)
        # The state of a local learner shares its memory.
        state = copy.deepcopy(run.algo.get_state())
        run.go_on()
        run.algo.set_state(state)
        # Without a local runner RLlib's set_state leaves the filters out.
        alone = "no local runner" in run.cell
        restores.assert_everywhere(run.algo, run.saved, None if alone else run.filters)
        run.go_on()
        part = "learner_group/learner/rl_module"
        run.algo.restore_from_path(f"{run.folder}/{part}", component=part)
        restores.assert_everywhere(run.algo, run.saved, None)
    held = restores.leading(run.algo)["arrays"]
    restores.assert_everywhere(run.algo, held, None)
    run.algo.train()


@pytest.mark.long
def test_a_restore_that_has_succeeded_does_not_fail(
    run: Run, monkeypatch: Any, caplog: Any
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise StorageError("nobody answers")

    run.go_on()
    monkeypatch.setattr(restore, "resync", fail)
    run.algo.restore(run.folder)
    restores.assert_same(restores.leading(run.algo)["arrays"], run.saved, "learner")
    assert "did not get the restored weights (StorageError: nobody answers)" in caplog.text
    assert "check_sync(algorithm) shows what each worker holds" in caplog.text


@pytest.mark.long
def test_no_later_sample_is_drawn_with_weights_of_before(run: Run) -> None:
    """Weights of before are still on their way with IMPALA and APPO."""
    run.go_on()
    run.algo.restore(run.folder)
    if run.asynchronous:
        parts.ask(run.algo, parts.forget)
        parts.until(lambda: run.algo.train() and len(drawn(run.algo)) >= 24, "24 samples")
        stale = [each for each in drawn(run.algo) if any(abs(seen - 2.0) > 0.5 for seen in each)]
        assert not stale
    assert check_sync(run.algo).ok


def drawn(algo: Any) -> list[list[float]]:
    """Return the levels of the weights with which each sample of the training group was drawn."""
    return [
        [seen["levels"]["main"] for seen in each]
        for name, found in restores.ask(algo).items()
        if name.startswith("train")
        for each in found["drawn"]
    ]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["IMPALA", "APPO"])
def test_a_plain_restore_is_reported(kind: str, ray_session: None, tmp_path: Path) -> None:
    """RLlib's own restore leaves remote runners with weights of before, under the new number."""
    algo = restores.configured(f"new, {kind}").build_algo()
    try:
        parts.train_until_seq(algo, 8)
        algo.save(str(tmp_path))
        parts.train_until_seq(algo, 30)
        algo.restore(str(tmp_path))
        report = {(row.worker, row.policy): row for row in check_sync(algo, ["main"])}
        saved = restores.leading(algo)["arrays"]["main"]
        differing = [
            name
            for name, found in restores.ask(algo).items()
            if name in ("train 1", "train 2")
            and any(
                held.tobytes() != saved[each].tobytes()
                for each, held in found["arrays"]["main"].items()
            )
        ]
        assert differing
        assert {report[name, "main"].status for name in differing} == {"bad"}
    finally:
        algo.stop()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:(Mean of empty slice|Degrees of freedom):RuntimeWarning")
def test_an_asynchronous_algorithm_of_the_old_stack(ray_session: None, tmp_path: Path) -> None:
    """Its learner thread must not update the restored weights with batches of before."""
    algo = old.configured(IMPALAConfig, runners=2, evals=1).build_algo()
    try:
        restore_added_policies(algo)
        load_into(algo, {pid: parts.other(s, 2.0) for pid, s in snapshot_all(algo).items()})
        algo.train()
        algo.save(str(tmp_path))
        saved = restores.leading(algo)["arrays"]
        load_into(algo, {pid: parts.other(s, 12.0) for pid, s in snapshot_all(algo).items()})
        for _ in range(5):
            algo.train()
        algo.restore(str(tmp_path))
        restores.assert_everywhere(algo, saved, None)
        for _ in range(3):
            algo.train()
        assert abs(parts.level_of(restores.leading(algo)["arrays"]["main"]) - 2.0) < 1.0
    finally:
        algo.stop()
