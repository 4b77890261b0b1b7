"""Encode and parse summaries of leagues, the bodies that they name, and deletions of leagues."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace

from policystore.digest import Digest
from policystore.errors import FormatError, InvalidInputError
from policystore.format.metadata import FORMAT
from policystore.format.records.fields import (
    check_text,
    encode_record,
    expect,
    format_time,
    parse_list,
    parse_nonce,
    parse_number,
    parse_record,
    parse_time,
)
from policystore.format.refs import MAX_NUMBER, check_name

__all__ = ["MAX_BODIES", "MAX_BODY", "BodyEntry", "LeagueDeletion", "Summary"]

MAX_BODY = 16 << 20
"""The longest body of a summary, in bytes."""

MAX_BODIES = 64
"""The most bodies that a summary names."""


@dataclass(frozen=True)
class BodyEntry:
    """Name one body of a summary.

    Attributes:
        digest: digest of the bytes of the body, also in its key.
        nbytes: number of these bytes.
        batches: number of batches that the body covers. Bodies that were cut off another one,
            because it was too long, cover 0.
    """

    digest: Digest
    nbytes: int
    batches: int


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Name the bodies that together hold the sums of a league up to some moment.

    A summary saves reading only. Summary N+1 covers at least the batches that summary N covers.

    Attributes:
        league: the name of the league.
        epoch: the epoch of the league.
        number: the number of the summary, from 1 on.
        nonce: 32 random hexadecimal digits.
        time: when the summary was made, by the clock of the writer, in UTC.
        author: who made the summary.
        bodies: the bodies, in their order. Where two bodies know the list of one writer, the later
            body knows more of it. Sums are added.
    """

    league: str
    epoch: int
    number: int
    nonce: str
    time: datetime.datetime
    author: str
    bodies: tuple[BodyEntry, ...]

    def to_bytes(self) -> bytes:
        """Return the bytes of the record."""
        return encode_record(
            {
                "format": FORMAT,
                "kind": "summary",
                "league": self.league,
                "epoch": self.epoch,
                "number": self.number,
                "nonce": self.nonce,
                "time": format_time(self.time),
                "author": check_text(self.author, "author"),
                "bodies": [[str(each.digest), each.nbytes, each.batches] for each in self.bodies],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, label: str) -> Summary:
        """Read the bytes of a summary; ``label`` names the record in messages.

        Raises:
            FormatError: not a summary of format 1.
        """
        fields = {"league", "epoch", "number", "nonce", "time", "author", "bodies"}
        document = parse_record(data, "summary", fields, label)
        try:
            bodies = []
            for digest, nbytes, batches in parse_list(document["bodies"]):
                expect(type(nbytes) is int and 0 < nbytes <= MAX_BODY, "bodies")
                expect(type(batches) is int and 0 <= batches <= MAX_NUMBER, "bodies")
                bodies.append(BodyEntry(Digest.parse(digest), nbytes, batches))
            expect(1 <= len(bodies) <= MAX_BODIES and bodies[0].batches > 0, "bodies")
            return cls(
                league=check_name(document["league"]),
                epoch=parse_number(document["epoch"]),
                number=parse_number(document["number"]),
                nonce=parse_nonce(document["nonce"]),
                time=parse_time(document["time"]),
                author=check_text(document["author"], "author"),
                bodies=tuple(bodies),
            )
        except (InvalidInputError, ValueError, TypeError) as error:
            raise FormatError(f"{label}: malformed summary: {error}") from None


@dataclass(frozen=True, kw_only=True)
class LeagueDeletion:
    """Record that an epoch of a league is deleted, and that the next one has begun.

    Attributes:
        league: the name of the league.
        epoch: the epoch that is deleted, also the number of the record.
        nonce: 32 random hexadecimal digits.
        time: when the league was deleted, by the clock of the writer, in UTC.
        author: who deleted the league.
        message: why.
    """

    league: str
    epoch: int
    nonce: str
    time: datetime.datetime
    author: str
    message: str = ""

    def of_epoch(self, epoch: int) -> LeagueDeletion:
        """Return the same record for another epoch."""
        return replace(self, epoch=epoch)

    def to_bytes(self) -> bytes:
        """Return the bytes of the record.

        Raises:
            InvalidInputError: author or message are too long.
        """
        return encode_record(
            {
                "format": FORMAT,
                "kind": "league-deletion",
                "league": self.league,
                "epoch": self.epoch,
                "nonce": self.nonce,
                "time": format_time(self.time),
                "author": check_text(self.author, "author"),
                "message": check_text(self.message, "message"),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, label: str) -> LeagueDeletion:
        """Read the bytes of a record; ``label`` names the record in messages.

        Raises:
            FormatError: not such a record of format 1.
        """
        fields = {"league", "epoch", "nonce", "time", "author", "message"}
        document = parse_record(data, "league-deletion", fields, label)
        try:
            return cls(
                league=check_name(document["league"]),
                epoch=parse_number(document["epoch"]),
                nonce=parse_nonce(document["nonce"]),
                time=parse_time(document["time"]),
                author=check_text(document["author"], "author"),
                message=check_text(document["message"], "message"),
            )
        except (InvalidInputError, ValueError, TypeError) as error:
            raise FormatError(f"{label}: malformed deletion of a league: {error}") from None
