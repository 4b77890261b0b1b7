"""From what a user types to a version and a digest, with errors that say what there is."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from policystore._util.concurrency import run_both
from policystore._util.progress import Meter
from policystore.digest import Digest
from policystore.errors import (
    AmbiguousError,
    FormatError,
    IntegrityError,
    NotFoundError,
    PolicyStoreError,
    StorageError,
)
from policystore.format.keys import (
    MARKER,
    MAX_RECORD,
    NAMES,
    digest_of_key,
    name_of_prefix,
    object_key,
    object_prefix,
    tag_of_prefix,
    tags_prefix,
    version_key,
)
from policystore.format.policy import check_object
from policystore.format.records import Hint, TagMove, Version, check_marker
from policystore.format.refs import Ref, parse_ref
from policystore.repository.objects import ObjectReader, StoredPolicy
from policystore.repository.record_log import Probe, RecordLog, tag_list, version_list
from policystore.snapshot import Snapshot

__all__ = ["RefLike", "Resolver", "as_ref"]

_DIGITS = re.compile(r"[0-9a-f]{8,64}\Z")

RefLike: TypeAlias = str | Digest | Version
"""A ref such as ``soccer/main@7``, a Digest, or what a push or the log returned."""


class Resolver:
    """Looks things up in one store; holds nothing, so it sees what others write.

    Args:
        objects: the objects of the store.
    """

    def __init__(self, objects: ObjectReader) -> None:
        self._objects = objects
        self.backend = objects.backend

    def pull(self, ref: Ref, meter: Meter | None = None) -> Snapshot:
        """The policy that a ref means now.

        The policy object that a hint or a tag names is fetched beside the record that says whether
        it is the one: two or three requests in a row, however many versions there are.

        Raises:
            NotFoundError: nothing there by that ref.
            IntegrityError: what the store has to have is damaged or missing.
            FormatError: a record or object that is not of format 1.
            StorageError: the storage failed.
        """
        if not ref.name:
            return self._objects.whole(self._policy(ref.digest), meter)
        version, guess = self._find(ref, guessing=True)
        try:
            if guess is None or guess.digest != version.digest:
                guess = self._objects.policy(version.digest)
            return self._objects.whole(guess, meter)
        except NotFoundError as error:
            raise IntegrityError(
                f"{error}, though {version.ref} needs it: the store has lost it. Restore it from a "
                "backup, or push the policy again from where you have it."
            ) from None

    def version(self, ref: Ref) -> Version:
        """The record that a ref with a name means now.

        Raises:
            NotFoundError: no such name, version or tag; says what there is.
            FormatError: a record is damaged.
        """
        return self._find(ref, guessing=False)[0]

    def _find(self, ref: Ref, *, guessing: bool) -> tuple[Version, StoredPolicy | None]:
        """A version, and the policy object that seemed to be its own, where that was fetched."""
        if ref.number is not None:
            return self.read_version(ref.name, ref.number), None
        look: Callable[[], Version]
        if ref.tag is not None:
            move = self._last_move(ref.name, ref.tag)
            if move is None or move.digest is None:
                raise self._no_tag(ref.name, ref.tag)
            seems: Digest | None = move.digest
            look = partial(self._target, move, move.digest)
        else:
            versions = version_list(self.backend, ref.name)
            hint, first = versions.first_look()
            if hint is not None:
                seems = hint.digest
            else:
                seems = None if first is None else self._digest_in(first.data)
            look = partial(self._newest_version, ref.name, versions, hint, first)
        if seems is None or not guessing or self.backend.parallel < 2:
            return look(), None
        return run_both(look, partial(self._guess, seems), at_once=True)

    def _digest_in(self, record: bytes | None) -> Digest | None:
        try:
            return None if record is None else Version.from_bytes(record, "a first record").digest
        except FormatError:
            return None  # it is read again and the error is raised

    def _guess(self, digest: Digest) -> StoredPolicy | None:
        try:
            return self._objects.policy(digest)
        except PolicyStoreError:
            return None  # if it is the one after all, it is read again and the error is raised

    def newest(self, name: str) -> int:
        """The newest version number of a name, or NotFoundError."""
        versions = version_list(self.backend, name)
        newest = versions.newest(versions.hinted())
        if not newest.number:
            raise self._no_name(name)
        return newest.number

    def _newest_version(
        self, name: str, versions: RecordLog, hint: Hint | None, first: Probe | None
    ) -> Version:
        newest = versions.newest(hint, first)
        if not newest.number:
            raise self._no_name(name)
        data = versions.read(newest.number) if newest.data is None else newest.data
        return self._parsed(data, name, newest.number)

    def _no_name(self, name: str) -> NotFoundError:
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
        return NotFoundError(f"no name {name!r} in {self.backend.url}.{hint}")

    def read_version(self, name: str, number: int) -> Version:
        """One record, or NotFoundError, or FormatError where it is damaged or of another name."""
        try:
            data = version_list(self.backend, name).read(number)
        except NotFoundError:
            newest = self.newest(name)
            if number < newest:
                raise IntegrityError(
                    f"version {number} of {name!r} in {self.backend.url} is missing, though later "
                    "ones are there: its record was lost. Restore it from a backup; verify() says "
                    "what else is missing."
                ) from None
            raise NotFoundError(
                f"no version {number} of {name!r} in {self.backend.url}; "
                f"its versions are 1 to {newest}"
            ) from None
        return self._parsed(data, name, number)

    def _parsed(self, data: bytes, name: str, number: int) -> Version:
        where = self.backend.location(version_key(name, number))
        version = Version.from_bytes(data, where)
        if (version.name, version.number) != (name, number):
            raise FormatError(f"{where}: the record is of {version.ref}: it was moved there")
        return version

    def _last_move(self, name: str, tag: str) -> TagMove | None:
        moves = tag_list(self.backend, name, tag)
        newest = moves.newest()
        if not newest.number:
            return None
        where = self.backend.location(moves.key(newest.number))
        data = moves.read(newest.number) if newest.data is None else newest.data
        move = TagMove.from_bytes(data, where)
        if (move.name, move.tag, move.number) != (name, tag, newest.number):
            raise FormatError(f"{where}: the record is of another tag: it was moved there")
        return move

    def tagged(self, name: str, tag: str) -> Version:
        """The version that a tag points to, or NotFoundError."""
        return self.version(Ref(name=name, tag=tag))

    def _no_tag(self, name: str, tag: str) -> NotFoundError:
        self.newest(name)
        known = list(self.tags(name))
        return NotFoundError(
            f"{name!r} has no tag {tag!r} in {self.backend.url}."
            + _suggest(tag, known, "Its tags are", "It has no tags.")
        )

    def moved_to(self, name: str, tag: str, record: bytes) -> Version | None:
        """The version that a move of a tag points to; None where it took the tag away."""
        move = TagMove.from_bytes(record, f"the tag {tag!r} of {name!r}")
        return None if move.digest is None else self._target(move, move.digest)

    def _target(self, move: TagMove, digest: Digest) -> Version:
        name, tag, target = move.name, move.tag, move.target
        version = self.read_version(name, target or 0)
        if version.digest != digest:
            raise FormatError(
                f"the tag {tag!r} of {name!r} and version {target} name different digests: "
                "a record was changed; verify() says which"
            )
        return version

    def names(self, prefix: str) -> list[str]:
        """All names that start with ``prefix``, in order."""
        found = (name_of_prefix(key) for key in self.backend.prefixes(NAMES, "/@"))
        return sorted(name for name in found if name is not None and name.startswith(prefix))

    def tags(self, name: str) -> dict[str, Version]:
        """The tags of a name, in order, with the versions they point to."""
        prefix = tags_prefix(name)
        found = (tag_of_prefix(key, name) for key in self.backend.prefixes(prefix, "/"))
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
            if self.backend.size(object_key(digest)) is None:
                self.check_marker(required=True)
                raise NotFoundError(f"no object {digest} in {self.backend.url}")
            return digest
        keys = self.backend.keys(object_prefix(digits))
        found = [digest for digest in map(digest_of_key, keys) if digest is not None]
        if len(found) > 1:
            # Tensor objects have digests too, but nobody means those.
            found = [digest for digest in found if self._is_policy(digest)]
        if not found:
            self.check_marker(required=True)
            raise NotFoundError(
                f"no policy in {self.backend.url} has a digest that starts with {digits}"
            )
        if len(found) > 1:
            raise AmbiguousError(
                f"blake3:{digits} fits {len(found)} policies: "
                + ", ".join(str(digest) for digest in sorted(found)[:5])
                + "; give more digits"
            )
        return found[0]

    def _policy(self, digits: str) -> StoredPolicy:
        """The policy whose digest starts with ``digits``; one request where they are all given."""
        if len(digits) == 64:
            try:
                return self._objects.policy(Digest(digits))
            except NotFoundError:
                pass  # said in more words below, unless it has come meanwhile
        return self._objects.policy(self.digest(digits))

    def _is_policy(self, digest: Digest) -> bool:
        data = self._objects.read(digest, limit=None)
        return check_object(data, self.backend.location(object_key(digest))) == "policy"

    def check_marker(self, *, required: bool = False) -> bool:
        """Whether the store is there.

        Raises:
            FormatError: something else is there, or a store of a newer format.
            NotFoundError: nothing is there, and ``required``.
        """
        data = self._marker()
        if data is None and next(iter(self.backend.keys("")), None) is not None:
            # Somebody may have made the store between the two looks: the marker comes first.
            data = self._marker()
            if data is None:
                raise FormatError(
                    f"{self.backend.url} is not a policy store: it holds other files and no "
                    f"{MARKER}. Choose the folder of a store, or an empty one to make one in."
                )
        if data is None:
            if required:
                raise NotFoundError(
                    f"there is no policy store at {self.backend.url}; the first push makes one"
                )
            return False
        check_marker(data, self.backend.location(MARKER))
        return True

    def _marker(self) -> bytes | memoryview | None:
        try:
            return self.backend.get(MARKER, limit=MAX_RECORD)
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
