"""stats counts what a store holds, by listings alone or with the records."""

from __future__ import annotations

import datetime
import random
import secrets
import tracemalloc
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from policystore import (
    FormatError,
    InvalidInputError,
    NotFoundError,
    PolicyStore,
    Snapshot,
    Spec,
    StoreStats,
)
from policystore.backends.base import Entry
from policystore.digest import digest_of
from policystore.format.keys import kept_prefix, object_key, version_key
from policystore.repository import digest_prefixes
from policystore.repository.upkeep import stats
from policystore.testing.storage import Intercepted
from tests.support.collecting import GRACE, TimedStore, policy
from tests.support.league_store import delete_epoch, write_lists
from tests.support.upkeep import counting, put_mark, to_trash

Make = Callable[..., Snapshot]
DAY = 86_400.0


@pytest.fixture
def store(make_snapshot: Make) -> PolicyStore:
    """Return a store with two large policies that share an encoder, and four small ones."""
    store = PolicyStore(f"memory://{secrets.token_hex(8)}")
    for seed in (1, 2):
        store.push(make_snapshot(seed, large=True), "Soccer/main")
    for seed in (3, 4, 3):
        store.push(make_snapshot(seed), "duo")
    store.tag("duo@1", "t")
    store.tag("duo@2", "t")
    store.push(make_snapshot(5))
    return store


def size(store: PolicyStore, *digests: Any) -> int:
    return sum(len(store._backend.get(object_key(digest))) for digest in digests)


def at(store: PolicyStore, days: float) -> None:
    """Set the times of all keys to a number of days ago; keys that follow are new."""
    space = store._backend._space  # type: ignore[attr-defined]
    now = datetime.datetime.now(datetime.timezone.utc).timestamp()
    space.times = dict.fromkeys(space.times, now - days * DAY)


def test_listings_alone(store: PolicyStore) -> None:
    to_trash(store._backend, store.resolve("duo@2"))
    counted, reads = counting(store)
    stats = counted.stats()
    assert set(reads) == {"policystore.json"}
    report = store.verify()
    assert (stats.names, stats.versions, stats.deleted, stats.standing) == (2, 5, 0, 5)
    assert (stats.tags, stats.kept, stats.records) == (1, 1, 5 + 2 + 1)
    assert (stats.objects, stats.nbytes) == (report.objects, report.nbytes)
    assert (stats.trash_objects, stats.trash_nbytes) == (1, size(store, store.resolve("duo@1")))
    assert (stats.shared_nbytes, stats.garbage_objects, stats.garbage_nbytes) == (None,) * 3


@pytest.mark.parametrize("details", [False, True])
def test_a_prefix_of_no_name_counts_nothing(store: PolicyStore, details: bool) -> None:
    """The key of ``Soccer`` has ``!soccer``, and no name begins with ``!``."""
    for prefix in ("!soccer/", "../names/duo", "/"):
        stats = store.stats(prefix, details=details)
        assert (stats.names, stats.records, stats.objects or 0) == (0, 0, 0)
    assert store.stats("Soccer/", details=details).names == 1


def test_what_sharing_saves(store: PolicyStore) -> None:
    stats = store.stats(details=True)
    shared = [
        *(set(store.log("Soccer/main")[0].objects or ()) & set(store.log("Soccer/main")[1].objects or ())),
        store.resolve("duo@1"),
    ]  # fmt: skip
    assert len(shared) == 2
    assert stats.shared_nbytes == size(store, *shared)
    assert (stats.garbage_objects, stats.garbage_nbytes) == (0, 0)
    assert "sharing saves 4.2 MB" in str(stats)


def test_names_below_a_prefix(store: PolicyStore) -> None:
    stats = store.stats("Soccer/")
    assert (stats.names, stats.versions, stats.tags) == (1, 2, 0)
    assert stats == StoreStats(store.url, "Soccer/", 1, 2, records=2)
    stats = store.stats("Soccer/", details=True)
    objects = {digest for each in store.log("Soccer/main") for digest in each.objects or ()}
    assert (stats.objects, stats.nbytes) == (len(objects), size(store, *objects))
    assert stats.shared_nbytes == 4_194_392
    assert (stats.kept, stats.trash_objects, stats.garbage_objects) == (None, None, None)
    assert store.stats("socc").names == 0
    assert store.stats("nothing/", details=True).objects == 0


def test_garbage_by_the_rules_of_the_collector(store: PolicyStore, make_snapshot: Make) -> None:
    backend = store._backend
    loose = store.push(make_snapshot(8))
    for key in list(backend.keys(kept_prefix(loose.digest))):
        backend.delete(key)
    store.push(make_snapshot(9), "duo")
    assert store.stats(details=True).garbage_objects == 0  # the object is young
    at(store, 8)
    assert store.stats(details=True).garbage_objects == 1
    put_mark(backend, "duo", "delete", (2, 2), (4, 4))
    stats = store.stats(details=True)
    assert (stats.deleted, stats.standing) == (2, 4)
    assert stats.garbage_objects == 1  # version 4 was deleted within the grace
    at(store, 8)
    stats = store.stats(details=True)
    assert stats.garbage_objects == 2  # the tag points to version 2
    assert stats.garbage_nbytes == size(store, loose.digest, make_snapshot(9).digest)
    store.tag("duo@1", "t")
    assert store.stats(details=True).garbage_objects == 2  # the tag left version 2 within the grace
    at(store, 8)
    assert store.stats(details=True).garbage_objects == 3
    assert store.stats(details=True, grace=datetime.timedelta(days=9)).garbage_objects == 0
    assert "garbage that collect_garbage() would take: 3 objects" in str(store.stats(details=True))


CALLS = [
    "push",
    "push",
    "keep",
    "keep",
    "tag",
    "untag",
    "delete",
    "delete",
    "forget",
    "forget",
    "wait",
    "wait",
]


@pytest.mark.parametrize("seed", range(8))
def test_stats_count_what_a_collection_would_take(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two programs know the rule: random calls, days apart, so that ages equal the grace."""
    draw, timed = random.Random(seed), TimedStore()
    store, garbage = timed.store, []
    monkeypatch.setattr(stats, "time", SimpleNamespace(time=lambda: timed.now))
    for step in range(60):
        standing = [v.number for v in store.log("a")] if "a" in store.names() else []
        call = draw.choice(CALLS)
        if call == "push" or not standing:
            store.push(policy(draw.randrange(12)), "a")
        elif call == "keep":
            store.push(policy(20 + step))
        elif call == "tag":
            store.tag(f"a@{draw.choice(standing)}", draw.choice("tu"))
        elif call == "untag":
            for tag in list(store.tags("a"))[:1]:
                store.untag("a", tag)
        elif call == "delete":
            store.delete(f"a@{draw.choice(standing)}", force=True)
        elif call == "forget":
            for key in list(timed.backend.keys("kept/"))[:1]:
                timed.backend.delete(key)
        else:
            timed.wait(draw.choice([1, 3, 7]))
            if draw.random() < 0.2:
                timed.collect()
        counted, planned = store.stats(details=True), store.collect_garbage(grace=GRACE)
        assert (counted.garbage_objects, counted.garbage_nbytes) == (
            planned.moved.count,
            planned.moved.nbytes,
        )
        garbage.append(planned.moved.count)
    assert max(garbage) > 0


def test_a_policy_of_very_many_objects(store: PolicyStore) -> None:
    weights = {f"w{n:03}": np.full(1 << 16, n, np.float32) for n in range(300)}
    version = store.push(Snapshot(weights=weights, spec=Spec()), "many")
    assert version.objects is None
    at(store, 8)
    stats = store.stats(details=True)
    assert (stats.garbage_objects, stats.unreadable) == (0, 0)
    assert store.stats("many", details=True).objects == 301
    store._backend.delete(object_key(version.digest))
    stats = store.stats(details=True)
    assert (stats.garbage_objects, stats.unreadable) == (None, 1)


def test_records_that_cannot_be_read_are_counted(store: PolicyStore) -> None:
    store._backend.replace(version_key("duo", 1), b"{}")
    store._backend.replace("names/duo/@other", b"{}")
    store._backend.replace("names/A b/@versions/0000000001.json", b"{}")
    stats = store.stats(details=True)
    assert (stats.versions, stats.unreadable, stats.garbage_objects) == (5, 1, None)
    assert "1 record that cannot be read: verify() names them" in str(stats)


@pytest.mark.parametrize(
    "key", ["names/Soccer/main/@later/1.json", "leagues/x/@y", "kept/ab/x", "deleted/x"]
)
def test_what_stops_a_collector_leaves_the_garbage_unknown(store: PolicyStore, key: str) -> None:
    before = store.stats(details=True)
    assert before.garbage_objects == store.collect_garbage().moved.count == 0
    store._backend.replace(key, b"of a newer release")
    with pytest.raises(FormatError, match="nothing was collected"):
        store.collect_garbage()
    counted = store.stats(details=True)
    assert counted.garbage_objects is None
    assert (counted.versions, counted.shared_nbytes) == (before.versions, before.shared_nbytes)


def test_leagues_are_counted_by_listings_alone(store: PolicyStore) -> None:
    before = store.stats()
    assert (before.leagues, before.match_records, before.league_nbytes) == (0, 0, 0)
    keys = write_lists(store._backend) + write_lists(store._backend, (1,), league="chess")
    store._backend.replace("leagues/chess/@unknown", b"x")
    nbytes = sum(len(store._backend.get(key)) for key in keys)
    counted, reads = counting(store)
    stats = counted.stats()
    assert set(reads) == {"policystore.json"}
    assert (stats.leagues, stats.match_records, stats.league_nbytes) == (2, 8, nbytes)
    assert stats.records == before.records + 8
    assert "2 leagues, 8 records of matches, " in str(stats)
    assert store.stats("duo").leagues is None
    deletion = delete_epoch(store._backend)
    nbytes += len(store._backend.get(deletion))
    stats = store.stats()
    assert (stats.leagues, stats.match_records, stats.league_nbytes) == (1, 2, nbytes)


def test_the_text_and_the_arguments(store: PolicyStore) -> None:
    seen: list[StoreStats] = []
    result = store.stats(progress=seen.append)
    assert seen
    assert seen[-1] is result
    assert repr(result) == str(result)
    assert str(result).splitlines() == [
        f"{store.url}: 2 names, 5 versions, 1 tag, 1 pushes without a name",
        "  8 objects, 4.8 MB",
        "  trash: 0 copies, 0 bytes",
    ]
    with pytest.raises(InvalidInputError, match="prefix"):
        store.stats(5)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="grace"):
        store.stats(grace=7)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="progress"):
        store.stats(progress=7)  # type: ignore[arg-type]
    with pytest.raises(NotFoundError):
        PolicyStore(f"memory://{secrets.token_hex(8)}").stats()


def test_pages_do_not_change_the_numbers(
    store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = store.stats(details=True)
    monkeypatch.setattr(stats, "_PAGE", 2)
    monkeypatch.setattr(digest_prefixes, "_MIN_MERGED", 2)
    assert store.stats(details=True) == expected


@pytest.mark.long
def test_memory_does_not_grow_with_the_objects(store: PolicyStore) -> None:
    def peak(count: int) -> int:
        backend: Any = Intercepted(store._backend)

        def entries(prefix: str, **more: Any) -> Iterator[Entry]:
            yield from store._backend.entries(prefix, **more)
            if prefix == "objects/":
                for number in range(count):
                    yield Entry(object_key(digest_of(b"%d" % number)), 9, 0.0)

        backend.entries = entries
        large = PolicyStore.over(backend, cache=False)
        tracemalloc.start()
        try:
            assert large.stats(details=True).objects == 8 + count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2_000)
    assert peak(40_000) < peak(4_000) + 200_000
