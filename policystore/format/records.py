"""Version records, tag records, hints and the marker: ``docs/format.md`` section 7.

This module encodes and parses bytes; it does not touch storage.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policystore._util.messages import brief, printable, shorten
from policystore.digest import Digest
from policystore.errors import FormatError, InvalidInputError
from policystore.format.canonical_json import Json, JsonObject, canonical_json, parse_canonical
from policystore.format.keys import MAX_RECORD
from policystore.format.policy import FORMAT, check_format
from policystore.format.refs import MAX_NUMBER, check_name, check_tag
from policystore.format.values import decode_value, encode_value

__all__ = [
    "MAX_OBJECTS",
    "Hint",
    "TagMove",
    "Version",
    "check_marker",
    "marker_bytes",
]

MAX_OBJECTS = 256
"""A version record lists at most this many objects, so that every record fits into
:data:`~policystore.format.keys.MAX_RECORD`. For a policy with more, a reader takes the list from
the policy object."""

_MAX_TEXT = 4 << 10  # bytes of author or message
_MAX_PLAIN = 16 << 10  # bytes of metrics or source, as JSON
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\Z", re.ASCII)
_NONCE = re.compile(r"[0-9a-f]{32}\Z")


@dataclass(frozen=True, repr=False)
class Version:
    """One version of a name, as :meth:`PolicyStore.push` returns it and the log lists it.

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
            "time": _format_time(self.time),
            "author": _text(self.author, "author"),
            "message": _text(self.message, "message"),
            "metrics": _plain(self.metrics, "metrics"),
            "source": _plain(self.source, "source"),
            "parents": [str(parent) for parent in self.parents],
        }
        return _encode_record(document)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, label: str) -> Version:
        """Read the bytes of a version record; ``label`` names the record in messages.

        Raises:
            FormatError: not a version record of format 1.
        """
        document = _parse_record(data, "version", _VERSION_FIELDS, label)
        try:
            parts = document["parts"]
            _expect(set(parts) == {"weights", "acting", "state"}, "parts")
            version = cls(
                name=check_name(document["name"]),
                number=_number(document["number"]),
                digest=Digest.parse(document["digest"]),
                weights_digest=Digest.parse(parts["weights"]),
                acting_digest=Digest.parse(parts["acting"]),
                state_digest=Digest.parse(parts["state"]),
                objects=_objects(document["objects"]),
                previous=_optional_digest(document["previous"]),
                time=_parse_time(document["time"]),
                author=_text(document["author"], "author"),
                message=_text(document["message"], "message"),
                metrics=_mapping(document["metrics"], "metrics"),
                source=_mapping(document["source"], "source"),
                parents=tuple(Digest.parse(parent) for parent in _list(document["parents"])),
                nonce=_nonce(document["nonce"]),
            )
            _expect((version.number == 1) == (version.previous is None), "previous")
            _expect(version.objects is None or version.digest in version.objects, "objects")
        except (InvalidInputError, ValueError, TypeError, KeyError) as error:
            raise FormatError(f"{label}: malformed version record: {error}") from None
        return version


@dataclass(frozen=True)
class TagMove:
    """One move of a tag. The move with the highest number says where the tag is now.

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
        return _encode_record(
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
                "time": _format_time(self.time),
                "author": _text(self.author, "author"),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, label: str) -> TagMove:
        """Read the bytes of a tag record; ``label`` names the record in messages.

        Raises:
            FormatError: not a tag record of format 1.
        """
        document = _parse_record(data, "tag", _TAG_FIELDS, label)
        try:
            move = cls(
                name=check_name(document["name"]),
                tag=check_tag(document["tag"]),
                number=_number(document["number"]),
                target=None if document["target"] is None else _number(document["target"]),
                digest=_optional_digest(document["digest"]),
                previous=_optional_digest(document["previous"]),
                time=_parse_time(document["time"]),
                author=_text(document["author"], "author"),
                nonce=_nonce(document["nonce"]),
            )
            _expect((move.target is None) == (move.digest is None), "digest")
            _expect((move.number == 1) == (move.previous is None), "previous")
        except (InvalidInputError, ValueError, TypeError, KeyError) as error:
            raise FormatError(f"{label}: malformed tag record: {error}") from None
        return move


@dataclass(frozen=True)
class Hint:
    """The newest version of a name as some writer saw it.

    A hint may be out of date; a reader uses it only as the place where to begin its search.
    """

    number: int
    digest: Digest

    def to_bytes(self) -> bytes:
        """Return the bytes of the hint."""
        return _encode_record(
            {"format": FORMAT, "kind": "hint", "number": self.number, "digest": str(self.digest)}
        )

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, label: str) -> Hint:
        """Read the bytes of a hint; ``label`` names the hint in messages.

        Raises:
            FormatError: not a hint of format 1.
        """
        document = _parse_record(data, "hint", {"number", "digest"}, label)
        try:
            return cls(_number(document["number"]), Digest.parse(document["digest"]))
        except ValueError as error:
            raise FormatError(f"{label}: malformed hint: {error}") from None


def marker_bytes() -> bytes:
    """Return the content of the marker, ``policystore.json``."""
    return _encode_record({"format": FORMAT, "kind": "store"})


def check_marker(data: bytes | memoryview, label: str) -> None:
    """Check that a marker is one of policystore and of format 1.

    Raises:
        FormatError: the marker is something else, or of a newer format.
    """
    _parse_record(data, "store", set(), label)


_VERSION_FIELDS = {
    "name", "number", "nonce", "digest", "parts", "objects", "previous", "time", "author",
    "message", "metrics", "source", "parents",
}  # fmt: skip
_TAG_FIELDS = {
    "name", "tag", "number", "nonce", "target", "digest", "previous", "time", "author",
}  # fmt: skip


def _encode_record(document: JsonObject) -> bytes:
    data = canonical_json(document)
    if len(data) > MAX_RECORD:
        raise InvalidInputError(
            f"the record would take {len(data)} bytes; a record has at most {MAX_RECORD}. Keep "
            "long texts and many numbers outside the store."
        )
    return data


def _parse_record(data: bytes | memoryview, kind: str, fields: set[str], label: str) -> JsonObject:
    document = parse_canonical(data, label)
    if not isinstance(document, dict):
        raise FormatError(f"{label}: expected a JSON object, found {type(document).__name__}")
    check_format(document, label)
    if document.get("kind") != kind:
        raise FormatError(
            f"{label}: expected a record of kind {kind!r}, not {brief(document.get('kind'))}"
        )
    differing = sorted(set(document) ^ (fields | {"format", "kind"}))
    if differing:
        raise FormatError(f"{label}: missing or unknown fields: {brief(', '.join(differing))}")
    return document


def _format_time(time: datetime.datetime) -> str:
    """Write a time in UTC with microseconds: ``2026-11-21T01:25:37.000123Z``."""
    return time.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _parse_time(text: str) -> datetime.datetime:
    """Read what :func:`_format_time` wrote.

    Raises:
        ValueError: a text of another form.
    """
    if not _TIME.match(text):
        raise ValueError(f"{text!r} is not a time as format 1 writes it")
    return datetime.datetime.fromisoformat(text[:-1] + "+00:00")


def _text(value: object, label: str) -> str:
    if not isinstance(value, str):
        raise InvalidInputError(f"{label} is a string, not {type(value).__qualname__}")
    if len(value.encode("utf-8", "surrogatepass")) > _MAX_TEXT:
        raise InvalidInputError(f"{label} has at most {_MAX_TEXT} bytes")
    return value


def _plain(value: Mapping[Any, Any], label: str) -> Json:
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{label} is a dict, not {type(value).__qualname__}")
    encoded = encode_value(_without_numpy_scalars(value), label)
    size = len(canonical_json(encoded))
    if size > _MAX_PLAIN:
        raise InvalidInputError(
            f"{label} would take {size} bytes; a record holds at most {_MAX_PLAIN}. "
            "Keep only the few numbers by which you choose between versions."
        )
    return encoded


def _without_numpy_scalars(value: object) -> object:
    """Replace numpy scalars by Python's numbers, so that a ``float32`` metric stays a number."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _without_numpy_scalars(item) for key, item in value.items()}
    if type(value) is list:
        return [_without_numpy_scalars(item) for item in value]
    if type(value) is tuple:
        return tuple(_without_numpy_scalars(item) for item in value)
    return value


def _mapping(value: Json, field: str) -> dict[Any, Any]:
    decoded = decode_value(value, field)
    _expect(isinstance(decoded, dict) and encode_value(decoded, field) == value, field)
    return decoded  # type: ignore[no-any-return]


def _expect(condition: bool, field: str) -> None:
    if not condition:
        raise ValueError(f"{field!r} is not as format 1 has it")


def _number(value: Json) -> int:
    _expect(type(value) is int and 1 <= value <= MAX_NUMBER, "number")
    return value  # type: ignore[no-any-return]


def _nonce(value: Json) -> str:
    _expect(isinstance(value, str) and bool(_NONCE.match(value)), "nonce")
    return value  # type: ignore[no-any-return]


def _list(value: Json) -> list[Any]:
    _expect(isinstance(value, list), "list")
    return value  # type: ignore[no-any-return]


def _optional_digest(value: Json) -> Digest | None:
    return None if value is None else Digest.parse(value)


def _objects(value: Json) -> dict[Digest, int] | None:
    if value is None:
        return None
    _expect(isinstance(value, dict) and len(value) <= MAX_OBJECTS, "objects")
    _expect(all(type(size) is int and size >= 0 for size in value.values()), "objects")
    return {Digest.parse(digest): size for digest, size in value.items()}
