"""Encode and parse marks: which versions of a name were deleted, restored or pruned."""

from __future__ import annotations

import datetime
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from policystore._util.messages import printable, shorten
from policystore.digest import Digest
from policystore.errors import FormatError, InvalidInputError
from policystore.format.canonical_json import Json, JsonObject
from policystore.format.metadata import FORMAT
from policystore.format.plain import plain_fields
from policystore.format.records.fields import (
    check_text,
    encode_record,
    expect,
    format_time,
    parse_list,
    parse_nonce,
    parse_number,
    parse_optional_digest,
    parse_record,
    parse_time,
)
from policystore.format.refs import check_name

__all__ = ["MAX_MARK", "Action", "Mark", "Span", "find_span", "newest_standing", "with_spans"]

MAX_MARK = 1 << 20
"""The most bytes that a mark may have. A reader refuses a longer mark."""

Action: TypeAlias = Literal["delete", "prune", "restore"]
"""What a mark does to the versions in its ranges."""


@dataclass(frozen=True, slots=True)
class Span:
    """Name consecutive versions that one mark has deleted.

    Attributes:
        first, last: the first and the last version.
        mark: the number of the mark.
    """

    first: int
    last: int
    mark: int


@dataclass(frozen=True)
class Mark:
    """Record that versions of a name were deleted, pruned or restored.

    Attributes:
        name: the name.
        number: the number of the mark (1, 2, … without gaps).
        action: what the mark does.
        changed: the versions that the mark changes, as ranges of a first and a last number, in
            ascending order and without overlaps.
        deleted: all versions that are deleted after this mark, in ascending order. So the newest
            mark of a name says which versions stand.
        previous: BLAKE3 of the bytes of the previous mark; None for mark 1.
        time: when the mark was made, by the clock of the writer, in UTC.
        author, message: who made the mark, and why.
        force: whether the mark deletes versions though tags point to them. Without ``force``, a tag
            on a version that the mark has deleted means that the deletion was cut off.
        nonce: 32 random hexadecimal digits, by which a writer recognizes its own record.
    """

    name: str
    number: int
    action: Action
    changed: tuple[tuple[int, int], ...]
    deleted: tuple[Span, ...]
    previous: Digest | None
    time: datetime.datetime
    author: str
    message: str
    nonce: str = field(default="", repr=False)
    force: bool = False

    def __str__(self) -> str:
        done = {"delete": "deleted", "prune": "pruned", "restore": "restored"}[self.action]
        message = f": {shorten(self.message, 200)}" if self.message else ""
        text = f"{done} by {self.author} at {self.time:%Y-%m-%d %H:%M:%S} UTC{message}"
        return printable(text)

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as plain values; the ranges of ``changed`` are lists."""
        return plain_fields(self)

    def to_bytes(self) -> bytes:
        """Return the bytes of the record.

        Raises:
            InvalidInputError: author or message are too long, or the record is longer than
                :data:`MAX_MARK`, because the deleted versions lie in too many ranges.
        """
        document: JsonObject = {
            "format": FORMAT,
            "kind": "mark",
            "name": self.name,
            "number": self.number,
            "nonce": self.nonce,
            "action": self.action,
            "changed": [[first, last] for first, last in self.changed],
            "deleted": [[span.first, span.last, span.mark] for span in self.deleted],
            "previous": None if self.previous is None else str(self.previous),
            "time": format_time(self.time),
            "author": check_text(self.author, "author"),
            "message": check_text(self.message, "message"),
        }
        if self.force:
            document["force"] = True
        return encode_record(document, limit=MAX_MARK)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, label: str) -> Mark:
        """Read the bytes of a mark; ``label`` names the record in messages.

        Raises:
            FormatError: not a mark of format 1.
        """
        document = parse_record(data, "mark", _FIELDS, label, optional={"force"})
        try:
            mark = cls(
                name=check_name(document["name"]),
                number=parse_number(document["number"]),
                action=document["action"],
                changed=tuple(_parse_range(item) for item in parse_list(document["changed"])),
                deleted=tuple(_parse_span(item) for item in parse_list(document["deleted"])),
                previous=parse_optional_digest(document["previous"]),
                time=parse_time(document["time"]),
                author=check_text(document["author"], "author"),
                message=check_text(document["message"], "message"),
                nonce=parse_nonce(document["nonce"]),
                force="force" in document,
            )
            expect(document.get("force", True) is True, "force")
            expect(mark.action in get_args(Action), "action")
            expect((mark.number == 1) == (mark.previous is None), "previous")
            expect(_ascend(mark.changed), "changed")
            expect(_ascend([(span.first, span.last) for span in mark.deleted]), "deleted")
            expect(all(span.mark <= mark.number for span in mark.deleted), "deleted")
            # Of two neighbours by the same mark one range would be enough.
            expect(tuple(_joined(mark.deleted)) == mark.deleted, "deleted")
        except (InvalidInputError, ValueError, TypeError, KeyError) as error:
            raise FormatError(f"{label}: malformed mark: {error}") from None
        return mark


def find_span(deleted: Sequence[Span], number: int) -> Span | None:
    """Return the span that holds a version; None if the version stands."""
    index = bisect_right(deleted, number, key=lambda span: span.first) - 1
    return deleted[index] if index >= 0 and number <= deleted[index].last else None


def newest_standing(deleted: Sequence[Span], newest: int) -> int:
    """Return the newest version that stands; 0 if none stands.

    Args:
        deleted: all deleted versions, in ascending order.
        newest: the number of the newest version.
    """
    for span in reversed(deleted):
        if newest > span.last:
            break
        newest = min(newest, span.first - 1)
    return newest


def with_spans(
    deleted: Sequence[Span], changed: Iterable[tuple[int, int]], mark: int | None
) -> tuple[Span, ...]:
    """Return the deleted versions after a change.

    Args:
        deleted: all deleted versions before the change, in ascending order.
        changed: the versions that change, as ranges in ascending order.
        mark: the number of the mark that deletes them; None if they are restored. Versions that are
            deleted already keep their earlier mark.
    """
    if mark is None:
        return tuple(_joined(_outside(deleted, list(changed))))
    new = [Span(first, last, mark) for first, last in changed]
    new = _outside(new, [(span.first, span.last) for span in deleted])
    return tuple(_joined(sorted([*deleted, *new], key=lambda span: span.first)))


def _outside(spans: Iterable[Span], ranges: Sequence[tuple[int, int]]) -> list[Span]:
    """Return the parts of spans that lie outside of ranges; both ascend.

    The time grows with the sum of both lengths, because a hostile mark may have 100,000 spans.
    """
    parts: list[Span] = []
    index = 0
    for span in spans:
        first = span.first
        while index < len(ranges) and ranges[index][0] <= span.last:
            begin, end = ranges[index]
            if first < begin:
                parts.append(Span(first, begin - 1, span.mark))
            first = max(first, end + 1)
            if end > span.last:
                break  # the range may also cover a part of the next span
            index += 1
        if first <= span.last:
            parts.append(Span(first, span.last, span.mark))
    return parts


def _joined(spans: Iterable[Span]) -> list[Span]:
    """Join neighbours that the same mark has deleted."""
    joined: list[Span] = []
    for span in spans:
        if joined and joined[-1].last + 1 == span.first and joined[-1].mark == span.mark:
            span = Span(joined.pop().first, span.last, span.mark)
        joined.append(span)
    return joined


def _ascend(ranges: Sequence[tuple[int, int]]) -> bool:
    """Return whether ranges are not empty, ascend and do not overlap."""
    last = 0
    for first, end in ranges:
        if not last < first <= end:
            return False
        last = end
    return True


def _parse_range(value: Json) -> tuple[int, int]:
    expect(isinstance(value, list) and len(value) == 2, "changed")
    return parse_number(value[0]), parse_number(value[1])


def _parse_span(value: Json) -> Span:
    expect(isinstance(value, list) and len(value) == 3, "deleted")
    return Span(*map(parse_number, value))


_FIELDS = {
    "name", "number", "nonce", "action", "changed", "deleted", "previous", "time", "author",
    "message",
}  # fmt: skip
