"""What a player takes and returns: NaN is refused, and actions are ready for JSON."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from ray.rllib.models.preprocessors import get_preprocessor

from policystore import InvalidInputError
from policystore.rllib import rebuild_player
from policystore.rllib.common.player import Player
from tests.support.cells import sampled
from tests.support.player_pairs import FORCES, OBS, VECTOR, module, pair, policy

STACKS = pytest.mark.parametrize("stack", ["old", "new"])
ENGINES = pytest.mark.parametrize("direct", [True, False], ids=["direct", "RLlib"])
BAD = np.array([0.1, np.nan, 0.2, np.nan], np.float32)


def player(kind: str, stack: str, direct: bool, **arguments: Any) -> Player:
    made: Any = pair(kind).player(stack, **arguments)
    if not direct:
        made._engine = made._connector_engine if stack == "old" else made._pipeline_engine
    return made


@cache
def shared(kind: str, stack: str, direct: bool) -> Player:
    """A player of which tests use refused calls, or sessions, alone."""
    return player(kind, stack, direct)


@STACKS
@ENGINES
@pytest.mark.parametrize("kind", ["plain", "recurrent"])
def test_nan_is_refused_where_it_is_and_changes_nothing(
    stack: str, direct: bool, kind: str
) -> None:
    playing, control = (player(kind, stack, direct) for _ in range(2))
    playing.act_batch([OBS, OBS])
    control.act_batch([OBS, OBS])
    with pytest.raises(InvalidInputError, match=r"observation 1: NaN at index 1.*nan='allow'"):
        playing.act_batch([OBS, BAD])
    with pytest.raises(InvalidInputError, match="observation 1: NaN at index 1"):
        playing.act_batch(np.stack([OBS, BAD]))
    with pytest.raises(InvalidInputError, match="observation 0: NaN at index 1"):
        playing.session().act(BAD)
    assert playing.act_batch([OBS, OBS]) == control.act_batch([OBS, OBS])


@STACKS
@ENGINES
def test_nan_says_in_which_part_it_is(stack: str, direct: bool) -> None:
    playing = shared("nested", stack, direct)
    bad = {"far": BAD[:3], "kind": 1}
    with pytest.raises(InvalidInputError, match=r"observation 0\['far'\]: NaN at index 1"):
        playing.act(bad)
    arrays = {"far": np.stack([OBS[:3], BAD[:3]]), "kind": np.array([0, 1])}
    with pytest.raises(InvalidInputError, match=r"observation 1\['far'\]: NaN at index 1"):
        playing.act_batch(arrays)


@ENGINES
def test_nan_is_played_if_it_is_allowed(direct: bool) -> None:
    assert player("plain", "new", direct, nan="allow").act(BAD) in range(3)


@STACKS
def test_nan_is_refused_or_allowed_and_nothing_else(stack: str) -> None:
    with pytest.raises(InvalidInputError, match="nan is 'error' or 'allow'"):
        pair("plain").player(stack, nan="ignore")


@STACKS
@ENGINES
def test_infinite_numbers_are_no_nan(stack: str, direct: bool) -> None:
    playing = shared("plain", stack, direct).session()
    assert playing.act(np.array([1e30, -1e30, 0.0, 0.0], np.float32)) in range(3)


MESSAGES: dict[str, tuple[str, Any, str]] = {
    "a shape": (
        "plain",
        OBS[:2],
        r"observation 0: expected numbers of shape \(4,\) \(dtype float32\), found ndarray of "
        r"shape \(2,\) and dtype float32",
    ),
    "a dtype": ("plain", np.array(["a"] * 4), r"shape \(4,\) and dtype <U1"),
    "a missing key": ("nested", {"far": OBS[:3]}, r"\['kind'\] missing"),
    "a key too many": (
        "nested",
        {"far": OBS[:3], "kind": 1, "more": 0},
        r"found \['far', 'kind', 'more'\]: \['more'\] too many",
    ),
    "a part": ("nested", {"far": OBS, "kind": 1}, r"observation 0\['far'\]: expected numbers"),
    "a number": (
        "nested",
        {"far": OBS[:3], "kind": 2},
        r"observation 0\['kind'\]: expected an integer from 0 to 1, found 2",
    ),
}


@STACKS
@ENGINES
@pytest.mark.parametrize("case", MESSAGES)
def test_a_wrong_observation_says_what_was_expected_and_found(
    stack: str, direct: bool, case: str
) -> None:
    kind, obs, message = MESSAGES[case]
    with pytest.raises(InvalidInputError, match=message):
        shared(kind, stack, direct).act(obs)


def test_numbers_out_of_a_multidiscrete_space_are_refused() -> None:
    space = MultiDiscrete([2, 3])
    snap = policy(get_preprocessor(space)(space, {}).observation_space, Discrete(3))
    playing = rebuild_player(snap, env_spaces=(space, Discrete(3)))
    for wrong in ([1, 3], [-1, 0]):
        with pytest.raises(InvalidInputError, match=r"expected integers from \[0, 0\] to \[1, 2\]"):
            playing.act(np.array(wrong))
        with pytest.raises(InvalidInputError, match="observation 1: expected integers"):
            playing.act_batch(np.array([[0, 0], wrong]))


ACTIONS: dict[str, tuple[gym.Space[Any], Any]] = {
    "discrete": (Discrete(3), int),
    "box": (FORCES, np.ndarray),
    "multidiscrete": (MultiDiscrete([3, 4]), np.ndarray),
    "tuple": (Tuple([Discrete(3), FORCES]), tuple),
    "dict": (Dict({"x": Discrete(2), "y": Box(-1.0, 1.0, (2,), np.float32)}), dict),
}


def plain(action: Any) -> Any:
    """An action as JSON takes it."""
    if isinstance(action, dict):
        return {key: plain(part) for key, part in action.items()}
    if isinstance(action, tuple):
        return [plain(part) for part in action]
    return action.tolist() if isinstance(action, np.ndarray) else action


@STACKS
@ENGINES
@pytest.mark.parametrize("case", sampled(ACTIONS, "discrete", "box", "dict"))
def test_actions_are_of_plain_types(stack: str, direct: bool, case: str) -> None:
    space, kind = ACTIONS[case]
    snap = {"old": policy, "new": module}[stack](VECTOR, space)
    arguments = {"normalize_actions": True} if stack == "new" else {}
    playing: Any = rebuild_player(snap, env_spaces=(VECTOR, space), **arguments)
    if not direct:
        playing._engine = playing._connector_engine if stack == "old" else playing._pipeline_engine
    for explore in (False, True):
        action = playing.act(OBS, explore=explore)
        assert type(action) is kind
        assert space.contains(action)
        json.dumps(plain(action))
