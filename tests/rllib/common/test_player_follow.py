"""Players that follow a tag while threads play them; policies that do not fit."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from policystore import MismatchError, PolicyStore, Snapshot, UntrustedError, Version
from policystore.errors import InvalidInputError, PolicyStoreError
from policystore.rllib import rebuild_player
from policystore.rllib.common.player import Player
from policystore.rllib.playing.following import Following
from tests.support.cells import sampled
from tests.support.constant_policies import TWO, constant_policy
from tests.support.player_pairs import OBS, VECTOR
from tests.support.waiting import until

LSTM = {"use_lstm": True, "lstm_cell_size": 8, "max_seq_len": 4}
FAST = 0.002


class Place:
    """A store whose policy ``a@1`` always plays 0 and ``a@2`` always plays 1."""

    def __init__(self, stack: str, **model: Any) -> None:
        self.stack, self.model = stack, model
        self.store = PolicyStore(f"memory://{uuid.uuid4().hex}")
        self.errors: list[Exception] = []
        self.players: list[Player] = []
        for action in (0, 1):
            self.push(constant_policy(stack, action, **model))
        self.store.tag("a@1", "t")

    def push(self, snap: Snapshot) -> Version:
        return self.store.push(snap, "a")

    def player(self, **given: Any) -> Player:
        arguments = {"env_spaces": (VECTOR, TWO), **given}
        player = rebuild_player(self.store.pull("a@1"), **arguments)
        self.players.append(player)
        return player

    def follow(self, player: Player, **given: Any) -> Player:
        options = {"interval": FAST, "on_error": self.errors.append, **given}
        return player.follow(self.store, "a@t", **options)


@pytest.fixture
def places() -> Iterator[Callable[..., Place]]:
    made: list[Place] = []

    def make(stack: str, **model: Any) -> Place:
        made.append(Place(stack, **model))
        return made[-1]

    yield make
    for place in made:
        for player in place.players:
            player.unfollow()
            if player.following is not None:
                player.following._thread.join(60)


class Crowd:
    """Threads that call a player until they are told to stop, and note what is wrong."""

    def __init__(self, player: Player, place: Place) -> None:
        self.player, self.wrong, self.calls = player, [], 0
        self.actions = {place.store.resolve(f"a@{number}"): number - 1 for number in (1, 2)}
        self.done = threading.Event()
        kinds = [self.act, self.act_batch, self.act_many, self.pinned]
        if place.model:
            kinds = [self.act_many, self.session, self.pinned_many]
        self.threads = [threading.Thread(target=self.play, args=(kind,)) for kind in kinds]

    def play(self, kind: Callable[[], bool]) -> None:
        while not self.done.is_set():
            try:
                if not kind():
                    self.wrong.append(kind.__name__)
            except Exception as error:
                self.wrong.append(repr(error))
                return
            self.calls += 1

    def act(self) -> bool:
        return self.player.act(OBS) in (0, 1)

    def act_batch(self) -> bool:
        return len(set(self.player.act_batch(np.stack([OBS] * 8)))) == 1

    def act_many(self) -> bool:
        sessions = [self.player.session() for _ in range(4)]
        acts = [self.player.act_many(dict.fromkeys(sessions, OBS)).values() for _ in range(2)]
        return all(len(set(each)) == 1 for each in acts)

    def session(self) -> bool:
        with self.player.session() as session:
            return {session.act(OBS) for _ in range(3)} <= {0, 1}

    def pinned(self) -> bool:
        with self.player.pinned() as playing:
            acts = [*self.player.act_batch([OBS] * 3), self.player.act(OBS)]
        return set(acts) == {self.actions[playing.digest]}

    def pinned_many(self) -> bool:
        sessions = [self.player.session() for _ in range(3)]
        with self.player.pinned() as playing:
            acts = self.player.act_many(dict.fromkeys(sessions, OBS)).values()
        return set(acts) == {self.actions[playing.digest]}

    def __enter__(self) -> Crowd:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()


CROWDS = [
    pytest.param("new", {}, "keep", 12, id="new"),
    pytest.param("new", {}, "keep", 50, id="new-often", marks=pytest.mark.long),
    pytest.param("old", {}, "keep", 50, id="old", marks=pytest.mark.long),
    pytest.param("new", LSTM, "keep", 50, id="new-lstm", marks=pytest.mark.long),
    pytest.param("new", LSTM, "reset", 50, id="new-lstm-reset", marks=pytest.mark.long),
    pytest.param("old", LSTM, "keep", 50, id="old-lstm", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("stack", "model", "memory", "moves"), CROWDS)
def test_while_the_tag_moves_no_call_fails_and_each_call_plays_one_policy(
    places: Callable[..., Place], stack: str, model: dict[str, Any], memory: Any, moves: int
) -> None:
    place = places(stack, **model)
    player = place.follow(place.player(), memory=memory)
    following = player.following
    with Crowd(player, place) as crowd:
        for move in range(moves):
            place.store.tag(f"a@{2 - move % 2}", "t")
            until(lambda move=move: following.changes == move + 1)
    assert crowd.wrong == []
    assert crowd.calls > moves
    assert place.errors == []
    assert player.ref == "a@1"


def test_a_player_says_what_plays_and_what_it_follows(places: Callable[..., Place]) -> None:
    place = places("new")
    player = place.player()
    assert (player.ref, player.following) == ("a@1", None)
    with place.follow(player, interval=3600.0) as same:
        assert same is player
        assert isinstance(player.following, Following)
        for text in (str(player), player._repr_html_()):
            assert "a@1" in text
            assert "every" not in text
            assert "plays a@1" in text
        with player.pinned() as playing:
            assert playing == (player.digest, "a@1")
    assert not player.following.running
    player.unfollow()
    place.player().unfollow()  # a player that never followed
    with pytest.raises(InvalidInputError, match="follow takes a PolicyStore"):
        player.follow("./policies", "a@t")  # type: ignore[arg-type]


def other_spaces(place: Place) -> Snapshot:
    wide = gym.spaces.Box(-1.0, 1.0, (6,), np.float32)
    return constant_policy(place.stack, 0, obs=wide)


def other_actions(place: Place) -> Snapshot:
    return constant_policy(place.stack, 0, act=gym.spaces.Discrete(3))


def other_stack(place: Place) -> Snapshot:
    return constant_policy({"old": "new", "new": "old"}[place.stack], 0)


def other_class(place: Place) -> Snapshot:
    snap = constant_policy(place.stack, 0)
    spec = snap.spec.replace(cls="somebody.elses:Class")
    return Snapshot(weights=snap.weights, spec=spec, state=snap.state)


MISFITS: dict[str, tuple[Callable[[Place], Snapshot], type[PolicyStoreError], str]] = {
    "other observations": (other_spaces, InvalidInputError, "observations"),
    "other actions": (other_actions, InvalidInputError, "action"),
    "the other stack": (other_stack, InvalidInputError, "stack"),
    "a class that is not trusted": (other_class, UntrustedError, "somebody"),
}


@pytest.mark.parametrize("stack", ["new", pytest.param("old", marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "case", sampled(MISFITS, "other observations", "a class that is not trusted")
)
def test_a_policy_that_does_not_fit_is_told_and_the_old_one_plays_on(
    places: Callable[..., Place], stack: str, case: str
) -> None:
    make, kind, message = MISFITS[case]
    place = places(stack)
    misfit = place.push(make(place))
    player = place.follow(place.player())
    place.store.tag(misfit.ref, "t")
    until(lambda: place.errors)
    assert isinstance(place.errors[0], kind)
    assert message in str(place.errors[0])
    assert player.act(OBS) == 0
    assert player.ref == "a@1"
    assert player.following.error is place.errors[0]
    place.store.tag("a@2", "t")
    until(lambda: player.following.changes == 1)
    assert player.act(OBS) == 1
    assert player.following.error is None
    assert len(place.errors) == 1
    player.unfollow()
    place.store.tag(misfit.ref, "t")
    with pytest.raises(kind):
        player.follow(place.store, "a@t")
    assert player.ref == "a@2"


def recorded(snap: Snapshot, obs: gym.Space[Any]) -> Snapshot:
    """Return a snapshot that records the spaces of its environment, as one of an Algorithm does."""
    omitted = {name: why for name, why in snap.spec.omitted.items() if "env" not in name}
    spec = snap.spec.replace(
        env_observation_space=obs,
        env_action_space=TWO,
        normalize_actions=True,
        clip_actions=False,
        omitted=omitted,
    )
    return Snapshot(weights=snap.weights, spec=spec, state=snap.state)


def test_recorded_spaces_are_compared_too(places: Callable[..., Place]) -> None:
    place = places("new")
    wide = gym.spaces.Box(-1.0, 1.0, (6,), np.float32)
    versions = [
        place.push(recorded(constant_policy("new", 1, obs=obs), obs)) for obs in (VECTOR, wide)
    ]
    player = rebuild_player(place.store.pull(versions[0]))
    place.players.append(player)
    place.store.tag(versions[0].ref, "t")
    place.follow(player)
    place.store.tag(versions[1].ref, "t")
    until(lambda: place.errors)
    assert isinstance(place.errors[0], MismatchError)
    assert "is for another environment" in str(place.errors[0])
    assert player.act(OBS) == 1
    assert player.ref == versions[0].ref


@pytest.mark.parametrize("memory", ["keep", "reset"])
def test_sessions_of_a_policy_with_memory_are_kept_or_begin_anew(
    places: Callable[..., Place], memory: Any
) -> None:
    place = places("new", **LSTM)
    player = place.follow(place.player(), memory=memory)
    session = player.session()
    assert session.act(OBS) == 0
    place.store.tag("a@2", "t")
    until(lambda: player.following.changes == 1)
    assert (session._slot._era is player._era) == (memory == "keep")
    assert session.act(OBS) == 1
    assert player.ref == "a@2"


def test_calls_go_on_while_a_policy_is_fetched_and_rebuilt(
    places: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = places("new")
    player = place.follow(place.player())
    for holder, name in ((place.store, "pull"), (player, "_rebuild")):
        begun, go_on, call = threading.Event(), threading.Event(), getattr(holder, name)

        def slow(*args: Any, begun=begun, go_on=go_on, call=call) -> Any:
            begun.set()
            assert go_on.wait(60)
            return call(*args)

        monkeypatch.setattr(holder, name, slow)
        before, changes = player.ref, player.following.changes
        place.store.tag("a@2" if before == "a@1" else "a@1", "t")
        assert begun.wait(60)
        assert player.act(OBS) == player.act_batch([OBS])[0] == int(before[-1]) - 1
        with player.pinned() as playing:
            assert playing.ref == before
        go_on.set()
        until(lambda changes=changes: player.following.changes == changes + 1)
        assert player.ref != before


def test_a_policy_that_remembers_in_another_form_needs_a_reset(
    places: Callable[..., Place],
) -> None:
    place = places("new", **LSTM)
    larger = place.push(constant_policy("new", 1, **{**LSTM, "lstm_cell_size": 16}))
    player = place.follow(place.player())
    player.session().act(OBS)
    place.store.tag(larger.ref, "t")
    until(lambda: place.errors)
    assert "memory='reset'" in str(place.errors[0])
    assert player.ref == "a@1"
    place.follow(player, memory="reset")
    assert player.ref == "a@3"
    assert player.session().act(OBS) == 1


def test_a_copy_does_not_follow(places: Callable[..., Place]) -> None:
    place = places("new")
    player = place.follow(place.player())
    for made in (copy.deepcopy(player), copy.copy(player), pickle.loads(pickle.dumps(player))):
        assert made.following is None
        assert made.ref == "a@1"
    place.store.tag("a@2", "t")
    until(lambda: player.act(OBS) == 1)
    assert made.act(OBS) == 0


def test_a_player_that_follows_is_freed_with_its_thread(places: Callable[..., Place]) -> None:
    place = places("new")
    player = place.follow(place.player())
    place.store.tag("a@2", "t")
    gone, following = weakref.ref(player), player.following
    until(lambda: following.changes == 1)
    thread = following._thread
    del player
    place.players.clear()
    until(lambda: gc.collect() is not None and gone() is None)
    thread.join(60)
    assert not thread.is_alive()
