"""Read the versions that a search looks at: only as much of a store as the search needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from policystore._util.concurrency import in_parallel
from policystore.errors import FormatError, IntegrityError
from policystore.format.records import Mark, TagMove, Version
from policystore.repository.annotations import fill_version
from policystore.repository.lookup.annotations import (
    ListedAnnotations,
    list_annotations,
    read_annotations,
)
from policystore.repository.lookup.listing import list_names
from policystore.repository.lookup.state import NameState, read_mark, read_state
from policystore.repository.lookup.tag_moves import last_move
from policystore.repository.lookup.versions import named_state, read_version
from policystore.repository.record_log import tag_log
from policystore.repository.resolver import Resolver
from policystore.repository.search.query import Query

__all__ = ["VersionReader"]

_PAGE = 256  # names or records that are read before the next ones are begun

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True)
class _Name:
    """Hold what is known of a name whose versions are read.

    Attributes:
        state: which versions of the name stand.
        moves: the last move of each tag of the name; None if the search needs no tags.
        listed: the annotations of the name; None if the search needs no annotations.
    """

    state: NameState
    moves: Mapping[str, TagMove] | None
    listed: ListedAnnotations | None


class VersionReader:
    """Read the versions among which one search chooses.

    Args:
        resolver: reads the store.
        query: what the search looks for.

    Attributes:
        names: how many names fit the pattern of the query.
        problems: sentences on records that could not be read and were left out.
    """

    def __init__(self, resolver: Resolver, query: Query) -> None:
        self.names = 0
        self.problems: list[str] = []
        self._resolver = resolver
        self._backend = resolver.backend
        self._query = query
        self._deleted = query.names_field("deleted")
        self._needs_tags = query.tags or query.names_field("tags")
        self._needs_annotations = query.annotations or query.needs_annotations
        self._marks: dict[tuple[str, int], Mark] = {}

    def versions(self) -> Iterator[Version]:
        """Yield the versions, name by name, each newest first; several requests run at once.

        Raises:
            NotFoundError: the pattern is a name that does not exist, or of which nothing stands.
            FormatError, IntegrityError: a record is damaged or missing, unless the query says to
                skip such records.
            StorageError: the storage failed.
        """
        names = self._list_names()
        self.names = len(names)
        if self._query.tag is not None:
            yield from self._in_pages(partial(self._read_tagged, self._query.tag), names)
            return
        places = (
            (name, number)
            for name in self._in_pages(self._read_name, names)
            for number in self._numbers(name.state)
        )
        yield from self._in_pages(self._read_place, places)

    def _list_names(self) -> list[str]:
        """Return the names that fit the pattern, in order."""
        pattern, workers = self._query.names, self._resolver.workers
        if pattern.is_name:
            return [pattern.text]
        names = list_names(self._backend, pattern.prefix, workers=workers, deleted=self._deleted)
        return [name for name in names if pattern.matches(name)]

    def _in_pages(self, read: Callable[[_In], _Out | None], items: Iterable[_In]) -> Iterator[_Out]:
        """Call a function with each item, a page of items at once, and yield what it returns.

        A search that may end early begins with a small page.
        """
        may_end = self._query.limit is not None and not self._query.orders
        size = max(1, self._resolver.workers) if may_end else _PAGE
        left = iter(items)
        while page := list(islice(left, size)):
            for result in in_parallel(
                partial(self._guarded, read), page, workers=self._resolver.workers
            ):
                if result is not None:
                    yield result
            size = min(2 * size, _PAGE)

    def _guarded(self, read: Callable[[_In], _Out | None], item: _In) -> _Out | None:
        """Return what a function returns; None for a damaged record that the query says to skip."""
        try:
            return read(item)
        except (FormatError, IntegrityError) as error:
            if not self._query.skip_damaged:
                raise
            self.problems.append(str(error))
            return None

    def _read_name(self, name: str) -> _Name:
        read: Callable[[], NameState] = partial(read_state, self._backend, name)
        if self._query.names.is_name:
            read = partial(named_state, self._backend, name, standing=not self._deleted)
        moves, listed = self._needs_tags, self._needs_annotations
        calls: list[Callable[[], Any] | None] = [
            read,
            partial(self._resolver.last_moves, name) if moves else None,
            partial(list_annotations, self._backend, name) if listed else None,
        ]
        return _Name(*in_parallel(_call, calls, workers=self._resolver.workers))

    def _numbers(self, state: NameState) -> Iterable[int]:
        """Return the versions of a name to look at, newest first."""
        return range(state.newest.number, 0, -1) if self._deleted else state.numbers()

    def _read_place(self, place: tuple[_Name, int]) -> Version:
        """Read a version, with its tags and with the mark that deleted it, if there is one."""
        name, number = place
        newest, span = name.state.newest, name.state.span(number)
        data = newest.data if number == newest.number else None
        version = read_version(self._backend, name.state.name, number, data)
        if span is not None:
            version = replace(version, deleted=self._mark(name.state.name, span.mark))
        return self._filled(version, name.moves, name.listed)

    def _filled(
        self,
        version: Version,
        moves: Mapping[str, TagMove] | None,
        listed: ListedAnnotations | None,
    ) -> Version:
        """Return a version with its tags and annotations, as far as they were listed."""
        version = fill_version(version, moves, None)
        if listed is None:
            return version

        def read(number: int) -> Version:
            found = read_annotations(self._backend, listed, [number], workers=1)
            return fill_version(version, None, found)

        return self._guarded(read, version.number or 0) or version

    def _mark(self, name: str, number: int) -> Mark:
        """Return a mark; a mark that deleted many versions is read about once."""
        mark = self._marks.get((name, number))
        if mark is None:
            if len(self._marks) >= _PAGE:
                self._marks.clear()
            mark = self._marks[name, number] = read_mark(self._backend, name, number)
        return mark

    def _read_tagged(self, tag: str, name: str) -> Version | None:
        """Read the version to which a tag points; None if there is none that stands."""
        if self._query.names.is_name:
            named_state(self._backend, name)
        hint = tag_log(self._backend, name, tag).read_hint()
        move = last_move(self._backend, name, tag, hint)
        version = None if move is None else self._resolver.target_of(move)
        if version is None:
            return None
        moves = self._resolver.last_moves(name) if self._needs_tags else None
        listed = None
        if self._needs_annotations:
            listed = list_annotations(self._backend, name, version.number)
        return self._filled(version, moves, listed)


def _call(call: Callable[[], Any] | None) -> Any:
    return None if call is None else call()
