"""Encode, check and parse the fields of records. ``docs/format.md`` section 7.

The ``parse_…`` functions read one field of a record. The caller maps their errors to a FormatError
that names the record.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping, Set
from typing import Any

from policystore._util.late import is_array, np
from policystore._util.messages import brief
from policystore.digest import Digest
from policystore.errors import FormatError, InvalidInputError
from policystore.format.canonical_json import (
    MAX_DEPTH,
    Json,
    JsonObject,
    canonical_json,
    parse_canonical,
)
from policystore.format.keys import MAX_RECORD
from policystore.format.metadata import check_format
from policystore.format.refs import MAX_NUMBER
from policystore.format.values import decode_value, encode_value

__all__ = [
    "MAX_OBJECTS",
    "check_text",
    "decode_plain",
    "encode_objects",
    "encode_plain",
    "encode_record",
    "expect",
    "format_time",
    "parse_list",
    "parse_nonce",
    "parse_number",
    "parse_objects",
    "parse_optional_digest",
    "parse_record",
    "parse_time",
]

_COMMON = frozenset({"format", "kind"})  # the fields of every record

MAX_OBJECTS = 256
"""A version record lists at most this many objects, so that every record fits into
:data:`~policystore.format.keys.MAX_RECORD`. If a policy has more objects, its record has no list,
and a reader takes the objects from the policy object."""

_MAX_TEXT = 4 << 10  # bytes of author or message
_MAX_PLAIN = 16 << 10  # bytes of metrics or source, as JSON
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\Z", re.ASCII)
_NONCE = re.compile(r"[0-9a-f]{32}\Z")


def encode_record(document: JsonObject, *, limit: int = MAX_RECORD) -> bytes:
    """Return the bytes of a record.

    Args:
        document: the fields of the record.
        limit: how many bytes a record of this kind may have at most.

    Raises:
        InvalidInputError: the record is longer than ``limit``.
    """
    data = canonical_json(document)
    if len(data) > limit:
        raise InvalidInputError(
            f"the record would take {len(data)} bytes; a record of this kind has at most {limit}. "
            "Keep long texts and many numbers outside the store."
        )
    return data


def parse_record(
    data: bytes | memoryview,
    kind: str,
    fields: Set[str],
    label: str,
    *,
    optional: Set[str] = frozenset(),
) -> JsonObject:
    """Parse a record and check its format, its kind and the names of its fields.

    Args:
        data: the bytes of the record.
        kind: the kind that the record should have.
        fields: the fields of that kind, besides ``format`` and ``kind``.
        label: how messages name the record.
        optional: fields that a record of that kind may have or lack.

    Raises:
        FormatError: not such a record of format 1.
    """
    document = parse_canonical(data, label)
    if not isinstance(document, dict):
        raise FormatError(f"{label}: expected a JSON object, found {type(document).__name__}")
    check_format(document, label)
    if document.get("kind") != kind:
        raise FormatError(
            f"{label}: expected a record of kind {kind!r}, not {brief(document.get('kind'))}"
        )
    names = set(document) - optional
    if names != fields | _COMMON:
        differing = sorted(names ^ (fields | _COMMON))
        raise FormatError(f"{label}: missing or unknown fields: {brief(', '.join(differing))}")
    return document


def format_time(time: datetime.datetime) -> str:
    """Write a time in UTC with microseconds: ``2026-11-21T01:25:37.000123Z``."""
    return time.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime.datetime:
    """Read what :func:`format_time` wrote.

    Raises:
        ValueError: a text of another form.
    """
    if not _TIME.match(text):
        raise ValueError(f"{brief(text)} is not a time in the form of format 1")
    return datetime.datetime.fromisoformat(text[:-1] + "+00:00")


def check_text(value: object, label: str) -> str:
    """Return ``value`` if it is a string of at most 4 KiB.

    Raises:
        InvalidInputError: another type, or a longer string.
    """
    if not isinstance(value, str):
        raise InvalidInputError(f"{label} is a string, not {type(value).__qualname__}")
    if len(value.encode("utf-8", "surrogatepass")) > _MAX_TEXT:
        raise InvalidInputError(f"{label} is too long: it may have at most {_MAX_TEXT} bytes")
    return value


def encode_plain(value: Mapping[Any, Any], label: str) -> Json:
    """Encode a dict of plain values of at most 16 KiB; numpy scalars become Python's numbers.

    Raises:
        InvalidInputError: not a dict, too long, or a value that is not plain.
    """
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{label} is a dict, not {type(value).__qualname__}")
    encoded = encode_value(_without_numpy_scalars(value, 0), label)
    size = len(canonical_json(encoded))
    if size > _MAX_PLAIN:
        raise InvalidInputError(
            f"{label} would take {size} bytes; a record holds at most {_MAX_PLAIN}. "
            "Keep only the few numbers by which you choose between versions."
        )
    return encoded


def _without_numpy_scalars(value: object, depth: int) -> object:
    """Replace numpy scalars by Python's numbers, so that a ``float32`` metric stays a number.

    What is nested deeper than a record may be stays as it is; the encoder then refuses it.
    """
    if is_array(value) and isinstance(value, np.generic):
        return value.item()
    if depth > MAX_DEPTH:
        return value
    if isinstance(value, Mapping):
        return {key: _without_numpy_scalars(item, depth + 1) for key, item in value.items()}
    if type(value) is list:
        return [_without_numpy_scalars(item, depth + 1) for item in value]
    if type(value) is tuple:
        return tuple(_without_numpy_scalars(item, depth + 1) for item in value)
    return value


def decode_plain(value: Json, field: str) -> dict[Any, Any]:
    """Decode a dict of plain values.

    Raises:
        FormatError, ValueError: not what :func:`encode_plain` writes.
    """
    if type(value) is dict and all(map(_is_itself, value, value.values())):
        return dict(value)
    decoded = decode_value(value, field)
    expect(isinstance(decoded, dict) and encode_value(decoded, field) == value, field)
    return decoded  # type: ignore[no-any-return]


def _is_itself(key: str, value: Json) -> bool:
    """Return whether a key and a value of an object are encoded as they are."""
    kind = type(value)
    return key[:1] != "~" and (
        kind in _SIMPLE or (kind is float and math.isfinite(value)) or value is None
    )


_SIMPLE = (str, int, bool)


def expect(condition: bool, field: str) -> None:
    """Raise a ValueError that names ``field`` if a condition does not hold."""
    if not condition:
        raise ValueError(f"{field!r} does not have the form of format 1")


def parse_number(value: Json) -> int:
    """Return ``value`` if it is the number of a record, from 1 on; raise ValueError otherwise."""
    expect(type(value) is int and 1 <= value <= MAX_NUMBER, "number")
    return value  # type: ignore[no-any-return]


def parse_nonce(value: Json) -> str:
    """Return ``value`` if it is a nonce of 32 hexadecimal digits; raise ValueError otherwise."""
    expect(isinstance(value, str) and bool(_NONCE.match(value)), "nonce")
    return value  # type: ignore[no-any-return]


def parse_list(value: Json) -> list[Any]:
    """Return ``value`` if it is a list; raise ValueError otherwise."""
    expect(isinstance(value, list), "list")
    return value  # type: ignore[no-any-return]


def parse_optional_digest(value: Json) -> Digest | None:
    """Parse a digest; None stays None.

    Raises:
        InvalidInputError: another value.
    """
    return None if value is None else Digest.parse(value)


def encode_objects(objects: Mapping[Digest, int] | None) -> Json:
    """Encode the sizes of a policy's objects by digest; None if there are too many to list."""
    if objects is None or len(objects) > MAX_OBJECTS:
        return None
    return {str(digest): size for digest, size in objects.items()}


def parse_objects(value: Json) -> dict[Digest, int] | None:
    """Parse the sizes of a policy's objects by digest; None stays None.

    Raises:
        ValueError: another value.
    """
    if value is None:
        return None
    expect(isinstance(value, dict) and len(value) <= MAX_OBJECTS, "objects")
    objects = {}
    for digest, size in value.items():
        expect(type(size) is int and size >= 0, "objects")
        objects[Digest.parse(digest)] = size
    return objects
