"""Check the records of leagues: lists of matches, summaries with their bodies, deletions.

What belongs to a deleted epoch is not checked: a collector may be removing it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from policystore.backends.base import Backend
from policystore.digest import Digest, digest_of
from policystore.errors import FormatError, NotFoundError, PolicyStoreError
from policystore.format.keys import MAX_RECORD
from policystore.format.league_keys import batch_key, body_key, deletion_key, summary_key
from policystore.format.records.match_batch import (
    MAX_BATCH,
    ListEnd,
    MatchBatch,
    parse_list_record,
)
from policystore.format.records.match_summary import MAX_BODY, LeagueDeletion, Summary
from policystore.format.records.sums import ListState, Tally, parse_body
from policystore.repository.verify.chain import ChainForm, check_chain
from policystore.repository.verify.listing import ListedLeague, Numbers
from policystore.repository.verify.report import Fault
from policystore.repository.verify.run import Answer, Run, Task, read_key

__all__ = ["check_leagues"]

_NOTHING = ListState(0, "", False)
_MOVED = "the record belongs to another key: it was moved or copied to this key"

_WAVE = 64  # records that are read before the next ones are begun; a batch has up to 1 MiB
_BODIES = 4  # the same for bodies of summaries, which have up to 16 MiB


def check_leagues(run: Run, *, only_new: bool) -> None:
    """Read the records of all leagues, and report what is wrong with them.

    Args:
        run: the run.
        only_new: whether only new records are read. The sums of summaries are then not compared
            with the matches.
    """
    leagues = run.inventory.leagues
    for league in sorted(leagues):
        check = _LeagueCheck(run, league, leagues.pop(league), only_new=only_new)
        check.run_all()


@dataclass(frozen=True)
class _Item:
    """What the check of a list needs of a record: little memory, for lists of any length.

    Attributes:
        record: the record; None if only its place is needed.
        place: league, epoch, writer and number.
        matches: how many matches it has.
        is_end: whether it ends the list.
        previous: the digest of the record before.
    """

    record: ListEnd | None
    place: tuple[str, int, str, int]
    matches: int
    is_end: bool
    previous: Digest | None


class _LeagueCheck:
    """The check of one league.

    Attributes:
        epoch: the present epoch.
        summed: the sums that the newest summary has; None if they are not to be compared.
        counted: the sums of the matches that the newest summary counts.
        ended: the writers whose lists have ended, with the number of the end.
        newest: the newest summary of the present epoch that was read.
        bodies: the bodies that it needs, as far as they could be read.
    """

    def __init__(self, run: Run, league: str, listed: ListedLeague, *, only_new: bool) -> None:
        self.run = run
        self.league = league
        self.listed = listed
        self.only_new = only_new
        self.epoch = max(listed.deletions.listed, default=0) + 1
        self.summed: Tally | None = None
        self.counted = Tally()
        self.ended: dict[str, int] = {}
        self.newest: Summary | None = None
        self.bodies: dict[Digest, Tally] = {}

    def run_all(self) -> None:
        """Read all records of the league."""
        self.run.report.leagues += 1
        deletions = self._numbered(
            self.listed.deletions, partial(deletion_key, self.league), self._deletion
        )
        self.run.read(deletions)
        for epoch in sorted(self.listed.summaries):
            if epoch >= self.epoch:
                key = partial(summary_key, self.league, epoch)
                handle = partial(self._summary, epoch)
                self.run.read(self._numbered(self.listed.summaries[epoch], key, handle))
        self.run.read(self._body_tasks(), wave=_BODIES)
        self._join_bodies()
        self.run.read(self._list_tasks(), wave=_WAVE)
        self._compare()

    def _list_tasks(self) -> Iterator[Task]:
        for epoch, writer in sorted(self.listed.lists):
            if epoch >= self.epoch:
                numbers = self.listed.lists[epoch, writer]
                form = self._list_form(epoch, writer)
                yield from check_chain(self.run, form, numbers, self._first(numbers))

    def _first(self, numbers: Numbers) -> int:
        """Return the first number to read: the number before the first new number."""
        if not self.only_new:
            return 1
        if not numbers.first_new:
            return max(numbers.listed, default=0) + 1
        return max(1, numbers.first_new - 1)

    # Lists of matches

    def _list_form(self, epoch: int, writer: str) -> ChainForm[_Item]:
        keep = self.run.source is None and not self.only_new

        def parse(data: bytes | memoryview, label: str) -> _Item:
            record = parse_list_record(data, label)
            place = record.league, record.epoch, record.writer, record.number
            matches = record.matches if isinstance(record, MatchBatch) else ()
            is_end = not isinstance(record, MatchBatch)
            return _Item(record if keep else None, place, len(matches), is_end, record.previous)

        def belongs(item: _Item, number: int) -> bool:
            return item.place == (self.league, epoch, writer, number)

        key = partial(batch_key, self.league, epoch, writer)
        return ChainForm(key, parse, belongs, MAX_BATCH, self._handle)

    def _handle(self, number: int, item: _Item) -> None:
        _, epoch, writer, _ = item.place
        report = self.run.report
        report.match_records += 1
        report.matches += item.matches
        if self.ended.get(writer, number) < number:
            key = batch_key(self.league, epoch, writer, number)
            self.run.add_fault(key, "the record follows the end of its list: readers pass it over")
        elif item.is_end:
            self.ended[writer] = number
        state = None if self.summed is None else self.summed.lists.get(writer)
        if item.record is None or state is None:
            return
        if state.sealed or number <= state.number:
            self.counted.add_record(item.record)

    # Deletions and summaries: numbered, but no chains

    def _numbered(
        self, numbers: Numbers, key: Callable[[int], str], handle: Callable[[int, Answer], None]
    ) -> Iterator[Task]:
        """Yield a task for each record of a list, and report the numbers that are missing."""
        expected, first = 1, self._first(numbers)
        for number in sorted(numbers.listed):
            while expected < number and self.run.exists(key(expected)):
                expected += 1  # it was created while the listing was made
            if expected < number:
                gap = f"{expected}" + (f" to {number - 1}" if number > expected + 1 else "")
                problem = f"missing: {gap}, and later numbers exist{self._unproved}"
                self.run.add_fault(key(expected), problem, "missing")
            if number >= first:
                yield Task(partial(handle, number), key(number), MAX_RECORD)
            expected = number + 1

    @property
    def _unproved(self) -> str:
        """What a fault of a record says that no later record proves."""
        if self.run.source is None:
            return ""
        return ". Not repaired: no other record holds the digest of the right bytes"

    def _deletion(self, number: int, answer: Answer) -> None:
        key = deletion_key(self.league, number)
        deletion = self.run.parse(LeagueDeletion.from_bytes, key, MAX_RECORD, answer)
        if deletion is not None and (deletion.league, deletion.epoch) != (self.league, number):
            self.run.add_fault(key, _MOVED)

    def _summary(self, epoch: int, number: int, answer: Answer) -> None:
        key = summary_key(self.league, epoch, number)
        summary = self.run.parse(Summary.from_bytes, key, MAX_RECORD, answer)
        if summary is None:
            return
        self.run.report.summaries += 1
        if (summary.league, summary.epoch, summary.number) != (self.league, epoch, number):
            self.run.add_fault(key, _MOVED)
        elif epoch == self.epoch:
            self.newest = summary  # the tasks are handled in order

    # Bodies

    def _body_tasks(self) -> Iterator[Task]:
        """Yield a task for each body that the newest summary needs, and for each other one."""
        needed = [] if self.newest is None else [each.digest for each in self.newest.bodies]
        listed = (Digest(digest.hex()) for digest, is_new in sorted(self.listed.bodies.items())
                  if is_new)  # fmt: skip
        for digest in dict.fromkeys([*needed, *listed]):
            key = body_key(self.league, digest)
            yield Task(partial(self._body, digest, digest in needed), key, MAX_BODY)

    def _body(self, digest: Digest, is_needed: bool, answer: Answer) -> None:
        """Check one body; repair it, or look again, before a fault is reported."""
        key = body_key(self.league, digest)
        fault = self._check_body(digest, answer)
        if fault is not None:
            answer = read_key(self.run.backend, key, MAX_BODY)
            fault = self._check_body(digest, answer)
        if fault is None:
            if is_needed and isinstance(answer, bytes):
                self.bodies[digest] = parse_body(answer, key, self.league, self.epoch)
            return
        if isinstance(answer, NotFoundError) and not is_needed:
            return  # a collector has removed it since the listing
        if self.run.source is not None:
            reason = self._repair_body(self.run.source, digest)
            if not reason:
                self.run.add(fault, repaired=True)
                return
            fault = replace(fault, problem=f"{fault.problem}. Not repaired: {reason}")
        self.run.add(fault)

    def _check_body(self, digest: Digest, answer: Answer) -> Fault | None:
        key = body_key(self.league, digest)
        if isinstance(answer, NotFoundError):
            return Fault(key, "the newest summary needs this body, which is missing", "missing")
        if not isinstance(answer, bytes):
            return Fault(
                key, str(answer), "record" if isinstance(answer, FormatError) else "storage"
            )
        if digest_of(answer) != digest:
            return Fault(key, "the body has other bytes than its key says", "damaged")
        try:
            parse_body(answer, self.run.backend.location(key), self.league, None)
        except FormatError as error:
            return Fault(key, str(error))
        return None

    def _repair_body(self, source: Backend, digest: Digest) -> str:
        """Copy a body from the other store; return why that was not possible, or ""."""
        key = body_key(self.league, digest)
        data = read_key(source, key, MAX_BODY)
        if not isinstance(data, bytes) or digest_of(data) != digest:
            return f"{source.url} does not have the body"
        try:
            self.run.backend.replace(key, data)
        except PolicyStoreError as error:
            return str(error)
        return ""

    # The sums of the newest summary

    def _join_bodies(self) -> None:
        """Add up the bodies of the newest summary, if all of them could be read."""
        if self.newest is None or self.only_new or self.run.source is not None:
            return
        if all(each.digest in self.bodies for each in self.newest.bodies):
            self.summed = Tally()
            for each in self.newest.bodies:
                self.summed.merge(self.bodies[each.digest])

    def _compare(self) -> None:
        """Compare the sums of the newest summary with the matches that it counts."""
        if self.newest is None or self.summed is None:
            return
        key = summary_key(self.league, self.epoch, self.newest.number)
        behind = [
            writer
            for writer, state in self.summed.lists.items()
            if not _reaches(self.counted.lists.get(writer, _NOTHING), state)
        ]
        lost = [writer for writer in behind if not self._has_all(writer, self.summed)]
        if lost:
            more = f" and of {len(lost) - 1:,} more lists" if lost[1:] else ""
            problem = f"the summary counts records of the list {lost[0]}{more} that do not exist"
        elif behind:
            return  # the records are newer than the listing, or they are damaged and were reported
        elif (self.summed.totals(), self.summed.unknown) != (
            self.counted.totals(),
            self.counted.unknown,
        ):
            problem = "the sums of the summary differ from the matches that it counts"
        else:
            return
        self.run.add_fault(key, problem)

    def _has_all(self, writer: str, summed: Tally) -> bool:
        """Return whether the newest record of a list that a summary counts exists."""
        number = summed.lists[writer].number  # 0 for a list that has ended
        return self.run.exists(batch_key(self.league, self.epoch, writer, max(1, number)))


def _reaches(read: ListState, summed: ListState) -> bool:
    """Return whether all records that a summary counts were read; an end counts as a record."""
    return read.sealed if summed.sealed else read.number == summed.number
