"""Keys of a store, and the names, tags and refs that people type. ``docs/format.md`` section 6.

The only module that knows how a key is built; all others pass names, numbers and digests.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from policystore.digest import PREFIX, Digest
from policystore.errors import InvalidInputError

__all__ = [
    "LATEST",
    "MARKER",
    "MAX_NUMBER",
    "NAMES",
    "OBJECTS",
    "TEMPORARY",
    "Ref",
    "check_name",
    "check_tag",
    "hint_key",
    "is_key",
    "name_of_prefix",
    "number_of",
    "object_key",
    "object_prefix",
    "parse_ref",
    "tag_key",
    "tag_of_prefix",
    "tags_prefix",
    "version_key",
    "versions_prefix",
]

MARKER = "policystore.json"
OBJECTS = "objects/"
NAMES = "names/"
TEMPORARY = "tmp/"
LATEST = "latest"
MAX_NUMBER = 9_999_999_999
MAX_RECORD = 64 << 10
"""Bytes of a record, a hint or a marker: what a reader takes at the most."""

_MAX_NAME = 400
_MAX_SEGMENT = 100
_MAX_TAG = 60
_MIN_PREFIX = 8
_SEGMENT = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?\Z")
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?\Z", re.IGNORECASE)
_NUMBERED = re.compile(r"([0-9]{10})\.json\Z")
_OBJECT = re.compile(r"objects/([0-9a-f]{2})/([0-9a-f]{64})\.safetensors\Z")
_FORMS = "'soccer/main', 'soccer/main@7', 'soccer/main@champion' or 'blake3:ab12cd34'"


@dataclass(frozen=True)
class Ref:
    """What a ref says: a (possibly shortened) digest, or a name with a version or a tag."""

    name: str = ""
    number: int | None = None
    tag: str | None = None
    digest: str = ""  # hexadecimal digits, 8 to 64


def parse_ref(text: str) -> Ref:
    """Read a ref; nothing is looked up.

    Raises:
        InvalidInputError: it has none of the four forms.
    """
    if not isinstance(text, str):
        raise InvalidInputError(
            f"a ref is a string, a Digest or a Version, not {type(text).__qualname__}; "
            f"its forms are {_FORMS}"
        )
    if text.startswith(PREFIX):
        digits = text[len(PREFIX) :]
        if not re.fullmatch(r"[0-9a-f]{8,64}", digits):
            raise InvalidInputError(
                f"{text!r}: after {PREFIX!r} come 8 to 64 lower-case hexadecimal digits"
            )
        return Ref(digest=digits)
    name, separator, selector = text.partition("@")
    try:
        check_name(name)
        if not separator or selector == LATEST:
            return Ref(name)
        if selector.isascii() and selector.isdigit():
            number = int(selector) if len(selector) <= 10 else 0
            if number < 1 or selector[0] == "0":
                raise InvalidInputError(
                    f"a version is a number from 1 to {MAX_NUMBER} without leading zeros, "
                    f"not {selector!r}"
                )
            return Ref(name, number=number)
        return Ref(name, tag=check_tag(selector))
    except InvalidInputError as error:
        raise InvalidInputError(f"{text!r} is not a ref such as {_FORMS}: {error}") from None


def check_name(name: str) -> str:
    """Return ``name`` if it may be one.

    Raises:
        InvalidInputError: characters, segments or lengths outside the rules.
    """
    if not isinstance(name, str) or not name:
        raise InvalidInputError(f"a name is a non-empty string such as 'soccer/main', not {name!r}")
    if len(name) > _MAX_NAME:
        raise InvalidInputError(f"a name has at most {_MAX_NAME} characters, this one {len(name)}")
    for segment in name.split("/"):
        _check_segment(segment, f"the name {name!r}", _MAX_SEGMENT)
    return name


def check_tag(tag: str) -> str:
    """Return ``tag`` if it may be one.

    Raises:
        InvalidInputError: characters or lengths outside the rules, digits only, or ``latest``.
    """
    if not isinstance(tag, str):
        raise InvalidInputError(f"a tag is a string, not {type(tag).__qualname__}")
    _check_segment(tag, f"the tag {tag!r}", _MAX_TAG)
    if tag.lstrip("-").isdigit():
        raise InvalidInputError(f"the tag {tag!r} is a number, which means a version")
    if tag == LATEST:
        raise InvalidInputError(f"the tag {LATEST!r} always means the newest version")
    return tag


def _check_segment(segment: str, what: str, longest: int) -> None:
    if not segment:
        raise InvalidInputError(f"{what} is empty or has an empty part; write 'outer/inner'")
    if len(segment) > longest:
        raise InvalidInputError(f"{what}: a part has at most {longest} characters")
    if not _SEGMENT.match(segment):
        raise InvalidInputError(
            f"{what}: {segment!r} may hold ASCII letters, digits, '.', '_' and '-', and neither "
            "starts nor ends with '.'"
        )
    if _RESERVED.match(segment):
        raise InvalidInputError(f"{what}: {segment!r} is a reserved word on Windows")


def _escape(name: str) -> str:
    """Capitals as ``!`` and the small letter: 'Soccer' and 'soccer' differ on every disk."""
    return re.sub("[A-Z]", lambda match: "!" + match.group().lower(), name)


def _unescape(text: str) -> str:
    return re.sub("!([a-z])", lambda match: match.group(1).upper(), text)


def object_key(digest: Digest) -> str:
    """Where an object stands."""
    return f"{OBJECTS}{digest.hex[:2]}/{digest.hex}.safetensors"


def object_prefix(digits: str) -> str:
    """What the keys of all objects start with whose digest starts with ``digits`` (2 or more)."""
    return f"{OBJECTS}{digits[:2]}/{digits}"


def digest_of_key(key: str) -> Digest | None:
    """The digest in an object's key; None for a key of another form."""
    match = _OBJECT.match(key)
    if match is None or match.group(1) != match.group(2)[:2]:
        return None
    return Digest(match.group(2))


def versions_prefix(name: str) -> str:
    """What the keys of all version records of a name start with."""
    return f"{NAMES}{_escape(name)}/@versions/"


def version_key(name: str, number: int) -> str:
    """Where a version record stands."""
    return f"{versions_prefix(name)}{number:010d}.json"


def tags_prefix(name: str) -> str:
    """What the keys of all tag records of a name start with."""
    return f"{NAMES}{_escape(name)}/@tags/"


def tag_key(name: str, tag: str, number: int) -> str:
    """Where a tag record stands."""
    return f"{tags_prefix(name)}{_escape(tag)}/{number:010d}.json"


def hint_key(name: str) -> str:
    """Where the hint of a name stands."""
    return f"{NAMES}{_escape(name)}/@hint"


def name_of_prefix(prefix: str) -> str | None:
    """The name in ``names/<name>/@``; None where there is no valid one."""
    return _valid(prefix[len(NAMES) : -len("/@")], check_name)


def tag_of_prefix(prefix: str, name: str) -> str | None:
    """The tag in ``names/<name>/@tags/<tag>/``; None where there is no valid one."""
    return _valid(prefix[len(tags_prefix(name)) : -1], check_tag)


def _valid(escaped: str, check: Callable[[str], str]) -> str | None:
    plain = _unescape(escaped)
    try:
        return check(plain) if _escape(plain) == escaped else None
    except InvalidInputError:
        return None


def is_key(key: str) -> bool:
    """Whether a key outside ``objects/`` is of the form of one of ours."""
    prefix, separator, rest = key.partition("/@")
    name = name_of_prefix(prefix + separator) if separator and prefix.startswith(NAMES) else None
    if name is None:
        return key == MARKER
    number = number_of(key)
    if number is None:
        return key == hint_key(name)
    tag = tag_of_prefix(key.rpartition("/")[0] + "/", name) if rest.startswith("tags/") else None
    return key == (version_key(name, number) if tag is None else tag_key(name, tag, number))


def number_of(key: str) -> int | None:
    """The number in the last part of a record's key; None for a key of another form."""
    match = _NUMBERED.match(key.rpartition("/")[2])
    return int(match.group(1)) if match and int(match.group(1)) else None
