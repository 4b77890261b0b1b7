"""Version and tag records, hints and the marker: small canonical JSON, created once.

``docs/format.md`` section 7. Nothing here touches storage.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policystore.digest import Digest
from policystore.errors import FormatError, InvalidInputError
from policystore.format.canonical_json import (
    Json,
    JsonObject,
    brief,
    canonical_json,
    parse_canonical,
)
from policystore.format.keys import MAX_RECORD
from policystore.format.policy import FORMAT, check_format
from policystore.format.refs import MAX_NUMBER, check_name, check_tag
from policystore.format.values import decode_value, encode_value

__all__ = ["Hint", "TagMove", "Version", "check_marker", "marker_bytes"]

MAX_OBJECTS = 256
"""Up to so many objects stand in a version record; of a policy with more, the reader takes them
from the policy object, so that every record fits into what a reader takes at the most."""

_MAX_TEXT = 4 << 10
_MAX_PLAIN = 16 << 10
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\Z", re.ASCII)
_NONCE = re.compile(r"[0-9a-f]{32}\Z")


@dataclass(frozen=True, repr=False)
class Version:
    """One numbered record under a name; what a push returns and the log lists.

    Attributes:
        name, number: under which name, as which version (from 1 on, dense). None both where a
            push gave no name.
        digest: the policy object.
        weights_digest, acting_digest, state_digest: digests of the parts alone.
        objects: digest -> size in bytes of every object of the policy; None where there are too
            many for a record.
        previous: BLAKE3 of the bytes of the record before; None for version 1.
        time: when it was pushed, by the pusher's clock, in UTC.
        author, message: who and why.
        metrics: numbers and texts that came with the push.
        source: where the policy came from, as the pusher said.
        parents: digests of the policies that this one was trained from.
        nonce: 32 random hexadecimal digits, by which a writer knows its own record again.
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
        """What finds exactly this again: ``soccer/main@7``; the digest where there is no name."""
        return str(self.digest) if self.name is None else f"{self.name}@{self.number}"

    def __hash__(self) -> int:
        return hash((self.name, self.number, self.digest, self.nonce))

    def __str__(self) -> str:
        shown = [
            f"{key}={_short(value)}"
            for key, value in self.metrics.items()
            if isinstance(value, (bool, int, float, str))
        ]
        parts = [
            self.ref,
            self.digest.short,
            f"{self.time:%Y-%m-%d %H:%M:%S}",
            self.author,
            " ".join(shown),
            self.message,
        ]
        line = "  ".join(part for part in parts if part)
        # Somebody else's message: no character of it moves a terminal's cursor.
        return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)

    def __repr__(self) -> str:
        return f"<Version {self}>"

    def to_bytes(self) -> bytes:
        """The record; refuses values that would not fit.

        Raises:
            InvalidInputError: message, metrics or source too long, or not plain values.
        """
        many = self.objects is None or len(self.objects) > MAX_OBJECTS
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
                None if many else {str(d): size for d, size in (self.objects or {}).items()}
            ),
            "previous": None if self.previous is None else str(self.previous),
            "time": format_time(self.time),
            "author": _text(self.author, "author"),
            "message": _text(self.message, "message"),
            "metrics": _plain(self.metrics, "metrics"),
            "source": _plain(self.source, "source"),
            "parents": [str(parent) for parent in self.parents],
        }
        return _record(document)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, what: str) -> Version:
        """Read a record back; ``what`` names it in messages.

        Raises:
            FormatError: not a version record of format 1.
        """
        found = _fields(data, "version", _VERSION_FIELDS, what)
        try:
            parts = found["parts"]
            _expect(set(parts) == {"weights", "acting", "state"}, "parts")
            version = cls(
                name=check_name(found["name"]),
                number=_number(found["number"]),
                digest=Digest.parse(found["digest"]),
                weights_digest=Digest.parse(parts["weights"]),
                acting_digest=Digest.parse(parts["acting"]),
                state_digest=Digest.parse(parts["state"]),
                objects=_objects(found["objects"]),
                previous=_optional_digest(found["previous"]),
                time=parse_time(found["time"]),
                author=_text(found["author"], "author"),
                message=_text(found["message"], "message"),
                metrics=_mapping(found["metrics"], "metrics"),
                source=_mapping(found["source"], "source"),
                parents=tuple(Digest.parse(parent) for parent in _list(found["parents"])),
                nonce=_nonce(found["nonce"]),
            )
            _expect((version.number == 1) == (version.previous is None), "previous")
            _expect(version.objects is None or version.digest in version.objects, "objects")
        except (InvalidInputError, ValueError, TypeError, KeyError) as error:
            raise FormatError(f"{what}: malformed version record: {error}") from None
        return version


@dataclass(frozen=True)
class TagMove:
    """One move of a tag; the last one says where the tag stands.

    Attributes:
        target: the version number it was moved to; None where the tag was taken away.
        digest: that version's digest; None likewise.
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
        """The record."""
        return _record(
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
                "author": _text(self.author, "author"),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, what: str) -> TagMove:
        """Read a record back.

        Raises:
            FormatError: not a tag record of format 1.
        """
        found = _fields(data, "tag", _TAG_FIELDS, what)
        try:
            move = cls(
                name=check_name(found["name"]),
                tag=check_tag(found["tag"]),
                number=_number(found["number"]),
                target=None if found["target"] is None else _number(found["target"]),
                digest=_optional_digest(found["digest"]),
                previous=_optional_digest(found["previous"]),
                time=parse_time(found["time"]),
                author=_text(found["author"], "author"),
                nonce=_nonce(found["nonce"]),
            )
            _expect((move.target is None) == (move.digest is None), "digest")
            _expect((move.number == 1) == (move.previous is None), "previous")
        except (InvalidInputError, ValueError, TypeError, KeyError) as error:
            raise FormatError(f"{what}: malformed tag record: {error}") from None
        return move


@dataclass(frozen=True)
class Hint:
    """The newest version as somebody saw it; may be behind, is never believed unchecked."""

    number: int
    digest: Digest

    def to_bytes(self) -> bytes:
        """The hint."""
        return _record(
            {"format": FORMAT, "kind": "hint", "number": self.number, "digest": str(self.digest)}
        )

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, what: str) -> Hint:
        """Read a hint back.

        Raises:
            FormatError: not a hint of format 1.
        """
        found = _fields(data, "hint", {"number", "digest"}, what)
        try:
            return cls(_number(found["number"]), Digest.parse(found["digest"]))
        except ValueError as error:
            raise FormatError(f"{what}: malformed hint: {error}") from None


def marker_bytes() -> bytes:
    """What ``policystore.json`` holds."""
    return _record({"format": FORMAT, "kind": "store"})


def check_marker(data: bytes | memoryview, what: str) -> None:
    """Refuse a marker that is not ours, or of a newer format.

    Raises:
        FormatError: either.
    """
    _fields(data, "store", set(), what)


_VERSION_FIELDS = {
    "name", "number", "nonce", "digest", "parts", "objects", "previous", "time", "author",
    "message", "metrics", "source", "parents",
}  # fmt: skip
_TAG_FIELDS = {
    "name", "tag", "number", "nonce", "target", "digest", "previous", "time", "author",
}  # fmt: skip


def _record(document: JsonObject) -> bytes:
    data = canonical_json(document)
    if len(data) > MAX_RECORD:
        raise InvalidInputError(
            f"the record would take {len(data)} bytes; a record has at most {MAX_RECORD}. Keep "
            "long texts and many numbers beside the store."
        )
    return data


def _fields(data: bytes | memoryview, kind: str, fields: set[str], what: str) -> JsonObject:
    found = parse_canonical(data, what)
    if not isinstance(found, dict):
        raise FormatError(f"{what}: expected a JSON object, found {type(found).__name__}")
    check_format(found, what)
    if found.get("kind") != kind:
        raise FormatError(
            f"{what}: expected a record of kind {kind!r}, not {brief(found.get('kind'))}"
        )
    if set(found) != fields | {"format", "kind"}:
        odd = sorted(set(found) ^ (fields | {"format", "kind"}))
        raise FormatError(f"{what}: missing or unknown fields: {brief(', '.join(odd))}")
    return found


def format_time(time: datetime.datetime) -> str:
    """UTC with microseconds: ``2026-11-21T01:25:37.000123Z``."""
    return time.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime.datetime:
    """The inverse of :func:`format_time`; ValueError for any other form."""
    if not _TIME.match(text):
        raise ValueError(f"{text!r} is not a time as format 1 writes it")
    return datetime.datetime.fromisoformat(text[:-1] + "+00:00")


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidInputError(f"{what} is a string, not {type(value).__qualname__}")
    if len(value.encode("utf-8", "surrogatepass")) > _MAX_TEXT:
        raise InvalidInputError(f"{what} has at most {_MAX_TEXT} bytes")
    return value


def _plain(value: Mapping[Any, Any], what: str) -> Json:
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{what} is a dict, not {type(value).__qualname__}")
    encoded = encode_value(_python(value), what)
    size = len(canonical_json(encoded))
    if size > _MAX_PLAIN:
        raise InvalidInputError(
            f"{what} would take {size} bytes; at most {_MAX_PLAIN} belong into a record. "
            "Keep the few numbers that choose between versions."
        )
    return encoded


def _python(value: Any) -> Any:
    """Numpy scalars as Python's own: a metric that came as ``float32`` reads back as a number."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _python(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_python(item) for item in value)
    return value


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:40]


def _mapping(value: Json, what: str) -> dict[Any, Any]:
    decoded = decode_value(value, what)
    _expect(isinstance(decoded, dict) and encode_value(decoded, what) == value, what)
    return decoded  # type: ignore[no-any-return]


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"{what!r} is not as format 1 has it")


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
