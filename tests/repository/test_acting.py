"""find_acting: its forms of a digest, its errors, and how many requests it makes."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from policystore import (
    AmbiguousError,
    Digest,
    FormatError,
    IntegrityError,
    InvalidInputError,
    PolicyStore,
    Snapshot,
    Spec,
)
from policystore.backends.memory import MemoryBackend
from policystore.repository import writer
from policystore.testing.storage import Intercepted


def snap(acting: float, critic: float = 0.0) -> Snapshot:
    weights = {"pi": np.full(3, acting, np.float32), "vf": np.full(3, critic, np.float32)}
    return Snapshot(weights=weights, spec=Spec(acting=["pi"]))


@pytest.fixture
def store() -> PolicyStore:
    return PolicyStore.over(MemoryBackend("acting-" + str(np.random.default_rng().integers(2**60))))


WRONG: dict[str, Any] = {
    "a snapshot": snap(1.0),
    "a name": "soccer/main",
    "few digits": "ab12cd3",
    "many digits": "ab" * 33,
    "capitals": "AB12CD34",
    "another hash": "sha256:ab12cd34",
    "nothing": None,
    "a number": 12345678,
    "bytes": b"ab12cd34",
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_digest_is_refused(store: PolicyStore, case: str) -> None:
    store.push(snap(1.0), "a")
    with pytest.raises(InvalidInputError, match="digest"):
        store.find_acting(WRONG[case])


def test_snapshots_and_versions_are_told_their_acting_digest(store: PolicyStore) -> None:
    version = store.push(snap(1.0), "a")
    assert version.acting == version.acting_digest == snap(1.0).acting_digest
    assert f"acting={version.acting.short}" in str(version)
    assert version.acting.short in repr(version)
    with pytest.raises(InvalidInputError, match=r"find_acting\(version\.acting\)"):
        store.find_acting(version)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=r"find_acting\(snap\.acting_digest\)"):
        store.find_acting(snap(1.0))  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="prefix"):
        store.find_acting(version.acting, prefix=None)  # type: ignore[arg-type]


def test_digits_that_fit_different_weights_are_ambiguous(
    store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = [Digest("ab12cd34" + last * 56) for last in "012"]
    for digest, name in zip(digests, ("a", "b", "a"), strict=True):
        with monkeypatch.context() as patch:
            patch.setattr(Snapshot, "acting_digest", digest)
            store.push(snap(1.0), name)
    with pytest.raises(
        AmbiguousError, match=r"3 different policies: blake3:ab12cd340.*more digits"
    ):
        store.find_acting("ab12cd34")
    with pytest.raises(AmbiguousError, match="2 different policies"):
        store.find_acting("ab12cd34", prefix="a")
    assert [v.ref for v in store.find_acting("ab12cd341")] == ["b@1"]
    assert [v.ref for v in store.find_acting("ab12cd34", prefix="b")] == ["b@1"]


def test_the_newest_comes_first_by_the_clocks_of_the_writers(
    store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, minute in (("a", 3), ("b", 1), ("c", 2), ("a", 3), ("b", 3)):
        time = datetime.datetime(2026, 1, 1, 12, minute, tzinfo=datetime.timezone.utc)
        monkeypatch.setattr(writer, "now", lambda time=time: time)
        store.push(snap(1.0), name)
    found = [version.ref for version in store.find_acting(snap(1.0).acting_digest)]
    assert found == ["a@2", "a@1", "b@2", "c@1", "b@1"]


def test_requests_are_bounded_and_objects_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = MemoryBackend("acting-requests")
    backend = Intercepted(inner)
    store = PolicyStore.over(backend)  # type: ignore[arg-type]
    for number in range(300):
        store.push(snap(float(number % 7)), f"name/{number % 3}")
    asked: list[str] = []

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def count(key: str, *args: Any, **kwargs: Any) -> Any:
            asked.append(key)
            return call(key, *args, **kwargs)

        return count

    for name in ("get", "size", "keys", "prefixes", "head"):
        monkeypatch.setattr(backend, name, counted(getattr(inner, name)), raising=False)
    found = store.find_acting(snap(3.0).acting_digest)
    assert len(found) == 43
    assert not [key for key in asked if key.startswith("objects/")]
    # Two listings; for each name its hint and three probes; each record once.
    assert len(asked) <= 2 + 4 * 3 + 300
    asked.clear()
    store.find_acting(snap(3.0).acting_digest, prefix="name/1")
    assert len(asked) <= 2 + 4 + 100


def test_names_without_versions_are_passed_over(store: PolicyStore) -> None:
    store.push(snap(1.0), "a")
    hint = bytes(store._backend.get("names/a/@hint"))
    store._backend.replace("names/b/@hint", hint)
    assert [v.ref for v in store.find_acting(snap(1.0).acting_digest)] == ["a@1"]


def test_a_lost_or_damaged_record_is_told(store: PolicyStore) -> None:
    for _ in range(3):
        store.push(snap(1.0), "a")
    backend: Any = store._backend
    digest = snap(1.0).acting_digest
    record = bytes(backend.get("names/a/@versions/0000000002.json"))
    backend.replace("names/a/@versions/0000000002.json", record[:-5])
    with pytest.raises(FormatError, match="0000000002"):
        store.find_acting(digest)
    backend._space.data.pop("names/a/@versions/0000000002.json")
    with pytest.raises(IntegrityError, match="version 2 of 'a'.*is missing"):
        store.find_acting(digest)
