"""Encode and parse annotations: what is said of a version after its push."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policystore._util.messages import printable
from policystore.digest import Digest
from policystore.display.words import show_metrics
from policystore.errors import FormatError, InvalidInputError
from policystore.format.metadata import FORMAT
from policystore.format.plain import plain_fields
from policystore.format.records.fields import (
    check_text,
    decode_plain,
    encode_plain,
    encode_record,
    expect,
    format_time,
    parse_nonce,
    parse_number,
    parse_record,
    parse_time,
)
from policystore.format.refs import check_name

__all__ = ["Annotation"]


@dataclass(frozen=True, repr=False)
class Annotation:
    """Record something that was found out about a version after the push of the version.

    Attributes:
        name, number: the version.
        digest: the digest of the policy of the version.
        time: when the annotation was made, by the clock of the writer, in UTC.
        author: who made the annotation.
        metrics: numbers and texts, as the metrics of a push.
        note: a text. An annotation has metrics, or a note, or both.
        nonce: 32 random hexadecimal digits, a part of the key of the record.
    """

    name: str
    number: int
    digest: Digest
    time: datetime.datetime
    author: str
    metrics: Mapping[Any, Any] = field(default_factory=dict)
    note: str = ""
    nonce: str = ""

    @property
    def ref(self) -> str:
        """The ref of the version, ``soccer/main@7``."""
        return f"{self.name}@{self.number}"

    def __hash__(self) -> int:
        return hash((self.name, self.number, self.nonce))

    def __str__(self) -> str:
        parts = [
            self.ref,
            f"{self.time:%Y-%m-%d %H:%M:%S} UTC",
            self.author,
            show_metrics(self.metrics),
            self.note,
        ]
        return printable("  ".join(part for part in parts if part))

    def __repr__(self) -> str:
        return f"<Annotation {self}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as plain values, which ``json.dumps`` takes."""
        return plain_fields(self)

    def to_bytes(self) -> bytes:
        """Return the bytes of the record.

        Raises:
            InvalidInputError: author, note or metrics are too long, or metrics are not plain
                values.
        """
        return encode_record(
            {
                "format": FORMAT,
                "kind": "annotation",
                "name": self.name,
                "number": self.number,
                "nonce": self.nonce,
                "digest": str(self.digest),
                "time": format_time(self.time),
                "author": check_text(self.author, "author"),
                "metrics": encode_plain(self.metrics, "metrics"),
                "note": check_text(self.note, "note"),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, label: str) -> Annotation:
        """Read the bytes of an annotation; ``label`` names the record in messages.

        Raises:
            FormatError: not an annotation of format 1.
        """
        document = parse_record(data, "annotation", _FIELDS, label)
        try:
            annotation = cls(
                name=check_name(document["name"]),
                number=parse_number(document["number"]),
                digest=Digest.parse(document["digest"]),
                time=parse_time(document["time"]),
                author=check_text(document["author"], "author"),
                metrics=decode_plain(document["metrics"], "metrics"),
                note=check_text(document["note"], "note"),
                nonce=parse_nonce(document["nonce"]),
            )
            expect(bool(annotation.metrics or annotation.note), "metrics")
        except (InvalidInputError, ValueError, TypeError, KeyError) as error:
            raise FormatError(f"{label}: malformed annotation: {error}") from None
        return annotation


_FIELDS = {"name", "number", "nonce", "digest", "time", "author", "metrics", "note"}
