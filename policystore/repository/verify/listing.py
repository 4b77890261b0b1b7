"""List a whole store once, and sort its keys."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from policystore.backends.base import Backend, Entry, Problems
from policystore.digest import Digest
from policystore.errors import StorageError
from policystore.format.keys import (
    KEPT,
    LEAGUES,
    MARKER,
    NAMES,
    OBJECTS,
    TRASH,
    annotation_of_key,
    annotations_prefix,
    copied_prefix,
    digest_bytes_of_key,
    digest_of_kept,
    digest_of_trash,
    hint_key,
    is_key,
    kept_key,
    name_of_deleted,
    name_of_prefix,
    number_of,
    parse_name_key,
    tag_hint_key,
    tag_key,
    tag_of_prefix,
    tags_prefix,
    trash_key,
)
from policystore.format.league_keys import LeagueKey, parse_league_key
from policystore.repository.lookup.annotations import PackedAnnotations
from policystore.repository.packed_digests import PackedDigests
from policystore.repository.verify.report import Fault

__all__ = [
    "GONE",
    "Flag",
    "Inventory",
    "ListedLeague",
    "ListedName",
    "ListedObjects",
    "Numbers",
    "bytes_of",
    "kept_key_of",
    "list_store",
    "trash_key_of",
]

_DIGEST, _NONCE = 32, 16  # bytes

GONE = -3
"""Stands in place of the size of an object that was deleted after the listing."""

FOREIGN = "policystore never writes a key of this form, or this key is in the wrong place"


class Numbers:
    """The numbers of one list of records, 8 bytes each.

    Attributes:
        listed: the numbers, in the order of the listing.
        first_new: the smallest number that is new enough to be checked; 0 for none.
    """

    __slots__ = ("first_new", "listed")

    def __init__(self) -> None:
        self.listed = array("Q")
        self.first_new = 0

    def add(self, number: int, is_new: bool) -> None:
        """Add a number of the listing."""
        self.listed.append(number)
        if is_new:
            self.first_new = min(number, self.first_new or number)


class ListedName:
    """The keys of one name.

    Attributes:
        versions, marks: the numbers of its versions and marks.
        tags: the numbers of the moves of each tag.
        has_hint: whether the name has a hint.
        tag_hints: the tags that have a hint.
        annotations: the annotations that are new enough to be checked.
    """

    __slots__ = ("annotations", "has_hint", "marks", "tag_hints", "tags", "versions")

    def __init__(self) -> None:
        self.versions = Numbers()
        self.marks = Numbers()
        self.tags: dict[str, Numbers] = {}
        self.has_hint = False
        self.tag_hints: list[str] = []
        self.annotations = PackedAnnotations()


class ListedLeague:
    """The keys of one league.

    Attributes:
        lists: epoch and writer -> the numbers of the writer's list of matches.
        summaries: epoch -> the numbers of its summaries.
        bodies: the bytes of the digest of each body -> whether the body is new.
        deletions: the epochs that were deleted.
    """

    __slots__ = ("bodies", "deletions", "lists", "summaries")

    def __init__(self) -> None:
        self.lists: dict[tuple[int, str], Numbers] = {}
        self.summaries: dict[int, Numbers] = {}
        self.bodies: dict[bytes, bool] = {}
        self.deletions = Numbers()

    def add(self, key: LeagueKey, is_new: bool) -> None:
        """Add one key of the listing."""
        if key.kind == "matches":
            self.lists.setdefault((key.epoch, key.writer), Numbers()).add(key.number, is_new)
        elif key.kind == "summary":
            self.summaries.setdefault(key.epoch, Numbers()).add(key.number, is_new)
        elif key.kind == "deleted":
            self.deletions.add(key.number, is_new)
        elif key.digest is not None:
            self.bodies[bytes_of(key.digest)] = is_new


class Flag:
    """What is known of an object, besides its size; an object may have several flags.

    Attributes:
        OLD: the object is too old to be read.
        NAMED: the object is the policy of a version that stands, or of a push without a name.
        RETIRED: the object is the policy of a deleted version.
        READ_BEFORE: the object is a tensor of a policy that the run before this one has read.
    """

    OLD = 1
    NAMED = 2
    RETIRED = 4
    READ_BEFORE = 8


class ListedObjects:
    """The objects of a store, or the copies in its trash: about 50 bytes for each.

    Attributes:
        digests: gives each object a place, by the digest, and a copy by digest and nonce.
        sizes: place -> how many bytes the object has, or a negative number: :data:`GONE`, and
            others for objects that were read.
        flags: place -> its flags, see :class:`Flag`.
    """

    __slots__ = ("digests", "flags", "sizes")

    def __init__(self, width: int = _DIGEST) -> None:
        self.digests = PackedDigests(width)
        self.sizes = array("q")
        self.flags = bytearray()

    def add(self, item: bytes, size: int, flag: int = 0) -> int:
        """Add an object of the listing, and return its place."""
        place = self.digests.add(item)
        if place == len(self.sizes):
            self.sizes.append(size)
            self.flags.append(flag)
        else:  # some listings show a key twice
            self.sizes[place] = size
            self.flags[place] |= flag
        return place

    def size(self, item: bytes) -> int:
        """Return what :attr:`sizes` says of an object; GONE if the object was not listed."""
        place = self.digests.place(item)
        return GONE if place is None else self.sizes[place]

    def set_flag(self, digest: bytes, flag: int) -> None:
        """Give an object a flag, if it was listed."""
        place = self.digests.place(digest)
        if place is not None:
            self.flags[place] |= flag


@dataclass
class Inventory:
    """All keys of a store, as one listing showed them.

    Attributes:
        objects: the objects, by digest.
        names: the keys of each name.
        kept: the digest and the nonce of each push without a name, as 48 bytes.
        trash: the copies in the trash, by the digest and the nonce as 48 bytes.
        pointers: the names that have a pointer to their marks.
        leagues: the keys of each league.
        faults: keys that are not of a store, and what could not be listed.
    """

    objects: ListedObjects = field(default_factory=ListedObjects)
    names: dict[str, ListedName] = field(default_factory=dict)
    kept: PackedDigests = field(default_factory=lambda: PackedDigests(_DIGEST + _NONCE))
    trash: ListedObjects = field(default_factory=lambda: ListedObjects(_DIGEST + _NONCE))
    pointers: list[str] = field(default_factory=list)
    leagues: dict[str, ListedLeague] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)

    def add_fault(self, key: str, problem: str) -> None:
        """Note that a key is not one of a store; once for each key."""
        self.faults.setdefault(key, Fault(key, problem, "foreign"))


def list_store(backend: Backend, since: float | None) -> Inventory:
    """List a store and sort its keys, without a request for each of them.

    A listing is not the state at one moment. Keys may appear and vanish while it is made.

    Args:
        backend: the storage.
        since: the time from which on keys are new, in seconds since 1970; None if all keys are.
    """
    inventory = Inventory()
    problems: Problems = []
    try:
        for entry in backend.entries("", problems=problems):
            is_new = since is None or entry.time is None or entry.time >= since
            _add(inventory, entry, is_new)
    except StorageError as error:
        problems.append(("", str(error)))
    _join_stores_inside(inventory, backend)
    for key, problem in problems:
        inventory.faults[key] = Fault(key, problem, "storage")
    return inventory


def _join_stores_inside(inventory: Inventory, backend: Backend) -> None:
    """Replace the faults of all keys of a store that lies inside this one by one fault."""
    markers = {key for key in inventory.faults if key.endswith(f"/{MARKER}")}
    folders = tuple(key.removesuffix(MARKER) for key in markers)
    if not folders:
        return
    for key in [key for key in inventory.faults if key.startswith(folders)]:
        del inventory.faults[key]
    for folder in folders:
        if not any(folder != outer and folder.startswith(outer) for outer in folders):
            place = backend.location(folder.rstrip("/"))
            inventory.add_fault(
                folder + MARKER,
                f"a store lies inside this store, at {place}: a push to that path made it. If its "
                f"policies are needed, copy them with PolicyStore({place!r}).copy_to(…). Then "
                "delete that folder",
            )


def _add(inventory: Inventory, entry: Entry, is_new: bool) -> None:
    """Add one key of the listing."""
    key = entry.key
    if key.startswith(OBJECTS):
        address = digest_bytes_of_key(key)
        if address is not None:
            inventory.objects.add(address, entry.nbytes, 0 if is_new else Flag.OLD)
            return
    elif key.startswith(NAMES):
        if _add_of_name(inventory, key, is_new):
            return
    elif key.startswith(TRASH):
        digest = digest_of_trash(key)
        if digest is not None:
            if is_new:
                inventory.trash.add(bytes_of(digest) + _nonce_of(key), entry.nbytes)
            return
    elif key.startswith(KEPT):
        digest = digest_of_kept(key)
        if digest is not None:
            if is_new:
                inventory.kept.add(bytes_of(digest) + _nonce_of(key))
            return
    elif key.startswith(LEAGUES):
        place = parse_league_key(key)
        if place is not None:
            inventory.leagues.setdefault(place.league, ListedLeague()).add(place, is_new)
            return
    else:
        name = name_of_deleted(key)
        if name is not None:
            inventory.pointers.append(name)
            return
    if not is_key(key) or key.startswith(NAMES):
        inventory.add_fault(key, FOREIGN)


def _add_of_name(inventory: Inventory, key: str, is_new: bool) -> bool:
    """Add a key below ``names/``. Return False if the key has no valid form."""
    parsed = parse_name_key(key)
    if parsed is not None and parsed.kind in ("version", "mark"):  # almost every key
        held = inventory.names.get(parsed.name)
        if held is None:
            held = inventory.names[parsed.name] = ListedName()
        (held.versions if parsed.kind == "version" else held.marks).add(parsed.number, is_new)
        return True
    prefix, separator, _ = key.partition("/@")
    name = name_of_prefix(prefix + separator) if separator else None
    if name is None:
        if separator:
            problem = "policystore does not write names of this form"
            inventory.add_fault(prefix + separator, problem)
        return bool(separator)
    number = number_of(key) or 0
    numbers: Numbers | None = None
    listed = inventory.names.get(name) or ListedName()
    if key.startswith(tags_prefix(name)):
        start = key.rpartition("/")[0] + "/"
        tag = tag_of_prefix(start, name)
        if tag is None:
            inventory.add_fault(start, "policystore does not write tags of this form")
            return True
        if key == tag_hint_key(name, tag):
            listed.tag_hints.append(tag)
        elif key == tag_key(name, tag, number):
            numbers = listed.tags.setdefault(tag, Numbers())
        else:
            return False
    elif key == hint_key(name):
        listed.has_hint = True
    elif key.startswith(annotations_prefix(name)):
        place = annotation_of_key(key, name)
        if place is None:
            return False
        if is_new:
            listed.annotations.add(*place)
    elif not (key.startswith(copied_prefix(name)) and is_key(key)):
        return False
    if numbers is not None and number:
        numbers.add(number, is_new)
    elif numbers is not None:
        return False
    inventory.names[name] = listed
    return True


def bytes_of(digest: Digest) -> bytes:
    """Return the 32 bytes of a digest."""
    return bytes.fromhex(digest.hex)


def _nonce_of(key: str) -> bytes:
    """Return the nonce at the end of a key of the trash, or of a push without a name."""
    return bytes.fromhex(key.rpartition("/")[2].partition(".")[0])


def kept_key_of(item: bytes) -> str:
    """Return the key of an item of :attr:`Inventory.kept`."""
    return kept_key(Digest(item[:_DIGEST].hex()), item[_DIGEST:].hex())


def trash_key_of(item: bytes) -> str:
    """Return the key of an item of :attr:`Inventory.trash`."""
    return trash_key(Digest(item[:_DIGEST].hex()), item[_DIGEST:].hex())
