"""The environment's side is carried over: filters, preprocessors and the handling of actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.connectors.env_to_module import FlattenObservations, MeanStdFilter
from ray.rllib.policy.sample_batch import SampleBatch
from ray.rllib.utils.typing import AgentConnectorDataType

from policystore import InvalidInputError, NotFoundError, Snapshot
from policystore.format.values import Tagged
from policystore.rllib import rebuild_player, snapshot, to_new_stack, to_old_stack
from tests.support.conversions import FORCES, LONG_IMAGE, NESTED, TALL, Cell, observations

WIDE = Box(-60.0, 90.0, (4,), np.float32)


def filtered(cell: Cell, clip: float | None = None, **environment: Any) -> Snapshot:
    """A snapshot of a policy whose filter has seen 200 observations."""
    policy = cell.policy(observation_filter="MeanStdFilter", **environment)
    for index, obs in enumerate(observations(cell.obs, 200)):
        values = {SampleBatch.NEXT_OBS: obs, SampleBatch.T: index}
        data = AgentConnectorDataType(0, 0, values)
        for connector in policy.agent_connectors.connectors[:-2]:
            (data,) = connector([data])
    snap = snapshot(policy)
    state = snap.state
    for stats in state["connectors"]["agent"].values():
        stats["clip"] = clip
    return snap.replace(state=state)


def played(snap: Snapshot, found: list[Any], **arguments: Any) -> list[Any]:
    player = rebuild_player(snap, **arguments)
    return [player.act(obs) for obs in found]


def assert_plays(one: Snapshot, other: Snapshot, found: list[Any], **arguments: Any) -> None:
    for mine, yours in zip(played(one, found), played(other, found, **arguments), strict=True):
        np.testing.assert_allclose(mine, yours, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("clip", [None, 0.5, pytest.param(10.0, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "cell",
    [
        Cell(obs=WIDE, act=FORCES),
        Cell(obs=NESTED, act=FORCES),
        pytest.param(
            Cell(obs=Box(0, 9, (20, 12, 3)), act=FORCES, model={"conv_filters": TALL}),
            marks=pytest.mark.long,
        ),
        Cell(obs=Box(-9, 9, (4,), np.float16), act=FORCES),
        pytest.param(
            Cell(obs=Box(0, 9, (20, 12, 3), np.float16), act=FORCES, model={"conv_filters": TALL}),
            marks=pytest.mark.long,
        ),
        pytest.param(Cell(obs=Box(0, 9, (4,), np.float64), act=FORCES), marks=pytest.mark.long),
    ],
    ids=["vector", "nested", "image", "float16", "float16 image", "float64"],
)
def test_a_filter_plays_the_same_there_and_back(cell: Cell, clip: float | None) -> None:
    original = filtered(cell, clip)
    found = observations(cell.obs, 20)

    there = to_new_stack(original)
    back = to_old_stack(there)

    assert len({str(action) for action in played(original, found)}) > 10
    assert_plays(original, there, found)
    assert_plays(original, back, found)
    stats = original.state["connectors"]["agent"]["MeanStdObservationFilterAgentConnector"]
    (new,) = there.state["MeanStdFilter"].values()
    assert new["running_stats"][0]["mean"].tobytes() == stats["running_stats"][0]["mean"].tobytes()
    assert new["running_stats"][0]["num_pushes"] == stats["running_stats"][0]["count"] == 200
    assert back.state_digest == original.state_digest


@pytest.mark.parametrize("dtype", ["float16", "float64", "bool", "int8", "uint16", "int64"])
def test_observations_are_cast_as_before(dtype: str) -> None:
    kind = np.dtype(dtype)
    space = Box(0, 1 if kind.kind == "b" else 9, (3,), kind.type)
    original = snapshot(Cell(obs=space, act=FORCES).policy())

    there = to_new_stack(original)

    assert_plays(original, there, observations(space, 5))
    assert_plays(original, to_old_stack(there), observations(space, 5))


def test_a_policy_of_images_remembers_nothing_afterwards_either() -> None:
    cell = Cell(obs=LONG_IMAGE, model={"conv_filters": TALL})
    found = observations(LONG_IMAGE, 5)

    for snap in (snapshot(cell.policy()), to_new_stack(snapshot(cell.policy()))):
        player = rebuild_player(snap)
        player.act(found[0])
        assert len(player.act_batch(found)) == 5  # a player with memory would need a reset


def test_a_filter_without_statistics_is_carried() -> None:
    policy = Cell(obs=WIDE).policy(observation_filter="MeanStdFilter")

    there = to_new_stack(snapshot(policy))

    assert there.state["MeanStdFilter"][None]["running_stats"][0]["num_pushes"] == 0
    assert_plays(snapshot(policy), there, observations(WIDE, 6))


def test_the_filter_belongs_to_each_agent_of_a_multi_agent_algorithm() -> None:
    original = filtered(Cell(obs=NESTED))
    found = observations(NESTED, 6)

    there = to_new_stack(original, agent_ids=[0, "left"])

    assert set(there.state["MeanStdFilter"]) == {0, "left"}
    assert there.spec.connectors["agents"] == [0, "left"]
    assert_plays(original, there, found, agent="left")
    assert_plays(original, there, found, agent=0)
    assert to_old_stack(there).state_digest == original.state_digest


def test_statistics_of_one_agent_are_taken_if_they_differ() -> None:
    original = filtered(Cell(obs=WIDE))
    there = to_new_stack(original, agent_ids=["a", "b"])
    state = there.state
    state["MeanStdFilter"]["b"]["running_stats"][0]["num_pushes"] = 7
    differing = there.replace(state=state)

    with pytest.raises(InvalidInputError, match="pass agent="):
        to_old_stack(differing)
    with pytest.raises(NotFoundError, match="'c'"):
        to_old_stack(differing, agent="c")
    assert to_old_stack(differing, agent="a").state_digest == original.state_digest
    assert to_old_stack(differing, agent="b").state_digest != original.state_digest


@pytest.mark.parametrize("agent_ids", ["main", b"main", [], 3])
def test_agent_ids_are_a_list_of_ids(agent_ids: Any) -> None:
    with pytest.raises(InvalidInputError, match="agent_ids"):
        to_new_stack(snapshot(Cell().policy()), agent_ids=agent_ids)


def test_an_agent_without_statistics_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no filter statistics"):
        to_old_stack(to_new_stack(snapshot(Cell().policy())), agent="a")


def test_a_filter_is_left_out_on_request() -> None:
    there = to_new_stack(filtered(Cell(obs=WIDE)), omit=["MeanStdFilter"])

    assert there.state == {}
    assert "left out on request" in there.spec.omitted["connectors.MeanStdFilter"]
    with pytest.raises(InvalidInputError, match="connectors="):
        rebuild_player(there)
    back = to_old_stack(there)
    assert "connectors.agent.MeanStdFilter" in back.spec.omitted


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("clip", [True, False])
def test_actions_are_unsquashed_and_clipped_as_before(normalize: bool, clip: bool) -> None:
    policy = Cell(act=FORCES).policy(normalize_actions=normalize, clip_actions=clip)
    original = snapshot(policy)
    found = observations(Cell().obs, 20)

    there = to_new_stack(original)

    assert (there.spec.normalize_actions, there.spec.clip_actions) == (normalize, clip)
    assert_plays(original, there, found)
    assert_plays(original, to_old_stack(there), found)


def test_an_old_policy_without_an_environment_stays_without_one() -> None:
    policy = Cell().policy()
    policy.agent_connectors = policy.action_connectors = None

    there = to_new_stack(snapshot(policy))

    assert there.spec.env_observation_space is None
    assert there.spec.connectors == {}
    assert to_old_stack(there).spec.connectors == {}


def test_clipped_rewards_are_noted() -> None:
    there = to_new_stack(snapshot(Cell().policy(clip_rewards=True)))

    assert "Learner" in there.spec.omitted["clip_rewards"]


def test_the_connectors_are_those_of_rllib() -> None:
    there = to_new_stack(filtered(Cell(obs=NESTED)))

    names = [entry["class"] for entry in there.spec.connectors["env_to_module"]]
    flatten = getattr(FlattenObservations, "func", FlattenObservations)  # a partial in later Rays
    assert names == [
        Tagged("import", f"{cls.__module__}:{cls.__qualname__}") for cls in (flatten, MeanStdFilter)
    ]


@settings(max_examples=8, deadline=None)
@given(
    count=st.integers(0, 2**40),
    mean=st.lists(st.floats(-1e30, 1e30), min_size=4, max_size=4),
    squares=st.lists(st.floats(0, 1e30), min_size=4, max_size=4),
    clip=st.none() | st.floats(1e-3, 1e6),
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_any_statistics_come_back_bit_for_bit(
    count: int,
    mean: list[float],
    squares: list[float],
    clip: float | None,
    flags: tuple[bool, bool],
) -> None:
    state = SNAP.state
    state["connectors"]["agent"]["MeanStdObservationFilterAgentConnector"] = {
        "demean": flags[0],
        "destd": flags[1],
        "clip": clip,
        "running_stats": [
            {"count": count, "mean": np.array(mean), "sum_sq_diff": np.array(squares)}
        ],
    }
    original = SNAP.replace(state=state)

    assert to_old_stack(to_new_stack(original)).state_digest == original.state_digest


SNAP = snapshot(Cell(obs=WIDE).policy(observation_filter="MeanStdFilter"))
