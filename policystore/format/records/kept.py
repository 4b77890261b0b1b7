"""Encode and parse the records of policies that were pushed without a name."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field

from policystore.digest import Digest
from policystore.errors import FormatError, InvalidInputError
from policystore.format.metadata import FORMAT
from policystore.format.records.fields import (
    check_text,
    encode_objects,
    encode_record,
    expect,
    format_time,
    parse_nonce,
    parse_objects,
    parse_record,
    parse_time,
)

__all__ = ["Kept"]


@dataclass(frozen=True)
class Kept:
    """Record a push without a name, so that the collector keeps the objects of the policy.

    Attributes:
        digest: the digest of the policy object.
        objects: digest -> size in bytes of every object of the policy; None if there are more
            than :data:`~policystore.format.records.fields.MAX_OBJECTS`.
        time: when the policy was pushed, by the clock of the writer, in UTC.
        author: who pushed the policy.
        nonce: 32 random hexadecimal digits, a part of the key of the record.
    """

    digest: Digest
    objects: Mapping[Digest, int] | None
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
                "kind": "kept",
                "nonce": self.nonce,
                "digest": str(self.digest),
                "objects": encode_objects(self.objects),
                "time": format_time(self.time),
                "author": check_text(self.author, "author"),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, label: str) -> Kept:
        """Read the bytes of a record; ``label`` names the record in messages.

        Raises:
            FormatError: not such a record of format 1.
        """
        fields = {"nonce", "digest", "objects", "time", "author"}
        document = parse_record(data, "kept", fields, label)
        try:
            kept = cls(
                digest=Digest.parse(document["digest"]),
                objects=parse_objects(document["objects"]),
                time=parse_time(document["time"]),
                author=check_text(document["author"], "author"),
                nonce=parse_nonce(document["nonce"]),
            )
            expect(kept.objects is None or kept.digest in kept.objects, "objects")
        except (InvalidInputError, ValueError, TypeError, KeyError) as error:
            raise FormatError(f"{label}: malformed record: {error}") from None
        return kept
