"""Read the records of a store for a report. What cannot be read is named, and the rest is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TypeVar

from policystore._util.batches import batches
from policystore._util.concurrency import in_parallel
from policystore._util.messages import brief
from policystore._util.progress import Meter
from policystore.backends.base import Backend, Problems
from policystore.errors import (
    FormatError,
    InvalidInputError,
    NotFoundError,
    PolicyStoreError,
    StorageError,
)
from policystore.format.keys import (
    MAX_RECORD,
    annotation_key,
    folder_prefix,
    name_of_prefix,
    tag_of_prefix,
    tags_prefix,
    versions_prefix,
)
from policystore.format.records import Annotation, Mark, TagMove, Version
from policystore.format.refs import MAX_NUMBER
from policystore.report.content import NameContent
from policystore.report.summary import Problem
from policystore.repository.lookup.annotations import list_annotations, parse_annotation
from policystore.repository.lookup.listing import can_start_a_name, names_advice
from policystore.repository.lookup.state import NameState, read_mark, read_state
from policystore.repository.lookup.tag_moves import parse_move
from policystore.repository.lookup.versions import read_version
from policystore.repository.record_log import tag_log, version_log
from policystore.repository.search.names import parse_pattern

__all__ = ["ContentReader"]

_Out = TypeVar("_Out")

_PAGE = 256  # records that are read before the next ones are begun
_MAX_MOVES = 200  # of one tag
_MAX_MARKS = 50  # of one name
_MAX_NOTES = 10_000  # annotations of one name
_MAX_FAILURES = 16  # of the storage; after these the storage is taken to be down


class ContentReader:
    """Read names, versions and tags, and collect what cannot be read.

    Args:
        backend: the storage of the store.
        limit: how many versions of each name to read at most; the newest ones are read.
        meter: counts the records that were read, and those that are known so far.
    """

    def __init__(self, backend: Backend, limit: int, meter: Meter) -> None:
        self.backend = backend
        self.problems: list[Problem] = []
        self._limit = limit
        self._meter = meter
        self._workers = backend.parallel
        self._failures = 0

    def attempt(self, place: str, call: Callable[[], _Out]) -> _Out | None:
        """Return what a call returns; if it raises an error, note the problem and return None.

        Raises:
            StorageError: the storage has failed more than 16 times.
        """
        try:
            return call()
        except StorageError as error:
            self._failures += 1
            if self._failures > _MAX_FAILURES:
                raise
            self.problems.append(Problem(place, str(error)))
        except PolicyStoreError as error:
            self.problems.append(Problem(place, str(error)))
        return None

    # Names

    def names(self, wanted: str | Iterable[str] | None) -> list[str]:
        """Return the names that a report is about, in order.

        Args:
            wanted: None for all names, a name, a prefix that ends with ``/``, a pattern as in a
                search (:func:`parse_pattern`), or several of these.

        Raises:
            InvalidInputError: another value.
            NotFoundError: nothing fits one of the items; the message names what is close.
        """
        if wanted is None or wanted == "":
            return self._below("")
        items = [wanted] if isinstance(wanted, str) else wanted
        if not isinstance(items, Iterable):
            raise InvalidInputError(
                f"names is a name, a prefix, a pattern, or a list of these, not {brief(wanted)}"
            )
        found: set[str] = set()
        for item in items:
            if not isinstance(item, str):
                raise InvalidInputError(
                    f"names: expected names, prefixes or patterns, found {brief(item)}"
                )
            found.update(self._fitting(item))
        return sorted(found)

    def _fitting(self, item: str) -> list[str]:
        if item == "":
            return self._below("")
        pattern = parse_pattern(item)
        if pattern.is_name:
            names = [item] if version_log(self.backend, item).newest().number else []
        else:
            names = [name for name in self._below(pattern.prefix) if pattern.matches(name)]
        if not names:
            literal = pattern.prefix.strip("/")
            advice = names_advice(self.backend, literal) if literal else ""
            raise NotFoundError(f"no name fits {item!r} in {self.backend.url}.{advice}")
        return names

    def _below(self, prefix: str) -> list[str]:
        if not can_start_a_name(prefix):
            return []
        problems: Problems = []
        keys = self.backend.prefixes(folder_prefix(prefix), "/@", problems=problems)
        names = {name for name in map(name_of_prefix, keys) if name and name.startswith(prefix)}
        self.problems += [Problem(place, text) for place, text in problems]
        return sorted(names)

    # What stands under a name

    def read(self, names: list[str]) -> list[NameContent]:
        """Read what stands under each name."""
        contents = in_parallel(self._read_name, names, workers=self._workers)
        return [content for content in contents if content is not None]

    def _read_name(self, name: str) -> NameContent | None:
        state = self.attempt(name, partial(read_state, self.backend, name))
        if state is None:
            # A damaged mark: all versions are shown, and the problem says why.
            log = version_log(self.backend, name)
            newest = self.attempt(name, lambda: log.newest(log.read_hint()))
            if newest is None:
                return None
            state = NameState(name, newest, None)
        if not state.newest.number:
            if next(iter(self.backend.keys(versions_prefix(name))), None) is not None:
                text = "its first version is missing, so its versions cannot be found"
                self.problems.append(Problem(name, text))
            return None
        standing = sum(last - first + 1 for first, last in state.standing())
        versions = sorted(self._versions(state), key=lambda version: version.number or 0)
        versions = self._annotated(name, versions)
        return NameContent(
            name=name,
            newest=state.newest.number,
            standing=standing,
            not_shown=max(0, standing - self._limit),
            versions=versions,
            tags=self._tags(name),
            deleted=state.deleted,
            marks=self._marks(state),
        )

    def _versions(self, state: NameState) -> Iterator[Version]:
        numbers = list(islice(state.numbers(), min(self._limit, MAX_NUMBER)))
        self._meter.expect(len(numbers))

        def read(number: int) -> Version | None:
            version = self.attempt(
                f"{state.name}@{number}",
                partial(read_version, self.backend, state.name, number),
            )
            self._meter.add(1)
            return version

        for page in batches(numbers, _PAGE):
            read_page = in_parallel(read, page, workers=self._workers)
            yield from (version for version in read_page if version is not None)

    def _annotated(self, name: str, versions: list[Version]) -> list[Version]:
        """Return the versions with their annotations, oldest first."""
        place = f"the annotations of {name}"
        listed = self.attempt(place, partial(list_annotations, self.backend, name))
        if listed is None:
            return versions
        keys = [
            (version, nonce)
            for version in reversed(versions)
            for nonce in listed.nonces.get(version.number or 0, ())
        ]
        if len(keys) > _MAX_NOTES:
            self.problems.append(Problem(place, f"only {_MAX_NOTES} of {len(keys)} were read"))
            del keys[_MAX_NOTES:]
        self._meter.expect(len(keys))

        def read(key: tuple[Version, str]) -> Annotation | None:
            found = self.attempt(f"an annotation of {key[0].ref}", partial(self._annotation, *key))
            self._meter.add(1)
            return found

        notes: dict[int, list[Annotation]] = {}
        for page in batches(keys, _PAGE):
            for note in in_parallel(read, page, workers=self._workers):
                if note is not None:
                    notes.setdefault(note.number, []).append(note)
        return [
            replace(
                version,
                annotations=tuple(
                    sorted(
                        notes.get(version.number or 0, ()), key=lambda note: (note.time, note.nonce)
                    )
                ),
            )
            for version in versions
        ]

    def _annotation(self, version: Version, nonce: str) -> Annotation:
        name, number = version.name or "", version.number or 0
        data = self.backend.get(annotation_key(name, number, nonce), limit=MAX_RECORD)
        note = parse_annotation(self.backend, name, number, nonce, data)
        if note.digest != version.digest:
            raise FormatError(
                f"the annotation {nonce} is of another policy, {note.digest.short}: a record was "
                "changed; verify() tells which"
            )
        return note

    def _tags(self, name: str) -> dict[str, list[TagMove]]:
        prefix = tags_prefix(name)
        listed = self.attempt(
            f"the tags of {name}", lambda: list(self.backend.prefixes(prefix, "/"))
        )
        tags = sorted(filter(None, (tag_of_prefix(key, name) for key in listed or ())))
        histories = in_parallel(partial(self._moves, name), tags, workers=self._workers)
        return {tag: moves for tag, moves in zip(tags, histories, strict=True) if moves}

    def _moves(self, name: str, tag: str) -> list[TagMove]:
        log = tag_log(self.backend, name, tag)
        place = f"the tag {tag} of {name}"
        newest = self.attempt(place, lambda: log.newest(log.read_hint()))
        if newest is None:
            return []

        def read(number: int) -> TagMove | None:
            return self.attempt(
                f"move {number} of {place}",
                lambda: parse_move(self.backend, name, tag, number, log.read(number)),
            )

        numbers = range(max(1, newest.number - _MAX_MOVES + 1), newest.number + 1)
        moves = in_parallel(read, numbers, workers=self._workers)
        return [move for move in moves if move is not None]

    def _marks(self, state: NameState) -> dict[int, Mark]:
        numbers = sorted({span.mark for span in state.deleted}, reverse=True)[:_MAX_MARKS]

        def read(number: int) -> Mark | None:
            place = f"mark {number} of {state.name}"
            return self.attempt(place, partial(read_mark, self.backend, state.name, number))

        marks = in_parallel(read, numbers, workers=self._workers)
        return {mark.number: mark for mark in marks if mark is not None}
