"""Build and parse the keys of a store. ``docs/format.md`` section 6.

Only this module knows the form of a key; all other modules pass names, numbers and digests.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

from policystore.digest import Digest
from policystore.errors import InvalidInputError
from policystore.format.refs import check_name, check_tag

__all__ = [
    "DELETED",
    "KEPT",
    "LEAGUES",
    "MARKER",
    "MAX_RECORD",
    "NAMES",
    "OBJECTS",
    "TEMPORARY",
    "TRASH",
    "NameKey",
    "annotation_key",
    "annotation_of_key",
    "annotations_prefix",
    "copied_key",
    "copied_prefix",
    "deleted_key",
    "digest_bytes_of_key",
    "digest_of_kept",
    "digest_of_key",
    "digest_of_trash",
    "folder_prefix",
    "hint_key",
    "is_key",
    "kept_key",
    "kept_prefix",
    "kept_start",
    "league_of_prefix",
    "league_prefix",
    "mark_key",
    "marks_prefix",
    "name_of_deleted",
    "name_of_folder",
    "name_of_prefix",
    "names_prefix",
    "number_of",
    "object_key",
    "object_prefix",
    "parse_name_key",
    "tag_hint_key",
    "tag_key",
    "tag_of_prefix",
    "tags_prefix",
    "trash_key",
    "trash_prefix",
    "trash_start",
    "version_key",
    "versions_prefix",
]

MARKER = "policystore.json"
OBJECTS = "objects/"
NAMES = "names/"
KEPT = "kept/"
TRASH = "trash/"
DELETED = "deleted/"
LEAGUES = "leagues/"
TEMPORARY = "tmp/"
MAX_RECORD = 64 << 10
"""The longest record, hint or marker, in bytes. A reader refuses a longer one."""

_NUMBERED = re.compile(r"([0-9]{10})\.json\Z")
# The folder of an object is named by the first two digits of the digest.
_OBJECT = re.compile(r"objects/(?=(..)/\1)../([0-9a-f]{64})\.safetensors\Z")
_TRASHED = re.compile(r"trash/(?=(..)/\1)../([0-9a-f]{64})/[0-9a-f]{32}\.safetensors\Z")
_KEPT = re.compile(r"kept/([0-9a-f]{64})/[0-9a-f]{32}\.json\Z")
_COPIED = re.compile(r"copied/[0-9a-f]{32}\Z")
_LISTED = re.compile(r"(versions|marks)/([0-9]{10})\.json\Z")
_ANNOTATION = re.compile(r"([0-9]{10})/([0-9a-f]{32})\.json\Z")


def _escape(name: str) -> str:
    """Replace each upper-case letter by ``!`` and the lower-case letter.

    So the names 'Soccer' and 'soccer' have different keys, also on a filesystem that ignores case.
    """
    if name == name.lower():
        return name
    return re.sub("[A-Z]", lambda match: "!" + match.group().lower(), name)


def _unescape(text: str) -> str:
    if "!" not in text:
        return text
    return re.sub("!([a-z])", lambda match: match.group(1).upper(), text)


def object_key(digest: Digest) -> str:
    """Return the key of an object."""
    return f"{OBJECTS}{digest.hex[:2]}/{digest.hex}.safetensors"


def object_prefix(digits: str) -> str:
    """Return the common prefix of the keys of all objects whose digest starts with ``digits``.

    Args:
        digits: at least 2 hexadecimal digits.
    """
    return f"{OBJECTS}{digits[:2]}/{digits}"


def digest_of_key(key: str) -> Digest | None:
    """Return the digest in the key of an object; None for a key of another form."""
    digits = _digits_in(_OBJECT, key)
    return None if digits is None else Digest.of_digits(digits)


def digest_bytes_of_key(key: str) -> bytes | None:
    """Return the digest in the key of an object as 32 bytes; None for a key of another form."""
    digits = _digits_in(_OBJECT, key)
    return None if digits is None else bytes.fromhex(digits)


def _digits_in(form: re.Pattern[str], key: str) -> str | None:
    match = form.match(key)
    return None if match is None else match[2]


def trash_prefix(digest: Digest) -> str:
    """Return the common prefix of the keys of all copies of an object in the trash."""
    return f"{TRASH}{digest.hex[:2]}/{digest.hex}/"


def trash_key(digest: Digest, nonce: str) -> str:
    """Return the key of a copy of an object in the trash.

    Args:
        digest: the digest of the object.
        nonce: 32 random hexadecimal digits, new for each copy.
    """
    return f"{trash_prefix(digest)}{nonce}.safetensors"


def digest_of_trash(key: str) -> Digest | None:
    """Return the digest in the key of a copy in the trash; None for a key of another form."""
    digits = _digits_in(_TRASHED, key)
    return None if digits is None else Digest.of_digits(digits)


def trash_start(digits: str) -> str:
    """Return the common prefix of all copies in the trash whose digest starts with ``digits``.

    Args:
        digits: at least 2 hexadecimal digits.
    """
    return f"{TRASH}{digits[:2]}/{digits}"


def kept_start(digits: str) -> str:
    """Return the common prefix of pushes without a name whose digest starts with ``digits``."""
    return f"{KEPT}{digits}"


def kept_prefix(digest: Digest) -> str:
    """Return the common prefix of the records of all pushes of a policy without a name."""
    return f"{KEPT}{digest.hex}/"


def kept_key(digest: Digest, nonce: str) -> str:
    """Return the key of the record of a push without a name."""
    return f"{kept_prefix(digest)}{nonce}.json"


def digest_of_kept(key: str) -> Digest | None:
    """Return the digest in the key of a push without a name; None for a key of another form."""
    match = _KEPT.match(key)
    return None if match is None else Digest.of_digits(match.group(1))


def folder_prefix(start: str, *, deleted: bool = False) -> str:
    """Return the common prefix of the keys of all names that start with ``start``.

    Args:
        start: the beginning of a name; empty for all names.
        deleted: True for the keys that say that a name may have no version that stands.
    """
    return f"{DELETED if deleted else NAMES}{_escape(start)}"


def name_of_folder(prefix: str) -> str | None:
    """Return the path in ``names/<path>/``; None if a name cannot have this path."""
    return _unescape_valid(prefix[len(NAMES) : -1], check_name)


def deleted_key(name: str) -> str:
    """Return the key that says that a name may have no version that stands."""
    return f"{DELETED}{_escape(name)}/@mark"


def name_of_deleted(key: str) -> str | None:
    """Return the name in ``deleted/<name>/@mark``; None if it is not such a key."""
    if not key.startswith(DELETED) or not key.endswith("/@mark"):
        return None
    return _unescape_valid(key[len(DELETED) : -len("/@mark")], check_name)


def versions_prefix(name: str) -> str:
    """Return the common prefix of the keys of all version records of a name."""
    return f"{NAMES}{_escape(name)}/@versions/"


def names_prefix(prefix: str) -> str:
    """Return the common prefix of the keys of all names that start with ``prefix``."""
    return NAMES + _escape(prefix)


def version_key(name: str, number: int) -> str:
    """Return the key of a version record."""
    return f"{versions_prefix(name)}{number:010d}.json"


def tags_prefix(name: str) -> str:
    """Return the common prefix of the keys of all tag records of a name."""
    return f"{NAMES}{_escape(name)}/@tags/"


def tag_key(name: str, tag: str, number: int) -> str:
    """Return the key of a tag record."""
    return f"{tags_prefix(name)}{_escape(tag)}/{number:010d}.json"


def tag_hint_key(name: str, tag: str) -> str:
    """Return the key of the hint of a tag."""
    return f"{tags_prefix(name)}{_escape(tag)}/@hint"


def marks_prefix(name: str) -> str:
    """Return the common prefix of the keys of all marks of a name."""
    return f"{NAMES}{_escape(name)}/@marks/"


def mark_key(name: str, number: int) -> str:
    """Return the key of a mark."""
    return f"{marks_prefix(name)}{number:010d}.json"


def annotations_prefix(name: str, number: int | None = None) -> str:
    """Return the common prefix of the keys of all annotations of a name, or of one version."""
    prefix = f"{NAMES}{_escape(name)}/@notes/"
    return prefix if number is None else f"{prefix}{number:010d}/"


def annotation_key(name: str, number: int, nonce: str) -> str:
    """Return the key of an annotation of a version.

    Args:
        name: the name.
        number: the number of the version.
        nonce: 32 random hexadecimal digits, new for each annotation.
    """
    return f"{annotations_prefix(name, number)}{nonce}.json"


def annotation_of_key(key: str, name: str) -> tuple[int, str] | None:
    """Return the number of the version and the nonce in the key of an annotation of a name.

    Return None for a key of another form.
    """
    prefix = annotations_prefix(name)
    match = _ANNOTATION.fullmatch(key, len(prefix)) if key.startswith(prefix) else None
    number = 0 if match is None else int(match.group(1))
    return (number, match.group(2)) if match is not None and number else None


def copied_prefix(name: str) -> str:
    """Return the common prefix of the cursors of all mirrors that write to a name."""
    return f"{NAMES}{_escape(name)}/@copied/"


def copied_key(name: str, nonce: str) -> str:
    """Return the key of the cursor of one mirror.

    Args:
        name: the name that the mirror writes to.
        nonce: 32 hexadecimal digits that belong to the source of the mirror.
    """
    return f"{copied_prefix(name)}{nonce}"


def hint_key(name: str) -> str:
    """Return the key of the hint of a name."""
    return f"{NAMES}{_escape(name)}/@hint"


def name_of_prefix(prefix: str) -> str | None:
    """Return the name in ``names/<name>/@``; None if it is not a valid name."""
    return _name_of_prefix(prefix)


@lru_cache(1024)  # the keys of one name follow each other
def _name_of_prefix(prefix: str) -> str | None:
    return _unescape_valid(prefix[len(NAMES) : -len("/@")], check_name)


def tag_of_prefix(prefix: str, name: str) -> str | None:
    """Return the tag in ``names/<name>/@tags/<tag>/``; None if it is not a valid tag."""
    return _unescape_valid(prefix[len(tags_prefix(name)) : -1], check_tag)


def league_prefix(league: str) -> str:
    """Return the common prefix of the keys of all leagues whose name starts with ``league``."""
    return LEAGUES + _escape(league)


def league_of_prefix(prefix: str) -> str | None:
    """Return the league in ``leagues/<league>/@``; None if it is not a valid name."""
    return _unescape_valid(prefix[len(LEAGUES) : -len("/@")], check_name)


def _unescape_valid(escaped: str, check: Callable[[str], str]) -> str | None:
    plain = _unescape(escaped)
    try:
        return check(plain) if _escape(plain) == escaped else None
    except InvalidInputError:
        return None


class NameKey(NamedTuple):
    """What a key below ``names/`` is.

    Attributes:
        name: the name that the key belongs to.
        kind: what the key holds; ``"copied"`` is the cursor of a mirror.
        tag: the tag, for ``"tag"`` and ``"tag-hint"``.
        number: the number of the record, or of the version of an ``"annotation"``; 0 for keys
            without a number.
        nonce: the nonce, for ``"annotation"``.
    """

    name: str
    kind: Literal["version", "mark", "tag", "hint", "tag-hint", "copied", "annotation"]
    tag: str = ""
    number: int = 0
    nonce: str = ""


def parse_name_key(key: str) -> NameKey | None:
    """Return what a key below ``names/`` is; None for a key that format 1 does not have."""
    prefix, separator, rest = key.partition("/@")
    name = _name_of_prefix(f"{prefix}/@") if separator and prefix.startswith(NAMES) else None
    if name is None:
        return None
    listed = _LISTED.match(rest)
    if listed is not None:  # the key of almost every record
        number = int(listed[2])
        kind: Literal["version", "mark"] = "version" if listed[1] == "versions" else "mark"
        return NameKey(name, kind, "", number) if number else None
    tag = tag_of_prefix(key.rpartition("/")[0] + "/", name) if rest.startswith("tags/") else None
    number = number_of(key) or 0
    parsed: NameKey | None = None
    if tag is not None:
        if number:
            parsed = (
                NameKey(name, "tag", tag, number) if key == tag_key(name, tag, number) else None
            )
        elif key == tag_hint_key(name, tag):
            parsed = NameKey(name, "tag-hint", tag)
    elif key == hint_key(name):
        parsed = NameKey(name, "hint")
    elif _COPIED.match(rest):
        parsed = NameKey(name, "copied")
    elif (found := annotation_of_key(key, name)) is not None:
        parsed = NameKey(name, "annotation", number=found[0], nonce=found[1])
    return parsed


def is_key(key: str) -> bool:
    """Return whether a key outside ``objects/`` has the form of a key of format 1."""
    if key == MARKER or name_of_deleted(key) is not None:
        return True
    if digest_of_trash(key) is not None or digest_of_kept(key) is not None:
        return True
    return parse_name_key(key) is not None


def number_of(key: str) -> int | None:
    """Return the number in the key of a record; None for number 0 and for a key of another form."""
    match = _NUMBERED.match(key.rpartition("/")[2])
    return int(match.group(1)) if match and int(match.group(1)) else None
