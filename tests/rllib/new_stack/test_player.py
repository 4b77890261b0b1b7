"""Playing a snapshot of the new stack: memory between calls, filters, batches, wrong input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.connectors.env_to_module import (
    FlattenObservations,
    MeanStdFilter,
    PrevActionsPrevRewards,
)
from ray.rllib.core.columns import Columns
from ray.rllib.utils.numpy import SMALL_NUMBER

import tests.support.new_stack_matrix as cells
import tests.support.new_stack_modules as parts
from policystore.errors import InvalidInputError, MismatchError, NotFoundError, UntrustedError
from policystore.rllib.new_stack.player import ModulePlayer
from policystore.rllib.new_stack.rebuild import rebuild_module
from policystore.rllib.new_stack.snapshot import snapshot_from_algorithm, snapshot_module
from policystore.snapshot import Snapshot
from tests.support.html_page import Page

SPACES = (cells.VECTOR, cells.THREE)
BOXES = (cells.VECTOR, cells.UNEVEN)


def bare(name: str) -> Snapshot:
    module = cells.MODULES[name]().build()
    cells.perturb(module)
    return snapshot_module(module)


def observations(count: int) -> list[Any]:
    return list(np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32))


@pytest.fixture(scope="module")
def filtered(ray_session: Any) -> Iterator[Snapshot]:
    """PPO with continuous actions behind a filter of observations far from zero."""
    far = gym.spaces.Box(20.0, 30.0, (4,), np.float32)
    algorithm = cells.behind(cells.ppo(far, cells.UNEVEN), MeanStdFilter).build_algo()
    algorithm.train()
    cells.perturb(algorithm.learner_group._learner.module["default_policy"])
    yield snapshot_from_algorithm(algorithm)
    algorithm.stop()


def test_filter_is_applied_and_does_not_go_on_learning(filtered: Snapshot) -> None:
    obs = np.full(4, 27.0, np.float32)
    player = ModulePlayer(filtered)
    first = player.act(obs)
    # A filter that has seen nothing gives another action: the statistics matter here.
    stranger = ModulePlayer(filtered, connectors=[MeanStdFilter(update_stats=False)])
    assert not np.array_equal(stranger.act(obs), first)
    for _ in range(50):
        player.act(np.full(4, 20.0, np.float32))
    player.reset()
    np.testing.assert_array_equal(player.act(obs), first)


def test_module_sees_the_normalised_observation(filtered: Snapshot) -> None:
    player = ModulePlayer(filtered)
    seen = []
    forward = player.module._forward_inference
    player.module._forward_inference = lambda batch: seen.append(batch) or forward(batch)
    obs = np.array([21.0, 25.0, 29.0, 30.0], np.float32)
    player.act(obs)
    stats = filtered.state["MeanStdFilter"][None]["running_stats"][0]
    std = np.sqrt((stats["sum_sq_diff"] / (stats["num_pushes"] - 1)).astype(np.float32))
    expected = np.clip((obs - stats["mean"]) / (std + SMALL_NUMBER), -10.0, 10.0).astype(np.float32)
    np.testing.assert_array_equal(seen[0][Columns.OBS].numpy(), expected[None])


@pytest.mark.long
def test_recurrent_state_survives_long_episodes_in_bounded_memory() -> None:
    snap = bare("module-lstm-separate")
    player = ModulePlayer(snap, env_spaces=BOXES, normalize_actions=False, clip_actions=False)
    player._engine = player._pipeline_engine  # the other engine keeps no episodes
    module = rebuild_module(snap)
    state = {
        actor: {key: torch.as_tensor(value)[None] for key, value in parts_.items()}
        for actor, parts_ in module.get_initial_state().items()
    }
    for obs in observations(700):
        out = module.forward_inference(
            {Columns.OBS: torch.as_tensor(obs)[None, None], Columns.STATE_IN: state}
        )
        state = out[Columns.STATE_OUT]
        mean = out[Columns.ACTION_DIST_INPUTS][0, 0, :2].numpy()
        np.testing.assert_array_equal(player.act(obs), mean)
    assert len(player._rows[0].memory.episode) <= 256
    player.reset()
    again = player.act(observations(1)[0])
    player.reset()
    np.testing.assert_array_equal(player.act(observations(1)[0]), again)


@pytest.mark.long
def test_long_episodes_of_one_of_several_agents_stay_bounded(ray_session: Any) -> None:
    algorithm = cells.multi_agent([0, 1]).build_algo()
    try:
        snap = snapshot_from_algorithm(algorithm, "first")
    finally:
        algorithm.stop()
    player = ModulePlayer(snap)
    fresh = ModulePlayer(snap)
    player._engine = player._pipeline_engine  # the other engine keeps no episodes
    for obs in observations(600):
        fresh.reset()
        assert player.act(obs) == fresh.act(obs)
    assert len(player._rows[0].memory.episode) <= 256


def test_one_row_of_a_batch_begins_anew_and_the_others_go_on() -> None:
    snap = bare("module-lstm-separate")
    player, first, second, third = (
        ModulePlayer(snap, env_spaces=BOXES, normalize_actions=False, clip_actions=False)
        for _ in range(4)
    )
    rows = observations(8)
    for step in range(2):
        player.act_batch([rows[step], rows[step + 2]])
        second.act(rows[step + 2])
        first.act(rows[step])
    player.reset(0)
    first_action, second_action = player.act_batch([rows[4], rows[5]])
    np.testing.assert_allclose(first_action, third.act(rows[4]), rtol=1e-5)
    np.testing.assert_allclose(second_action, second.act(rows[5]), rtol=1e-5)
    assert not np.allclose(first_action, first.act(rows[4]), rtol=1e-3)
    for row in (2, -1):
        with pytest.raises(InvalidInputError, match="had 2 rows"):
            player.reset(row)


def test_a_policy_without_memory_takes_any_number_of_rows() -> None:
    player = ModulePlayer(bare("module-discrete-shared"), env_spaces=SPACES)
    rows = observations(5)
    expected = player.act_batch(rows)
    assert [player.act(obs) for obs in rows] == expected
    assert player.act_batch(rows[:2]) == expected[:2]
    recurrent = ModulePlayer(bare("module-lstm-shared"), env_spaces=SPACES)
    recurrent.act_batch(rows)
    with pytest.raises(InvalidInputError, match=r"reset\(\)"):
        recurrent.act(rows[0])


def test_batch_is_each_alone() -> None:
    snap = bare("module-lstm-shared")
    rows = [observations(9)[start : start + 3] for start in (0, 3, 6)]
    together = ModulePlayer(snap, env_spaces=SPACES)
    batched = [together.act_batch(row) for row in rows]
    for index in range(3):
        alone = ModulePlayer(snap, env_spaces=SPACES)
        assert [alone.act(row[index]) for row in rows] == [row[index] for row in batched]


def test_batch_of_another_size_needs_a_reset() -> None:
    player = ModulePlayer(bare("module-lstm-shared"), env_spaces=SPACES)
    player.act_batch(observations(3))
    with pytest.raises(InvalidInputError, match=r"1 observations for 3 environments.*keep_rows"):
        player.act(observations(1)[0])
    with pytest.raises(InvalidInputError, match="2 rewards for 3"):
        player.act_batch(observations(3), rewards=[0.0, 1.0])
    player.reset()
    player.act(observations(1)[0])
    assert player.act_batch([]) == []


def test_observation_of_another_space_changes_nothing() -> None:
    snap = bare("module-lstm-shared")
    player, control = (ModulePlayer(snap, env_spaces=SPACES) for _ in range(2))
    first, second = observations(2)
    assert player.act(first) == control.act(first)
    for wrong in (np.zeros(5, np.float32), "text", None, {"a": 1}):
        with pytest.raises(InvalidInputError, match="observation 0"):
            player.act(wrong)
    assert player.act(second) == control.act(second)


def test_call_that_fails_inside_asks_for_a_reset() -> None:
    player = ModulePlayer(bare("module-lstm-separate"), env_spaces=BOXES, normalize_actions=False)
    player.act(observations(1)[0])
    forward, player.module._forward_inference = player.module._forward_inference, None
    with pytest.raises(TypeError):
        player.act(observations(1)[0])
    player.module._forward_inference = forward
    with pytest.raises(InvalidInputError, match="reset"):
        player.act(observations(1)[0])
    player.reset()
    player.act(observations(1)[0])


def test_exploring_samples() -> None:
    snap = bare("module-box")
    obs = observations(1)[0]
    torch.manual_seed(0)
    raw = ModulePlayer(snap, env_spaces=BOXES, normalize_actions=False)
    assert len({raw.act(obs, explore=True).tobytes() for _ in range(8)}) == 8
    assert len({raw.act(obs).tobytes() for _ in range(8)}) == 1
    bounded = ModulePlayer(snap, env_spaces=BOXES, normalize_actions=True)
    assert all(cells.UNEVEN.contains(bounded.act(obs, explore=True)) for _ in range(8))


def test_bare_module_needs_the_environments_side() -> None:
    snap = bare("module-box")
    with pytest.raises(InvalidInputError, match=r"env_spaces=.*connectors="):
        ModulePlayer(snap)
    with pytest.raises(InvalidInputError, match="normalize_actions=True"):
        ModulePlayer(snap, env_spaces=BOXES)
    with pytest.raises(InvalidInputError, match="pair of gymnasium spaces"):
        ModulePlayer(snap, env_spaces=cells.VECTOR)
    nested = gym.spaces.Dict({"a": gym.spaces.Box(-1, 1, (3,)), "b": gym.spaces.Box(-1, 1, (1,))})
    with pytest.raises(InvalidInputError, match="connectors="):
        ModulePlayer(snap, env_spaces=(nested, cells.UNEVEN), normalize_actions=True)
    player = ModulePlayer(
        snap,
        env_spaces=(nested, cells.UNEVEN),
        connectors=[FlattenObservations()],
        normalize_actions=True,
    )
    assert cells.UNEVEN.contains(player.act(nested.sample()))
    with pytest.raises(InvalidInputError, match="list of ConnectorV2"):
        ModulePlayer(snap, env_spaces=SPACES, connectors=["text"], normalize_actions=True)
    with pytest.raises(InvalidInputError, match="list of ConnectorV2"):
        ModulePlayer(snap, env_spaces=SPACES, connectors={"learner": []}, normalize_actions=True)


def test_normalising_is_not_guessed_nor_contradicted(filtered: Snapshot) -> None:
    with pytest.raises(InvalidInputError, match="records how actions go back"):
        ModulePlayer(filtered, normalize_actions=False)
    with pytest.raises(InvalidInputError, match="does not tell agents apart"):
        ModulePlayer(filtered, agent=0)
    with pytest.raises(InvalidInputError, match="holds a single policy"):
        ModulePlayer(filtered, module_id="x")


def test_previous_rewards_must_be_given(ray_session: Any) -> None:
    algorithm = cells.ONLINE["ppo-previous-actions"]().build_algo()
    try:
        snap = snapshot_from_algorithm(algorithm)
    finally:
        algorithm.stop()
    player = ModulePlayer(snap)
    first, second = observations(2)
    player.act(first)
    with pytest.raises(InvalidInputError, match=r"act\(obs, reward=…\)"):
        player.act(second)
    player.act(second, reward=1.0)
    pieces = [PrevActionsPrevRewards(n_prev_actions=2, n_prev_rewards=3), FlattenObservations()]
    ModulePlayer(snap, connectors=pieces).act(first)


def test_own_connectors_follow_trust(ray_session: Any) -> None:
    algorithm = cells.ONLINE["ppo-own-connector"]().build_algo()
    try:
        snap = snapshot_from_algorithm(algorithm)
    finally:
        algorithm.stop()
    with pytest.raises(UntrustedError, match="new_stack_modules"):
        ModulePlayer(snap)
    ModulePlayer(snap, trust=[parts.Shifted]).act(observations(1)[0])


def test_several_agents(ray_session: Any) -> None:
    algorithm = cells.behind(
        cells.multi_agent([0, 1]), lambda: MeanStdFilter(multi_agent=True)
    ).build_algo()
    try:
        snap = snapshot_from_algorithm(algorithm, "first", agent_ids=[0, 1])
    finally:
        algorithm.stop()
    with pytest.raises(InvalidInputError, match=r"agent=, one of \[0, 1\]"):
        ModulePlayer(snap)
    for wrong in (2, "0", True):
        with pytest.raises(NotFoundError, match=r"it has \[0, 1\]"):
            ModulePlayer(snap, agent=wrong)
    ModulePlayer(snap, agent=1).act(observations(1)[0])


def test_state_that_does_not_belong_to_the_connectors(filtered: Snapshot) -> None:
    state = filtered.state
    with pytest.raises(InvalidInputError, match="state of a connector 'Other'"):
        ModulePlayer(filtered.replace(state={"Other": {}}))
    state["MeanStdFilter"]["agent"] = state["MeanStdFilter"].pop(None)
    with pytest.raises(MismatchError, match="agents"):
        ModulePlayer(filtered.replace(state=state))


def test_agents_of_different_spaces(ray_session: Any) -> None:
    algorithm = cells.multi_agent([0, 1], sizes=(4, 6)).build_algo()
    try:
        unnamed = snapshot_from_algorithm(algorithm, "second")
        named = snapshot_from_algorithm(algorithm, "second", agent_ids=[1])
        with pytest.raises(InvalidInputError, match=r"agents \[0, 1\] have different spaces"):
            snapshot_from_algorithm(algorithm, "second", agent_ids=[0, 1])
    finally:
        algorithm.stop()
    assert list(unnamed.spec.omitted) == ["env_spaces"]
    with pytest.raises(InvalidInputError, match=r"spaces differ.*env_spaces="):
        ModulePlayer(unnamed)
    obs = np.linspace(-1, 1, 6, dtype=np.float32)
    spaces = (gym.spaces.Box(-np.inf, np.inf, (6,)), cells.THREE)
    assert ModulePlayer(named).act(obs) == ModulePlayer(unnamed, env_spaces=spaces).act(obs)
    with pytest.raises(InvalidInputError, match="takes observations in"):
        ModulePlayer(unnamed, env_spaces=SPACES)


def test_what_a_player_shows_of_itself(filtered: Snapshot) -> None:
    player = ModulePlayer(filtered)
    page = Page(player._repr_html_())

    assert player.digest == filtered.digest
    assert repr(player) == f"<ModulePlayer of {filtered.digest.short}: PPO>"
    assert page.has_only_harmless_elements()
    for shown in (str(player), " ".join(page.texts)):
        assert "PPO" in shown
        assert str(player.observation_space) in shown
        assert "actions are unsquashed" in shown
