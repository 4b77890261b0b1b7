"""A player takes over a newer policy between two calls: all of it, or nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from policystore import InvalidInputError, MismatchError, Snapshot
from policystore.rllib import rebuild_player
from policystore.rllib.common.player import Player
from tests.support.cells import sampled
from tests.support.player_pairs import FORCES, OBS, VECTOR, module, pair, policy

STACKS = pytest.mark.parametrize("stack", ["old", "new"])
# The same code for both stacks.
SHARED = pytest.mark.parametrize("stack", sampled(["old", "new"], "old"))
LSTM = {"use_lstm": True, "lstm_cell_size": 8, "max_seq_len": 4}
SPACES = (VECTOR, FORCES)
MAKE = {"old": policy, "new": module}
SNAPS: dict[tuple[Any, ...], Snapshot] = {}


def snap(stack: str, seed: int, **model: Any) -> Snapshot:
    """A policy whose actions differ from those of every other seed."""
    key = (stack, seed, *model.items())
    if key not in SNAPS:
        torch.manual_seed(seed)
        made = MAKE[stack](*SPACES, **model)
        weights = {name: array * np.float32(3) for name, array in made.weights.items()}
        SNAPS[key] = Snapshot(weights=weights, spec=made.spec, state=made.state)
    return SNAPS[key]


def player(stack: str, seed: int, **model: Any) -> Player:
    made = snap(stack, seed, **model)
    arguments = {"normalize_actions": False} if stack == "new" else {}
    return rebuild_player(made, env_spaces=SPACES, **arguments)


def same(one: Any, other: Any) -> bool:
    return bool(np.allclose(one, other, rtol=1e-5, atol=1e-6))


@STACKS
def test_the_next_call_plays_the_new_policy(stack: str) -> None:
    playing, expected = player(stack, 1), player(stack, 2)
    session = playing.session()
    assert not same(playing.act(OBS), expected.act(OBS))
    playing._adopt(playing._rebuild(expected._snap), "keep")
    assert same(playing.act(OBS), expected.act(OBS))
    assert same(session.act(OBS), expected.act(OBS))
    assert playing.digest == expected.digest
    assert repr(playing) == repr(expected)


@SHARED
def test_a_rebuilt_player_has_the_same_arguments(stack: str) -> None:
    first = player(stack, 1)
    again = first._rebuild(snap(stack, 1))
    assert again is not first
    assert again._given == first._given
    assert same(again.act(OBS), first.act(OBS))


@STACKS
def test_episodes_go_on_with_the_new_policy_if_they_are_kept(stack: str) -> None:
    # The weights are equal, so an episode that goes on shows in the actions.
    playing, control = player(stack, 1, **LSTM), player(stack, 1, **LSTM)
    sessions = {each: each.session() for each in (playing, control)}
    for each, session in sessions.items():
        for scale in (1.0, -1.0):
            each.act_batch([OBS * scale, OBS])
            session.act(OBS * scale)
    playing._adopt(playing._rebuild(snap(stack, 1, **LSTM)), "keep")
    rows = [OBS / 2, OBS / 3]
    assert same(playing.act_batch(rows), control.act_batch(rows))
    kept = sessions[playing].act(OBS / 2)
    assert same(kept, sessions[control].act(OBS / 2))
    assert not same(kept, playing.session().act(OBS / 2))
    playing.keep_rows([1])
    control.keep_rows([1])
    assert same(playing.act(OBS), control.act(OBS))


@STACKS
def test_episodes_begin_anew_if_they_are_reset(stack: str) -> None:
    playing, control = player(stack, 1, **LSTM), player(stack, 1, **LSTM)
    session = playing.session()
    first = control.act(OBS)
    for _ in range(2):
        playing.act_batch([OBS, OBS])
        session.act(OBS)
    playing._adopt(playing._rebuild(snap(stack, 1, **LSTM)), "reset")
    assert same(session.act(OBS), first)
    assert same(playing.act(OBS), first)  # another number of rows, too


@STACKS
def test_what_another_policy_cannot_go_on_with_is_refused(stack: str) -> None:
    playing, control = player(stack, 1, **LSTM), player(stack, 1, **LSTM)
    larger = playing._rebuild(snap(stack, 1, **{**LSTM, "lstm_cell_size": 16}))
    for each in (playing, control):
        each.act(OBS)
    with pytest.raises(MismatchError, match=r"recurrent state.*memory='reset'"):
        playing._adopt(larger, "keep")
    assert same(playing.act(OBS), control.act(OBS))
    assert playing.digest == control.digest
    playing._adopt(larger, "reset")
    assert playing.digest == larger.digest


@SHARED
def test_a_policy_of_another_environment_is_refused(stack: str) -> None:
    playing = player(stack, 1)
    expected = playing.act(OBS)
    others = [
        (gym.spaces.Box(-1.0, 1.0, (5,), np.float32), FORCES),
        (VECTOR, gym.spaces.Box(-3.0, 3.0, (2,), np.float32)),
    ]
    for spaces in others:
        arguments = {"normalize_actions": False} if stack == "new" else {}
        other = rebuild_player(MAKE[stack](*spaces), env_spaces=spaces, **arguments)
        with pytest.raises(MismatchError, match="another environment.*Nothing has changed"):
            playing._adopt(other, "reset")
        assert same(playing.act(OBS), expected)


@SHARED
def test_wider_bounds_of_observations_are_no_other_environment(stack: str) -> None:
    wide = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    playing, other = (
        rebuild_player(pair("plain").snaps[stack], env_spaces=(space, act))
        for space, act in ((VECTOR, gym.spaces.Discrete(3)), (wide, gym.spaces.Discrete(3)))
    )
    playing._adopt(other, "reset")
    assert playing.observation_space == wide


def test_a_policy_of_the_other_stack_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="other API stack"):
        player("new", 1)._adopt(player("old", 1), "reset")


def test_memory_is_kept_or_reset_and_nothing_else() -> None:
    playing = player("new", 1)
    with pytest.raises(InvalidInputError, match="'keep' or 'reset'"):
        playing._adopt(playing._rebuild(snap("new", 2)), "both")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stack", "model"),
    [
        pytest.param("new", {}, id="plain-new"),
        pytest.param("old", {}, id="plain-old", marks=pytest.mark.long),
        pytest.param("new", LSTM, id="recurrent-new", marks=pytest.mark.long),
        pytest.param("old", LSTM, id="recurrent-old"),
    ],
)
def test_each_call_of_many_threads_plays_one_policy(stack: str, model: dict[str, Any]) -> None:
    playing = player(stack, 1, **model)
    first = [player(stack, seed, **model).act(OBS) for seed in (1, 2)]
    rest = [playing._rebuild(snap(stack, seed, **model)) for seed in (2, 1) * 2]
    done = False

    def act() -> None:
        session = playing.session()
        while not done:
            session.reset()
            actions = playing.act_many({session: OBS, playing.session(): OBS})
            one, other = actions.values()
            assert same(one, other)
            assert same(one, first[0]) or same(one, first[1])

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(act) for _ in range(2)]
        try:
            for other in rest:
                playing._adopt(other, "reset")
                playing.act(OBS)
        finally:
            done = True
        for each in running:
            each.result()
    assert same(playing.session().act(OBS), first[0])
