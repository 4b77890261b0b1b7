"""Check the records of names: versions, marks, tags and hints; and pushes without a name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from policystore.digest import Digest
from policystore.errors import NotFoundError
from policystore.format.keys import (
    MAX_RECORD,
    annotation_key,
    deleted_key,
    hint_key,
    mark_key,
    tag_hint_key,
    tag_key,
    version_key,
)
from policystore.format.records import (
    MAX_MARK,
    Annotation,
    Hint,
    Kept,
    Mark,
    TagHint,
    TagMove,
    Version,
    check_pointer,
    find_span,
    with_spans,
)
from policystore.repository.verify.chain import ChainForm, check_chain
from policystore.repository.verify.claims import Claims
from policystore.repository.verify.leagues import check_leagues
from policystore.repository.verify.listing import ListedName, Numbers, bytes_of, kept_key_of
from policystore.repository.verify.run import Answer, Need, Run, Task

__all__ = ["RecordCheck"]


class RecordCheck:
    """Check all records of a store in waves.

    Args:
        run: the run.
        claims: takes what the records say of their policies.
        only_new: whether only new records are read, with the record before the first of them.
    """

    def __init__(self, run: Run, claims: Claims, *, only_new: bool) -> None:
        self.run = run
        self.claims = claims
        self.only_new = only_new
        self.late: list[Task] = []

    def check(self) -> None:
        """Read all records, and report what is wrong with them."""
        self.run.read(self._names())
        # Versions to which tags point, and which were not read with their names.
        self.run.read(self.late)
        kept = self.run.inventory.kept
        self.run.read(
            Task(partial(self._kept, place), kept_key_of(kept.item(place)), MAX_RECORD)
            for place in kept.in_order().data
        )
        self.run.read(
            Task(partial(self._pointer, name), deleted_key(name), MAX_RECORD)
            for name in sorted(self.run.inventory.pointers)
        )
        check_leagues(self.run, only_new=self.only_new)

    def _names(self) -> Iterator[Task]:
        names = self.run.inventory.names
        for name in sorted(names):
            yield from _NameCheck(self, name, names.pop(name)).tasks()

    def needs(self, version: Version | Kept, need: Need, kept: int = 0) -> None:
        """Note the objects that a record needs, and what it says; arguments as ``Claims.add``."""
        objects = version.objects or (version.digest,)
        for digest in objects:
            self.run.need(bytes_of(digest), need)
        self.claims.add(version, need, kept)

    def _kept(self, place: int, answer: Answer) -> None:
        item = self.run.inventory.kept.item(place)
        key = kept_key_of(item)
        kept = self.run.parse(Kept.from_bytes, key, MAX_RECORD, answer)
        if kept is None:
            return
        self.run.report.kept += 1
        if bytes.fromhex(kept.digest.hex + kept.nonce) != item:
            self.run.add_fault(
                key, "the record belongs to another key: it was moved or copied to this key"
            )
        self.needs(kept, Need(key), place)

    def _pointer(self, name: str, answer: Answer) -> None:
        key = deleted_key(name)
        self.run.parse(check_pointer, key, MAX_RECORD, answer)


class _NameCheck:
    """The check of one name. Marks come first: they say which versions need their objects.

    Attributes:
        mark: the newest mark that was read.
        wanted: a version -> the tag moves to it, and its annotations: their keys and digests.
    """

    def __init__(self, records: RecordCheck, name: str, listed: ListedName) -> None:
        self.records = records
        self.run = records.run
        self.name = name
        self.listed = listed
        self.mark: Mark | None = None
        self.wanted: dict[int, list[tuple[str, Digest]]] = {}

    def tasks(self) -> Iterator[Task]:
        """Yield the tasks that check the name."""
        name, listed, report = self.name, self.listed, self.run.report
        newest = max(listed.marks.listed, default=0)
        yield from check_chain(
            self.run,
            ChainForm(
                partial(mark_key, name),
                Mark.from_bytes,
                lambda mark, number: (mark.name, mark.number) == (name, number),
                MAX_MARK,
                self._mark,
            ),
            listed.marks,
            min(self._first(listed.marks), newest),
        )
        for tag in sorted(listed.tags):
            report.tags += 1
            yield from check_chain(
                self.run, self._tag_form(tag), listed.tags[tag], self._first(listed.tags[tag])
            )
        for number, nonce in listed.annotations:
            key = annotation_key(name, number, nonce)
            yield Task(partial(self._annotation, number, nonce), key, MAX_RECORD)
        if listed.versions.listed:
            report.names += 1
        yield from check_chain(
            self.run,
            ChainForm(
                partial(version_key, name),
                Version.from_bytes,
                lambda version, number: (version.name, version.number) == (name, number),
                MAX_RECORD,
                self._version,
            ),
            listed.versions,
            self._first(listed.versions),
        )
        yield Task(self._ask_for_wanted)
        if listed.has_hint:
            yield Task(self._hint, hint_key(name), MAX_RECORD)
        for tag in sorted(listed.tag_hints):
            yield Task(partial(self._tag_hint, tag), tag_hint_key(name, tag), MAX_RECORD)

    def _first(self, numbers: Numbers) -> int:
        """Return the first number to read: the number before the first new number."""
        if not self.records.only_new:
            return 1
        if not numbers.first_new:
            return max(numbers.listed, default=0) + 1
        return max(1, numbers.first_new - 1)

    def _tag_form(self, tag: str) -> ChainForm[TagMove]:
        name = self.name

        def belongs(move: TagMove, number: int) -> bool:
            return (move.name, move.tag, move.number) == (name, tag, number)

        def handle(number: int, move: TagMove) -> None:
            if move.target is not None and move.digest is not None:
                moves = self.wanted.setdefault(move.target, [])
                moves.append((tag_key(name, tag, number), move.digest))

        key = partial(tag_key, name, tag)
        return ChainForm(key, TagMove.from_bytes, belongs, MAX_RECORD, handle)

    def _mark(self, number: int, mark: Mark) -> None:
        """Check what a mark says against the mark before it."""
        self.run.report.marks += 1
        before, self.mark = self.mark, mark
        # A mark may come before its versions: a copy from another store writes marks first.
        if number > 1 and (before is None or before.number != number - 1):
            return  # the mark before could not be read, and that was reported
        deleted = () if before is None else before.deleted
        by = None if mark.action == "restore" else number
        if with_spans(deleted, mark.changed, by) != mark.deleted:
            self.run.add_fault(
                mark_key(self.name, number),
                "the deleted versions in this mark do not follow from the mark before and from the "
                "change that this mark makes",
            )

    def _version(self, number: int, version: Version) -> None:
        key = version_key(self.name, number)
        self.run.report.versions += 1
        self._compare(number, self.wanted.pop(number, []), version)
        deleted = () if self.mark is None else self.mark.deleted
        if find_span(deleted, number) is None:
            self.records.needs(version, Need(key, self.name, number))
        else:
            self.records.claims.retire(version.digest)

    def _compare(self, number: int, places: list[tuple[str, Digest]], version: Version) -> None:
        for key, digest in places:
            if digest != version.digest:
                problem = f"the recorded digest is not that of {self.name}@{number}"
                self.run.add_fault(key, problem)

    def _annotation(self, number: int, nonce: str, answer: Answer) -> None:
        key = annotation_key(self.name, number, nonce)
        annotation = self.run.parse(Annotation.from_bytes, key, MAX_RECORD, answer)
        if annotation is None:
            return
        self.run.report.annotations += 1
        if (annotation.name, annotation.number, annotation.nonce) == (self.name, number, nonce):
            self.wanted.setdefault(number, []).append((key, annotation.digest))
        else:
            problem = "the record belongs to another key: it was moved or copied to this key"
            self.run.add_fault(key, problem)

    def _ask_for_wanted(self, answer: Answer) -> None:
        """Read the versions of tags and annotations that were not read, after all names."""
        if not self.wanted:
            return
        first = self._first(self.listed.versions)
        read = {number for number in self.listed.versions.listed if number >= first}
        for number, places in self.wanted.items():
            if number in read:
                continue  # the version cannot be read, and that was reported
            key = version_key(self.name, number)
            self.records.late.append(Task(partial(self._late, number, places), key, MAX_RECORD))

    def _late(self, number: int, places: list[tuple[str, Digest]], answer: Answer) -> None:
        key = version_key(self.name, number)
        if isinstance(answer, NotFoundError) and not self.run.exists(key):
            for place, _ in places:
                problem = f"missing: the record is about version {number}, which does not exist"
                self.run.add_fault(place, problem, "missing")
            return
        version = self.run.parse(Version.from_bytes, key, MAX_RECORD, answer)
        if version is not None:
            self._compare(number, places, version)

    def _hint(self, answer: Answer) -> None:
        key = hint_key(self.name)
        hint = self.run.parse(Hint.from_bytes, key, MAX_RECORD, answer)
        if hint is None:
            return
        for key_of, number, numbers, what in (
            (version_key, hint.number, self.listed.versions, "version"),
            (mark_key, hint.marks, self.listed.marks, "mark"),
        ):
            self._check_reached(partial(key_of, self.name), number, numbers, what)

    def _tag_hint(self, tag: str, answer: Answer) -> None:
        key = tag_hint_key(self.name, tag)
        hint = self.run.parse(TagHint.from_bytes, key, MAX_RECORD, answer)
        if hint is None:
            return
        numbers = self.listed.tags.get(tag, Numbers())
        self._check_reached(partial(tag_key, self.name, tag), hint.number, numbers, "move")

    def _check_reached(
        self, key: Callable[[int], str], number: int, numbers: Numbers, what: str
    ) -> None:
        """Check that a list reaches to the number that its hint names.

        To a remote store a hint is written at the same time as its record, so it may be one ahead:
        the record is on its way, or its writer was cut off.
        """
        if number <= max(numbers.listed, default=0) or self.run.exists(key(number)):
            return
        if self.run.backend.is_remote and (number == 1 or self.run.exists(key(number - 1))):
            return
        self.run.add_fault(
            key(number), f"the hint names this {what}, but the record does not exist", "missing"
        )
