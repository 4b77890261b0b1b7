"""From what a user types to a version and a digest, with errors that say what there is."""

from __future__ import annotations

import re
from typing import TypeAlias

from policystore.backends.base import Backend
from policystore.digest import Digest
from policystore.encoding import check_object
from policystore.errors import (
    AmbiguousError,
    FormatError,
    IntegrityError,
    NotFoundError,
    StorageError,
)
from policystore.layout import (
    MARKER,
    MAX_RECORD,
    NAMES,
    Ref,
    digest_of_key,
    name_of_prefix,
    object_key,
    object_prefix,
    parse_ref,
    tag_of_prefix,
    tags_prefix,
)
from policystore.names import tag_list, version_list
from policystore.reading import read_object, read_snapshot
from policystore.records import TagMove, Version, check_marker
from policystore.snapshot import Snapshot

__all__ = ["Finder", "RefLike", "as_ref"]

_DIGITS = re.compile(r"[0-9a-f]{8,64}\Z")

RefLike: TypeAlias = str | Digest | Version
"""A ref such as ``soccer/main@7``, a Digest, or what a push or the log returned."""


class Finder:
    """Looks things up in one backend; holds nothing, so it sees what others write.

    Args:
        backend: the storage of a store.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def version(self, ref: Ref) -> Version:
        """The record that a ref with a name means now.

        Raises:
            NotFoundError: no such name, version or tag; says what there is.
            FormatError: a record is damaged.
        """
        if ref.tag is not None:
            return self.tagged(ref.name, ref.tag)
        if ref.number is not None:
            return self.read_version(ref.name, ref.number)
        return self.read_version(ref.name, self.newest(ref.name))

    def newest(self, name: str) -> int:
        """The newest version number of a name, or NotFoundError."""
        newest = version_list(self._backend, name).latest()
        if not newest:
            self.check_marker(required=True)
            hint = " It is empty."
            if _DIGITS.match(name):
                hint = f" A digest is written 'blake3:{name}'."
            else:
                try:
                    known = [other for other in self.names("") if other != name]
                    hint = _suggest(name, known, "The names are", "It has no names.")
                except StorageError as error:
                    hint = f" Its names cannot be listed: {error}"
            raise NotFoundError(f"no name {name!r} in {self._backend.url}.{hint}")
        return newest

    def read_version(self, name: str, number: int) -> Version:
        """One record, or NotFoundError, or FormatError where it is damaged or of another name."""
        versions = version_list(self._backend, name)
        try:
            data = versions.read(number)
        except NotFoundError:
            newest = self.newest(name)
            if number < newest:
                raise IntegrityError(
                    f"version {number} of {name!r} in {self._backend.url} is missing, though later "
                    "ones are there: its record was lost. Restore it from a backup; verify() says "
                    "what else is missing."
                ) from None
            raise NotFoundError(
                f"no version {number} of {name!r} in {self._backend.url}; "
                f"its versions are 1 to {newest}"
            ) from None
        where = self._backend.location(versions.key(number))
        version = Version.from_bytes(data, where)
        if (version.name, version.number) != (name, number):
            raise FormatError(f"{where}: the record is of {version.ref}: it was moved there")
        return version

    def _last_move(self, name: str, tag: str) -> TagMove | None:
        moves = tag_list(self._backend, name, tag)
        number = moves.latest()
        if not number:
            return None
        where = self._backend.location(moves.key(number))
        move = TagMove.from_bytes(moves.read(number), where)
        if (move.name, move.tag, move.number) != (name, tag, number):
            raise FormatError(f"{where}: the record is of another tag: it was moved there")
        return move

    def tagged(self, name: str, tag: str) -> Version:
        """The version that a tag points to, or NotFoundError."""
        move = self._last_move(name, tag)
        version = None if move is None else self._target(move)
        if version is None:
            self.newest(name)
            known = list(self.tags(name))
            raise NotFoundError(
                f"{name!r} has no tag {tag!r} in {self._backend.url}."
                + _suggest(tag, known, "Its tags are", "It has no tags.")
            )
        return version

    def moved_to(self, name: str, tag: str, record: bytes) -> Version | None:
        """The version that a move of a tag points to; None where it took the tag away."""
        return self._target(TagMove.from_bytes(record, f"the tag {tag!r} of {name!r}"))

    def _target(self, move: TagMove) -> Version | None:
        if move.target is None:
            return None
        name, tag = move.name, move.tag
        version = self.read_version(name, move.target)
        if version.digest != move.digest:
            raise FormatError(
                f"the tag {tag!r} of {name!r} and version {move.target} name different digests: "
                "a record was changed; verify() says which"
            )
        return version

    def names(self, prefix: str) -> list[str]:
        """All names that start with ``prefix``, in order."""
        found = (name_of_prefix(key) for key in self._backend.prefixes(NAMES, "/@"))
        return sorted(name for name in found if name is not None and name.startswith(prefix))

    def tags(self, name: str) -> dict[str, Version]:
        """The tags of a name, in order, with the versions they point to."""
        prefix = tags_prefix(name)
        found = (tag_of_prefix(key, name) for key in self._backend.prefixes(prefix, "/"))
        tagged = {}
        for tag in sorted(tag for tag in found if tag is not None):
            move = self._last_move(name, tag)
            if move is not None and move.target is not None:
                tagged[tag] = self.read_version(name, move.target)
        return tagged

    def digest(self, digits: str) -> Digest:
        """The object whose digest starts with ``digits``; NotFoundError or AmbiguousError."""
        if len(digits) == 64:
            digest = Digest(digits)
            if self._backend.size(object_key(digest)) is None:
                self.check_marker(required=True)
                raise NotFoundError(f"no object {digest} in {self._backend.url}")
            return digest
        keys = self._backend.keys(object_prefix(digits))
        found = [digest for digest in map(digest_of_key, keys) if digest is not None]
        if len(found) > 1:
            # Tensor objects have digests too, but nobody means those.
            found = [digest for digest in found if self._is_policy(digest)]
        if not found:
            self.check_marker(required=True)
            raise NotFoundError(
                f"no policy in {self._backend.url} has a digest that starts with {digits}"
            )
        if len(found) > 1:
            raise AmbiguousError(
                f"blake3:{digits} fits {len(found)} policies: "
                + ", ".join(str(digest) for digest in sorted(found)[:5])
                + "; give more digits"
            )
        return found[0]

    def snapshot(self, digits: str) -> Snapshot:
        """The policy whose digest starts with ``digits``; one request where they are all given."""
        if len(digits) == 64:
            try:
                return read_snapshot(self._backend, Digest(digits))
            except NotFoundError:
                pass  # said in more words below, unless it has come meanwhile
        return read_snapshot(self._backend, self.digest(digits))

    def _is_policy(self, digest: Digest) -> bool:
        data = read_object(self._backend, digest, limit=None)
        return check_object(data, self._backend.location(object_key(digest))) == "policy"

    def check_marker(self, *, required: bool = False) -> bool:
        """Whether the store is there.

        Raises:
            FormatError: something else is there, or a store of a newer format.
            NotFoundError: nothing is there, and ``required``.
        """
        data = self._marker()
        if data is None and next(iter(self._backend.keys("")), None) is not None:
            # Somebody may have made the store between the two looks: the marker comes first.
            data = self._marker()
            if data is None:
                raise FormatError(
                    f"{self._backend.url} is not a policy store: it holds other files and no "
                    f"{MARKER}. Choose the folder of a store, or an empty one to make one in."
                )
        if data is None:
            if required:
                raise NotFoundError(
                    f"there is no policy store at {self._backend.url}; the first push makes one"
                )
            return False
        check_marker(data, self._backend.location(MARKER))
        return True

    def _marker(self) -> bytes | memoryview | None:
        try:
            return self._backend.get(MARKER, limit=MAX_RECORD)
        except NotFoundError:
            return None


def as_ref(ref: RefLike) -> Ref:
    """What a ref says; InvalidInputError for what is none."""
    if isinstance(ref, Digest):
        return Ref(digest=ref.hex)
    if isinstance(ref, Version):
        # That very policy: another store may have another one under the same name and number.
        return Ref(digest=ref.digest.hex)
    return parse_ref(ref)


def _suggest(word: str, known: list[str], are: str, none: str) -> str:
    if not known:
        return " " + none
    import difflib  # for errors only

    close = difflib.get_close_matches(word, known, n=3)
    if close:
        return " Did you mean " + " or ".join(repr(name) for name in close) + "?"
    shown = ", ".join(known[:10]) + (f", and {len(known) - 10} more" if len(known) > 10 else "")
    return f" {are}: {shown}"
