"""Filters and other connectors with state, and how far exploration has come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ray.rllib.algorithms.dqn.dqn_torch_policy import DQNTorchPolicy
from ray.rllib.algorithms.ppo.ppo_torch_policy import PPOTorchPolicy
from ray.rllib.connectors.agent.lambdas import register_lambda_agent_connector
from ray.rllib.connectors.agent.mean_std_filter import MeanStdObservationFilterAgentConnector
from ray.rllib.connectors.connector import ConnectorContext
from ray.rllib.connectors.util import create_connectors_for_policy
from ray.rllib.utils.filter import RunningStat

from policystore import Snapshot
from policystore.errors import FormatError, InvalidInputError, UntrustedError
from policystore.rllib.old_stack.player import PolicyPlayer
from policystore.rllib.old_stack.rebuild import rebuild_policy
from policystore.rllib.old_stack.snapshot import snapshot_policy
from tests.support.old_stack_configs import TRAINING_WARNINGS, build, dqn, pair, ppo
from tests.support.old_stack_matrix import made
from tests.support.old_stack_replay import through_rllib
from tests.support.old_stack_zoo import SPACES, Shift, Smuggler, Untold

pytestmark = [*TRAINING_WARNINGS, pytest.mark.usefixtures("ray_session")]
FILTER = "MeanStdObservationFilterAgentConnector"


def logits(policy: Any, observations: list[Any]) -> np.ndarray:
    return np.array(
        [found for _, found in through_rllib(policy, observations, [0.0] * len(observations))]
    )


def some(count: int = 8) -> list[Any]:
    return list(np.random.default_rng(1).uniform(-1, 1, (count, 4)).astype("f4"))


@pytest.fixture
def connected() -> Any:
    """A policy made by hand, with the connectors that an Algorithm gives it."""
    config = ppo()
    policy = PPOTorchPolicy(SPACES["vector"], SPACES["discrete"], config.to_dict())
    create_connectors_for_policy(policy, config)
    return policy


def insert(policy: Any, connector: type, *args: Any) -> None:
    ctx = ConnectorContext.from_policy(policy)
    policy.agent_connectors.insert_after("ObsPreprocessorConnector", connector(ctx, *args))


@pytest.mark.long
def test_merged_statistics_of_remote_runners_are_carried_and_applied() -> None:
    config = ppo().env_runners(num_env_runners=2, observation_filter="MeanStdFilter")
    algorithm = build(config)
    try:
        algorithm.train()
        policy = algorithm.get_policy()
        snap = snapshot_policy(policy, algorithm=algorithm)
        live = policy.agent_connectors[FILTER][0].filter.running_stats
        (kept,) = snap.state["connectors"]["agent"][FILTER]["running_stats"]
        assert kept["count"] == live.n >= 32  # more than one runner alone has seen
        assert kept["mean"].tobytes() == live.mean.tobytes()
        observations = some()
        with_filter = logits(rebuild_policy(snap), observations)
        assert with_filter.tobytes() == logits(policy, observations).tobytes()
        bare = snapshot_policy(policy, algorithm=algorithm, omit=["MeanStdFilter"])
        assert not np.allclose(logits(rebuild_policy(bare), observations), with_filter)
        assert bare.spec.omitted[f"connectors.agent.{FILTER}"] == "left out on request"
        assert "connectors" not in bare.state
    finally:
        algorithm.stop()


def test_each_policy_of_a_multi_agent_algorithm_has_its_own_filter() -> None:
    algorithm = build(pair())
    try:
        algorithm.train()
        means = {
            name: snapshot_policy(algorithm.get_policy(name)).state["connectors"]["agent"][FILTER][
                "running_stats"
            ][0]["mean"]
            for name in ("main", "other")
        }
        assert abs(means["main"]).max() < 3 < abs(means["other"]).min()
    finally:
        algorithm.stop()


def test_playing_does_not_move_a_filter(connected: Any) -> None:
    policy = _with_filter(connected)
    player = PolicyPlayer(snapshot_policy(policy))
    before = snapshot_policy(player.policy).state_digest
    for obs in some():
        player.act(obs)
    assert snapshot_policy(player.policy).state_digest == before


def _with_filter(policy: Any) -> Any:
    ctx = ConnectorContext.from_policy(policy)
    connector = MeanStdObservationFilterAgentConnector(ctx, clip=2.0)
    for obs in some(20):
        connector.filter(obs * [1, 2, 3, 4])
    policy.agent_connectors.insert_after("ObsPreprocessorConnector", connector)
    return policy


def test_settings_and_statistics_of_a_filter_come_back_exactly(connected: Any) -> None:
    policy = _with_filter(connected)
    rebuilt = rebuild_policy(snapshot_policy(policy))
    kept, back = (each.agent_connectors[FILTER][0].filter for each in (policy, rebuilt))
    assert (back.clip, back.demean, back.destd) == (2.0, True, True)
    assert snapshot_policy(rebuilt).state_digest == snapshot_policy(policy).state_digest
    assert np.array(back.running_stats.var).tobytes() == np.array(kept.running_stats.var).tobytes()
    kept(np.ones(4), update=True)
    assert rebuilt.agent_connectors[FILTER][0].filter.running_stats.n == 20


def test_a_filter_asked_for_but_not_there_is_refused() -> None:
    config = ppo().env_runners(observation_filter="MeanStdFilter")
    policy = PPOTorchPolicy(SPACES["vector"], SPACES["discrete"], config.to_dict())
    with pytest.raises(InvalidInputError, match="MeanStdFilter"):
        snapshot_policy(policy)
    snap = snapshot_policy(policy, omit=["MeanStdFilter"])
    assert snap.spec.omitted == {"connectors.agent.MeanStdFilter": "left out on request"}


def test_nothing_from_a_store_reaches_rllibs_decoder(
    connected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    snap = snapshot_policy(_with_filter(connected))

    def never(state: Any) -> Any:
        raise AssertionError("RunningStat.from_state was called")

    monkeypatch.setattr(RunningStat, "from_state", staticmethod(never))
    assert rebuild_policy(snap).agent_connectors[FILTER]


@pytest.mark.parametrize(
    "damage",
    [
        {"running_stats": "gASV"},
        {"running_stats": [{"count": 1, "mean": "eJyb7BfqGxDJ", "sum_sq_diff": "x"}]},
        {"running_stats": [{"count": -1, "mean": np.zeros(4), "sum_sq_diff": np.zeros(4)}]},
        {"running_stats": [{"count": 1, "mean": np.zeros(3), "sum_sq_diff": np.zeros(3)}]},
        {"running_stats": [{"count": 1, "mean": np.zeros(4), "sum_sq_diff": np.zeros(3)}]},
        {"running_stats": []},
        {"clip": "wide"},
        None,
    ],
)
def test_malformed_statistics_are_a_format_error(connected: Any, damage: Any) -> None:
    snap = snapshot_policy(_with_filter(connected))
    state = snap.state
    kept = state["connectors"]["agent"][FILTER]
    state["connectors"]["agent"][FILTER] = damage and {**kept, **damage}
    with pytest.raises(FormatError):
        rebuild_policy(snap.replace(state=state))


def test_a_custom_connector_is_carried_with_its_state(connected: Any) -> None:
    insert(connected, Shift, np.array([1, 2, 3, 4], "f4"))
    snap = snapshot_policy(connected)
    with pytest.raises(UntrustedError, match="old_stack_zoo"):
        rebuild_policy(snap)
    observations = some()
    there = logits(connected, observations)
    assert logits(rebuild_policy(snap, trust=[Shift]), observations).tobytes() == there.tobytes()
    without = snapshot_policy(connected, omit=["Shift"])
    assert not np.allclose(logits(rebuild_policy(without), observations), there)


def test_two_connectors_of_one_class_keep_their_order_and_state(connected: Any) -> None:
    insert(connected, Shift, np.full(4, 7, "f4"))
    insert(connected, Shift, np.full(4, 9, "f4"))
    rebuilt = rebuild_policy(snapshot_policy(connected), trust=["tests.support.old_stack_zoo"])
    assert [connector.by[0] for connector in rebuilt.agent_connectors[Shift]] == [9, 7]


@pytest.mark.parametrize("connector", [Untold, Smuggler])
def test_a_connector_that_cannot_be_carried_is_refused_by_name(
    connected: Any, connector: type
) -> None:
    insert(connected, connector)
    with pytest.raises(InvalidInputError, match=rf"omit=\['{connector.__name__}'\]"):
        snapshot_policy(connected)
    snap = snapshot_policy(connected, omit=[connector.__name__])
    assert snap.spec.omitted[f"connectors.agent.{connector.__name__}"]


def test_a_connector_made_by_a_function_is_refused(connected: Any) -> None:
    insert(connected, register_lambda_agent_connector("ZooLambda", lambda data: data))
    with pytest.raises(InvalidInputError, match="ZooLambda.*top level"):
        snapshot_policy(connected)


def test_text_in_the_state_of_a_custom_connector_is_refused_when_read(connected: Any) -> None:
    insert(connected, Shift)
    snap = snapshot_policy(connected)
    state = snap.state
    state["connectors"]["agent"]["Shift"]["by"] = "x" * 65
    with pytest.raises(FormatError, match="65 characters"):
        rebuild_policy(snap.replace(state=state), trust=[Shift])


def test_clipped_rewards_come_back(connected: Any) -> None:
    config = ppo().environment(clip_rewards=0.25)
    connected.agent_connectors = connected.action_connectors = None
    create_connectors_for_policy(connected, config)
    rebuilt = rebuild_policy(snapshot_policy(connected))
    (connector,) = rebuilt.agent_connectors["ClipRewardAgentConnector"]
    assert (connector.limit, connector.sign) == (0.25, False)


def test_epsilon_stands_where_it_stood_and_settles() -> None:
    exploration = {"type": "EpsilonGreedy", "epsilon_timesteps": 100, "final_epsilon": 0.5}
    config = dqn().env_runners(exploration_config=exploration)
    policy = DQNTorchPolicy(SPACES["vector"], SPACES["discrete"], config.to_dict())
    found: dict[int, Snapshot] = {}
    for timestep in (0, 50, 100, 5000):
        policy.global_timestep = timestep
        found[timestep] = snapshot_policy(policy)
    assert found[5000].digest == found[100].digest != found[50].digest
    player = PolicyPlayer(found[50], env_spaces=(SPACES["vector"], SPACES["discrete"]))
    for obs in some():
        player.act(obs, explore=True)
    assert player.policy.exploration.get_state()["cur_epsilon"] == 0.75


def test_state_of_a_custom_exploration_is_carried(tmp_path: Any) -> None:
    with made("custom-exploration", tmp_path) as cell:
        snap = snapshot_policy(cell.policy)
        assert rebuild_policy(snap, trust=["tests.support.old_stack_zoo."]).exploration.calls == 7
        cell.policy.exploration.calls = object()
        with pytest.raises(InvalidInputError, match="exploration"):
            snapshot_policy(cell.policy)
        assert "exploration" in snapshot_policy(cell.policy, omit=["exploration"]).spec.omitted
