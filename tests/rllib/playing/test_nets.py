"""A player refuses what a network computed that is no number, and says so."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

from policystore import InvalidInputError, Snapshot
from policystore.rllib import rebuild_player, snapshot
from policystore.rllib.common.player import Player
from policystore.rllib.playing.nets import check_actions, check_distribution
from tests.support.conversions import FORCE, FORCES, LSTM, SMALL, VECTOR, Cell

STACKS = pytest.mark.parametrize("stack", ["old", "new"])
ENGINES = pytest.mark.parametrize("direct", [True, False], ids=["direct", "RLlib"])
SHARED = {**SMALL, "vf_share_layers": True}
SAC = {"policy_model_config": dict(SMALL)}
CELLS = {
    "discrete": Cell(model=SHARED),
    "box": Cell(act=FORCES, model=SHARED),
    "multi-discrete": Cell(act=MultiDiscrete([3, 4]), model=SHARED),
    "dict": Cell(act=Dict({"x": Discrete(2), "y": FORCE}), model=SHARED),
    "lstm": Cell(act=FORCES, model={**SHARED, **LSTM}),
    "dqn": Cell("DQN"),
    "sac": Cell("SAC", act=FORCES, training=SAC),
    "sac-discrete": Cell("SAC", training=SAC),
}
OBS = np.array([0.1, -0.2, 0.3, 0.4], np.float32)


@functools.cache
def snap_of(name: str, stack: str) -> Snapshot:
    cell = CELLS[name]
    if stack == "old":
        return snapshot(cell.policy())
    if cell.algorithm == "SAC":
        cell = Cell("SAC", act=cell.act, model={**SMALL, "twin_q": True})
    return snapshot(cell.module())


def with_weights(snap: Snapshot, value: float, part: str = "") -> Snapshot:
    """The same policy, with a number in the place of each weight whose name has ``part``."""
    weights = {
        name: np.full_like(array, value) if part in name and array.dtype.kind == "f" else array
        for name, array in snap.weights.items()
    }
    return snap.replace(weights=weights)


def player(snap: Snapshot, direct: bool, act: gym.Space[Any], **arguments: Any) -> Player:
    if snap.spec.stack == "new":
        arguments |= {"env_spaces": (VECTOR, act)}
        if isinstance(act, (Box, Dict)):
            arguments["normalize_actions"] = True
    made: Any = rebuild_player(snap, **arguments)
    if not direct:
        made._engine = made._connector_engine if snap.spec.stack == "old" else made._pipeline_engine
    return made


@pytest.fixture(autouse=True)
def torch_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let distributions check their numbers, which torch's compiler ends for a whole process."""
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)


@STACKS
@ENGINES
@pytest.mark.parametrize("explore", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", CELLS)
def test_nan_of_the_network_is_no_action(
    name: str, explore: bool, stack: str, direct: bool
) -> None:
    snap = with_weights(snap_of(name, stack), np.nan)
    playing = player(snap, direct, CELLS[name].act)

    with pytest.raises(InvalidInputError, match="the policy's network computed "):
        playing.act(OBS, explore=explore)


@STACKS
@ENGINES
def test_the_row_is_named(stack: str, direct: bool) -> None:
    cell = Cell(act=FORCES, model={**SMALL, "fcnet_activation": "linear", "vf_share_layers": True})
    snap = snapshot(cell.policy() if stack == "old" else cell.module())
    playing = player(snap, direct, FORCES)
    large = np.array([np.inf, -np.inf, 0, 0], np.float32)

    # RLlib's code of the old stack makes a distribution of them before it returns.
    named = "" if stack == "old" and not direct else "observation {}: "
    said = f"{named}the policy's network computed "
    with pytest.raises(InvalidInputError, match=said.format(1)):
        playing.act_batch([OBS, large])
    with pytest.raises(InvalidInputError, match=said.format(0)):
        playing.session().act(large)
    assert np.isfinite(playing.act(OBS)).all()


@STACKS
@ENGINES
def test_an_infinite_action_is_none(stack: str, direct: bool) -> None:
    snap = snap_of("box", stack)
    head = {"old": "_logits", "new": "pi."}[stack]
    biases = {
        name: np.array([np.inf, 0, 0, 0], np.float32)
        for name, array in snap.weights.items()
        if head in name and array.shape == (4,)
    }
    assert len(biases) == 1
    playing = player(snap.replace(weights={**snap.weights, **biases}), direct, FORCES)

    for explore in (False, True):
        with pytest.raises(InvalidInputError, match="NaN or an infinite number, so there is no"):
            playing.act(OBS, explore=explore)


@STACKS
def test_a_deviation_that_is_no_number_matters_to_samples_alone(stack: str) -> None:
    snap = snap_of("box", stack)
    head = {"old": "_logits", "new": "pi."}[stack]
    biases = {
        name: np.array([0.5, 0, -200, -200], np.float32)
        for name, array in snap.weights.items()
        if head in name and array.shape == (4,)
    }
    playing = player(snap.replace(weights={**snap.weights, **biases}), True, FORCES)

    assert np.isfinite(playing.act(OBS)).all()
    if stack == "old":  # the new stack clips deviations
        with pytest.raises(InvalidInputError, match="no action distribution can be made.*scale"):
            playing.act(OBS, explore=True)


@STACKS
@ENGINES
def test_what_the_caller_allows_is_played(stack: str, direct: bool) -> None:
    snap = with_weights(snap_of("box", stack), np.nan)

    allowed = player(snap, direct, FORCES, nan="allow")

    if stack == "old" and not direct:
        with pytest.raises(InvalidInputError, match="no action distribution can be made"):
            allowed.act(OBS)
    else:
        assert np.isnan(allowed.act(OBS)).all()


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_forbidden_actions_and_large_numbers_are_numbers(kind: Any) -> None:
    for numbers in ([-np.inf, 0.0], [3e38, 3e38], [np.inf, -np.inf], [1, 2]):
        check_distribution(kind([numbers]))
    check_distribution(None)
    check_distribution({"a": kind([np.nan])})  # of another form: not looked at


def test_actions_in_dicts_and_tuples_are_looked_at() -> None:
    good = {"a": np.array([1, 2]), "b": (np.zeros((2, 3)), np.array([True, False]))}
    check_actions(good)
    with pytest.raises(InvalidInputError, match="observation 1: "):
        check_actions({**good, "c": np.array([[0.0], [np.inf]])})
    with pytest.raises(InvalidInputError, match="observation 7: "):
        check_actions({"c": np.float32(np.nan)}, row=7)
