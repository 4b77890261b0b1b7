"""Encode and parse the records of moves of tags."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

from policystore.digest import Digest
from policystore.errors import FormatError, InvalidInputError
from policystore.format.metadata import FORMAT
from policystore.format.records.fields import (
    check_text,
    encode_record,
    expect,
    format_time,
    parse_nonce,
    parse_number,
    parse_optional_digest,
    parse_record,
    parse_time,
)
from policystore.format.refs import check_name, check_tag

__all__ = ["TagMove"]


@dataclass(frozen=True)
class TagMove:
    """Record one move of a tag. The move with the highest number says where the tag points now.

    Attributes:
        name, tag: the name and its tag.
        number: the number of the move (1, 2, … without gaps).
        target: the version number that the tag was moved to; None if the tag was removed.
        digest: the digest of that version; None if the tag was removed.
        previous: BLAKE3 of the bytes of the previous move; None for move 1.
        time: when the tag was moved, by the clock of the writer, in UTC.
        author: who moved the tag.
        nonce: 32 random hexadecimal digits, by which a writer recognises its own record.
    """

    name: str
    tag: str
    number: int
    target: int | None
    digest: Digest | None
    previous: Digest | None
    time: datetime.datetime
    author: str
    nonce: str = field(default="", repr=False)

    def to_bytes(self) -> bytes:
        """Return the bytes of the record.

        Raises:
            InvalidInputError: the author is too long.
        """
        return encode_record(
            {
                "format": FORMAT,
                "kind": "tag",
                "name": self.name,
                "tag": self.tag,
                "number": self.number,
                "nonce": self.nonce,
                "target": self.target,
                "digest": None if self.digest is None else str(self.digest),
                "previous": None if self.previous is None else str(self.previous),
                "time": format_time(self.time),
                "author": check_text(self.author, "author"),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, label: str) -> TagMove:
        """Read the bytes of a tag record; ``label`` names the record in messages.

        Raises:
            FormatError: not a tag record of format 1.
        """
        document = parse_record(data, "tag", _FIELDS, label)
        try:
            move = cls(
                name=check_name(document["name"]),
                tag=check_tag(document["tag"]),
                number=parse_number(document["number"]),
                target=None if document["target"] is None else parse_number(document["target"]),
                digest=parse_optional_digest(document["digest"]),
                previous=parse_optional_digest(document["previous"]),
                time=parse_time(document["time"]),
                author=check_text(document["author"], "author"),
                nonce=parse_nonce(document["nonce"]),
            )
            expect((move.target is None) == (move.digest is None), "digest")
            expect((move.number == 1) == (move.previous is None), "previous")
        except (InvalidInputError, ValueError, TypeError, KeyError) as error:
            raise FormatError(f"{label}: malformed tag record: {error}") from None
        return move


_FIELDS = {
    "name", "tag", "number", "nonce", "target", "digest", "previous", "time", "author",
}  # fmt: skip
