"""The player of old-stack policies: against RLlib's own rollouts, in batches, and with bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import tree as dm_tree
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from ray.rllib.algorithms.ppo.ppo_torch_policy import PPOTorchPolicy
from ray.rllib.connectors.action.immutable import ImmutableActionsConnector
from ray.rllib.connectors.action.lambdas import ConvertToNumpyConnector
from ray.rllib.connectors.agent.state_buffer import StateBufferConnector
from ray.rllib.connectors.agent.view_requirement import ViewRequirementAgentConnector

from policystore.errors import InvalidInputError
from policystore.rllib.old_stack.player import PolicyPlayer
from policystore.rllib.old_stack.snapshot import snapshot_policy
from policystore.rllib.playing.observations import as_observation, rows_of
from tests.support.old_stack_configs import TRAINING_WARNINGS, build, ppo
from tests.support.old_stack_matrix import BARE
from tests.support.old_stack_zoo import FORCES, SPACES, VECTOR, DiaryEnv, Shift

pytestmark = TRAINING_WARNINGS


def players_of(name: str, count: int) -> list[PolicyPlayer]:
    cell = BARE[name]()
    snap = snapshot_policy(cell.policy)
    return [PolicyPlayer(snap, trust=cell.trust, env_spaces=cell.env_spaces) for _ in range(count)]


def player_of(name: str) -> PolicyPlayer:
    return players_of(name, 1)[0]


def some(space: Any, count: int) -> list[Any]:
    space.seed(3)
    return [space.sample() for _ in range(count)]


def assert_close(action: Any, other: Any) -> None:
    """A product of matrices rounds differently for another number of rows."""
    leaves = zip(dm_tree.flatten(action), dm_tree.flatten(other), strict=True)
    for leaf, other_leaf in leaves:
        np.testing.assert_allclose(leaf, other_leaf, rtol=1e-5, atol=1e-6)


def sample_into_diary(algorithm: Any) -> None:
    """Let the rollout worker itself play at least 24 steps."""
    DiaryEnv.diary.clear()
    while len(DiaryEnv.diary) < 24:
        algorithm.env_runner_group.local_env_runner.sample()


def check_against_diary(player: PolicyPlayer) -> None:
    """Check that a player takes the actions that the rollout worker took, bit for bit."""
    for step, obs, reward, action in DiaryEnv.diary:
        if step == 0:
            player.reset()
        played = player.act(obs, reward=reward)
        assert played.dtype == action.dtype
        assert played.tobytes() == action.tobytes()
    assert len({action.tobytes() for *_, action in DiaryEnv.diary}) > 4


@pytest.mark.parametrize(
    "model",
    [
        {"fcnet_hiddens": [16]},
        {
            "use_lstm": True,
            "lstm_cell_size": 8,
            "lstm_use_prev_action": True,
            "lstm_use_prev_reward": True,
        },
        {
            "use_attention": True,
            "attention_dim": 8,
            "attention_head_dim": 4,
            "attention_memory_inference": 4,
            "attention_memory_training": 4,
            "attention_use_n_prev_actions": 2,
            "attention_use_n_prev_rewards": 2,
        },
    ],
    ids=["plain", "lstm", "attention"],
)
@pytest.mark.parametrize("act", ["forces", "clipped"])
def test_it_acts_as_the_rollout_worker_did(ray_session: None, model: Any, act: str) -> None:
    config = ppo().environment(DiaryEnv, env_config={"obs": "dict", "act": "forces"})
    config.training(model=model).env_runners(explore=False)
    if act == "clipped":
        config.environment(normalize_actions=False, clip_actions=True, clip_rewards=0.5)
    algorithm = build(config)
    try:
        policy = algorithm.get_policy()
        if not model.get("use_attention"):
            for value in policy.model.parameters():
                value.data.mul_(3.0)
        snap = snapshot_policy(policy, algorithm=algorithm)
        sample_into_diary(algorithm)
    finally:
        algorithm.stop()
    check_against_diary(PolicyPlayer(snap))


@pytest.mark.parametrize("name", ["MeanStdFilter", "ConcurrentMeanStdFilter"])
def test_it_filters_as_the_rollout_worker_did(ray_session: None, name: str) -> None:
    config = ppo().environment(DiaryEnv, env_config={"obs": "dict", "act": "forces"})
    algorithm = build(config.env_runners(explore=False, observation_filter=name))
    try:
        algorithm.train()
        policy = algorithm.get_policy()
        for value in policy.model.parameters():
            value.data.mul_(3.0)
        policy.agent_connectors.in_eval()  # the worker filters, and leaves the statistics alone
        snap = snapshot_policy(policy, algorithm=algorithm)
        sample_into_diary(algorithm)
    finally:
        algorithm.stop()
    assert snap.state
    check_against_diary(PolicyPlayer(snap))


def test_without_a_reset_a_policy_with_memory_goes_on() -> None:
    player = player_of("model:lstm")
    player._engine = player._connector_engine  # whose output shows the distribution
    obs = some(VECTOR, 1)[0]

    def dist() -> Any:
        found = []
        compute = player.policy.compute_actions_from_input_dict

        def spy(*args: Any, **kwargs: Any) -> Any:
            result = compute(*args, **kwargs)
            found.append(result[2]["action_dist_inputs"].tobytes())
            return result

        player.policy.compute_actions_from_input_dict = spy
        try:
            player.act(obs)
        finally:
            player.policy.compute_actions_from_input_dict = compute
        return found[0]

    first, second = dist(), dist()
    assert first != second
    player.reset()
    assert dist() == first


def test_a_batch_acts_as_one_by_one() -> None:
    for name in ("obs:dict", "act:nested", "model:vf-shared"):
        player = player_of(name)
        rows = some(player.observation_space, 7)
        alone = [player.act(obs) for obs in rows]
        for action, other in zip(player.act_batch(rows), alone, strict=True):
            assert_close(action, other)
        assert player.act_batch([]) == []


def test_rows_of_a_batch_have_episodes_of_their_own() -> None:
    together, left, right = players_of("model:lstm-prev", 3)
    steps = [some(VECTOR, 2) for _ in range(5)]
    for step, (a, b) in enumerate(steps):
        if step == 3:
            together.reset(1)
            right.reset()
        rewards = None if step == 0 else [1.0, 2.0]
        both = together.act_batch([a * (step + 1) / 5, b * (step + 1) / 5], rewards=rewards)
        one = left.act(a * (step + 1) / 5, reward=1.0)
        two = right.act(b * (step + 1) / 5, reward=2.0)
        np.testing.assert_allclose(both, [one, two], rtol=1e-5, atol=1e-6)
    with pytest.raises(InvalidInputError, match=r"reset\(\)"):
        together.act_batch([a])
    together.reset()
    assert len(together.act_batch([a])) == 1


def test_previous_rewards_are_asked_for() -> None:
    player = player_of("model:lstm-prev")
    obs = some(VECTOR, 1)[0]
    player.act(obs)
    with pytest.raises(InvalidInputError, match="reward="):
        player.act(obs)
    player.act(obs, reward=1.0)
    player.reset()
    player.act(obs)
    with pytest.raises(InvalidInputError, match="2 rewards for 1"):
        player.act_batch([obs], rewards=[1.0, 2.0])
    plain = player_of("model:vf-shared")
    plain.act(obs)
    plain.act(obs)


def test_memory_does_not_grow_with_the_episode() -> None:
    player = player_of("model:attention-prev")
    views = player.policy.agent_connectors["ViewRequirementAgentConnector"][0]
    sizes = []
    for step, obs in enumerate(some(VECTOR, 160)):
        player.act(obs, reward=0.5)
        if step in (70, 159):
            (agents,) = views.agent_collectors.values()
            (collector,) = agents.values()
            sizes.append({key: len(parts[0]) for key, parts in collector.buffers.items()})
    assert sizes[0] == sizes[1]


def test_explore_samples_and_the_default_does_not() -> None:
    player = player_of("act:forces")
    obs = some(VECTOR, 1)[0]
    assert len({player.act(obs).tobytes() for _ in range(5)}) == 1
    sampled = [player.act(obs, explore=True) for _ in range(5)]
    assert len({action.tobytes() for action in sampled}) > 1
    assert all(action in FORCES for action in sampled)


def test_a_policy_made_by_hand_needs_the_environments_side() -> None:
    cell = BARE["model:vf-shared"]()
    snap = snapshot_policy(cell.policy)
    with pytest.raises(InvalidInputError, match="env_spaces"):
        PolicyPlayer(snap)
    # A preprocessor leaves the environment's space on its own.
    encoded = snapshot_policy(BARE["obs:dict"]().policy)
    assert PolicyPlayer(encoded).observation_space == SPACES["dict"]


@pytest.mark.parametrize(
    ("spaces", "match"),
    [
        ((Box(-1, 1, (5,), np.float32), Discrete(5)), "not for this environment"),
        ((SPACES["dict"], Discrete(5)), "not for this environment"),
        ((VECTOR, Discrete(4)), "takes actions in Discrete"),
        ((VECTOR, FORCES), "takes actions in Box"),
        ((VECTOR,), "env_spaces"),
        ("CartPole-v1", "env_spaces"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(spaces: Any, match: str) -> None:
    snap = snapshot_policy(BARE["model:vf-shared"]().policy)
    with pytest.raises(InvalidInputError, match=match):
        PolicyPlayer(snap, env_spaces=spaces)


def test_actions_are_unsquashed_to_the_environments_bounds() -> None:
    snap = snapshot_policy(BARE["act:forces"]().policy)
    obs = some(VECTOR, 1)[0]
    narrow, wide = (Box(np.float32(-k), np.float32(k), (2,), np.float32) for k in (1, 10))
    small, large = (PolicyPlayer(snap, env_spaces=(VECTOR, act)).act(obs) for act in (narrow, wide))
    np.testing.assert_allclose(large, 10 * small, rtol=1e-5)


def test_connectors_of_the_callers_own_take_the_place_of_the_recorded() -> None:
    cell = BARE["model:vf-shared"]()
    snap = snapshot_policy(cell.policy)
    plain = PolicyPlayer(snap, env_spaces=cell.env_spaces)
    own = {
        "agent": [
            lambda ctx: Shift(ctx, np.full(4, 0.25, "f4")),
            StateBufferConnector,
            ViewRequirementAgentConnector,
        ],
        "action": [ConvertToNumpyConnector, ImmutableActionsConnector],
    }
    shifted = PolicyPlayer(snap, env_spaces=cell.env_spaces, connectors=own)
    rows = some(VECTOR, 12)
    assert shifted.act_batch(rows) == plain.act_batch([obs + np.float32(0.25) for obs in rows])
    with pytest.raises(InvalidInputError, match="connectors"):
        PolicyPlayer(snap, env_spaces=cell.env_spaces, connectors={"agent": []})


def test_observations_out_of_bounds_are_taken_and_wrong_ones_are_not() -> None:
    player = player_of("model:vf-shared")
    for _ in range(201):
        player.act(np.full(4, 50.0, np.float64))
    for wrong in (
        np.zeros(5, "f4"),
        np.zeros((4, 1)),
        "text",
        None,
        {"a": 1},
        [[1, 2, 3, 4]],
        [[1], 2],
    ):
        with pytest.raises(InvalidInputError, match="observation 0"):
            player.act(wrong)
    obs = some(VECTOR, 1)[0]
    for form in (obs.tolist(), tuple(obs.tolist()), torch.tensor(obs), obs.astype(np.float64)):
        assert player.act(form) == player.act(obs)
    nested = player_of("obs:dict")
    with pytest.raises(InvalidInputError, match="'far', 'kind'"):
        nested.act({"far": np.zeros(2, "f4")})
    with pytest.raises(InvalidInputError, match=r"observation 0\['kind'\]"):
        nested.act({"far": np.zeros(2, "f4"), "kind": 7})


def test_arrays_are_split_into_rows() -> None:
    space = Dict({"a": Box(0, 1, (2,)), "b": Tuple([Discrete(3), Box(0, 1, ())])})
    batch = {"a": np.ones((3, 2)), "b": (np.arange(3), np.zeros(3))}
    rows = rows_of(batch, space)
    assert len(rows) == 3
    for index, row in enumerate(rows):
        as_observation(row, space, "row")
        assert row["b"][0] == index
    uneven = {"a": np.ones((3, 2)), "b": (np.arange(2), np.zeros(3))}
    for wrong in (uneven, {"a": np.ones((3, 2))}, 3, np.float32(1), "text"):
        with pytest.raises(InvalidInputError, match="rows"):
            rows_of(wrong, space)
    assert rows_of((1, 2), space) == rows_of(iter([1, 2]), space) == [1, 2]


def test_tuple_observations_are_checked() -> None:
    space = SPACES["tuple"]
    good = some(space, 1)[0]
    as_observation(good, space, "here")
    for wrong in (good[:1], 3, (9, good[1])):
        with pytest.raises(InvalidInputError, match="here"):
            as_observation(wrong, space, "here")


def test_a_player_leaves_the_snapshots_policy_as_it_was() -> None:
    policy = PPOTorchPolicy(VECTOR, SPACES["discrete"], ppo().to_dict())
    snap = snapshot_policy(policy)
    player = PolicyPlayer(snap, env_spaces=(VECTOR, SPACES["discrete"]))
    for obs in some(VECTOR, 20):
        player.act(obs, explore=True)
    assert snapshot_policy(player.policy).weights_digest == snap.weights_digest
