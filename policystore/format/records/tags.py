"""Encode and parse the records of moves of tags."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Any

from policystore._util.messages import printable
from policystore.digest import Digest
from policystore.errors import FormatError, InvalidInputError
from policystore.format.canonical_json import Json, JsonObject, canonical_json
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
from policystore.format.refs import check_name, check_tag

__all__ = ["Protection", "TagMove"]

_MAX_BY = 4 << 10  # bytes of the authors who may move a protected tag, as JSON


@dataclass(frozen=True)
class Protection:
    """Say who may move a tag. This is advice: everybody who may write to the store can ignore it.

    Attributes:
        by: the authors who may move and remove the tag, in order; empty if nobody may.
        author: who protected the tag.
        time: when the tag was protected, by the clock of the writer, in UTC.
    """

    by: tuple[str, ...]
    author: str
    time: datetime.datetime

    def __str__(self) -> str:
        by = f"only {', '.join(self.by)}" if self.by else "nobody"
        time = f"{self.time:%Y-%m-%d %H:%M:%S} UTC"
        return printable(
            f"{self.author} protected it at {time}, and {by} may move it without force=True"
        )

    def to_json(self) -> JsonObject:
        """Return the field of a record.

        Raises:
            InvalidInputError: a text is too long, or the authors are too many.
        """
        by: list[Json] = [check_text(author, "by") for author in self.by]
        nbytes = len(canonical_json(by))
        if nbytes > _MAX_BY:
            raise InvalidInputError(
                f"by is too long: it has {nbytes:,} bytes as JSON, and may have {_MAX_BY:,}. Name "
                "fewer authors"
            )
        author = check_text(self.author, "author")
        return {"author": author, "by": by, "time": format_time(self.time)}

    @classmethod
    def from_json(cls, value: Json) -> Protection:
        """Read the field of a record.

        Raises:
            InvalidInputError, ValueError: another value.
        """
        expect(isinstance(value, dict) and set(value) == {"author", "by", "time"}, "protected")
        by = tuple(check_text(author, "by") for author in parse_list(value["by"]))
        expect(list(by) == sorted(set(by)) and all(by), "by")
        protection = cls(by, check_text(value["author"], "author"), parse_time(value["time"]))
        protection.to_json()  # the length of all authors
        return protection


@dataclass(frozen=True, repr=False)
class TagMove:
    """Record one move of a tag. The move with the highest number says where the tag points now.

    A record that protects the tag, or ends its protection, is a move to the version to which the
    tag points already. Each later move repeats the protection.

    Attributes:
        name, tag: the name and its tag.
        number: the number of the move (1, 2, … without gaps).
        target: the version number that the tag was moved to; None if the tag was removed.
        digest: the digest of that version; None if the tag was removed.
        previous: BLAKE3 of the bytes of the previous move; None for move 1.
        time: when the tag was moved, by the clock of the writer, in UTC.
        author: who moved the tag.
        nonce: 32 random hexadecimal digits, by which a writer recognizes its own record.
        protected: who may move the tag after this move; None if the tag is not protected.
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
    protected: Protection | None = None

    def __str__(self) -> str:
        place = "removed" if self.target is None else f"{self.name}@{self.target}"
        protected = "" if self.protected is None else f"  ({self.protected})"
        time = f"{self.time:%Y-%m-%d %H:%M:%S} UTC"
        return printable(f"{self.tag} -> {place}  {time}  {self.author}{protected}")

    def __repr__(self) -> str:
        return f"<TagMove {self}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as plain values: digests and times are texts."""
        return plain_fields(self)

    def to_bytes(self) -> bytes:
        """Return the bytes of the record.

        Raises:
            InvalidInputError: the author is too long, or the protection is.
        """
        document: JsonObject = {
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
        if self.protected is not None:
            document["protected"] = self.protected.to_json()
        return encode_record(document)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, label: str) -> TagMove:
        """Read the bytes of a tag record; ``label`` names the record in messages.

        Raises:
            FormatError: not a tag record of format 1.
        """
        document = parse_record(data, "tag", _FIELDS, label, optional={"protected"})
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
                protected=(
                    Protection.from_json(document["protected"]) if "protected" in document else None
                ),
            )
            expect((move.target is None) == (move.digest is None), "digest")
            expect((move.number == 1) == (move.previous is None), "previous")
        except (InvalidInputError, ValueError, TypeError, KeyError) as error:
            raise FormatError(f"{label}: malformed tag record: {error}") from None
        return move


_FIELDS = {
    "name", "tag", "number", "nonce", "target", "digest", "previous", "time", "author",
}  # fmt: skip
