"""Version records, tag records, hints and the marker: ``docs/format.md`` section 7.

This module encodes and parses bytes; it does not touch storage.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policystore._util.messages import printable, shorten
from policystore.digest import Digest
from policystore.errors import FormatError, InvalidInputError
from policystore.format.field_codecs import (
    MAX_OBJECTS,
    check_text,
    decode_plain,
    encode_plain,
    encode_record,
    expect,
    format_time,
    parse_list,
    parse_nonce,
    parse_number,
    parse_objects,
    parse_optional_digest,
    parse_record,
    parse_time,
)
from policystore.format.metadata import FORMAT
from policystore.format.refs import check_name, check_tag

__all__ = ["Hint", "TagMove", "Version", "check_marker", "marker_bytes"]


@dataclass(frozen=True, repr=False)
class Version:
    """One version of a name. ``push`` returns a Version, and ``log`` returns a list of them.

    Attributes:
        name, number: the name and the number of the version (1, 2, … without gaps). Both are None
            if the push gave no name.
        digest: the digest of the policy object.
        weights_digest, acting_digest, state_digest: digests of the parts alone.
        objects: digest -> size in bytes of every object of the policy; None if there are more
            than :data:`MAX_OBJECTS`.
        previous: BLAKE3 of the bytes of the previous record of the name; None for version 1.
        time: when the version was pushed, by the clock of the writer, in UTC.
        author, message: who pushed the version, and why.
        metrics: numbers and texts given with the push.
        source: where the policy came from, as given with the push.
        parents: digests of the policies that this one was trained from.
        nonce: 32 random hexadecimal digits, by which a writer recognises its own record.
    """

    name: str | None
    number: int | None
    digest: Digest
    weights_digest: Digest
    acting_digest: Digest
    state_digest: Digest
    objects: Mapping[Digest, int] | None
    previous: Digest | None
    time: datetime.datetime
    author: str
    message: str
    metrics: Mapping[Any, Any] = field(default_factory=dict)
    source: Mapping[Any, Any] = field(default_factory=dict)
    parents: tuple[Digest, ...] = ()
    nonce: str = field(default="", repr=False)

    @property
    def ref(self) -> str:
        """The ref of exactly this version, ``soccer/main@7``; the digest if there is no name."""
        return str(self.digest) if self.name is None else f"{self.name}@{self.number}"

    @property
    def acting(self) -> Digest:
        """Digest of the weights that acting needs, equal to ``acting_digest`` of the snapshot.

        Reports on running Algorithms show this digest, and ``PolicyStore.find_acting`` finds the
        versions that have it.
        """
        return self.acting_digest

    def __hash__(self) -> int:
        return hash((self.name, self.number, self.digest, self.nonce))

    def __str__(self) -> str:
        metrics = [
            f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={shorten(str(value), 40)}"
            for key, value in self.metrics.items()
            if isinstance(value, (bool, int, float, str))
        ]
        parts = [
            self.ref,
            self.digest.short,
            f"acting={self.acting.short}",
            f"{self.time:%Y-%m-%d %H:%M:%S}",
            self.author,
            " ".join(metrics),
            self.message,
        ]
        return printable("  ".join(part for part in parts if part))

    def __repr__(self) -> str:
        return f"<Version {self}>"

    def to_bytes(self) -> bytes:
        """Return the bytes of the record.

        Raises:
            InvalidInputError: author, message, metrics or source are too long, or metrics or
                source are not plain values.
        """
        is_listed = self.objects is not None and len(self.objects) <= MAX_OBJECTS
        document = {
            "format": FORMAT,
            "kind": "version",
            "name": self.name,
            "number": self.number,
            "nonce": self.nonce,
            "digest": str(self.digest),
            "parts": {
                "weights": str(self.weights_digest),
                "acting": str(self.acting_digest),
                "state": str(self.state_digest),
            },
            "objects": (
                {str(digest): size for digest, size in (self.objects or {}).items()}
                if is_listed
                else None
            ),
            "previous": None if self.previous is None else str(self.previous),
            "time": format_time(self.time),
            "author": check_text(self.author, "author"),
            "message": check_text(self.message, "message"),
            "metrics": encode_plain(self.metrics, "metrics"),
            "source": encode_plain(self.source, "source"),
            "parents": [str(parent) for parent in self.parents],
        }
        return encode_record(document)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, label: str) -> Version:
        """Read the bytes of a version record; ``label`` names the record in messages.

        Raises:
            FormatError: not a version record of format 1.
        """
        document = parse_record(data, "version", _VERSION_FIELDS, label)
        try:
            parts = document["parts"]
            expect(set(parts) == {"weights", "acting", "state"}, "parts")
            version = cls(
                name=check_name(document["name"]),
                number=parse_number(document["number"]),
                digest=Digest.parse(document["digest"]),
                weights_digest=Digest.parse(parts["weights"]),
                acting_digest=Digest.parse(parts["acting"]),
                state_digest=Digest.parse(parts["state"]),
                objects=parse_objects(document["objects"]),
                previous=parse_optional_digest(document["previous"]),
                time=parse_time(document["time"]),
                author=check_text(document["author"], "author"),
                message=check_text(document["message"], "message"),
                metrics=decode_plain(document["metrics"], "metrics"),
                source=decode_plain(document["source"], "source"),
                parents=tuple(Digest.parse(parent) for parent in parse_list(document["parents"])),
                nonce=parse_nonce(document["nonce"]),
            )
            expect((version.number == 1) == (version.previous is None), "previous")
            expect(version.objects is None or version.digest in version.objects, "objects")
        except (InvalidInputError, ValueError, TypeError, KeyError) as error:
            raise FormatError(f"{label}: malformed version record: {error}") from None
        return version


@dataclass(frozen=True)
class TagMove:
    """One move of a tag. The move with the highest number says where the tag points now.

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
        document = parse_record(data, "tag", _TAG_FIELDS, label)
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


@dataclass(frozen=True)
class Hint:
    """The version of a name that some writer believed to be the newest.

    A hint may be out of date. A reader only begins its search at the number in the hint.
    """

    number: int
    digest: Digest

    def to_bytes(self) -> bytes:
        """Return the bytes of the hint."""
        return encode_record(
            {"format": FORMAT, "kind": "hint", "number": self.number, "digest": str(self.digest)}
        )

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, label: str) -> Hint:
        """Read the bytes of a hint; ``label`` names the hint in messages.

        Raises:
            FormatError: not a hint of format 1.
        """
        document = parse_record(data, "hint", {"number", "digest"}, label)
        try:
            return cls(parse_number(document["number"]), Digest.parse(document["digest"]))
        except ValueError as error:
            raise FormatError(f"{label}: malformed hint: {error}") from None


def marker_bytes() -> bytes:
    """Return the content of the marker, ``policystore.json``."""
    return encode_record({"format": FORMAT, "kind": "store"})


def check_marker(data: bytes | memoryview, label: str) -> None:
    """Check that a marker is one of policystore and of format 1.

    Raises:
        FormatError: the marker is not one of policystore, or is of a newer format.
    """
    parse_record(data, "store", set(), label)


_VERSION_FIELDS = {
    "name", "number", "nonce", "digest", "parts", "objects", "previous", "time", "author",
    "message", "metrics", "source", "parents",
}  # fmt: skip
_TAG_FIELDS = {
    "name", "tag", "number", "nonce", "target", "digest", "previous", "time", "author",
}  # fmt: skip
