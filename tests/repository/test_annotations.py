"""Annotations when answers are lost, when others write, and when a store is hostile or damaged."""

from __future__ import annotations

import datetime
import secrets
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import pytest

from policystore import (
    Annotation,
    FormatError,
    InvalidInputError,
    NotFoundError,
    PolicyStore,
    Snapshot,
    StorageError,
)
from policystore.backends.base import Backend
from policystore.backends.memory import MemoryBackend
from policystore.format.keys import annotation_key, annotations_prefix, version_key
from policystore.repository.lookup import annotations as lookup
from policystore.repository.lookup.annotations import PackedAnnotations
from policystore.testing.storage import Intercepted
from tests.support.faults import FaultyBackend, Plan

Make = Callable[..., Snapshot]
OTHER = "cd" * 16


class Remote(MemoryBackend):
    """A memory that says that it is remote, and takes several calls at once."""

    is_remote = True  # type: ignore[assignment]
    parallel = 16  # type: ignore[assignment]


@pytest.fixture
def backend() -> Backend:
    return Remote(secrets.token_hex(8))


@pytest.fixture
def store(backend: Backend, make_snapshot: Make) -> PolicyStore:
    store = PolicyStore.over(backend, cache=False)
    for seed in range(3):
        store.push(make_snapshot(seed), "a")
    return store


def over(backend: object) -> PolicyStore:
    return PolicyStore.over(cast(Backend, backend), cache=False)


def creations(backend: FaultyBackend) -> int:
    """Return at which call of a backend ``annotate("a@1")`` creates its record."""
    backend.follow(None)
    over(backend).annotate("a@1", note="found")
    return backend._count - 1


def put(backend: Backend, annotation: Annotation, **place: Any) -> str:
    """Write an annotation under its key, or under the key of another place."""
    at = {"name": annotation.name, "number": annotation.number, "nonce": annotation.nonce} | place
    key = annotation_key(**at)
    backend.replace(key, annotation.to_bytes())
    return key


# Answers and other writers


def test_an_answer_that_is_lost_doubles_nothing(store: PolicyStore, backend: Backend) -> None:
    faulty = FaultyBackend(backend)
    at = creations(faulty)
    for kind in ("lost", "own create refused", "refused"):
        faulty.follow(Plan(at, kind))  # type: ignore[arg-type]
        over(faulty).annotate("a@1", note=kind)
    notes = sorted(each.note for each in store.annotations("a@1"))
    assert notes == ["found", "lost", "own create refused", "refused"]


def test_a_local_store_does_not_try_again(make_snapshot: Make) -> None:
    backend = MemoryBackend(secrets.token_hex(8))
    over(backend).push(make_snapshot(), "a")
    faulty = FaultyBackend(backend)
    at = creations(faulty)
    faulty.follow(Plan(at, "refused"))
    with pytest.raises(StorageError, match="refused by the test"):
        over(faulty).annotate("a@1", note="n")
    assert len(over(backend).annotations("a@1")) == 1


def test_a_server_that_contradicts_itself_is_an_error(store: PolicyStore, backend: Backend) -> None:
    lying = Intercepted(backend)
    lying.create = lambda key, data: False
    with pytest.raises(StorageError, match=r"this key exists, .*Nothing was recorded"):
        over(lying).annotate("a@1", note="n")
    assert store.annotations("a@1") == []
    lying.create = lambda key, data: backend.replace(key, b"another record") is not None
    with pytest.raises(StorageError, match="does not have the annotation"):
        over(lying).annotate("a@1", note="n")


def test_many_writers_lose_nothing(store: PolicyStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: store.annotate("a@2", metrics={"n": n}), range(40)))
    found = store.annotations("a@2")
    assert {each.nonce for each in found} == {each.nonce for each in made}
    assert sorted(each.metrics["n"] for each in found) == list(range(40))
    assert [each.time for each in found] == sorted(each.time for each in found)


def test_the_order_is_that_of_times_and_then_of_nonces(
    store: PolicyStore, backend: Backend
) -> None:
    first = store.annotate("a@1", metrics={"elo": 1})
    for nonce, elo in (("ff" * 16, 3), ("00" * 16, 2)):
        later = replace(
            first, time=first.time.replace(year=2030), nonce=nonce, metrics={"elo": elo}
        )
        put(backend, later)
    assert [each.metrics["elo"] for each in store.annotations("a@1")] == [1, 2, 3]
    assert store.version("a@1").all_metrics["elo"] == 3


def test_arguments_of_other_kinds(store: PolicyStore, backend: Backend) -> None:
    before = set(backend.keys(""))
    for wrong in ({"metrics": [1]}, {"metrics": {"x": object()}}, {"note": 7}, {"note": None},
                  {"note": "n", "author": 7}, {"note": "n" * 5000}):  # fmt: skip
        with pytest.raises(InvalidInputError, match=next(iter(wrong)) if len(wrong) < 2 else "aut"):
            store.annotate("a@1", **wrong)  # type: ignore[arg-type]
    assert set(backend.keys("")) == before
    counting, calls = counted(backend)
    for wrong in ({"note": "n" * 5000}, {"metrics": {"x": object()}}, {}):
        with pytest.raises(InvalidInputError):
            counting.annotate("a@1", **wrong)  # type: ignore[arg-type]
    assert not calls  # refused before the version was looked up


# Requests


def counted(backend: Backend) -> tuple[PolicyStore, Counter[str]]:
    """Return a store, and how often each call of its backend was made."""
    calls: Counter[str] = Counter()

    class Counting:
        def __getattr__(self, name: str) -> Any:
            value = getattr(backend, name)
            if not callable(value) or name == "location":
                return value

            def call(*args: Any, **options: Any) -> Any:
                calls[name] += 1
                return value(*args, **options)

            return call

    return over(Counting()), calls


def test_the_requests_of_each_call(store: PolicyStore, backend: Backend) -> None:
    """Compare the number of requests with fixed numbers; the rounds are in test_s3_requests."""
    for number in (1, 2, 2):
        store.annotate(f"a@{number}", note="n")
    store.tag("a@2", "champion")
    counting, calls = counted(backend)

    def requests(call: Callable[[], object]) -> dict[str, int]:
        calls.clear()
        call()
        return dict(calls)

    look_up = {"get": 3}  # the record, the hint, and the mark that is not there
    assert requests(lambda: counting.annotate("a@3", note="n")) == {**look_up, "create": 1}
    assert requests(lambda: counting.annotations("a@2")) == {"get": 3 + 2, "entries": 1}
    tags = {"prefixes": 1, "get": 3}  # the hint of the tag, the last move, and the next one
    assert requests(lambda: counting.version("a@2", annotations=False)) == {
        "get": 3 + tags["get"],
        "prefixes": 1,
    }
    whole = {"get": 3 + tags["get"] + 2, "prefixes": 1, "entries": 1}
    assert requests(lambda: counting.version("a@2")) == whole
    newest = {"get": 5 + 1 + tags["get"] + 1, "prefixes": 1, "entries": 1}
    assert requests(lambda: counting.version("a")) == newest  # the hint is read twice
    plain = requests(lambda: counting.log("a"))
    full = requests(lambda: counting.log("a", tags=True, annotations=True))
    assert full == {"get": plain["get"] + tags["get"] + 4, "prefixes": 1, "entries": 1}


def test_a_wrong_hint_only_costs_requests(store: PolicyStore, backend: Backend) -> None:
    store.annotate("a@3", note="n")
    store.tag("a@2", "t")
    store.annotate("a@t", note="tagged")
    good = {key: bytes(backend.get(key)) for key in backend.keys("") if key.endswith("@hint")}
    for key, data in good.items():
        for wrong in (b"x", data.replace(b'"number":3', b'"number":2').replace(b't":2', b't":1')):
            backend.replace(key, wrong)
            assert [each.note for each in store.version("a").annotations or ()] == ["n"]
            assert [each.note for each in store.version("a@t").annotations or ()] == ["tagged"]
        backend.replace(key, data)


# Hostile and damaged stores


def test_a_reader_reads_a_bounded_number(
    store: PolicyStore,
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(lookup, "MAX_ANNOTATIONS", 3)
    space = cast(Any, backend)._space
    space.clock = lambda: 0.0
    old = [store.annotate("a@1", metrics={"n": n}) for n in range(5)]
    space.clock = lambda: 9.0
    for n in (5, 6):
        store.annotate("a@1", metrics={"n": n})
    store.annotate("a@2", note="another version")
    listed = lookup.list_annotations(backend, "a")
    assert (len(listed.nonces[1]), listed.omitted) == (3, {1: 4})
    found = store.annotations("a@1")
    assert len(found) == 3
    assert [each.metrics["n"] for each in found[1:]] == [5, 6]
    assert found[0] in old
    assert "a@1 in memory://" in caplog.text
    assert "more than 3 annotations; the 4 oldest ones were not read" in caplog.text
    caplog.clear()
    assert len(store.annotations("a@2")) == 1
    assert caplog.text == ""


@pytest.mark.parametrize("time", [None, float("nan"), float("inf"), -1e300])
def test_times_of_a_listing_may_be_anything(
    store: PolicyStore, backend: Backend, monkeypatch: pytest.MonkeyPatch, time: float | None
) -> None:
    monkeypatch.setattr(lookup, "MAX_ANNOTATIONS", 2)
    for n in range(4):
        store.annotate("a@1", metrics={"n": n})
    lying = Intercepted(backend)

    def entries(prefix: str, **options: Any) -> Any:
        for number, entry in enumerate(backend.entries(prefix, **options)):
            yield replace(entry, time=time if number % 2 else 5.0)

    lying.entries = entries  # type: ignore[attr-defined]
    listed = lookup.list_annotations(cast(Backend, lying), "a", 1)
    assert len(listed.nonces[1]) == 2
    if time is None or time != time:  # such annotations count as old
        shown = {entry.key for entry in backend.entries(annotations_prefix("a", 1))}
        known = sorted(shown)[::2]
        assert listed.nonces[1] == [key[-37:-5] for key in known]


def test_keys_of_another_form_are_no_annotations(store: PolicyStore, backend: Backend) -> None:
    store.annotate("a@1", note="n")
    for rest in ("x", "0000000001/x.json", "0000000001/" + "AB" * 16 + ".json", "x/y/z.json"):
        backend.replace(annotations_prefix("a") + rest, b"junk")
    assert [each.note for each in store.annotations("a@1")] == ["n"]
    assert [len(each.annotations or ()) for each in store.log("a", annotations=True)] == [0, 0, 1]
    faults = store.verify().faults
    assert len(faults) == 4
    assert {fault.kind for fault in faults} == {"foreign"}


def test_a_record_that_is_gone_since_the_listing_is_left_out(
    store: PolicyStore, backend: Backend
) -> None:
    made = store.annotate("a@1", note="n")
    store.annotate("a@1", note="stays")
    hiding = Intercepted(backend)

    def get(key: str, **options: Any) -> bytes | memoryview:
        if key == annotation_key("a", 1, made.nonce):
            raise NotFoundError("gone")
        return backend.get(key, **options)

    hiding.get = get
    assert [each.note for each in over(hiding).annotations("a@1")] == ["stays"]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("bytes", "expected"),
        ("too long", "at most"),
        ("another nonce", "moved or copied"),
        ("another number", "moved or copied"),
        ("another name", "moved or copied"),
        ("another policy", "another policy"),
    ],
)
def test_a_damaged_annotation_is_named(
    store: PolicyStore, backend: Backend, make_snapshot: Make, case: str, said: str
) -> None:
    made = store.annotate("a@1", note="n")
    other = store.push(make_snapshot(7), "b")
    key = annotation_key("a", 1, OTHER)
    wrong = {
        "bytes": b"[]",
        "too long": b"x" * 70_000,
        "another nonce": made.to_bytes(),
        "another number": replace(made, number=2, nonce=OTHER).to_bytes(),
        "another name": replace(made, name="b", nonce=OTHER).to_bytes(),
        "another policy": replace(made, digest=other.digest, nonce=OTHER).to_bytes(),
    }
    backend.replace(key, wrong[case])
    for call in (
        lambda: store.annotations("a@1"),
        lambda: store.version("a@1"),
        lambda: store.log("a", annotations=True),
    ):
        with pytest.raises(FormatError, match=said) as caught:
            call()
        assert OTHER in str(caught.value)
    assert store.version("a@1", annotations=False).number == 1
    assert len(store.log("a")) == 3
    (fault,) = store.verify().faults
    assert (fault.key, fault.kind) == (key, "record")


def test_an_annotation_of_a_version_that_does_not_exist_is_a_fault(
    store: PolicyStore, backend: Backend
) -> None:
    made = store.annotate("a@1", note="n")
    keys = [put(backend, replace(made, number=9)), put(backend, replace(made, name="b"))]
    faults = store.verify().faults
    assert [(fault.key, fault.kind) for fault in faults] == [(key, "missing") for key in keys]
    assert "about version 9, which does not exist" in faults[0].problem
    lost = store.annotate("a@3", note="n")
    backend.delete(version_key("a", 3))  # nothing else says that there was a version 3
    assert annotation_key("a", 3, lost.nonce) in {fault.key for fault in store.verify().faults}


def test_verify_reads_new_annotations_alone_if_asked(store: PolicyStore, backend: Backend) -> None:
    made = store.annotate("a@1", note="n")
    put(backend, replace(made, number=9))
    moment = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    assert store.verify(since=moment).annotations == 0
    report = store.verify(since=moment - datetime.timedelta(days=2))
    assert (report.annotations, len(report.faults)) == (2, 1)


def test_a_tag_with_another_digest_is_named(store: PolicyStore, backend: Backend) -> None:
    store.tag("a@1", "t")
    key = "names/a/@tags/t/0000000001.json"
    digest = store.resolve("a@1").hex.encode()
    backend.replace(key, bytes(backend.get(key)).replace(digest, b"0" * 64))
    for call in (lambda: store.version("a@1"), lambda: store.log("a", tags=True)):
        with pytest.raises(FormatError, match="different digests"):
            call()


def test_many_annotations_are_packed() -> None:
    packed = PackedAnnotations()
    for number in (1, 2**32, 9_999_999_999):
        packed.add(number, OTHER)
    assert len(packed) == 3
    assert list(packed) == [(1, OTHER), (2**32, OTHER), (9_999_999_999, OTHER)]
