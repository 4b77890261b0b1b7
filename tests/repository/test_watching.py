"""Watches: what they yield, what they ask the storage for, and what they tell of failures."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest

from policystore import InvalidInputError, NotFoundError, PolicyStore, Snapshot, Version
from policystore.backends.memory import MemoryBackend
from policystore.errors import FormatError, StorageError
from policystore.format.keys import tag_key, version_key
from policystore.repository.watching import Watch
from policystore.testing.storage import Intercepted
from tests.support.waiting import until

Make = Callable[..., Snapshot]
FAST = 1e-4  # seconds between two looks


class Place:
    """A store with three versions of a name, whose tag is on the first; it counts requests."""

    def __init__(self, make: Make) -> None:
        self.make = make
        self.inner = MemoryBackend(uuid.uuid4().hex)
        self.other = PolicyStore.over(self.inner, cache=False)  # another process
        for seed in range(3):
            self.other.push(make(seed), "a")
        self.other.tag("a@1", "t")
        self.backend: Any = Intercepted(self.inner)
        self.backend.is_remote, self.backend.parallel = True, 8
        self.store = PolicyStore.over(self.backend, cache=False)
        self.requests: list[str] = []
        self.broken: Exception | None = None
        for call in ("get", "head", "size", "keys", "entries", "prefixes"):
            setattr(self.backend, call, self._counted(call))

    def _counted(self, call: str) -> Callable[..., Any]:
        def counted(key: str, *args: Any, **options: Any) -> Any:
            self.requests.append(f"{call} {key}")
            if self.broken is not None:
                raise self.broken
            return getattr(self.inner, call)(key, *args, **options)

        return counted

    def watch(self, ref: str, **options: Any) -> Watch:
        """Watch with short pauses; a test that waits for what never comes ends after a while."""
        return self.store.watch(ref, **{"interval": FAST, "timeout": 20.0, **options})

    def push(self, seed: int) -> Version:
        return self.other.push(self.make(seed), "a")


@pytest.fixture
def place(make_snapshot: Make) -> Place:
    return Place(make_snapshot)


def numbers(versions: Iterator[Version], count: int) -> list[int | None]:
    return [version.number for version in islice(versions, count)]


def looks_of(watch: Watch, place: Place, count: int) -> list[list[str]]:
    """Return the requests of each of some looks that find nothing new."""
    made = []
    for _ in range(count):
        place.requests.clear()
        assert watch._look() is None
        made.append(list(place.requests))
    return made


# What is yielded


def test_a_watch_of_a_tag_yields_the_present_version_and_then_each_move(place: Place) -> None:
    watch = place.watch("a@t")
    assert numbers(watch, 1) == [1]
    for number in (2, 1, 3):
        place.other.tag(f"a@{number}", "t")
        assert numbers(watch, 1) == [number]
    assert watch.checked is not None
    assert watch.checked.tzinfo is not None
    assert watch.error is None


def test_a_watch_of_a_name_yields_pushed_versions_and_what_a_deletion_leaves(place: Place) -> None:
    watch = place.watch("a")
    assert numbers(watch, 1) == [3]
    place.push(3)
    assert numbers(watch, 1) == [4]
    place.other.delete("a@4")
    assert numbers(watch, 1) == [3]
    place.other.restore("a@4")
    assert numbers(watch, 1) == [4]


def test_of_several_moves_between_two_looks_only_the_last_is_yielded(place: Place) -> None:
    watch = place.watch("a@t", timeout=0.2)
    next(watch)
    for number in (2, 1, 3):
        place.other.tag(f"a@{number}", "t")
    assert numbers(watch, 5) == [3]


def test_a_move_back_between_two_looks_and_a_move_to_the_same_version_are_not_yielded(
    place: Place,
) -> None:
    watch = place.watch("a@t", timeout=0.2)
    next(watch)
    place.other.tag("a@2", "t")
    place.other.tag("a@1", "t")
    place.other.protect("a", "t")  # a record of a move to the same version
    assert numbers(watch, 1) == []


def test_a_move_to_a_version_with_the_same_policy_is_yielded(place: Place) -> None:
    watch = place.watch("a@t")
    first = next(watch)
    place.push(0)
    place.other.tag("a@4", "t")
    second = next(watch)
    assert (second.number, second.digest) == (4, first.digest)


def test_the_present_version_can_be_left_out(place: Place) -> None:
    watch = place.watch("a@t", timeout=0.1, present=False)
    assert numbers(watch, 1) == []
    moved = place.watch("a@t", present=False)
    assert moved._look() is None
    place.other.tag("a@2", "t")
    assert numbers(moved, 1) == [2]


def test_a_change_during_the_look_up_is_found_by_the_next_look(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = place.watch("a@t")
    look_up = watch._resolver.version

    def tagged_meanwhile(ref: Any) -> Version:
        version = look_up(ref)
        if version.number == 1:
            place.other.tag("a@2", "t")
        return version

    monkeypatch.setattr(watch._resolver, "version", tagged_meanwhile)
    assert numbers(watch, 2) == [1, 2]


def test_a_store_that_was_made_anew_is_noticed(place: Place) -> None:
    watch = place.watch("a@t")
    next(watch)
    for key in list(place.inner.keys("")):
        place.inner.delete(key)
    for seed in (7, 8):
        place.push(seed)
    place.other.tag("a@2", "t")  # a move with the same number as before
    assert numbers(watch, 1) == [2]


# A ref that means nothing


@pytest.mark.parametrize("ref", ["a", "a@t"])
def test_a_lost_record_does_not_hide_the_later_ones_for_ever(place: Place, ref: str) -> None:
    watch = place.watch(ref)
    next(watch)
    for seed in (3, 4):
        place.push(seed)
        place.other.tag(f"a@{seed + 1}", "t")
    place.inner.delete(version_key("a", 4))
    place.inner.delete(tag_key("a", "t", 2))
    looks = looks_of(watch, place, 97)
    assert max(map(len, looks)) == 2
    found = watch._look()
    assert found is not None
    assert found.number == 5


def test_a_ref_that_means_nothing_is_an_error_at_the_start(place: Place) -> None:
    for ref, message in (
        ("a@tt", "has no tag 'tt'"),
        ("b", "no name 'b'"),
        ("b@t", "no name 'b'"),
    ):
        watch = place.watch(ref)
        with pytest.raises(NotFoundError, match=message):
            next(watch)
        assert list(watch) == []


@pytest.mark.parametrize("ref", ["new", "new@t", "a@u"])
def test_a_watch_can_wait_for_what_is_not_there_yet(place: Place, ref: str) -> None:
    told: list[Exception] = []
    watch = place.watch(ref, wait=True, present=False, on_error=told.append)
    assert looks_of(watch, place, 3)
    assert [type(error) for error in told] == [NotFoundError]
    assert isinstance(watch.error, NotFoundError)
    version = place.other.push(place.make(9), ref.partition("@")[0])
    if "@" in ref:
        place.other.tag(version.ref, ref.partition("@")[2])
    assert next(watch).digest == version.digest


GAPS: dict[str, tuple[Callable[[PolicyStore], object], Callable[[PolicyStore], object], str]] = {
    "untag": (lambda s: s.untag("a", "t"), lambda s: s.tag("a@2", "t"), "has no tag"),
    "delete": (
        lambda s: s.delete("a@1", force=True),
        lambda s: s.tag("a@2", "t"),
        "points to a deleted version",
    ),
    "delete_name": (
        lambda s: s.delete_name("a", force=True),
        lambda s: s.restore("a@2") and s.tag("a@2", "t"),
        "points to a deleted version",
    ),
}


@pytest.mark.parametrize("case", GAPS)
def test_a_tag_that_means_nothing_for_a_while_is_told_once(place: Place, case: str) -> None:
    end, begin, message = GAPS[case]
    told: list[Exception] = []
    watch = place.watch("a@t", on_error=told.append)
    next(watch)
    end(place.other)
    for _ in range(12):
        assert watch._look() is None
    assert {len(look) for look in looks_of(watch, place, 3)} == {2}
    if case == "delete":
        place.other.delete("a@3")  # the ref is looked up again, and still means nothing
    for _ in range(12):
        assert watch._look() is None
    assert len(told) == 1
    assert message in str(told[0])
    assert isinstance(watch.error, NotFoundError)
    place.broken = StorageError("down")
    assert watch._look() is None
    place.broken = None
    assert watch._look() is None
    assert isinstance(watch.error, NotFoundError)
    assert len(told) == 2
    begin(place.other)
    assert numbers(watch, 1) == [2]
    assert watch.error is None


def test_a_version_that_is_restored_while_its_tag_meant_nothing_is_not_yielded_again(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    watch = place.watch("a@t", timeout=0.2)
    next(watch)
    place.other.delete("a@1", force=True)
    for _ in range(12):
        assert watch._look() is None
    assert "watching a@t: the ref means nothing now" in caplog.text
    place.other.restore("a@1")
    assert numbers(watch, 1) == []
    assert watch.error is None


# Requests


def test_a_look_at_a_tag_is_one_small_request_and_at_times_two(place: Place) -> None:
    watch = place.watch("a@t")
    next(watch)
    looks = looks_of(watch, place, 40)
    assert {len(look) for look in looks} == {1, 2}
    assert sum(map(len, looks)) == 48
    assert all("size names/a/@tags/t/0000000002.json" in look for look in looks)


def test_a_look_at_a_name_is_two_small_requests(place: Place) -> None:
    watch = place.watch("a")
    next(watch)
    looks = looks_of(watch, place, 20)
    assert {len(look) for look in looks} == {2}
    assert all("size names/a/@versions/0000000004.json" in look for look in looks)


def test_a_look_does_not_cost_more_after_many_moves(place: Place) -> None:
    for number in range(2, 60):
        place.other.tag(f"a@{1 + number % 3}", "t")
    watch = place.watch("a@t")
    next(watch)
    assert len(place.requests) < 14
    assert max(len(look) for look in looks_of(watch, place, 10)) == 2
    place.requests.clear()
    place.other.tag("a@1", "t")
    assert numbers(watch, 1) == [1]
    assert len(place.requests) < 22


# Failures


def test_failures_are_told_and_looks_go_on(place: Place) -> None:
    told: list[Exception] = []
    watch = place.watch("a@t", on_error=told.append)
    next(watch)
    place.broken = StorageError("the server is down")
    for _ in range(3):
        assert watch._look() is None
    assert told == [place.broken] * 3
    assert watch.error is place.broken
    place.other.tag("a@2", "t")
    place.broken = None
    assert numbers(watch, 1) == [2]
    assert watch.error is None


def test_a_failure_between_the_look_and_the_look_up_loses_no_change(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = place.watch("a@t", on_error=lambda error: None)
    next(watch)
    place.other.tag("a@2", "t")
    look_up, failures = watch._resolver.version, [StorageError("lost")]

    def fails_once(ref: Any) -> Version:
        if failures:
            raise failures.pop()
        return look_up(ref)

    monkeypatch.setattr(watch._resolver, "version", fails_once)
    assert numbers(watch, 1) == [2]


def test_without_a_function_the_first_failure_is_logged(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    watch = place.watch("a@t")
    next(watch)
    for _ in range(2):
        place.broken = StorageError("the server is down")
        for _ in range(3):
            assert watch._look() is None
        place.broken = None
        assert watch._look() is None
    logged = [record.message for record in caplog.records]
    text = "watching a@t: a look failed, and will be tried again: the server is down"
    assert logged == [text] * 2


def test_failures_for_too_long_are_raised(place: Place) -> None:
    told: list[Exception] = []
    watch = place.watch("a@t", give_up_after=0.05, on_error=told.append)
    next(watch)
    place.broken = StorageError("the server is down")
    with pytest.raises(StorageError, match="the server is down"):
        next(watch)
    assert told
    assert list(watch) == []


def test_a_first_look_that_fails_is_raised_or_tried_again(place: Place) -> None:
    place.broken = FormatError("a newer format")
    with pytest.raises(FormatError):
        next(place.store.watch("a@t"))
    watch = place.watch("a@t", wait=True, on_error=lambda error: None)
    assert watch._look() is None
    place.broken = None
    assert numbers(watch, 1) == [1]


def test_pauses_double_up_to_a_minute_and_differ(place: Place) -> None:
    watch = place.store.watch("a@t", interval=4.0)
    assert watch._delay() == 0.0
    watch._look()
    firsts = [watch._delay() for _ in range(200)]
    assert 0.0 <= min(firsts) < 1.0
    assert 3.0 < max(firsts) < 4.0
    watch._look()
    usual = [watch._delay() for _ in range(200)]
    assert 3.0 <= min(usual) < 3.5
    assert 4.5 < max(usual) <= 5.0
    watch._failures = 2
    assert all(12.0 <= watch._delay() <= 20.0 for _ in range(50))
    watch._failures = 2000
    assert all(45.0 <= watch._delay() <= 75.0 for _ in range(50))


# The end


def test_a_watch_ends_after_its_timeout_and_with_timeout_0_after_one_look(place: Place) -> None:
    assert numbers(place.store.watch("a@t", interval=60.0, timeout=0.05), 2) == [1]
    watch = place.watch("a@t", timeout=0.0)
    assert numbers(watch, 2) == [1]
    assert watch._looks == 1


def test_close_wakes_a_waiting_thread_at_once(place: Place) -> None:
    with place.store.watch("a@t", interval=3600.0, present=False) as watch:
        yielded: list[Version] = []
        thread = threading.Thread(target=lambda: yielded.extend(watch), daemon=True)
        began = time.monotonic()
        thread.start()
        until(lambda: watch.checked is not None)
        assert "every 3600 s" in repr(watch)
    thread.join(60.0)
    assert not thread.is_alive()
    assert time.monotonic() - began < 1800.0
    assert yielded == []
    assert repr(watch) == "<Watch of 'a@t', closed>"
    assert list(watch) == []


def test_arguments_of_the_wrong_form_are_refused_before_anything_is_asked(place: Place) -> None:
    version = place.other._resolver.read_version("a", 1)
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        ("a@1", {}, "'a@1' always means the same policy"),
        (version, {}, "'a@1' always means the same policy"),
        (version.digest, {}, "always means the same policy"),
        (str(version.digest)[:20], {}, "always means the same policy"),
        ("a@@", {}, "not a ref"),
        ("a", {"interval": 0}, "interval is a number of seconds, more than 0, not 0"),
        ("a", {"interval": float("nan")}, "interval is"),
        ("a", {"interval": True}, "interval is"),
        ("a", {"interval": "5"}, "interval is"),
        ("a", {"timeout": -1}, "timeout is a number of seconds, at least 0"),
        ("a", {"give_up_after": float("inf")}, "give_up_after is"),
        ("a", {"present": 1}, "present is True or False"),
        ("a", {"wait": None}, "wait is True or False"),
        ("a", {"on_error": "log"}, "on_error is a function"),
    ]
    for ref, options, message in wrong:
        with pytest.raises(InvalidInputError, match=message):
            place.store.watch(ref, **options)
    assert place.requests == []
    place.store.watch("a@latest", timeout=None, give_up_after=None)
