"""The players of both API stacks take the same calls, and refuse the same faults in the same words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from policystore import InvalidInputError, PolicyStoreError, Snapshot
from policystore import torch as policystore_torch
from policystore.rllib import rebuild_player
from policystore.rllib.common.player import Player
from tests.support.player_pairs import (
    CLASSES,
    FORCES,
    NESTED,
    OBS,
    SPACES,
    THREE,
    VECTOR,
    module,
    pair,
    policy,
)


def outcome(function: Callable[[], Any], snap: Snapshot) -> tuple[type, str]:
    """The class of an error and its message, without the snapshot's own name."""
    with pytest.raises(PolicyStoreError) as raised:
        function()
    return type(raised.value), str(raised.value).replace(repr(snap), "the snapshot")


def assert_same_outcome(kind: str, call: Callable[[str], Any]) -> str:
    """The same call fails on both stacks with the same class and message; return the message."""
    snaps = pair(kind).snaps
    old, new = (outcome(lambda stack=stack: call(stack), snaps[stack]) for stack in CLASSES)
    assert old == new
    return old[1]


BAD_CONSTRUCTION: dict[str, dict[str, Any]] = {
    "one space": {"env_spaces": VECTOR},
    "three spaces": {"env_spaces": (VECTOR, THREE, THREE)},
    "a name": {"env_spaces": "CartPole-v1"},
    "no spaces": {"env_spaces": None},
    "an enormous space": {"env_spaces": (gym.spaces.MultiBinary(1 << 25), THREE)},
    "an agent": {"agent": 0},
    "a module": {"module_id": "main"},
    "normalizing by a word": {"normalize_actions": "yes"},
    "clipping by a number": {"clip_actions": 1},
    "trust in a word": {"trust": "mypkg."},
    "trust in nothing": {"trust": None},
}


@pytest.mark.parametrize("case", BAD_CONSTRUCTION)
def test_a_bad_argument_is_refused_in_the_same_words(case: str) -> None:
    assert_same_outcome(
        "plain", lambda stack: pair("plain").player(stack, **BAD_CONSTRUCTION[case])
    )


@pytest.mark.parametrize("case", BAD_CONSTRUCTION)
def test_the_classes_refuse_what_rebuild_player_refuses(case: str) -> None:
    def make(stack: str) -> Any:
        arguments = {**pair("plain").arguments[stack], **BAD_CONSTRUCTION[case]}
        return CLASSES[stack](pair("plain").snaps[stack], **arguments)

    snap = pair("plain").snaps["old"]
    by_class = assert_same_outcome("plain", make)
    by_function = outcome(lambda: pair("plain").player("old", **BAD_CONSTRUCTION[case]), snap)
    assert by_class == by_function[1]


def test_actions_of_another_environment_are_refused_in_the_same_words() -> None:
    for other in (gym.spaces.Discrete(50), gym.spaces.MultiDiscrete([3, 3])):
        message = assert_same_outcome(
            "plain",
            lambda stack, other=other: pair("plain").player(stack, env_spaces=(VECTOR, other)),
        )
        assert "not for this environment" in message


def test_observations_of_another_environment_are_refused_by_both() -> None:
    wrong = (gym.spaces.Box(-1.0, 1.0, (5,), np.float32), THREE)
    for stack in CLASSES:
        with pytest.raises(InvalidInputError, match=r"takes observations in .*either the policy"):
            pair("plain").player(stack, env_spaces=wrong)


def test_a_recorded_handling_of_actions_is_not_contradicted() -> None:
    snaps = {"old": policy(VECTOR, FORCES), "new": module(VECTOR, FORCES)}
    spec = snaps["new"].spec.replace(normalize_actions=True, clip_actions=False)
    snaps["new"] = snaps["new"].replace(spec=spec)
    found = {
        outcome(
            lambda stack=stack: rebuild_player(
                snaps[stack], env_spaces=(VECTOR, FORCES), normalize_actions=False
            ),
            snaps[stack],
        )
        for stack in CLASSES
    }
    assert len(found) == 1


def test_an_unrecorded_handling_of_actions_is_asked_for_and_followed() -> None:
    snaps = {"old": policy(VECTOR, FORCES), "new": module(VECTOR, FORCES)}
    spec = snaps["old"].spec.replace(normalize_actions=None, clip_actions=None)
    snaps["old"] = snaps["old"].replace(spec=spec)
    found = {
        outcome(
            lambda stack=stack: rebuild_player(snaps[stack], env_spaces=(VECTOR, FORCES)),
            snaps[stack],
        )
        for stack in CLASSES
    }
    assert len(found) == 1
    for snap in snaps.values():
        raw, scaled = (
            rebuild_player(snap, env_spaces=(VECTOR, FORCES), normalize_actions=normalize).act(OBS)
            for normalize in (False, True)
        )
        np.testing.assert_allclose(scaled, 2.0 * raw, rtol=1e-5, atol=1e-6)


def test_a_spec_that_is_told_the_environment_needs_no_arguments() -> None:
    snap = module(VECTOR, FORCES)
    spec = snap.spec.replace(
        env_observation_space=VECTOR,
        env_action_space=FORCES,
        normalize_actions=True,
        clip_actions=False,
    )
    told = rebuild_player(snap.replace(spec=spec))
    asked = rebuild_player(snap, env_spaces=(VECTOR, FORCES), normalize_actions=True)
    np.testing.assert_array_equal(told.act(OBS), asked.act(OBS))
    larger = snap.replace(weights={name: 2 * array for name, array in snap.weights.items()})
    again = rebuild_player(larger.replace(spec=spec)).act(OBS)
    assert not np.array_equal(again, told.act(OBS))


def test_a_snapshot_without_its_connectors_is_played_with_others_only() -> None:
    for stack in CLASSES:
        snap = pair("plain").snaps[stack]
        lacking = snap.replace(spec=snap.spec.replace(omitted={"connectors.agent.X": "on request"}))
        with pytest.raises(
            InvalidInputError, match=r"without \['connectors.agent.X'\].*connectors="
        ):
            rebuild_player(lacking, env_spaces=SPACES)


@pytest.mark.parametrize("connectors", [7, {"learner": []}, {"agent": 7}, "text", [3]])
def test_connectors_of_another_form_are_refused(connectors: Any) -> None:
    for stack in CLASSES:
        with pytest.raises(InvalidInputError, match="connectors: expected"):
            pair("plain").player(stack, connectors=connectors)


def test_snapshots_of_another_kind_are_refused() -> None:
    other = {"old": "new", "new": "old"}
    for stack, cls in CLASSES.items():
        for wrong in (
            pair("plain").snaps[other[stack]],
            policystore_torch.snapshot(torch.nn.Linear(2, 2)),
            "a/b",
            None,
        ):
            with pytest.raises(InvalidInputError, match="rebuild_player|expected a Snapshot"):
                cls(wrong, env_spaces=SPACES)  # type: ignore[arg-type]


def test_spaces_may_be_a_list_and_trust_a_generator() -> None:
    for stack in CLASSES:
        player = pair("plain").player(stack, env_spaces=list(SPACES), trust=iter(["mypkg."]))
        assert player.observation_space == VECTOR
        assert player.action_space == THREE
        assert player.act(OBS) in THREE


BAD_CALLS: dict[str, tuple[str, Callable[[Player], Any]]] = {
    "explore by number": ("plain", lambda p: p.act(OBS, explore=1)),  # type: ignore[arg-type]
    "explore by nothing": ("plain", lambda p: p.act(OBS, None)),  # type: ignore[arg-type]
    "another shape": ("plain", lambda p: p.act(np.zeros(5, np.float32))),
    "text": ("plain", lambda p: p.act("text")),
    "nothing": ("plain", lambda p: p.act(None)),
    "a dict": ("plain", lambda p: p.act({"a": 1})),
    "a ragged list": ("plain", lambda p: p.act([[1], 2])),
    "one observation as a batch": ("plain", lambda p: p.act_batch(OBS)),
    "one observation as a batch of a policy with memory": (
        "recurrent",
        lambda p: (p.act(OBS), p.act_batch(OBS)),
    ),
    "one observation with rewards": ("plain", lambda p: p.act_batch(OBS, rewards=[1.0])),
    "one nested observation as a batch": (
        "nested",
        lambda p: p.act_batch({"far": np.zeros(3, np.float32), "kind": 1}),
    ),
    "a batch as one observation": ("plain", lambda p: p.act(np.zeros((3, 4), np.float32))),
    "a number as a batch": ("plain", lambda p: p.act_batch(3)),
    "text as a batch": ("plain", lambda p: p.act_batch("abcd")),
    "a dict as a batch": ("plain", lambda p: p.act_batch({"a": np.zeros((2, 4))})),
    "the second of a batch": ("plain", lambda p: p.act_batch([OBS, OBS[:2]])),
    "too many rewards": ("plain", lambda p: p.act_batch([OBS], rewards=[1.0, 2.0])),
    "rewards without observations": ("plain", lambda p: p.act_batch([], rewards=[1.0])),
    "a reward that is text": ("plain", lambda p: p.act(OBS, reward="1")),  # type: ignore[arg-type]
    "a reward with axes": ("plain", lambda p: p.act(OBS, reward=np.zeros(2))),  # type: ignore[arg-type]
    "rewards as a number": ("plain", lambda p: p.act_batch([OBS], rewards=1.0)),  # type: ignore[arg-type]
    "a row that is text": ("plain", lambda p: p.reset("x")),  # type: ignore[arg-type]
    "a row that is a bool": ("plain", lambda p: (p.act(OBS), p.reset(False))),
    "a row before the first call": ("plain", lambda p: p.reset(0)),
    "a row too many": ("plain", lambda p: (p.act_batch([OBS, OBS]), p.reset(2))),
    "a row below zero": ("plain", lambda p: (p.act_batch([OBS, OBS]), p.reset(-1))),
    "fewer rows": ("recurrent", lambda p: (p.act_batch([OBS] * 3), p.act(OBS))),
    "more rows": ("recurrent", lambda p: (p.act(OBS), p.act_batch([OBS] * 3))),
    "a missing reward": ("rewarded", lambda p: (p.act(OBS), p.act(OBS))),
    "a missing reward of one row": (
        "rewarded",
        lambda p: (p.act_batch([OBS, OBS]), p.reset(0), p.act_batch([OBS, OBS])),
    ),
    "a missing key": ("nested", lambda p: p.act({"far": np.zeros(3, np.float32)})),
    "a key too many": (
        "nested",
        lambda p: p.act({"far": np.zeros(3, np.float32), "kind": 1, "more": 0}),
    ),
    "a value out of its space": (
        "nested",
        lambda p: p.act({"far": np.zeros(3, np.float32), "kind": 7}),
    ),
    "uneven arrays": (
        "nested",
        lambda p: p.act_batch({"far": np.zeros((3, 3)), "kind": np.zeros(2, np.int64)}),
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_a_bad_call_is_refused_in_the_same_words_and_changes_nothing(case: str) -> None:
    kind, call = BAD_CALLS[case]
    players = {stack: pair(kind).player(stack) for stack in CLASSES}
    assert_same_outcome(kind, lambda stack: call(players[stack]))
    for player in players.values():
        player.reset()
        player.act(player.observation_space.sample())


def single_observations() -> dict[str, tuple[gym.Space[Any], list[Any]]]:
    near = gym.spaces.Dict(
        {"a": gym.spaces.Box(-1.0, 1.0, (3,), np.float32), "b": gym.spaces.MultiBinary(3)}
    )
    return {
        "box": (VECTOR, [OBS, OBS.tolist(), tuple(OBS), torch.tensor(OBS)]),
        "image": (gym.spaces.Box(0, 255, (3, 5), np.uint8), [np.zeros((3, 5), np.uint8)]),
        "discrete": (gym.spaces.Discrete(5), [3, np.int64(3), np.array(3)]),
        "dict": (NESTED, [{"far": OBS[:3], "kind": 1}, {"far": OBS[:3], "kind": np.array(1)}]),
        "dict of equal lengths": (near, [{"a": OBS[:3], "b": np.ones(3, np.int8)}]),
        "tuple": (gym.spaces.Tuple([THREE, VECTOR]), [(1, OBS), [1, OBS]]),
    }


@pytest.mark.parametrize("case", single_observations())
@pytest.mark.parametrize("stack", CLASSES)
@pytest.mark.parametrize("kind", ["plain", "recurrent"])
def test_one_observation_as_a_batch_is_told_to_act(
    case: str, stack: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, forms = single_observations()[case]
    player = pair(kind).player(stack)
    player.act_batch([OBS, OBS])
    monkeypatch.setattr(player, "observation_space", space)
    for form in forms:
        with pytest.raises(InvalidInputError, match=r"a single observation: act\(obs\), or"):
            player.act_batch(form)


@pytest.mark.parametrize("case", single_observations())
@pytest.mark.parametrize("stack", CLASSES)
def test_a_batch_as_one_observation_is_told_to_act_batch(
    case: str, stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, (first, *_) = single_observations()[case]
    player = pair("plain").player(stack)
    monkeypatch.setattr(player, "observation_space", space)
    with pytest.raises(InvalidInputError, match=r"observation 0.*several: act_batch\(obs\)"):
        player.act([first, first])


def act_all(player: Player) -> list[Any]:
    """Calls that differ only in the form of their arguments."""
    batch = np.stack([OBS, OBS / 2])
    return [
        player.act_batch(form)
        for form in (
            [OBS, OBS / 2],
            (OBS, OBS / 2),
            iter([OBS, OBS / 2]),
            batch,
            torch.tensor(batch),
            batch.tolist(),
            batch.astype(np.float64),
        )
    ]


@pytest.mark.parametrize("stack", CLASSES)
def test_observations_come_in_several_forms(stack: str) -> None:
    expected, *others = act_all(pair("plain").player(stack))
    assert all(actions == expected for actions in others)


@pytest.mark.parametrize("stack", CLASSES)
def test_a_batch_of_nested_arrays_is_rows(stack: str) -> None:
    player = pair("nested").player(stack)
    rows = [{"far": OBS[:3] * k, "kind": np.int64(k)} for k in (0, 1)]
    arrays = {key: np.stack([row[key] for row in rows]) for key in NESTED.spaces}
    actions = player.act_batch(arrays)
    assert actions == player.act_batch(rows)
    # Flattening and preprocessing remember nothing, so any number of rows may follow.
    assert [player.act(row) for row in rows] == actions


@pytest.mark.parametrize("stack", CLASSES)
def test_no_rows_change_nothing(stack: str) -> None:
    player = pair("recurrent").player(stack)
    player.act_batch([OBS] * 2)
    assert player.act_batch([]) == player.act_batch(np.zeros((0, 4), np.float32)) == []
    assert len(player.act_batch([OBS] * 2)) == 2


@pytest.mark.parametrize("stack", CLASSES)
def test_rewards_and_rows_may_be_numpys(stack: str) -> None:
    lists, arrays = (pair("rewarded").player(stack) for _ in range(2))
    for player, rewards in ((lists, [0.5, 1.0]), (arrays, np.array([0.5, 1.0], np.float32))):
        player.act_batch([OBS, OBS])
        player.act_batch([OBS, OBS], rewards=rewards)
        player.reset(np.flatnonzero([False, True])[0])
    assert lists.act_batch([OBS, OBS], rewards=[1, 2]) == arrays.act_batch(
        [OBS, OBS], rewards=(1.0, 2.0)
    )
    lists.reset()
    lists.act(OBS, reward=3.0)  # the first of an episode: allowed, and without effect


@pytest.mark.parametrize("stack", CLASSES)
def test_a_call_that_fails_inside_asks_for_a_reset(
    stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    player: Any = pair("recurrent").player(stack)
    player.act(OBS)
    with monkeypatch.context() as patch:
        patch.setattr(player._engine, "step", lambda *_args, **_kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            player.act(OBS)
    with pytest.raises(InvalidInputError, match=r"failed halfway.*reset\(\)"):
        player.act(OBS)
    player.reset()
    player.act(OBS)


@pytest.mark.parametrize("stack", CLASSES)
def test_a_policy_without_memory_goes_on_after_a_call_that_failed_inside(
    stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    player: Any = pair("plain").player(stack)
    expected = player.act(OBS)
    with monkeypatch.context() as patch:
        patch.setattr(player._engine, "step", lambda *_args, **_kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            player.act(OBS)
    assert player.act(OBS) == expected


def test_both_remember_and_begin_anew_in_the_same_way() -> None:
    for stack in CLASSES:
        player, control = (pair("recurrent").player(stack) for _ in range(2))
        sampled = []
        for each in (player, control):
            torch.manual_seed(1)
            sampled.append([int(each.act(OBS * k, explore=True)) for k in range(20)])
        assert sampled[0] == sampled[1]
        player.reset()
        assert player.act(OBS) == pair("recurrent").player(stack).act(OBS)


def test_no_ray_is_started() -> None:
    import ray

    before = ray.is_initialized()
    for stack in CLASSES:
        pair("plain").player(stack).act(OBS)
    assert ray.is_initialized() == before


def test_a_repr_ends_with_the_digest_if_no_algorithm_is_recorded() -> None:
    for stack, cls in CLASSES.items():
        snap = pair("plain").snaps[stack]
        snap = snap.replace(spec=snap.spec.replace(algorithm=None))
        player = rebuild_player(snap, **pair("plain").arguments[stack])
        assert repr(player) == f"<{cls.__name__} of {snap.digest.short}>"
        assert repr(player.session()) == f"<session of {player!r}>"
