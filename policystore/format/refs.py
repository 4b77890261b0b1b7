"""Check names and tags, and parse refs that a user typed. ``docs/format.md`` section 6."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from policystore._util.messages import brief
from policystore.digest import PREFIX
from policystore.errors import InvalidInputError

__all__ = ["LATEST", "MAX_NUMBER", "Ref", "check_name", "check_tag", "parse_ref"]

LATEST = "latest"
MAX_NUMBER = 9_999_999_999

_MAX_NAME = 400
_MAX_SEGMENT = 100
_MAX_TAG = 60
_SEGMENT = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?\Z")
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?\Z", re.IGNORECASE)
_FORMS = "'soccer/main', 'soccer/main@7', 'soccer/main@champion' or 'blake3:ab12cd34'"


@dataclass(frozen=True)
class Ref:
    """A parsed ref: a digest (whole or shortened), or a name with or without a version or tag.

    Attributes:
        name: the name; empty if the ref is a digest.
        number: the version number, if the ref has one.
        tag: the tag, if the ref has one. A ref with neither means the newest version.
        digest: 8 to 64 hexadecimal digits; empty if the ref has a name.
    """

    name: str = ""
    number: int | None = None
    tag: str | None = None
    digest: str = ""


def parse_ref(text: str) -> Ref:
    """Parse a ref without looking it up.

    Raises:
        InvalidInputError: the text has none of the four forms of a ref.
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
    """Return ``name`` if it is a valid name.

    Raises:
        InvalidInputError: the characters, parts or length of the name break the rules.
    """
    if not isinstance(name, str) or not name:
        raise InvalidInputError(
            f"a name is a non-empty string such as 'soccer/main', not {brief(name)}"
        )
    if len(name) > _MAX_NAME:
        raise InvalidInputError(f"a name has at most {_MAX_NAME} characters, this one {len(name)}")
    _check_segments(name)
    return name


@lru_cache(1024)  # the records and keys of one name follow each other
def _check_segments(name: str) -> None:
    for segment in name.split("/"):
        _check_segment(segment, f"the name {name!r}", _MAX_SEGMENT)


def check_tag(tag: str) -> str:
    """Return ``tag`` if it is a valid tag.

    Raises:
        InvalidInputError: the characters or the length of the tag break the rules, or the tag is a
            number or ``latest``.
    """
    if not isinstance(tag, str):
        raise InvalidInputError(f"a tag is a string, not {type(tag).__qualname__}")
    _check_segment(tag, f"the tag {brief(tag)}", _MAX_TAG)
    if tag.lstrip("-").isdigit():
        raise InvalidInputError(f"the tag {tag!r} is a number, which means a version")
    if tag == LATEST:
        raise InvalidInputError(f"the tag {LATEST!r} always means the newest version")
    return tag


def _check_segment(segment: str, label: str, longest: int) -> None:
    if not segment:
        raise InvalidInputError(f"{label} is empty or has an empty part; write 'outer/inner'")
    if len(segment) > longest:
        raise InvalidInputError(f"{label}: a part has at most {longest} characters")
    if not _SEGMENT.match(segment):
        raise InvalidInputError(
            f"{label}: {segment!r} may hold ASCII letters, digits, '.', '_' and '-', and neither "
            "starts nor ends with '.'"
        )
    if _RESERVED.match(segment):
        raise InvalidInputError(f"{label}: {segment!r} is a reserved word on Windows")
