"""A player that follows a ref: changes, errors, its end; with a player that only has a digest."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from policystore import MismatchError, NotFoundError, PolicyStore, Snapshot, Version
from policystore.backends.memory import MemoryBackend
from policystore.errors import IntegrityError, InvalidInputError, PolicyStoreError, StorageError
from policystore.rllib.playing.following import Following, FollowSettings, _Retry
from policystore.rllib.playing.gate import Gate
from policystore.testing.storage import Intercepted
from tests.support.waiting import until

Make = Callable[..., Snapshot]


class FakePlayer:
    """Stands in the place of a player; it refuses to play some digests."""

    def __init__(self, snap: Snapshot) -> None:
        self._snap = snap
        self._gate = Gate()
        self._following: Following | None = None
        self.digest = snap.digest
        self.refused: dict[Any, Exception] = {}
        self.memories: list[str] = []

    def _rebuild(self, snap: Snapshot) -> FakePlayer:
        if snap.digest in self.refused:
            raise self.refused[snap.digest]
        return FakePlayer(snap)

    def _adopt(self, other: FakePlayer, memory: str) -> None:
        self._snap, self.digest = other._snap, other.digest
        self.memories.append(memory)


class Place:
    """A store with three versions, a tag on the first, and players that follow the tag."""

    def __init__(self, make: Make) -> None:
        self.inner = MemoryBackend(uuid.uuid4().hex)
        self.other = PolicyStore.over(self.inner, cache=False)  # another process
        self.versions = [self.other.push(make(seed), "a") for seed in range(3)]
        self.other.tag("a@1", "t")
        self.backend: Any = Intercepted(self.inner)
        self.store = PolicyStore.over(self.backend, cache=False)
        self.player = FakePlayer(make(9))
        self.followings: list[Following] = []
        self.errors: list[Exception] = []
        self.changes: list[str] = []

    def follow(self, ref: str = "a@t", player: FakePlayer | None = None, **given: Any) -> Following:
        options: dict[str, Any] = {
            "interval": 0.002,
            "memory": "keep",
            "wait": False,
            "on_change": lambda version: self.changes.append(version.ref),
            "on_error": self.errors.append,
            **given,
        }
        following = Following(player or self.player, self.store, ref, FollowSettings(**options))
        self.followings.append(following)
        following.start()
        return following

    def tag(self, number: int) -> Version:
        return self.other.tag(f"a@{number}", "t")

    def break_objects(self, error: PolicyStoreError | None) -> None:
        def get(key: str, **options: Any) -> Any:
            if error is not None and key.startswith("objects/"):
                raise error
            return self.inner.get(key, **options)

        self.backend.get = get


@pytest.fixture
def place(make_snapshot: Make) -> Iterator[Place]:
    place = Place(make_snapshot)
    yield place
    for following in place.followings:
        following.stop()
    for following in place.followings:
        if following._thread.ident is not None:
            following._thread.join(60)
            assert not following._thread.is_alive()


def test_a_player_plays_what_the_ref_means_when_it_begins_to_follow(place: Place) -> None:
    following = place.follow(memory="reset")
    assert place.player.digest == place.versions[0].digest
    assert place.player._snap.ref == "a@1"
    assert place.player.memories == ["reset"]
    assert (following.ref, following.changes, following.error) == ("a@t", 1, None)
    assert following.running
    assert "plays a@1" in repr(following)


def test_a_player_takes_over_each_policy_that_the_tag_moves_to(place: Place) -> None:
    following = place.follow()
    for number in (2, 3, 1):
        place.tag(number)
        until(lambda number=number: place.changes[-1:] == [f"a@{number}"])
        assert place.player.digest == place.versions[number - 1].digest
        assert following.version.number == number
    assert following.changes == 4
    assert place.player.memories == ["keep"] * 4
    assert following.checked is not None
    assert place.errors == []


def test_a_version_with_the_same_policy_changes_only_the_ref(
    place: Place, make_snapshot: Make
) -> None:
    following = place.follow()
    place.other.push(make_snapshot(0), "a")
    place.tag(4)
    until(lambda: following.version.number == 4)
    assert place.player._snap.ref == "a@4"
    assert (following.changes, place.changes) == (1, [])


def test_a_ref_that_cannot_be_followed_changes_nothing(place: Place) -> None:
    before = place.player.digest
    place.player.refused[place.versions[0].digest] = MismatchError("other spaces")
    threads = threading.active_count()
    for ref, error in (
        ("a@u", NotFoundError),
        ("b", NotFoundError),
        ("a@1", InvalidInputError),
        ("a@t", MismatchError),
    ):
        with pytest.raises(error):
            place.follow(ref)
    place.break_objects(StorageError("down"))
    with pytest.raises(StorageError):
        place.follow("a")
    assert place.player.digest == before
    assert threading.active_count() == threads


def test_a_player_can_wait_for_a_ref_that_means_nothing_yet(place: Place) -> None:
    before = place.player.digest
    following = place.follow("a@later", wait=True)
    until(lambda: place.errors)
    assert isinstance(following.error, NotFoundError)
    assert place.player.digest == before
    place.other.tag("a@2", "later")
    until(lambda: place.changes == ["a@2"])
    assert following.error is None


@pytest.mark.parametrize("error", [MismatchError("other spaces"), RuntimeError("of a class")])
def test_a_policy_that_does_not_fit_is_told_and_the_old_one_plays_on(
    place: Place, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("policystore.rllib.playing.following._FIRST_RETRY", 3600.0)
    following = place.follow()
    place.player.refused[place.versions[1].digest] = error
    place.tag(2)
    until(lambda: place.errors)
    for _ in range(3):  # looks, which do not rebuild the policy
        checked = following.checked
        until(lambda checked=checked: following.checked > checked)
    assert place.errors == [error]
    assert following.error is error
    assert following.version.number == 1
    assert place.player.digest == place.versions[0].digest
    place.tag(3)
    until(lambda: place.changes[-1:] == ["a@3"])
    assert following.error is None


@pytest.mark.parametrize("error", [InvalidInputError("a race"), RuntimeError("no memory")])
def test_a_policy_that_could_not_be_rebuilt_is_rebuilt_again(
    place: Place, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("policystore.rllib.playing.following._FIRST_RETRY", 0.001)
    following = place.follow()
    place.player.refused[place.versions[1].digest] = error
    place.tag(2)
    until(lambda: len(place.errors) > 2)
    assert following.error is error
    place.player.refused.clear()
    until(lambda: place.changes[-1:] == ["a@2"])
    assert following.error is None


def test_while_a_policy_waits_to_be_fetched_again_another_one_is_taken_at_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("policystore.rllib.playing.following._FIRST_RETRY", 3600.0)
    monkeypatch.setattr("policystore.rllib.playing.following._LONGEST_RETRY", 3600.0)
    following = place.follow()
    place.break_objects(StorageError("down"))
    place.tag(2)
    until(lambda: place.errors)
    place.break_objects(None)
    place.tag(3)
    until(lambda: place.changes[-1:] == ["a@3"])
    assert following.error is None


def test_the_pauses_before_a_policy_is_tried_again_double_up_to_the_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 5.0)
    for uniform, wanted in ((1.0, [1, 2, 4, 8, 16, 32, 60, 60]), (0.75, [0.75, 1.5, 3, 6])):
        monkeypatch.setattr("random.uniform", lambda low, high, value=uniform: value)
        retry = _Retry()
        assert retry.left <= 0.0
        pauses = []
        for _ in wanted:
            retry.failed(60.0)
            pauses.append(retry.left)
        assert pauses == wanted
    for _ in range(2000):
        retry.failed(3600.0)
    assert retry.left == 2700.0


@pytest.mark.parametrize("error", [StorageError("down"), IntegrityError("damaged")])
def test_a_policy_that_cannot_be_fetched_is_fetched_again(
    place: Place, error: PolicyStoreError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("policystore.rllib.playing.following._FIRST_RETRY", 0.001)
    following = place.follow()
    place.break_objects(error)
    place.tag(2)
    until(lambda: len(place.errors) > 2)
    assert type(following.error) is type(error)
    assert place.player.digest == place.versions[0].digest
    place.break_objects(None)
    until(lambda: place.changes[-1:] == ["a@2"])
    assert following.error is None


def test_failed_looks_are_told_and_the_player_follows_on(place: Place) -> None:
    following = place.follow()

    def down(key: str) -> int:
        raise StorageError("down")

    place.backend.size = down
    until(lambda: len(place.errors) > 2)
    assert isinstance(following.error, StorageError)
    del place.backend.size
    place.tag(2)
    until(lambda: place.changes[-1:] == ["a@2"])


def test_without_functions_errors_are_logged_once(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("policystore.rllib.playing.following._FIRST_RETRY", 0.001)
    following = place.follow(on_error=None, on_change=None)
    place.break_objects(StorageError("the server is down"))
    place.tag(2)
    until(lambda: following.error is not None)
    checked = following.checked
    until(lambda: following.checked > checked)
    (record,) = caplog.records
    assert "a@t means a@2, which cannot be played; the player goes on with a@1" in record.message
    assert "StorageError: the server is down" in record.message


def test_an_error_of_the_callers_function_is_logged_and_ends_nothing(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: object) -> None:
        raise ValueError("a typo")

    following = place.follow(on_change=fails, on_error=fails)
    place.tag(2)
    until(lambda: following.changes == 2)
    place.player.refused[place.versions[2].digest] = MismatchError("other spaces")
    place.tag(3)
    until(lambda: following.error is not None)
    until(lambda: len(caplog.records) == 2)
    assert "on_change= has raised ValueError: a typo" in caplog.records[0].message
    assert "on_error= has raised ValueError: a typo" in caplog.records[1].message
    place.tag(1)
    until(lambda: following.changes == 3)


def test_after_stop_the_player_does_not_change_any_more(place: Place) -> None:
    following = place.follow(interval=3600.0)
    assert following.running
    following.stop()
    assert not following.running
    assert "ended, played a@1" in repr(following)
    following._thread.join(60)
    assert not following._thread.is_alive()


def test_a_change_that_comes_after_stop_is_dropped(place: Place) -> None:
    loading, go_on = threading.Event(), threading.Event()
    following = place.follow()
    rebuild = place.player._rebuild

    def slow(snap: Snapshot) -> FakePlayer:
        loading.set()
        assert go_on.wait(60)
        return rebuild(snap)

    place.player._rebuild = slow  # type: ignore[method-assign]
    place.tag(2)
    assert loading.wait(60)
    following.stop()
    go_on.set()
    following._thread.join(60)
    assert place.player.digest == place.versions[0].digest
    assert following.changes == 1


def test_a_second_follow_replaces_the_first_only_if_it_succeeds(place: Place) -> None:
    first = place.follow()
    with pytest.raises(NotFoundError):
        place.follow("a@u")
    assert place.player._following is first
    assert first.running
    second = place.follow("a", interval=3600.0)
    assert place.player._following is second
    assert not first.running
    first._thread.join(60)
    assert place.player.digest == place.versions[2].digest
    third = place.follow("a@later", wait=True)
    assert place.player._following is third
    assert not second.running


def test_the_thread_ends_with_the_player_also_after_an_error(place: Place) -> None:
    player: FakePlayer | None = FakePlayer(place.player._snap)
    following = place.follow(player=player)
    player.refused[place.versions[1].digest] = MismatchError("other spaces")
    place.tag(2)
    until(lambda: place.errors)
    gone = weakref.ref(player)
    player = None
    until(lambda: gc.collect() is not None and gone() is None)
    following._thread.join(60)
    assert not following._thread.is_alive()
    assert not following.running


def test_a_block_holds_up_a_change_and_a_change_holds_up_later_blocks(place: Place) -> None:
    following = place.follow()
    gate = place.player._gate
    entered = threading.Event()

    def later() -> None:
        with gate.block():
            entered.set()

    with gate.block():
        place.tag(2)
        until(lambda: gate._in_this_process().is_changing)
        with gate.block():  # the thread of a block is let in
            assert place.player.digest == place.versions[0].digest
        other = threading.Thread(target=later)
        other.start()
        assert not entered.wait(0.02)
        assert following.changes == 1
        with pytest.raises(InvalidInputError, match=r"inside of `with player.pinned\(\)`"):
            place.follow()
    other.join(60)
    assert entered.is_set()
    until(lambda: place.changes[-1:] == ["a@2"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("uses_the_gate", [True, False])
def test_a_forked_process_that_leaves_a_block_of_its_parent_can_change(uses_the_gate: bool) -> None:
    gate = Gate()
    with gate.block():
        child = os.fork()
        if not child and uses_the_gate:
            with gate.block():
                pass
    if not child:
        signal.alarm(20)  # ends a child that waits for ever
        with gate.block():
            pass
        with gate.change():
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with gate.change():
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process_does_not_follow_and_its_gate_is_free(place: Place) -> None:
    following = place.follow()
    with place.player._gate.block():
        child = os.fork()
        if not child:
            with place.player._gate.change():
                pass
            os._exit(0 if not following.running and "ended" in repr(following) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert following.running
    place.tag(2)
    until(lambda: following.changes == 2)


def test_a_program_that_follows_ends_at_its_end(tmp_path: Any, make_snapshot: Make) -> None:
    store = PolicyStore(tmp_path / "store")
    store.push(make_snapshot(0), "a")
    program = """
        import atexit, sys
        atexit.register(lambda: print("thread alive:", following._thread.is_alive()))
        sys.modules["ray"] = sys.modules["torch"] = None  # following needs neither
        import importlib.util, types
        for name in ("policystore.rllib", "policystore.rllib.playing"):
            package = types.ModuleType(name)
            import policystore, os
            package.__path__ = [os.path.join(policystore.__path__[0], *name.split(".")[1:])]
            sys.modules[name] = package
        from policystore.rllib.playing.following import Following, FollowSettings
        from policystore.rllib.playing.gate import Gate

        store = policystore.PolicyStore(sys.argv[1])
        class Player:
            _snap, _gate, _following = store.pull("a"), Gate(), None
            digest = _snap.digest
        player = Player()
        following = Following(player, store, "a", FollowSettings(3600.0, "keep", False, None, None))
        following.start()
        print(following.running, following.version.ref)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "store")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    out = "True a@1\nthread alive: False\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, out, "")


def test_settings_of_the_wrong_form_are_refused(place: Place) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"memory": "forget"}, "memory is 'keep' or 'reset'"),
        ({"interval": 0}, "interval is a number of seconds"),
        ({"on_change": "log"}, "on_change is a function"),
        ({"on_error": 1}, "on_error is a function"),
        ({"wait": 1}, "wait is True or False"),
    ]
    for given, message in wrong:
        with pytest.raises(InvalidInputError, match=message):
            place.follow(**given)
