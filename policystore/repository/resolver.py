"""Resolve refs to versions and digests.

If a name, version or tag does not exist, the message of the error lists those that exist.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from policystore._util.concurrency import in_parallel, run_both
from policystore._util.log import logger
from policystore._util.progress import Meter
from policystore.backends.base import Problems
from policystore.digest import Digest
from policystore.errors import (
    AmbiguousError,
    FormatError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    PolicyStoreError,
    StorageError,
)
from policystore.format.keys import (
    NAMES,
    name_of_prefix,
    object_key,
    tag_of_prefix,
    tags_prefix,
    version_key,
)
from policystore.format.policy import check_object
from policystore.format.records import Hint, TagMove, Version
from policystore.format.refs import Ref
from policystore.repository.marker import require_store
from policystore.repository.objects import MIN_WORKERS, ObjectReader, StoredPolicy
from policystore.repository.record_log import Probe, RecordLog, tag_log, version_log
from policystore.repository.ref_like import RefLike, as_ref
from policystore.snapshot import Snapshot

__all__ = ["MIN_WORKERS", "Resolver"]

_LOG_PAGE = 256  # records of a log that are read before the next ones are begun
_DIGITS = re.compile(r"[0-9a-f]{8,64}\Z")


class Resolver:
    """Resolve names, tags, numbers and digests in one store.

    A resolver remembers nothing between calls, so it sees what other processes have written.

    Args:
        objects: reads the objects of the store.
    """

    def __init__(self, objects: ObjectReader) -> None:
        self._objects = objects
        self.backend = objects.backend

    def pull(self, ref: Ref, meter: Meter | None = None) -> Snapshot:
        """Pull the policy that a ref means now.

        A hint or a tag names a policy object. On a remote store, that object is fetched at the same
        time as the record which shows whether it is the right object. So a pull needs two or three
        requests one after the other, however many versions the name has.

        Raises:
            NotFoundError: the ref means nothing in this store.
            IntegrityError: a record or an object that the store must have is damaged or missing.
            FormatError: a record or object is not of format 1.
            StorageError: the storage failed.
        """
        if not ref.name:
            return self._objects.snapshot(self._policy(ref.digest), meter)
        version, policy = self._look_up(ref, prefetch=True)
        try:
            if policy is None or policy.digest != version.digest:
                policy = self._objects.policy(version.digest)
            return self._objects.snapshot(policy, meter)._pulled_as(version.ref)
        except NotFoundError as error:
            raise IntegrityError(
                f"{error}, though {version.ref} needs the object: the store has lost it. Restore "
                "the object from a backup, or push the same policy again."
            ) from None

    def version(self, ref: Ref) -> Version:
        """Return the version that a ref with a name means now.

        Raises:
            NotFoundError: no such name, version or tag; the message lists those that exist.
            IntegrityError: a record is missing, though later ones exist.
            FormatError: a record is damaged.
        """
        return self._look_up(ref, prefetch=False)[0]

    def resolve(self, ref: RefLike) -> Digest:
        """Return the digest of the policy that a ref means now.

        Raises:
            InvalidInputError: not a ref.
            AmbiguousError: a short digest fits several policies.
            NotFoundError, IntegrityError, FormatError: as in :meth:`version`.
        """
        parsed = as_ref(ref)
        return self.version(parsed).digest if parsed.name else self.digest(parsed.digest)

    def _look_up(self, ref: Ref, *, prefetch: bool) -> tuple[Version, StoredPolicy | None]:
        """Return the version of a ref, and a policy object that probably belongs to this version.

        Args:
            ref: a ref with a name.
            prefetch: whether to fetch the policy object that the hint or the tag names, at the same
                time as the records, if that saves time. The caller must compare the digests.
        """
        if ref.number is not None:
            return self.read_version(ref.name, ref.number), None
        read_version: Callable[[], Version]
        if ref.tag is not None:
            move = self._last_move(ref.name, ref.tag)
            if move is None or move.digest is None:
                raise self._no_tag(ref.name, ref.tag)
            likely: Digest | None = move.digest
            read_version = partial(self._target_version, move, move.digest)
        else:
            versions = version_log(self.backend, ref.name)
            hint, first = versions.first_look()
            if hint is not None:
                likely = hint.digest
            else:
                likely = None if first is None else self._digest_in(first.data)
            read_version = partial(self._newest_version, ref.name, versions, hint, first)
        if likely is None or not prefetch or self.backend.parallel < 2:
            return read_version(), None
        return run_both(read_version, partial(self._prefetch, likely), at_once=True)

    def _digest_in(self, record: bytes | None) -> Digest | None:
        try:
            return None if record is None else Version.from_bytes(record, "a first record").digest
        except FormatError:
            return None  # the record is read again, and that read raises the error

    def _prefetch(self, digest: Digest) -> StoredPolicy | None:
        try:
            return self._objects.policy(digest)
        except PolicyStoreError:
            return None  # if the policy is needed, it is read again, and that read raises the error

    def newest(self, name: str) -> int:
        """Return the number of the newest version of a name.

        Raises:
            NotFoundError: no such name.
        """
        versions = version_log(self.backend, name)
        newest = versions.newest(versions.read_hint())
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
        return self._parse_version(data, name, newest.number)

    def _no_name(self, name: str) -> NotFoundError:
        """Build the error for a name that does not exist; the message lists names that exist."""
        require_store(self.backend)
        if _DIGITS.match(name):
            advice = f" A digest is written 'blake3:{name}'."
        else:
            try:
                known = [other for other in self.names("") if other != name]
                advice = _suggest(name, known, "The names are", "It has no names.")
            except StorageError as error:
                advice = f" Its names cannot be listed: {error}"
        return NotFoundError(f"no name {name!r} in {self.backend.url}.{advice}")

    def read_version(self, name: str, number: int) -> Version:
        """Read one version record.

        Raises:
            NotFoundError: no such name or number.
            IntegrityError: the record is missing, though later ones exist.
            FormatError: the record is damaged, or is of another name or number.
        """
        try:
            data = version_log(self.backend, name).read(number)
        except NotFoundError:
            newest = self.newest(name)
            if number < newest:
                raise IntegrityError(
                    f"version {number} of {name!r} in {self.backend.url} is missing, though later "
                    "versions exist: its record was lost. Restore it from a backup; verify() lists "
                    "what else is missing."
                ) from None
            raise NotFoundError(
                f"no version {number} of {name!r} in {self.backend.url}; "
                f"its versions are 1 to {newest}"
            ) from None
        return self._parse_version(data, name, number)

    def _parse_version(self, data: bytes, name: str, number: int) -> Version:
        location = self.backend.location(version_key(name, number))
        version = Version.from_bytes(data, location)
        if (version.name, version.number) != (name, number):
            raise FormatError(
                f"{location}: the record is of {version.ref}: it was moved or copied to this key"
            )
        return version

    def log(self, name: str, limit: int | None) -> list[Version]:
        """Read the versions of a name, newest first, and ``limit`` of them at most.

        Raises:
            InvalidInputError: ``limit`` is not a number of versions.
            NotFoundError: no such name.
        """
        if limit is not None and (type(limit) is not int or limit < 0):
            raise InvalidInputError(
                f"limit is a number of versions, a whole number of at least 0, not {limit!r}"
            )
        newest = self.newest(name)
        oldest = 1 if limit is None else max(1, newest - limit + 1)
        versions: list[Version] = []
        for start in range(newest, oldest - 1, -_LOG_PAGE):
            numbers = range(start, max(oldest, start - _LOG_PAGE + 1) - 1, -1)
            versions += in_parallel(
                partial(self.read_version, name),
                numbers,
                workers=self.backend.parallel,
            )
        return versions

    def _last_move(self, name: str, tag: str) -> TagMove | None:
        """Read the last move of a tag; None if the tag never existed."""
        moves = tag_log(self.backend, name, tag)
        newest = moves.newest()
        if not newest.number:
            return None
        location = self.backend.location(moves.key(newest.number))
        data = moves.read(newest.number) if newest.data is None else newest.data
        move = TagMove.from_bytes(data, location)
        if (move.name, move.tag, move.number) != (name, tag, newest.number):
            raise FormatError(
                f"{location}: the record is of another tag: it was moved or copied to this key"
            )
        return move

    def tagged(self, name: str, tag: str) -> Version:
        """Return the version that a tag points to.

        Raises:
            NotFoundError: no such name or tag.
        """
        return self.version(Ref(name=name, tag=tag))

    def _no_tag(self, name: str, tag: str) -> NotFoundError:
        """Build the error for a tag that does not exist; the message lists tags that exist."""
        self.newest(name)  # raises another error if the name does not exist
        known = list(self.tags(name))
        return NotFoundError(
            f"{name!r} has no tag {tag!r} in {self.backend.url}."
            + _suggest(tag, known, "Its tags are", "It has no tags.")
        )

    def target_of(self, name: str, tag: str, record: bytes) -> Version | None:
        """Return the version that a tag record points to; None if the record removed the tag."""
        move = TagMove.from_bytes(record, f"the tag {tag!r} of {name!r}")
        return None if move.digest is None else self._target_version(move, move.digest)

    def _target_version(self, move: TagMove, digest: Digest) -> Version:
        """Read the version that a move points to, and check that its digest is the given one."""
        name, tag, target = move.name, move.tag, move.target
        version = self.read_version(name, target or 0)
        if version.digest != digest:
            raise FormatError(
                f"the tag {tag!r} of {name!r} and version {target} name different digests: "
                "a record was changed; verify() tells which"
            )
        return version

    def names(self, prefix: str) -> list[str]:
        """List all names that start with ``prefix``, in order.

        Folders that cannot be listed are left out, and the log says which.

        Raises:
            InvalidInputError: ``prefix`` is not text.
        """
        if not isinstance(prefix, str):
            raise InvalidInputError(f"a prefix is a string, not {type(prefix).__qualname__}")
        problems: Problems = []
        prefixes = self.backend.prefixes(NAMES, "/@", problems=problems)
        names = [name for name in map(name_of_prefix, prefixes) if name is not None]
        if problems:
            logger.warning(
                "names below %d folders were left out, because this user may not list them: %s",
                len(problems),
                "; ".join(f"{place}: {problem}" for place, problem in problems[:3]),
            )
        return sorted(name for name in names if name.startswith(prefix))

    def tags(self, name: str) -> dict[str, Version]:
        """Return the tags of a name, in order, with the versions that they point to."""
        prefix = tags_prefix(name)
        tags = (tag_of_prefix(key, name) for key in self.backend.prefixes(prefix, "/"))
        tagged = {}
        for tag in sorted(tag for tag in tags if tag is not None):
            move = self._last_move(name, tag)
            if move is not None and move.target is not None:
                tagged[tag] = self.read_version(name, move.target)
        return tagged

    def digest(self, digits: str) -> Digest:
        """Return the digest of the object whose digest starts with ``digits``.

        Args:
            digits: 8 to 64 hexadecimal digits.

        Raises:
            NotFoundError: no digest starts with these digits.
            AmbiguousError: the digests of several policies start with these digits.
        """
        candidates = self._objects.find(digits)
        if len(candidates) > 1:
            # Tensor objects have digests, too. Of several objects that fit, only policies count.
            candidates = [digest for digest in candidates if self._is_policy(digest)]
        if not candidates:
            require_store(self.backend)
            if len(digits) == 64:
                raise NotFoundError(f"no object {Digest(digits)} in {self.backend.url}")
            raise NotFoundError(
                f"no policy in {self.backend.url} has a digest that starts with {digits}"
            )
        if len(candidates) > 1:
            raise AmbiguousError(
                f"blake3:{digits} fits {len(candidates)} policies: "
                + ", ".join(str(digest) for digest in sorted(candidates)[:5])
                + "; give more digits"
            )
        return candidates[0]

    def _policy(self, digits: str) -> StoredPolicy:
        """Read the policy whose digest starts with ``digits``; one request for all 64 digits."""
        if len(digits) == 64:
            try:
                return self._objects.policy(Digest(digits))
            except NotFoundError:
                pass  # self.digest raises a better error, unless the object exists now
        return self._objects.policy(self.digest(digits))

    def _is_policy(self, digest: Digest) -> bool:
        data = self._objects.read(digest, limit=None)
        return check_object(data, self.backend.location(object_key(digest))) == "policy"


def _suggest(word: str, known: list[str], intro: str, if_none: str) -> str:
    """Write a sentence that names the known words, or those close to ``word``."""
    if not known:
        return " " + if_none
    import difflib  # for errors only

    close = difflib.get_close_matches(word, known, n=3)
    if close:
        return " Did you mean " + " or ".join(repr(name) for name in close) + "?"
    shown = ", ".join(known[:10]) + (f", and {len(known) - 10} more" if len(known) > 10 else "")
    return f" {intro}: {shown}"
