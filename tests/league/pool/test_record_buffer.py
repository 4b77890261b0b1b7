"""Records stay until the driver has them, and only settled ones are handed out."""

from __future__ import annotations

from policystore.format.records.matches import Match
from policystore.league.pool.messages import EpisodeRecord
from policystore.league.pool.runner.buffer import RecordBuffer
from policystore.league.pool.runner.reasons import CHANGED, NOT_FETCHED


def record(name: str) -> EpisodeRecord:
    return EpisodeRecord(name, Match({"a": "heuristic:x"}, 1), evaluation=False)


def names(buffer: RecordBuffer) -> list[str]:
    return [each.episode_id for each in buffer.records()]


def test_records_are_handed_out_until_they_are_confirmed() -> None:
    buffer = RecordBuffer(10)
    for name in "abc":
        buffer.add(record(name), ())
    assert (buffer.first, names(buffer)) == (1, ["a", "b", "c"])
    assert (buffer.first, names(buffer)) == (1, ["a", "b", "c"])
    buffer.confirm(2)
    assert (buffer.first, names(buffer)) == (3, ["c"])
    buffer.confirm(1)  # an old request that arrives late
    assert (buffer.first, names(buffer)) == (3, ["c"])
    buffer.confirm(9)
    buffer.add(record("d"), ())
    assert (buffer.first, names(buffer)) == (4, ["d"])


def test_a_record_waits_for_all_its_slots() -> None:
    buffer = RecordBuffer(10)
    buffer.add(record("a"), ["s", "t"])
    buffer.add(record("b"), ["t"])
    assert (names(buffer), buffer.unsettled) == ([], ["s", "t"])
    buffer.settle("t", True)
    assert (names(buffer), buffer.unsettled) == (["b"], ["s"])
    buffer.settle("s", True)
    assert (names(buffer), buffer.unsettled) == (["b", "a"], [])


def test_a_slot_that_changed_takes_its_records_along() -> None:
    buffer = RecordBuffer(10)
    buffer.add(record("a"), ["s", "t"])
    buffer.add(record("b"), ["t"])
    buffer.settle("s", False)
    assert buffer.unknown == {CHANGED: 1}
    buffer.settle("t", True)
    assert names(buffer) == ["b"]


def test_the_oldest_records_go_first_and_are_counted() -> None:
    buffer = RecordBuffer(3)
    for name in "abcde":
        buffer.add(record(name), ())
    assert (buffer.first, names(buffer)) == (3, ["c", "d", "e"])
    for name in "fghij":
        buffer.add(record(name), ["s"])
    buffer.settle("s", True)
    assert names(buffer) == ["h", "i", "j"]
    assert buffer.first == 6  # f and g never had a number
    assert buffer.unknown == {NOT_FETCHED: 7}
