"""Encode and parse the cursors of mirrors."""

from __future__ import annotations

from dataclasses import dataclass

from policystore.digest import Digest
from policystore.errors import FormatError, InvalidInputError
from policystore.format.metadata import FORMAT
from policystore.format.records.fields import encode_record, expect, parse_number, parse_record
from policystore.format.refs import MAX_NUMBER

__all__ = ["Copied"]


@dataclass(frozen=True)
class Copied:
    """Say how far a mirror has come with a name whose lists differ in source and target.

    A cursor only saves reading: if a mirror finds no cursor, or a cursor that does not fit, the
    mirror compares all versions.

    Attributes:
        number: all versions of the source up to this number were copied or are deleted.
        record: BLAKE3 of the bytes of the record of that version in the source.
        marks: the number of the newest mark of the source at that time; 0 if there was none.
        target: each version of the target up to this number that has an origin is a copy of a
            version of the source up to ``number``.
    """

    number: int
    record: Digest
    marks: int
    target: int

    def to_bytes(self) -> bytes:
        """Return the bytes of the cursor."""
        return encode_record(
            {
                "format": FORMAT,
                "kind": "copied",
                "number": self.number,
                "record": str(self.record),
                "marks": self.marks,
                "target": self.target,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, label: str) -> Copied:
        """Read the bytes of a cursor; ``label`` names the cursor in messages.

        Raises:
            FormatError: not a cursor of format 1.
        """
        fields = {"number", "record", "marks", "target"}
        document = parse_record(data, "copied", fields, label)
        try:
            for name in ("marks", "target"):
                value = document[name]
                expect(type(value) is int and 0 <= value <= MAX_NUMBER, name)
            return cls(
                number=parse_number(document["number"]),
                record=Digest.parse(document["record"]),
                marks=document["marks"],
                target=document["target"],
            )
        except (InvalidInputError, ValueError) as error:
            raise FormatError(f"{label}: malformed cursor: {error}") from None
