"""load_into on the new API stack: statistics of filters that come with a snapshot."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.env_to_module import MeanStdFilter

import tests.support.new_stack_algorithms as parts
from policystore import Snapshot
from policystore.errors import FormatError, InvalidInputError, MismatchError
from policystore.rllib import load_into, snapshot
from tests.support.cells import sampled

ONE = "default_policy"


def filtering(*, multi: bool, local: bool = True) -> Any:
    config = parts.configured(PPOConfig, runners=2, evals=1 if local else None, multi=multi)
    return config.env_runners(
        env_to_module_connector=lambda *_, **__: MeanStdFilter(multi_agent=multi),
        create_local_env_runner=local,
    )


@pytest.fixture(scope="module", params=sampled(["local runner", "no local runner"]))
def lone(request: Any, ray_session: None) -> Iterator[Any]:
    with parts.built(filtering(multi=False, local=request.param == "local runner")) as algo:
        yield algo


@pytest.fixture(scope="module")
def pair(ray_session: None) -> Iterator[Any]:
    with parts.built(filtering(multi=True)) as algo:
        yield algo


def filters(algo: Any) -> dict[str, Any]:
    """Counts and means of all runners and, without a local one, of the driver."""
    found = {k: each for k, each in parts.ask(algo, parts.counts).items() if each is not None}
    if algo.env_runner is None:
        found["driver"] = parts.counts_of(algo.env_to_module_connector)
    return found


def statistics(snap: Snapshot) -> dict[Any, tuple[int, Any]]:
    state = snap.state["MeanStdFilter"]
    stats = {agent: each["running_stats"][0] for agent, each in state.items()}
    return {agent: (each["num_pushes"], each["mean"]) for agent, each in stats.items()}


def assert_statistics(algo: Any, expected: dict[Any, tuple[int, Any]]) -> None:
    runners = [name for name in parts.workers(algo) if not name.startswith("learner")]
    found = filters(algo)
    assert set(found) >= set(runners)
    for name, each in found.items():
        for agent, (count, mean) in expected.items():
            assert each[agent][0] == count, (name, agent)
            np.testing.assert_array_equal(each[agent][1], mean, err_msg=f"{name} {agent}")


def numbers(algo: Any) -> dict[str, Any]:
    return {
        name: {agent: (count, mean.tobytes()) for agent, (count, mean) in each.items()}
        for name, each in filters(algo).items()
    }


def counted(algo: Any) -> int:
    """What the training group's filters hold, all the same."""
    (count,) = {
        max(count for count, _ in each.values())
        for name, each in filters(algo).items()
        if not name.startswith("eval")
    }
    return int(count)


def seen(algo: Any) -> int:
    """Observations that the training group has seen since ``forget``."""
    found = parts.ask(algo, parts.read)
    return sum(each["observed"] for name, each in found.items() if name.startswith("train"))


def train_and_count(algo: Any) -> None:
    """The count grows by what was seen, and not by what was loaded, once for each worker."""
    before = counted(algo)
    parts.ask(algo, parts.forget)
    algo.train()
    assert seen(algo) >= 40
    assert counted(algo) == before + seen(algo)


def test_statistics_come_along(lone: Any) -> None:
    for _ in range(2):
        lone.train()
    train_and_count(lone)
    snap = snapshot(lone)
    ((_, stats),) = statistics(snap).items()
    assert stats[0] >= 120
    for _ in range(3):
        lone.train()
    assert counted(lone) > stats[0]
    load_into(lone, {ONE: parts.other(snap, 3.0)})
    assert_statistics(lone, {None: stats})
    if lone.eval_env_runner_group is not None:
        lone.evaluate()
        assert counted(lone) == stats[0]
    train_and_count(lone)
    train_and_count(lone)


def test_state_that_does_not_fit_is_refused(lone: Any) -> None:
    snap = snapshot(lone)
    (stats,) = snap.state["MeanStdFilter"].values()
    before = numbers(lone)
    cases: dict[str, tuple[dict[str, Any], Any, type[Exception]]] = {
        "no such connector": ({**snap.state, "Stacker": {}}, None, MismatchError),
        "trained without MeanStdFilter": ({}, None, MismatchError),
        "expected a dict by agent": ({"MeanStdFilter": 3}, None, FormatError),
        r"of the agents \['a', 'b'\], and this Algorithm has one agent": (
            {"MeanStdFilter": {"a": stats, "b": stats}}, None, MismatchError,
        ),
        "agent_ids= is for multi-agent Algorithms": (snap.state, ["a"], InvalidInputError),
    }  # fmt: skip
    for words, (state, agent_ids, error) in cases.items():
        with pytest.raises(error, match=words):
            load_into(lone, {ONE: snap.replace(state=state)}, agent_ids=agent_ids)
    assert numbers(lone) == before
    assert snapshot(lone) == snap


@pytest.mark.long
def test_statistics_on_an_asynchronous_algorithm(ray_session: None) -> None:
    """Neither what samples of before bring nor what runners pull puts old statistics back."""
    config = parts.configured(IMPALAConfig, runners=2, multi=False, lr=1e-5)
    config.env_runners(env_to_module_connector=lambda *_, **__: MeanStdFilter())
    with parts.built(config) as algo:
        parts.train_until_seq(algo, 10)
        snap = snapshot(algo)
        state = copy.deepcopy(snap.state)
        (stats,) = state["MeanStdFilter"][None]["running_stats"]
        stats["num_pushes"], stats["mean"] = 10**6, np.full(4, 7.0)
        marked = Snapshot(weights=snap.weights, spec=snap.spec, state=state)
        load_into(algo, {ONE: marked})
        assert_statistics(algo, statistics(marked))
        parts.ask(algo, parts.forget)
        parts.until(lambda: algo.train() and seen(algo) >= 200, "200 observations")
        for name, each in filters(algo).items():
            count, mean = each[None]
            # Of both runners what they saw, and what was on its way.
            assert 10**6 < count < 10**6 + seen(algo) + 100, name
            np.testing.assert_allclose(mean, 7.0, atol=0.01)


@pytest.mark.long
def test_statistics_of_agents(pair: Any) -> None:
    for _ in range(3):
        pair.train()
    one = snapshot(pair, "main", agent_ids=["a"])
    stats = statistics(one)["a"]
    assert stats[0] >= 60
    for _ in range(2):
        pair.train()
    before = filters(pair)["train local"]["b"]
    assert before[0] > stats[0]
    with pytest.raises(InvalidInputError, match="filters belong to agents"):
        load_into(pair, {"main": one})
    # One agent's alone: the other's stay.
    load_into(pair, {"main": parts.other(one, 4.0)}, agent_ids=["a"])
    now = filters(pair)
    for name, each in now.items():
        assert each["a"][0] == stats[0], name
        if name.startswith("train"):
            assert each["b"][0] == before[0], name
    # Of one agent into another's filter.
    report = load_into(pair, {"foe": parts.other(one, 2.0)}, agent_ids={"foe": ["b"]})
    assert_statistics(pair, {"a": stats, "b": stats})
    assert all(row.filters["b"] == stats[0] for row in report if "learner" not in row.worker)
    train_and_count(pair)
    # An empty list: only the weights.
    kept = numbers(pair)
    load_into(pair, {"main": one}, agent_ids=[])
    assert numbers(pair) == kept


@pytest.mark.long
def test_agents_that_do_not_fit_are_refused(pair: Any) -> None:
    pair.train()
    both = snapshot(pair, "main", agent_ids=["a", "b"])
    foe = snapshot(pair, "foe", agent_ids=["b"])
    before = numbers(pair)
    with pytest.raises(InvalidInputError, match=r"filters of \['b'\] are given by two snapshots"):
        load_into(pair, {"main": both, "foe": foe}, agent_ids={"main": ["a", "b"], "foe": ["b"]})
    with pytest.raises(MismatchError, match=r"statistics of \['a', 'b'\], not of \['c'\]"):
        load_into(pair, {"main": both}, agent_ids=["a", "c"])
    assert numbers(pair) == before


@pytest.mark.long
def test_a_refusal_leaves_statistics_alone(pair: Any) -> None:
    pair.train()
    one = snapshot(pair, "main", agent_ids=["a"])
    pair.train()
    before = numbers(pair)
    broken = Snapshot(
        weights={**one.weights, "extra": np.zeros(1, np.float32)}, spec=one.spec, state=one.state
    )
    with pytest.raises(MismatchError, match="extra"):
        load_into(pair, {"main": broken}, agent_ids=["a"])
    assert numbers(pair) == before
