"""The cells of ``test_tried.py``: which calls were tried on which Algorithms, and under which faults.

This module imports nothing of Ray, so the table in docs/running.md can be checked quickly
(``tests/test_tried_table.py``). The ids of the tests are the ids of these cells.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

WORKS = "works"


@dataclass(frozen=True)
class Cell:
    """One try.

    Attributes:
        algorithm: name of the Algorithm; a key of ``tried_algorithms.CONFIGS``.
        call: name of the call of policystore.
        fault: what happens at the same time; empty for nothing.
        outcome: ``works``, or the name of the error class that the call raises.
    """

    algorithm: str
    call: str
    fault: str = ""
    outcome: str = WORKS

    @property
    def id(self) -> str:
        """Id of the test: ``algorithm-call-fault=outcome``; the parts of the usual case are left out."""
        named = "-".join(part for part in (self.algorithm, self.call, self.fault) if part)
        return named if self.outcome == WORKS else f"{named}={self.outcome}"


def cell_of(test_id: str) -> Cell:
    """Return the cell of an id."""
    named, _, outcome = test_id.partition("=")
    algorithm, call, *fault = named.split("-")
    return Cell(algorithm, call, "".join(fault), outcome or WORKS)


REFUSED = "InvalidInputError"
OFFLINE = ("CQL", "IQL", "BC", "MARWIL")
ON_IMAGES = ("PPO on images", "DQN on images", "APPO on images")
OFFLINE_OLD = ("CQL (old)", "BC (old)", "MARWIL (old)")
TWO_LEARNERS = ("PPO with 2 learners", "IMPALA with 2 learners")
# By learners: the change is rolled back. By env runners: the others change.
KILLS = {"learner killed": "SyncError", "env runner killed": WORKS}


def _live() -> Iterable[Cell]:
    for algorithm in (*OFFLINE, *OFFLINE_OLD, *ON_IMAGES):
        for call in ("snapshot", "load_into", "check_sync"):
            yield Cell(algorithm, call)
        for call in ("add_policy", "remove_policy"):
            yield Cell(algorithm, call, outcome=REFUSED)
    for call in ("snapshot", "load_into", "check_sync", "add_policy", "remove_policy"):
        yield Cell("TQC", call)
    yield Cell("TQC with 2 learners", "load_into")
    yield Cell("TQC with 2 learners", "add_policy", outcome=REFUSED)
    for call in ("snapshot", "load_into", "check_sync"):
        yield Cell("APPO with aggregators", call)
        yield Cell("PPO of 10 million parameters", call)
        yield Cell("PPO without a local runner", call)
        yield Cell("IMPALA without a local runner", call)
    for call in ("add_policy", "remove_policy"):
        yield Cell("APPO with aggregators", call, outcome=REFUSED)
    for call in ("load_into", "check_sync"):
        yield Cell("APPO with aggregators", call, "env runner killed")
    for algorithm in TWO_LEARNERS:
        for call in ("load_into", "add_policy", "remove_policy"):
            for fault, outcome in KILLS.items():
                yield Cell(algorithm, call, fault, outcome)
        for fault in KILLS:
            yield Cell(algorithm, "check_sync", fault)


def _callbacks() -> Iterable[Cell]:
    for algorithm in (*OFFLINE, *OFFLINE_OLD, "TQC", *ON_IMAGES, "APPO with aggregators"):
        for call in ("warm_start", "publish", "restore"):
            yield Cell(algorithm, call)
    for algorithm in ("PPO with a filter", "PPO with a filter (old)", "PPO without a local runner"):
        for call in ("warm_start", "publish", "restore"):
            yield Cell(algorithm, call)
    for algorithm in ("PPO", "PPO with a filter", "PPO with a filter (old)"):
        for call, fault in (
            ("warm_start", "ASHA stops trials"),
            ("publish", "trials are paused"),
            ("publish", "PBT exploits"),
            ("restore", "Tuner.restore"),
        ):
            if algorithm == "PPO" or call == "restore":
                yield Cell(algorithm, call, fault)


SAMPLE = ("CQL (old)", "TQC")
"""The Algorithms that CI tries."""
LIVE = tuple(_live())
CALLBACKS = tuple(_callbacks())


def tried(cells: Iterable[Cell]) -> Any:
    """Return the mark that runs a test for each cell.

    The fixture ``algo`` gets the Algorithm of the cell. Cells without a fault share it.
    """
    return pytest.mark.parametrize(
        ("cell", "algo"),
        [
            pytest.param(
                cell,
                (cell.algorithm, cell.id if cell.fault else ""),
                marks=[pytest.mark.wide] * (cell.algorithm not in SAMPLE),
            )
            for cell in cells
        ],
        indirect=["algo"],
        ids=[cell.id for cell in cells],
        scope="module",
    )
