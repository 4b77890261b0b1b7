"""Show a store in a notebook."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from policystore._util.concurrency import in_parallel
from policystore._util.messages import shorten, text_table
from policystore.display.html import Cell, block, line, table
from policystore.display.words import show_age, show_metrics, show_size
from policystore.errors import NotFoundError, PolicyStoreError
from policystore.format.records import Version
from policystore.format.refs import parse_ref
from policystore.repository.objects import MIN_WORKERS
from policystore.store.base import StoreBase

__all__ = ["ShowingCalls"]

_MOST_NAMES = 30  # of which a notebook shows the newest version
_WIDEST = 40  # characters of a cell in a terminal
_EMPTY = "no policies under a name yet"
_HEAD = ("newest", "tags", "age", "author", "size", "metrics", "message")


@dataclass(frozen=True)
class _Row:
    """Hold what is shown of one name: its newest version and tags, or why they cannot be read."""

    name: str
    newest: Version | None = None
    tags: Mapping[str, Version] | None = None
    fault: str = ""


class ShowingCalls(StoreBase):
    """Show a store in a notebook. ``repr(store)`` makes no request."""

    def _rows(self) -> tuple[list[_Row], int]:
        """Return the first names of the store, and how many more there are."""
        names = self._resolver.names("")
        workers = max(MIN_WORKERS, self._backend.parallel)
        return list(in_parallel(self._row, names[:_MOST_NAMES], workers=workers)), max(
            0, len(names) - _MOST_NAMES
        )

    def _row(self, name: str) -> _Row:
        try:
            newest = self._resolver.version(parse_ref(name))
        except PolicyStoreError as error:
            return _Row(name, fault=_in_brief(error))
        try:
            return _Row(name, newest, self._resolver.tags(name))
        except NotFoundError:  # the name was deleted meanwhile
            return _Row(name, newest, {})
        except PolicyStoreError as error:
            return _Row(name, newest, fault=_in_brief(error))

    def _repr_html_(self) -> str:
        head = line(f"PolicyStore {self.url}", heading=True)
        try:
            rows, more = self._rows()
        except PolicyStoreError as error:
            return block([head, line(_in_brief(error))]).source
        if not rows:
            return block([head, line(_EMPTY, faint=True)]).source
        cells = [_cells(row) for row in rows]
        wrong = [i for i, row in enumerate(rows) if row.fault]
        parts = [
            head,
            table(
                _HEAD,
                [
                    [Cell(cell, number=i == _HEAD.index("size")) for i, cell in enumerate(each)]
                    for each in cells
                ],
                wrong=wrong,
            ),
        ]
        parts += [line(f"and {more:,} more names", faint=True)] if more else []
        return block(parts).source

    def _screen(self) -> str:
        """Return one screen of text for a terminal."""
        try:
            rows, more = self._rows()
        except PolicyStoreError as error:
            return f"{self!r}: {_in_brief(error)}"
        cells = [[shorten(cell, _WIDEST) for cell in _cells(row)] for row in rows]
        shown = [text_table(_HEAD, cells, {_HEAD.index("size")})] if rows else [_EMPTY]
        shown += [f"and {more:,} more names"] if more else []
        return "\n".join([repr(self), *shown])


def _in_brief(error: PolicyStoreError) -> str:
    return shorten(" ".join(str(error).split()), 300)


def _cells(row: _Row) -> tuple[str, ...]:
    if row.newest is None:
        return (row.name, "", "", "", "", "", row.fault)
    newest = row.newest
    tags = ", ".join(f"{tag} @{version.number}" for tag, version in (row.tags or {}).items())
    size = "" if newest.objects is None else show_size(sum(newest.objects.values()))
    return (
        newest.ref,
        shorten(tags, 60),
        show_age(datetime.datetime.now(datetime.timezone.utc) - newest.time),
        shorten(newest.author, 30),
        size,
        shorten(show_metrics(newest.metrics), 80),
        shorten(row.fault or newest.message, 80),
    )
