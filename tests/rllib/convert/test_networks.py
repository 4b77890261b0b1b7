"""A converted policy computes what the original computes: every network, space and algorithm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from policystore import Snapshot
from policystore.rllib import rebuild_player, to_new_stack, to_old_stack
from tests.support.cells import sampled
from tests.support.conversions import (
    NEW,
    NEW_ALWAYS,
    OLD,
    OLD_ALWAYS,
    Cell,
    computed,
    network_inputs,
    new_snapshot,
    observations,
    old_snapshot,
)

EXACT = 0.0
NEAR = 1e-6
SAMPLING = ["ppo-separate", "ppo-box", "sac", "sac-discrete", "ppo-multi-discrete", "ppo-lstm"]


def assert_computes_the_same(one: Snapshot, other: Snapshot, cell: Cell) -> None:
    """Both compute the same for 1,000 observations; the limit is relative to the largest number."""
    inputs = network_inputs(cell.obs, observations(cell.obs))
    # Convolutions sum in another order: a 1x1 convolution became a linear layer.
    limit = NEAR if inputs.ndim == 4 else EXACT
    for mine, yours in zip(computed(one, inputs), computed(other, inputs), strict=True):
        assert mine.keys() - {"value"} == yours.keys() - {"value"}
        for name in mine.keys() & yours.keys():
            scale = np.abs(mine[name]).max()
            assert np.abs(mine[name] - yours[name]).max() <= limit * scale, name


def assert_acts_the_same(
    one: Snapshot, other: Snapshot, cell: Cell, arguments: dict[str, Any]
) -> None:
    """Both players take the same actions in a sequence of observations, and in a batch."""
    players = [rebuild_player(snap, **arguments) for snap in (one, other)]
    found = observations(cell.obs, 48)
    for step in range(8):
        actions = [player.act(found[step]) for player in players]
        assert_same(*actions)
    batches = [player.reset() or player.act_batch(found) for player in players]
    assert_same(*batches)


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        for mine, yours in zip(one, other, strict=True):
            assert_same(mine, yours)
    else:
        assert np.asarray(one).dtype == np.asarray(other).dtype
        np.testing.assert_allclose(one, other, rtol=NEAR, atol=NEAR)


@pytest.mark.parametrize("name", sampled(OLD, *OLD_ALWAYS))
def test_the_new_stack_computes_and_plays_what_the_old_one_does(name: str) -> None:
    cell, original = OLD[name], old_snapshot(name)

    converted = to_new_stack(original, omit=["exploration"])

    assert converted.spec.stack == "new"
    assert converted.spec.algorithm == cell.algorithm
    assert_computes_the_same(original, converted, cell)
    assert_acts_the_same(original, converted, cell, {})
    assert to_new_stack(original, omit=["exploration"]).digest == converted.digest


@pytest.mark.parametrize("name", sampled(NEW, *NEW_ALWAYS))
def test_the_old_stack_computes_and_plays_what_the_new_one_does(name: str) -> None:
    cell, original = NEW[name], new_snapshot(name)

    converted = to_old_stack(original)

    assert converted.spec.stack == "old"
    assert converted.spec.algorithm == cell.algorithm
    assert_computes_the_same(original, converted, cell)
    arguments = {
        "env_spaces": (cell.obs, cell.act),
        "normalize_actions": True,
        "clip_actions": False,
    }
    assert_acts_the_same(original, converted, cell, arguments)
    assert to_old_stack(original).digest == converted.digest


@pytest.mark.parametrize(
    "name", sampled([name for name in OLD if "sac" not in name], "ppo-separate", "dqn", "ppo-lstm")
)
def test_there_and_back_gives_the_same_weights_bit_for_bit(name: str) -> None:
    original = old_snapshot(name)

    there = to_new_stack(original, omit=["exploration"])
    back = to_old_stack(there)

    idle = tuple(place for place in there.spec.omitted if place.startswith("_value_branch"))
    kept = {key: array for key, array in original.weights.items() if not key.startswith(idle)}
    assert kept.keys() <= back.weights.keys()
    assert all(key.startswith(idle) for key in back.weights.keys() - kept.keys())
    for key, array in kept.items():
        assert array.tobytes() == back.weights[key].tobytes(), key
    assert to_new_stack(back).weights_digest == there.weights_digest


@pytest.mark.parametrize("name", sampled([name for name in NEW if name != "ppo-heads"], "appo"))
def test_back_and_there_gives_the_same_weights_bit_for_bit(name: str) -> None:
    original = new_snapshot(name)

    back = to_new_stack(to_old_stack(original))

    assert back.weights.keys() == original.weights.keys()
    for key, array in original.weights.items():
        if not key.endswith("log_std_clip_param_const"):
            assert array.tobytes() == back.weights[key].tobytes(), key


@pytest.mark.parametrize("name", sampled(SAMPLING, "ppo-box", "sac"))
def test_exploring_draws_from_the_same_distribution(name: str) -> None:
    original = old_snapshot(name)
    found = observations(OLD[name].obs, 200)
    drawn = []
    for snap in (original, to_new_stack(original)):
        player = rebuild_player(snap)
        torch.manual_seed(7)
        drawn.append(player.act_batch(found, explore=True))

    np.testing.assert_array_equal(*drawn)
    assert not np.array_equal(drawn[0], rebuild_player(original).act_batch(found))


@pytest.mark.parametrize("beyond", [-60.0, 60.0])
@pytest.mark.parametrize("name", ["ppo-box", "ppo-free-log-std"])
def test_log_standard_deviations_beyond_20_are_carried(name: str, beyond: float) -> None:
    original = old_snapshot(name)
    weights = {key: np.array(array) for key, array in original.weights.items()}
    free = weights.get("_append_free_log_std.log_std")
    (weights["_logits._model.0.bias"][2:] if free is None else free)[:] = beyond
    original = original.replace(weights=weights)

    converted = to_new_stack(original)

    inputs = network_inputs(OLD[name].obs, observations(OLD[name].obs, 50))
    (mine,), (yours,) = computed(original, inputs, 1), computed(converted, inputs, 1)
    assert (np.sign(beyond) * mine["dist"][:, 2:] > 50).all()
    np.testing.assert_array_equal(mine["dist"], yours["dist"])
    np.testing.assert_array_equal(
        computed(to_old_stack(converted), inputs, 1)[0]["dist"], mine["dist"]
    )
