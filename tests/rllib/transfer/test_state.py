"""The state of an adapted snapshot, new stack: filters by agent, and other connectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from policystore import Snapshot
from policystore.rllib import Adapted, adapt
from tests.support import transfer

CONNECTORS = {"env_to_module": [{"class": "MeanStdFilter"}]}


def statistics(count: int, *sizes: int) -> dict[str, Any]:
    """Return what a snapshot holds of a filter for one agent."""
    stats = [
        {
            "num_pushes": count,
            "mean": np.full(size, count, np.float64),
            "sum_sq_diff": np.ones(size),
        }
        for size in sizes or (4,)
    ]
    return {
        "clip_by_value": 10.0, "de_mean_to_zero": True, "de_std_to_one": True,
        "running_stats": stats,
    }  # fmt: skip


def policy(state: dict[str, Any], *, omitted: Any = None, connectors: Any = CONNECTORS) -> Snapshot:
    snap = transfer.ppo()
    spec = snap.spec.replace(connectors=connectors, omitted=omitted or {})
    return snap.replace(state=state, spec=spec)


def row_of(result: Adapted) -> Any:
    (row,) = [row for row in result.report.rows if row.kind == "state"]
    return row


def counts(result: Adapted) -> dict[Any, int]:
    state = result.snapshot.state["MeanStdFilter"]
    return {agent: part["running_stats"][0]["num_pushes"] for agent, part in state.items()}


def test_statistics_come_along() -> None:
    trained = policy({"MeanStdFilter": {None: statistics(100)}})
    result = adapt(trained, policy({"MeanStdFilter": {None: statistics(0)}}))
    assert result.snapshot.state_digest == trained.state_digest
    assert (row_of(result).status, row_of(result).why) == ("taken", "100 observations")


def test_statistics_of_one_agent_go_to_all_agents_of_the_target() -> None:
    target = policy({"MeanStdFilter": {0: statistics(0), 1: statistics(0)}})
    result = adapt(policy({"MeanStdFilter": {None: statistics(100)}}), target)
    assert counts(result) == {0: 100, 1: 100}


def test_statistics_of_several_agents_go_to_the_same_agents() -> None:
    trained = policy({"MeanStdFilter": {0: statistics(7), 1: statistics(8), 2: statistics(9)}})
    result = adapt(trained, policy({"MeanStdFilter": {0: statistics(0), 1: statistics(0)}}))
    assert counts(result) == {0: 7, 1: 8}


@pytest.mark.parametrize(
    ("given", "present", "options", "why"),
    [
        ({0: statistics(7), 1: statistics(8)}, {2: statistics(1)}, {}, "of [0, 1], not of [2]"),
        ({None: statistics(7, 4, 2)}, {None: statistics(1)}, {}, "shapes [(4,), (2,)], not [(4,)]"),
        ({None: statistics(7)}, {None: statistics(1)}, {"state": "target"}, 'state="target"'),
        ({None: statistics(7)}, {None: statistics(1)}, {"only": ["vf."]}, "no weights that acting"),
        (None, {None: statistics(1)}, {}, "expect other observations"),
    ],
    ids=["agents", "shapes", "asked for", "critic", "none"],
)
def test_where_the_targets_statistics_stay(
    given: Any, present: Any, options: Any, why: str
) -> None:
    trained = policy({} if given is None else {"MeanStdFilter": given})
    target = policy({"MeanStdFilter": present})

    result = adapt(trained, target, **options)

    assert result.snapshot.state_digest == target.state_digest
    assert row_of(result).status == "kept"
    assert why in row_of(result).why


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (policy({}), "the target has none"),
        (
            policy({}, omitted={"connectors.MeanStdFilter": "on request"}),
            "omitted in the target: on request",
        ),
        (policy({}, connectors={}), "give the Algorithm as like="),
    ],
    ids=["no filter", "left out", "a module alone"],
)
def test_statistics_without_a_place(target: Snapshot, why: str) -> None:
    result = adapt(policy({"MeanStdFilter": {None: statistics(7)}}), target)
    assert result.snapshot.state == {}
    assert row_of(result).status == "left"
    assert why in row_of(result).why


def test_a_snapshot_that_leaves_its_filter_out() -> None:
    trained = policy({}, omitted={"connectors.MeanStdFilter": "left out on request"})
    result = adapt(trained, policy({"MeanStdFilter": {None: statistics(1)}}))
    assert row_of(result).why == "omitted in the snapshot: left out on request"


def test_state_of_another_connector_comes_along() -> None:
    trained, target = policy({"Counting": {"counts": {7: np.ones(2)}}}), policy({"Counting": {}})
    result = adapt(trained, target)
    assert result.snapshot.state_digest == trained.state_digest
