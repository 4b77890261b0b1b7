"""Runs of verify that read a share of the objects, only new ones, or the rest after a cut."""

from __future__ import annotations

import datetime
import random
import secrets
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from policystore import InvalidInputError, PolicyStore, Snapshot, VerifyReport
from policystore.backends.memory import MemoryBackend
from policystore.format.keys import object_key, version_key
from policystore.repository.packed_digests import PackedDigests
from policystore.repository.verify import objects as verify_objects
from policystore.repository.verify.selection import Selection
from tests.support.upkeep import counting

Make = Callable[..., Snapshot]


@pytest.fixture
def store(make_snapshot: Make) -> PolicyStore:
    store = PolicyStore(f"memory://{secrets.token_hex(8)}")
    for seed in range(30):
        store.push(make_snapshot(seed), f"n{seed % 3}")
    store.push(make_snapshot(30))
    return store


def objects(reads: Counter[str]) -> set[str]:
    """Return the objects that were read, and check that each was read once."""
    keys = {key: count for key, count in reads.items() if key.startswith("objects/")}
    assert set(keys.values()) <= {1}
    return set(keys)


def test_shares_follow_each_other_until_all_objects_were_read(store: PolicyStore) -> None:
    seen: set[str] = set()
    cursor: str | None = None
    for run in range(4):
        counted, reads = counting(store)
        report = counted.verify(fraction=0.25, resume=cursor)
        assert report.ok
        assert report.versions == 30  # records are always read
        read = objects(reads)
        assert len(read) == report.objects < 31
        if run < 3:
            assert not seen & read
        seen |= read
        cursor = report.cursor
    assert seen == set(store._backend.keys("objects/"))


def test_a_share_begins_at_a_random_place(store: PolicyStore) -> None:
    reads = [counting(store) for _ in range(8)]
    for counted, _ in reads:
        counted.verify(fraction=0.1)
    assert len({frozenset(objects(each)) for _, each in reads}) > 1


def test_tensors_of_the_policies_in_a_share_are_read(
    store: PolicyStore, make_snapshot: Make
) -> None:
    version = store.push(make_snapshot(50, large=True), "large")
    start = int(version.digest.hex, 16)
    counted, reads = counting(store)
    report = counted.verify(fraction=1e-9, resume=f"v1:1:{start:064x}:1:0")
    assert objects(reads) == {object_key(digest) for digest in version.objects or ()}
    assert (report.objects, report.total_objects, report.uncompared) == (3, 3, 0)
    assert report.nbytes == report.total_nbytes


@pytest.mark.parametrize("width", [32, 48])
def test_the_order_of_a_share_is_that_of_the_numbers_counted_from_its_start(width: int) -> None:
    numbers = random.Random(width)
    items = PackedDigests(width)
    for _ in range(40):
        items.add(numbers.randbytes(width))
    all_numbers = 1 << 256
    exact = int.from_bytes(items.item(7)[:32], "big")
    for start in (0, exact, exact + 1, all_numbers - 1, numbers.getrandbits(256)):
        for share in (all_numbers, all_numbers // 3, 1):
            for first in (0, 1, all_numbers // 5, all_numbers):
                selection = Selection(start, share, 2, first)
                for stage, begin in ((1, None), (2, first), (3, 0)):
                    found = selection.order(items, items.in_order(), stage)
                    expected = [
                        place
                        for place in range(40)
                        if begin is not None
                        and begin <= selection.position(items.item(place)) < share
                    ]
                    expected.sort(key=lambda place: selection.position(items.item(place)))
                    assert list(found) == expected


def test_a_share_does_not_call_other_objects_missing(store: PolicyStore) -> None:
    version = store.log("n1")[0]
    store._backend.delete(object_key(version.digest))
    for start in ("0" * 64, "8" * 64):
        report = store.verify(fraction=0.5, resume=f"v1:1:{start}:1:0")
        assert [fault.key for fault in report.faults] == [version_key("n1", 10)]


@pytest.mark.parametrize("large", [False, True])
def test_a_run_that_was_cut_off_goes_on(
    store: PolicyStore, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    monkeypatch.setattr(verify_objects, "_WAVE", 4)
    monkeypatch.setattr(verify_objects, "_WAITING", 2)
    if large:
        for seed in range(40, 46):
            store.push(make_snapshot(seed, large=True), "large")
    everything = set(store._backend.keys("objects/"))
    for cut in (1, 4, 7):
        counted, reads = counting(store)
        cursors: list[str | None] = []

        def stop(report: VerifyReport, cursors: list[str | None] = cursors, cut: int = cut) -> None:
            cursors.append(report.cursor)
            if report.objects >= 3 * cut:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            counted.verify(progress=stop)
        first = objects(reads)
        reads.clear()
        report = counted.verify(resume=cursors[-1])
        assert report.ok
        assert report.cursor is None
        assert first | objects(reads) == everything
        # What waited for its tensors is read again.
        assert len(first & objects(reads)) <= (20 if large else 0)


def test_a_run_that_goes_on_after_the_policies_reads_none_of_their_tensors_again(
    store: PolicyStore, make_snapshot: Make
) -> None:
    versions = [store.push(make_snapshot(seed, large=True), "large") for seed in range(40, 43)]
    store.delete("n0@1")  # its object is no policy of a record, and is read after the policies
    tensors = {object_key(digest) for each in versions for digest in each.objects or ()}
    counted, reads = counting(store)
    cursors: list[str] = []
    counted.verify(progress=lambda report: cursors.append(report.cursor or ""))
    assert tensors <= objects(reads)
    reads.clear()

    after_policies = next(each for each in cursors if each.startswith("v1:2:"))
    report = counted.verify(resume=after_policies.rpartition(":")[0] + ":0")

    assert report.ok
    assert len(objects(reads)) == 1
    assert not tensors & objects(reads)


def test_only_what_is_new(store: PolicyStore, make_snapshot: Make) -> None:
    backend: Any = store._backend
    assert isinstance(backend, MemoryBackend)
    now = datetime.datetime.now(datetime.timezone.utc)
    old = (now - datetime.timedelta(days=9)).timestamp()
    backend._space.times = dict.fromkeys(backend._space.times, old)
    new = store.push(make_snapshot(60), "n0")
    store.tag("n0@1", "t")
    for since in (datetime.timedelta(days=1), now - datetime.timedelta(days=1)):
        counted, reads = counting(store)
        report = counted.verify(since=since)
        assert report.ok
        assert objects(reads) == {object_key(new.digest)}
        records = {key for key in reads if "@versions" in key}
        # The record before a new one proves its place, and a tag needs its version.
        assert records == {version_key("n0", number) for number in (1, 10, 11)}
    assert store.verify(since=datetime.timedelta(days=30)).objects == 32
    # What is lost is missed, however old the record is.
    store._backend.delete(object_key(new.digest))
    store._backend.delete(version_key("n1", 5))
    keys = [fault.key for fault in store.verify(since=datetime.timedelta(days=1)).faults]
    assert keys == [version_key("n1", 5), version_key("n0", 11)]


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"fraction": 0}, "fraction"),
        ({"fraction": 1.5}, "fraction"),
        ({"fraction": True}, "fraction"),
        ({"fraction": "0.1"}, "fraction"),
        ({"resume": ""}, "report.cursor"),
        ({"resume": 5}, "report.cursor"),
        ({"resume": "v1:1:" + "0" * 64 + ":0:0"}, "report.cursor"),
        ({"since": 5}, "timedelta"),
        ({"since": datetime.timedelta(0)}, "timedelta"),
        ({"since": datetime.datetime(2026, 1, 1)}, "with its zone"),
    ],
    ids=str,
)
def test_wrong_choices(store: PolicyStore, more: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidInputError, match=word):
        store.verify(**more)
