"""Encode and parse hints, which say where a reader begins its search for the newest record."""

from __future__ import annotations

from dataclasses import dataclass

from policystore.digest import Digest
from policystore.errors import FormatError, InvalidInputError
from policystore.format.canonical_json import JsonObject
from policystore.format.metadata import FORMAT
from policystore.format.records.fields import (
    encode_record,
    expect,
    parse_number,
    parse_optional_digest,
    parse_record,
)
from policystore.format.refs import MAX_NUMBER

__all__ = ["Hint", "TagHint"]


@dataclass(frozen=True)
class Hint:
    """Name the newest version and the newest mark of a name, as a writer saw them.

    A hint may be out of date. A reader only begins its search at the numbers in the hint.

    Attributes:
        number: the number of the newest version.
        digest: the digest of the newest version that stands; if none stands, the digest of the
            newest version.
        marks: the number of the newest mark; 0 if there is none.
        stands: the number of the newest version that stands, 0 if none stands. Without marks, all
            versions stand, and the field equals ``number``.
    """

    number: int
    digest: Digest
    marks: int = 0
    stands: int | None = None

    def __post_init__(self) -> None:
        if self.stands is None:
            object.__setattr__(self, "stands", self.number)

    def to_bytes(self) -> bytes:
        """Return the bytes of the hint. Without marks, it has no fields for marks."""
        document: JsonObject = {
            "format": FORMAT,
            "kind": "hint",
            "number": self.number,
            "digest": str(self.digest),
        }
        if self.marks:
            document |= {"marks": self.marks, "stands": self.stands}
        return encode_record(document)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, label: str) -> Hint:
        """Read the bytes of a hint; ``label`` names the hint in messages.

        Raises:
            FormatError: not a hint of format 1.
        """
        optional = {"marks", "stands"}
        document = parse_record(data, "hint", {"number", "digest"}, label, optional=optional)
        try:
            number, digest = parse_number(document["number"]), Digest.parse(document["digest"])
            if optional.isdisjoint(document):
                return cls(number, digest)
            expect(optional <= document.keys(), "marks")
            stands = document["stands"]
            expect(type(stands) is int and 0 <= stands <= MAX_NUMBER, "stands")
            return cls(number, digest, parse_number(document["marks"]), stands)
        except ValueError as error:
            raise FormatError(f"{label}: malformed hint: {error}") from None


@dataclass(frozen=True)
class TagHint:
    """Name the newest move of a tag, as a writer saw it.

    Attributes:
        number: the number of the move.
        target: the number of the version that the tag was moved to; None if the tag was removed.
        digest: the digest of that version; None if the tag was removed.
    """

    number: int
    target: int | None
    digest: Digest | None

    def to_bytes(self) -> bytes:
        """Return the bytes of the hint."""
        return encode_record(
            {
                "format": FORMAT,
                "kind": "tag-hint",
                "number": self.number,
                "target": self.target,
                "digest": None if self.digest is None else str(self.digest),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, label: str) -> TagHint:
        """Read the bytes of a hint of a tag; ``label`` names the hint in messages.

        Raises:
            FormatError: not a hint of a tag of format 1.
        """
        document = parse_record(data, "tag-hint", {"number", "target", "digest"}, label)
        try:
            target = None if document["target"] is None else parse_number(document["target"])
            digest = parse_optional_digest(document["digest"])
            expect((target is None) == (digest is None), "digest")
            return cls(parse_number(document["number"]), target, digest)
        except (InvalidInputError, ValueError) as error:
            raise FormatError(f"{label}: malformed hint of a tag: {error}") from None
