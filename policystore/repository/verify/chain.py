"""Check lists of numbered records: their places, their gaps, and the chain of their digests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from policystore.digest import Digest, digest_of
from policystore.errors import NotFoundError, PolicyStoreError
from policystore.repository.verify.listing import Numbers
from policystore.repository.verify.repair import ChainRepair
from policystore.repository.verify.report import Fault, FaultKind
from policystore.repository.verify.run import Answer, Run, Task, read_key

__all__ = ["ChainForm", "check_chain"]


class _Linked(Protocol):
    @property
    def previous(self) -> Digest | None: ...


_Record = TypeVar("_Record", bound=_Linked)


@dataclass(frozen=True)
class ChainForm(Generic[_Record]):
    """What is special about one list of records.

    Attributes:
        key: returns the key of a number.
        parse: reads the bytes of a record; its second argument names the record in messages.
        belongs: returns whether a record belongs under a number of this list.
        limit: the longest record, in bytes.
        handle: is called with each good record and its number, in order. A record that was
            repaired comes after all others.
    """

    key: Callable[[int], str]
    parse: Callable[[bytes | memoryview, str], _Record]
    belongs: Callable[[_Record, int], bool]
    limit: int
    handle: Callable[[int, _Record], None]


def check_chain(run: Run, form: ChainForm[_Record], numbers: Numbers, first: int) -> Iterator[Task]:
    """Yield the tasks that check a list of records.

    Args:
        run: the run.
        form: the form of the list.
        numbers: the numbers that the listing showed.
        first: the first number to read; earlier numbers only have to exist.
    """
    yield from _Chain(run, form).tasks(sorted(numbers.listed), first)


@dataclass(frozen=True)
class _Found:
    """A fault in a list.

    Attributes:
        fault: the fault.
        numbers: the records that have to be put back to repair it.
        either: whether one of these records is enough.
    """

    fault: Fault
    numbers: range
    either: bool = False


class _Chain(Generic[_Record]):
    """The state of the check of one list.

    Attributes:
        previous: the number and the bytes of the record before the present one.
        found: what is wrong.
        held: the good records, if they are handled at the end. A record that is put back then takes
            the place of a wrong one.
    """

    def __init__(self, run: Run, form: ChainForm[_Record]) -> None:
        self.run = run
        self.form = form
        self.previous: tuple[int, bytes] | None = None
        self.found: list[_Found] = []
        self.held: dict[int, _Record] = {}

    def tasks(self, listed: list[int], first: int) -> Iterator[Task]:
        """Yield a task for each record, and one that reports the faults."""
        existing: list[int] = []
        expected = 1
        for number in listed:
            # The listing may have missed a number that was created while the listing was made.
            while expected < number and self.run.exists(self.form.key(expected)):
                existing.append(expected)
                yield from self._task(expected, first)
                expected += 1
            if expected < number:
                gap = f"{expected}" + (f" to {number - 1}" if number > expected + 1 else "")
                problem = f"missing: {gap}, and later numbers exist"
                fault = Fault(self.form.key(expected), problem, "missing")
                self.found.append(_Found(fault, range(expected, number)))
            existing.append(number)
            yield from self._task(number, first)
            expected = number + 1
        yield Task(partial(self._finish, existing))

    def _task(self, number: int, first: int) -> Iterator[Task]:
        if number >= first:
            key = self.form.key(number)
            yield Task(partial(self._handle, number, key), key, self.form.limit)

    def _handle(self, number: int, key: str, answer: Answer) -> None:
        """Check one record, and look again before a fault is noted."""
        record, data, found = self._check(number, key, answer)
        if found is not None:
            record, data, found = self._check(number, key, self._read(number), look_back=True)
        self.previous = None if data is None else (number, data)
        if found is not None:
            self.found.append(found)
        if record is not None and self.run.source is not None:
            self.held[number] = record
        elif record is not None:
            self.form.handle(number, record)

    def _check(
        self, number: int, key: str, answer: Answer, *, look_back: bool = False
    ) -> tuple[_Record | None, bytes | None, _Found | None]:
        """Check the bytes of a record.

        Args:
            number, key: the number and the key of the record.
            answer: its bytes, or the error of reading them.
            look_back: whether to read the record before once more.

        Returns:
            The record if it belongs here, its bytes if it is a record, and what is wrong with it.
        """
        itself = range(number, number + 1)
        if not isinstance(answer, bytes):
            is_absent = isinstance(answer, NotFoundError)
            kind: FaultKind = "missing" if is_absent else "storage"
            problem = f"missing: {answer}" if is_absent else str(answer)
            return None, None, _Found(Fault(key, problem, kind), itself)
        try:
            record = self.form.parse(answer, self.run.backend.location(key))
        except PolicyStoreError as error:
            return None, None, _Found(Fault(key, str(error)), itself)
        if not self.form.belongs(record, number):
            problem = "the record belongs to another key: it was moved or copied to this key"
            return None, None, _Found(Fault(key, problem), itself)
        if self.previous is not None and self.previous[0] == number - 1:
            before: Answer = self._read(number - 1) if look_back else self.previous[1]
            if isinstance(before, bytes) and record.previous != digest_of(before):
                # Either of the two may be the one that was changed.
                problem = "the record does not follow the record before: one of the two was changed"
                both = range(number - 1, number + 1)
                return record, answer, _Found(Fault(key, problem), both, either=True)
        return record, answer, None

    def _read(self, number: int) -> Answer:
        return read_key(self.run.backend, self.form.key(number), self.form.limit)

    def _finish(self, existing: list[int], answer: Answer) -> None:
        """Repair what can be repaired, and report the other faults."""
        repaired: dict[int, _Record] = {}
        reason = ""
        if self.found and self.run.source is not None:
            repair = ChainRepair(
                self.run.source,
                self.run.backend,
                self.form.key,
                self.form.parse,
                self.form.belongs,
                self.form.limit,
            )
            repaired = repair.run(existing)
            reason = f". Not repaired: {repair.reason}" if repair.reason else ""
        for found in self.found:
            holds = any if found.either else all
            if holds(number in repaired for number in found.numbers):
                self.run.add(found.fault, repaired=True)
            else:
                fault = found.fault
                self.run.add_fault(fault.key, fault.problem + reason, fault.kind)
        self.held |= repaired
        for number in sorted(self.held):
            self.form.handle(number, self.held[number])
