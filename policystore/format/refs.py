"""Parse and check the names, tags and refs that people type. ``docs/format.md`` section 6."""

from __future__ import annotations

import re
from dataclasses import dataclass

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
