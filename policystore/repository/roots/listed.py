"""List the records of names, and refuse every key that the collector does not know.

A key of an unknown kind may say that an object is needed. So a collector that does not understand a
key must not collect anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from policystore.backends.base import Backend, Entry
from policystore.errors import FormatError
from policystore.format.keys import NAMES, names_prefix, parse_name_key
from policystore.repository.lookup.annotations import PackedAnnotations
from policystore.repository.lookup.listing import can_start_a_name

__all__ = ["UNKNOWN_KEY", "ListedName", "ListedNumbers", "list_names", "nothing_collected"]

_LISTINGS = 3


@dataclass(slots=True)
class ListedNumbers:
    """Hold which numbers of a list of records a listing shows.

    Attributes:
        count: how many numbers the listing holds.
        newest: the highest number; 0 for none.
        first_recent: the lowest number whose record is recent; None if all are old. A record
            without a time is recent.
    """

    count: int = 0
    newest: int = 0
    first_recent: int | None = None

    def add(self, number: int, *, recent: bool) -> None:
        """Add a number of the listing."""
        self.count += 1
        self.newest = max(self.newest, number)
        if recent and (self.first_recent is None or number < self.first_recent):
            self.first_recent = number

    def is_recent(self, number: int) -> bool:
        """Return whether a record is recent, or newer than the listing."""
        return number > self.newest or (
            self.first_recent is not None and number >= self.first_recent
        )


@dataclass(slots=True)
class ListedName:
    """Hold which records of a name a listing shows.

    Attributes:
        versions, marks: the numbers of its versions and of its marks.
        tags: the numbers of the moves of each tag.
        annotations: its annotations.
    """

    versions: ListedNumbers = field(default_factory=ListedNumbers)
    marks: ListedNumbers = field(default_factory=ListedNumbers)
    tags: dict[str, ListedNumbers] = field(default_factory=dict)
    annotations: PackedAnnotations = field(default_factory=PackedAnnotations)


def list_names(
    backend: Backend, recent: float, *, prefix: str = "", unknown: list[str] | None = None
) -> dict[str, ListedName]:
    """List the records of names.

    Args:
        backend: the storage of the store.
        recent: records that are newer than this time are recent, by the clock of the storage.
        prefix: the start of the names.
        unknown: a list that gets the keys of an unknown form. The call then also leaves out what
            cannot be listed, and does not look for missing numbers. If ``unknown`` is None, each of
            these raises an error.

    Raises:
        FormatError: a key of an unknown form, or a number that is missing.
        StorageError: the storage failed.
    """
    if not can_start_a_name(prefix):
        return {}
    place = names_prefix(prefix)
    if unknown is not None:
        return _list_once(backend.entries(place, problems=[]), backend, recent, unknown)
    for _ in range(_LISTINGS):
        names = _list_once(backend.entries(place), backend, recent, None)
        gap = _find_gap(names)
        if gap is None:
            return names
        # A number that was created during the listing may be listed without the number before.
    raise nothing_collected(
        backend, NAMES, f"{gap}, though later numbers exist: a record was lost", _RESTORE
    )


def _list_once(
    entries: Iterable[Entry], backend: Backend, recent: float, unknown: list[str] | None
) -> dict[str, ListedName]:
    names: dict[str, ListedName] = {}
    for entry in entries:
        parsed = parse_name_key(entry.key)
        if parsed is None:
            if unknown is not None:
                unknown.append(entry.key)
                continue
            raise nothing_collected(backend, entry.key, "an unknown key", UNKNOWN_KEY)
        name = names.setdefault(parsed.name, ListedName())
        if parsed.kind == "version":
            numbers = name.versions
        elif parsed.kind == "mark":
            numbers = name.marks
        elif parsed.kind == "tag":
            numbers = name.tags.setdefault(parsed.tag, ListedNumbers())
        else:
            if parsed.kind == "annotation":
                name.annotations.add(parsed.number, parsed.nonce)
            continue  # hints and cursors of mirrors need no objects
        numbers.add(parsed.number, recent=not entry.is_old(recent))
    return names


def _find_gap(names: dict[str, ListedName]) -> str | None:
    """Describe a list whose numbers have a gap; None if all are complete."""
    for name, listed in names.items():
        lists = [("version", listed.versions), ("mark", listed.marks)]
        lists += [(f"move of the tag {tag!r}", numbers) for tag, numbers in listed.tags.items()]
        for kind, numbers in lists:
            if numbers.count != numbers.newest:
                missing = numbers.newest - numbers.count
                return f"{missing:,} of {numbers.newest:,} records ({kind}) of {name!r} are missing"
    return None


def nothing_collected(backend: Backend, key: str, problem: str, advice: str) -> FormatError:
    """Build the error for a key that the collector does not understand.

    Args:
        backend: the storage of the store.
        key: the key, or the start of several keys.
        problem: what is wrong with the key.
        advice: what to do.
    """
    # The names of files may be any bytes, and a message has to be printable.
    location = backend.location(key).encode("utf-8", "backslashreplace").decode()
    return FormatError(
        f"nothing was collected, because of {location}: {problem}. The collector has to understand "
        f"every key below names/, kept/, leagues/ and deleted/, because each may need objects. "
        f"{advice}"
    )


UNKNOWN_KEY = (
    "If a newer policystore has written the key, collect with that release. If no policystore has "
    "written the key, remove the key."
)
_RESTORE = "Restore the record from a backup; verify() lists what else is missing."
