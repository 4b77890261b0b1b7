"""Each match counts once: after lost answers, crashes, forks, ended lists and deletions."""

from __future__ import annotations

import os
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from policystore.backends.base import Backend
from policystore.backends.memory import MemoryBackend
from policystore.errors import StorageError
from policystore.format.league_keys import batch_key, bodies_prefix, summaries_prefix
from policystore.repository.matches.epochs import current_epoch, delete_league
from policystore.repository.matches.ledger import Ledger
from policystore.repository.matches.match_writer import MatchWriter
from policystore.repository.matches.reading import all_lists, read_parts
from policystore.repository.matches.resting import _end
from policystore.repository.stamp import now
from tests.repository.matches.support import Flaky, empty_store, numbered, numbers


def writer_over(backend: Backend) -> MatchWriter:
    """Return a new writer."""
    return MatchWriter(backend, "soccer", lambda: None)


def recorded(backend: Backend) -> Counter[int]:
    """Count the matches in the store by their numbers, without summaries."""
    epoch = current_epoch(backend, "soccer")
    records = read_parts(backend, "soccer", epoch, all_lists(backend, "soccer", epoch))
    matches = [match for record in records for match in getattr(record, "matches", ())]
    return Counter(match.iteration or 0 for match in matches)


@pytest.mark.parametrize("fault", ["refused", "lost", "own"])
@pytest.mark.parametrize("between", ["nothing", "another", "seal", "end", "deleted"])
def test_a_second_try_records_once(fault: str, between: str) -> None:
    backend = empty_store()
    flaky = Flaky(backend)
    writer = writer_over(flaky)
    writer.record(numbered(1), "ann")
    place = writer.record(numbered(2), "ann")
    flaky.faults = [fault]
    with suppress(StorageError):
        writer.record(numbered(3, 4), "ann")
    expected = Counter([1, 2, 3, 4])
    if between == "another":
        writer.record(numbered(5), "ann")
        expected[5] = 1
    elif between == "seal":
        assert writer.seal("ann")
    elif between == "end":
        with suppress(StorageError):
            _end(backend, "soccer", 1, place.writer, place.number + (fault != "refused"))
    elif between == "deleted":
        delete_league(backend, "soccer", time=now(), author="bob", message="")
        expected = Counter([3, 4])
    if fault != "own":
        writer.record(numbered(3, 4), "ann")
    elif between == "deleted":
        expected = Counter()  # it was recorded before the deletion
    assert recorded(backend) == expected
    assert Ledger(backend, "soccer").totals().matches == sum(expected.values())


@pytest.mark.parametrize("fault", ["refused", "lost"])
def test_the_first_batch_of_a_list_looks_again_for_a_deletion(fault: str) -> None:
    backend = empty_store()
    writer_over(backend).record(numbered(1), "bob")
    flaky = Flaky(backend)
    writer = writer_over(flaky)
    flaky.faults = [fault]
    with pytest.raises(StorageError):
        writer.record(numbered(2), "ann")
    delete_league(backend, "soccer", time=now(), author="bob", message="")
    writer.record(numbered(2), "ann")
    assert recorded(backend) == Counter([2])


def test_several_batches_go_on_where_they_failed() -> None:
    backend = empty_store()
    flaky = Flaky(backend)
    writer = writer_over(flaky)
    seeds = tuple(range(2**62, 2**62 + 30_000))  # no two such matches fit into one batch
    matches = [replace(match, episodes=30_000, seeds=seeds) for match in numbered(*range(4))]
    for faults in (["", "lost"], ["refused"], ["own", "lost"]):
        flaky.faults = faults
        with pytest.raises(StorageError):
            writer.record(matches, "ann")
    assert writer.record(matches, "ann").batches == 4
    assert recorded(backend) == Counter(range(4))


def test_threads_of_one_writer_record_at_once() -> None:
    backend = empty_store()
    writer = writer_over(backend)

    def work(start: int) -> None:
        for number in range(start, start + 10):
            writer.record(numbered(number), "ann")

    threads = [threading.Thread(target=work, args=(100 * index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recorded(backend) == Counter(100 * i + j for i in range(8) for j in range(10))
    assert len(all_lists(backend, "soccer", 1)) == 1


def test_a_forked_process_takes_a_new_list(tmp_path: object) -> None:
    from policystore.league import League

    league = League(str(tmp_path), "soccer", author="ann")
    league.record(numbered(1))
    league.unknown("only the parent knows")
    league._writer._lock.acquire()  # another thread records while the process forks
    league._ledger._lock.acquire()
    child = os.fork()
    if not child:
        code = 1
        try:
            league.record(numbered(2))
            code = 0 if league.totals().matches == 2 and not league.totals().unknown else 2
        finally:
            os._exit(code)
    league._ledger._lock.release()
    league._writer._lock.release()
    assert os.waitpid(child, 0)[1] == 0
    league.record(numbered(3))
    totals = league.totals()
    assert (totals.matches, totals.writers) == (3, 2)
    assert totals.unknown == {"only the parent knows": 1}


class LedgerMachine(RuleBasedStateMachine):
    """Writers that fail and die, summaries, ended lists and damage, against a count by hand."""

    @initialize()
    def begin(self) -> None:
        self.backend: MemoryBackend = empty_store()
        self.flaky = Flaky(self.backend)
        self.writers = [writer_over(self.flaky) for _ in range(2)]
        self.readers = [Ledger(self.backend, "soccer") for _ in range(2)]
        self.sure: set[int] = set()
        self.unsure: set[int] = set()
        self.failed: dict[int, list[int]] = {}

    @rule(
        index=st.integers(0, 1),
        count=st.integers(1, 3),
        fault=st.sampled_from(["", "", "refused", "lost", "own"]),
    )
    def record(self, index: int, count: int, fault: str) -> None:
        made = [next(numbers) for _ in range(count)]
        self.failed.pop(index, None)
        self._try(index, made, fault)

    @rule(index=st.integers(0, 1), fault=st.sampled_from(["", "refused", "lost", "own"]))
    def try_again(self, index: int, fault: str) -> None:
        if index in self.failed:
            self._try(index, self.failed.pop(index), fault)

    def _try(self, index: int, made: list[int], fault: str) -> None:
        self.flaky.faults = [fault]
        try:
            self.writers[index].record(numbered(*made), "ann")
        except StorageError:
            self.unsure |= set(made)
            self.failed[index] = made
        else:
            self.unsure -= set(made)
            self.sure |= set(made)
        self.flaky.faults = []

    @rule(index=st.integers(0, 1))
    def die_and_come_back(self, index: int) -> None:
        self.failed.pop(index, None)
        self.writers[index] = writer_over(self.flaky)

    @rule(index=st.integers(0, 1))
    def fork(self, index: int) -> None:
        self.failed.pop(index, None)
        self.writers[index]._renew()

    @rule(index=st.integers(0, 1), fault=st.sampled_from(["", "refused", "lost"]))
    def seal(self, index: int, fault: str) -> None:
        self.flaky.faults = [fault]
        with suppress(StorageError):
            self.writers[index].seal("ann")
        self.flaky.faults = []

    @rule(index=st.integers(0, 5))
    def somebody_ends_a_list(self, index: int) -> None:
        epoch = current_epoch(self.backend, "soccer")
        parts = all_lists(self.backend, "soccer", epoch)
        if index < len(parts):
            part = parts[index]
            (last,) = read_parts(self.backend, "soccer", epoch, [part._replace(first=part.last)])
            if hasattr(last, "matches"):
                _end(self.backend, "soccer", epoch, part.writer, part.last)

    @rule(index=st.integers(0, 1))
    def read(self, index: int) -> None:
        self.readers[index].totals()

    @rule()
    def read_anew(self) -> None:
        self.readers[0] = Ledger(self.backend, "soccer")
        self.readers[0].totals()

    @rule(bodies=st.booleans(), gone=st.booleans())
    def damage_a_summary(self, bodies: bool, gone: bool) -> None:
        epoch = current_epoch(self.backend, "soccer")
        prefix = bodies_prefix("soccer") if bodies else summaries_prefix("soccer", epoch)
        for key in sorted(self.backend.keys(prefix))[-1:]:
            self.backend.delete(key)
            if not gone:
                self.backend.replace(key, b"{}")

    @rule()
    def delete(self) -> None:
        if recorded(self.backend):
            delete_league(self.backend, "soccer", time=now(), author="bob", message="")
            self.sure.clear()

    @invariant()
    def each_match_counts_once(self) -> None:
        found = recorded(self.backend)
        assert set(found.values()) <= {1}
        assert self.sure <= found.keys()
        assert found.keys() <= self.sure | self.unsure
        for reader in self.readers:
            assert reader.totals().matches == len(found)
        assert Ledger(self.backend, "soccer", may_write=False).totals().matches == len(found)


TestLedgerMachine = pytest.mark.long(LedgerMachine.TestCase)
TestLedgerMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_few_steps_of_the_machine() -> None:
    machine = LedgerMachine()
    machine.begin()
    for step in range(30):
        machine.record(step % 2, 1, ["", "lost", "own"][step % 3])
        machine.try_again(step % 2, "")
        if step % 7 == 3:
            machine.somebody_ends_a_list(0)
        if step == 20:
            machine.damage_a_summary(bodies=True, gone=True)
        machine.each_match_counts_once()
    assert len(machine.sure) == 30


def test_a_list_that_a_twin_extended_is_left() -> None:
    backend = empty_store()
    one = writer_over(backend)
    place = one.record(numbered(1), "ann")
    twin = writer_over(backend)
    assert one._list is not None
    twin._list = type(one._list)(1, place.writer, 1, one._list.previous)  # a copied machine
    assert twin.record(numbered(2), "ann").writer == place.writer
    assert one.record(numbered(3), "ann").writer != place.writer
    assert recorded(backend) == Counter([1, 2, 3])
    assert backend.size(batch_key("soccer", 1, place.writer, 3)) is None
