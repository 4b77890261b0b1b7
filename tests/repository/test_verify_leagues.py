"""Verify reads the records of leagues, names each fault, and repairs what can be proved."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from policystore import PolicyStore
from policystore.backends.base import Backend
from policystore.backends.memory import MemoryBackend
from policystore.digest import digest_of
from policystore.format.league_keys import batch_key, body_key, deletion_key, summary_key
from policystore.format.records import marker_bytes
from policystore.league import League
from tests.support.league_store import LEAGUE, WRITERS, delete_epoch, records, write_lists


def new_store(name: str) -> PolicyStore:
    backend = MemoryBackend(f"verify-leagues-{name}")
    backend._space.data.clear()
    backend.replace("policystore.json", marker_bytes())
    return PolicyStore.over(backend, cache=False)


@pytest.fixture
def store() -> Iterator[PolicyStore]:
    store = new_store("ours")
    write_lists(store._backend)
    yield store
    store._backend._space.data.clear()  # type: ignore[attr-defined]


def key_of(number: int, writer: str = WRITERS[0], epoch: int = 1) -> str:
    return batch_key(LEAGUE, epoch, writer, number)


def test_a_league_without_faults(store: PolicyStore) -> None:
    report = store.verify()
    assert report.ok, str(report)
    assert (report.leagues, report.match_records, report.matches) == (1, 6, 10)
    assert "1 league, 10 matches" in str(report)


def damage(backend: Backend, key: str) -> None:
    backend.replace(key, bytes(backend.get(key))[:-2])


def change(backend: Backend, key: str) -> None:
    backend.replace(key, bytes(backend.get(key)).replace(b'"author":"ann"', b'"author":"bob"'))


def replace_by_other_list(backend: Backend, key: str) -> None:
    backend.copy(key_of(2, WRITERS[1]), key)


def lose(backend: Backend, key: str) -> None:
    backend.delete(key)


FAULTS: dict[str, tuple[Callable[[Backend, str], None], str, str]] = {
    "damaged": (damage, "record", "canonical|JSON|malformed|end"),
    "changed": (change, "record", "does not follow the record before"),
    "moved": (replace_by_other_list, "record", "belongs to another key"),
    "missing": (lose, "missing", "missing: 2, and later numbers exist"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_a_list_is_named_and_repaired(store: PolicyStore, name: str) -> None:
    call, kind, problem = FAULTS[name]
    mirror = new_store("mirror")
    store.copy_to(mirror)
    whole = dict(store._backend._space.data)  # type: ignore[attr-defined]
    call(store._backend, key_of(2))
    report = store.verify()
    assert not report.ok
    keys = {fault.key for fault in report.faults}
    assert keys <= {key_of(2), key_of(3)}
    assert keys
    assert report.faults[0].kind == kind
    assert any(part in report.faults[0].problem for part in problem.split("|")), str(report)
    repaired = store.verify(repair_from=mirror)
    assert repaired.ok, str(repaired)
    assert repaired.repaired
    assert store._backend._space.data == whole  # type: ignore[attr-defined]
    assert store.verify().ok


def test_the_newest_record_of_a_list_is_not_repaired_because_nothing_proves_it(
    store: PolicyStore,
) -> None:
    mirror = new_store("mirror")
    store.copy_to(mirror)
    damage(store._backend, key_of(2, WRITERS[1]))
    report = store.verify(repair_from=mirror)
    assert [fault.key for fault in report.faults] == [key_of(2, WRITERS[1])]
    assert "no later record proves" in str(report)


def test_a_record_behind_the_end_of_a_list(store: PolicyStore) -> None:
    *_, (key, data) = records(WRITERS[0], 5)
    store._backend.replace(key, data)
    report = store.verify()
    assert {fault.key for fault in report.faults} == {key}
    assert "follows the end of its list" in str(report)


@pytest.mark.parametrize(
    "key",
    [
        "leagues/x",
        "leagues/soccer/@seasons/0000000001.json",
        f"leagues/soccer/@matches/0000000001/{'A' * 32}/0000000001.json",
        f"leagues/soccer/@matches/0000000000/{WRITERS[0]}/0000000001.json",
        "leagues/con/@deleted/0000000001.json",
    ],
)
def test_a_key_that_policystore_does_not_write(store: PolicyStore, key: str) -> None:
    store._backend.replace(key, b"{}")
    report = store.verify()
    assert [(fault.key, fault.kind) for fault in report.faults] == [(key, "foreign")]


def test_deleted_epochs_are_not_checked_because_a_collector_may_be_removing_them(
    store: PolicyStore,
) -> None:
    lose(store._backend, key_of(1))
    damage(store._backend, key_of(2))
    delete_epoch(store._backend)
    write_lists(store._backend, (1,), epoch=2)
    report = store.verify()
    assert report.ok, str(report)
    assert report.matches == 2


def test_deletions_and_summaries_are_read(store: PolicyStore) -> None:
    delete_epoch(store._backend, 2)
    report = store.verify()
    assert [(fault.key, fault.kind) for fault in report.faults] == [
        (deletion_key(LEAGUE, 1), "missing")
    ]
    store._backend.copy(deletion_key(LEAGUE, 2), deletion_key(LEAGUE, 1))
    assert "moved or copied" in str(store.verify())
    store._backend.replace(deletion_key(LEAGUE, 1), b"{}")
    assert not store.verify().ok
    delete_epoch(store._backend, 1)
    assert store.verify().ok
    store._backend.replace(summary_key(LEAGUE, 3, 1), b"{}")
    assert [fault.key for fault in store.verify().faults] == [summary_key(LEAGUE, 3, 1)]


@pytest.fixture
def summed(store: PolicyStore) -> PolicyStore:
    """Return a store whose league has a summary of nine batches, and records that it lacks."""
    write_lists(store._backend, (7, 2))
    League(store, LEAGUE).totals()
    League(store, LEAGUE).record([{"players": {"a": "heuristic:x"}, "episodes": 2}])
    assert len(body_keys(store)) == 1
    report = store.verify()
    assert report.ok, str(report)
    assert (report.summaries, report.matches) == (1, 19)
    return store


def body_keys(store: PolicyStore) -> list[str]:
    return [key for key in store._backend.keys("leagues/") if "/@bodies/" in key]


def test_a_summary_whose_sums_differ_from_its_matches(summed: PolicyStore) -> None:
    backend, (key,) = summed._backend, body_keys(summed)
    data = bytes(backend.get(key)).replace(b'"episodes":1', b'"episodes":2', 1)
    backend.delete(key)
    backend.replace(body_key(LEAGUE, digest_of(data)), data)
    summary = json.loads(bytes(backend.get(summary_key(LEAGUE, 1, 1))))
    summary["bodies"][0][0] = str(digest_of(data))
    text = json.dumps(summary, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    backend.replace(summary_key(LEAGUE, 1, 1), text.encode())
    report = summed.verify()
    assert [fault.key for fault in report.faults] == [summary_key(LEAGUE, 1, 1)]
    assert "the sums of the summary differ" in str(report)


def test_a_summary_that_counts_records_which_were_lost(summed: PolicyStore) -> None:
    for number in range(1, 3):
        summed._backend.delete(key_of(number, WRITERS[1]))
    report = summed.verify()
    assert [fault.key for fault in report.faults] == [summary_key(LEAGUE, 1, 1)]
    assert f"counts records of the list {WRITERS[1]} that do not exist" in str(report)


@pytest.mark.parametrize("call", [lose, damage])
def test_a_body_that_is_lost_or_damaged_is_repaired(
    summed: PolicyStore, call: Callable[[Backend, str], None]
) -> None:
    mirror = new_store("mirror")
    summed.copy_to(mirror)
    (key,) = body_keys(summed)
    whole = bytes(summed._backend.get(key))
    call(summed._backend, key)
    report = summed.verify()
    assert [(fault.key, fault.kind) for fault in report.faults] == [
        (key, "missing" if call is lose else "damaged")
    ]
    summed._backend.replace(key, b"x" if call is damage else whole[:-1])
    assert [fault.key for fault in summed.verify(repair_from=mirror).repaired] == [key]
    assert bytes(summed._backend.get(key)) == whole
    assert summed.verify().ok
    call(summed._backend, key)
    numbers = League(mirror, LEAGUE).totals().matchups
    assert League(summed, LEAGUE).totals().matchups == numbers  # readers need no summary


def test_a_far_number_costs_no_list_of_all_numbers(store: PolicyStore) -> None:
    far = key_of(9_999_999_999)
    store._backend.copy(key_of(3), far)
    keys = {fault.key for fault in store.verify().faults}
    assert keys == {key_of(5), far}
