"""Look up the values of the fields that expressions and sort orders name."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from policystore._util.late import cached_property
from policystore.format.plain import flatten, to_plain
from policystore.format.records import Version

__all__ = ["FIELDS", "Field", "Row", "Type", "parse_field"]


class Type(Enum):
    """Name the type of the values of a field, in words for messages."""

    TEXT = "a text in quotes"
    NUMBER = "a number"
    SIZE = "a number of bytes such as 500KB or 10MB"
    TIME = "a time in quotes such as '2026-11-21' or '2026-11-21T08:00+01:00'"
    AGE = "a duration such as 12h or 7d"
    DIGEST = "a digest in quotes such as 'blake3:ab12cd34', of at least 8 digits"
    FLAG = "true or false"
    ANY = "a number, a text in quotes, true or false"


class Row:
    """Hold a version, and what a search needs beside its record.

    Args:
        version: the version.
        now: the time from which its age counts.
    """

    def __init__(self, version: Version, now: datetime.datetime) -> None:
        self.version = version
        self.now = now

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The metrics of the push and of annotations; dots join the keys of nested ones."""
        return flatten(self.version.all_metrics)

    @property
    def nonfinite(self) -> list[str]:
        """The parts of the push that have NaN or infinite numbers, such as ``weights``."""
        return sorted({name.partition(".")[0] for name in self.version.nonfinite})

    @property
    def note(self) -> str | None:
        """The notes of all annotations, oldest first, a line each; None without notes."""
        notes = [each.note for each in self.version.annotations or () if each.note]
        return "\n".join(notes) if notes else None

    @cached_property
    def source(self) -> dict[str, Any]:
        """The values of ``source``; dots join the keys of nested ones."""
        return flatten(self.version.source)


_GETTERS: dict[str, tuple[Type, Callable[[Row], Any]]] = {
    "ref": (Type.TEXT, lambda row: row.version.ref),
    "name": (Type.TEXT, lambda row: row.version.name),
    "number": (Type.NUMBER, lambda row: row.version.number),
    "author": (Type.TEXT, lambda row: row.version.author),
    "message": (Type.TEXT, lambda row: row.version.message),
    "note": (Type.TEXT, lambda row: row.note),
    "time": (Type.TIME, lambda row: row.version.time),
    "age": (Type.AGE, lambda row: row.now - row.version.time),
    "size": (Type.SIZE, lambda row: row.version.nbytes),
    "digest": (Type.DIGEST, lambda row: row.version.digest),
    "weights_digest": (Type.DIGEST, lambda row: row.version.weights_digest),
    "acting_digest": (Type.DIGEST, lambda row: row.version.acting_digest),
    "state_digest": (Type.DIGEST, lambda row: row.version.state_digest),
    "parents": (Type.DIGEST, lambda row: row.version.parents),
    "tags": (Type.TEXT, lambda row: row.version.tags or ()),
    "nonfinite": (Type.TEXT, lambda row: row.nonfinite),
    "deleted": (Type.FLAG, lambda row: row.version.deleted is not None),
}
_OTHER_NAMES = {"nbytes": "size", "acting": "acting_digest", "parent": "parents", "tag": "tags"}

FIELDS = (*_GETTERS, *_OTHER_NAMES, "metrics.NAME", "source.NAME")
"""The names of all fields; any other name is that of a metric."""


@dataclass(frozen=True)
class Field:
    """Name a field of a version, as an expression does.

    Attributes:
        name: the name as it was written.
        type: what its values are.
        part: ``metrics``, ``source`` or, for a field of the record itself, ``record``.
        key: the name within this part.
        place: the index of its first character in the expression.
    """

    name: str
    type: Type
    part: str
    key: str
    place: int = 0

    def value(self, row: Row) -> Any:
        """Return the value of this field for a version; None if the version has none."""
        if self.part == "record":
            return _GETTERS[self.key][1](row)
        value = (row.metrics if self.part == "metrics" else row.source).get(self.key)
        return value if isinstance(value, (bool, int, float, str)) else _plain(value)


def _plain(value: object) -> Any:
    return None if value is None else to_plain(value, finite=False)


def parse_field(name: str, place: int = 0, *, quoted: bool = False) -> Field:
    """Return the field of a name.

    Args:
        name: the name: of a field of the record, ``metrics.NAME``, ``source.NAME``, or of a metric.
        place: the index of the name in its expression.
        quoted: whether the name stood in backquotes, so that it is a metric in any case.
    """
    if not quoted:
        key = _OTHER_NAMES.get(name, name)
        if key in _GETTERS:
            return Field(name, _GETTERS[key][0], "record", key, place)
        part, dot, rest = name.partition(".")
        if part in ("metrics", "source") and dot and rest:
            return Field(name, Type.ANY, part, rest, place)
    return Field(name, Type.ANY, "metrics", name, place)
