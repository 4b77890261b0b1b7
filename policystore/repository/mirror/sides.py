"""Hold the two stores of a copy, and write to the target unless the copy is a dry run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from policystore._util.concurrency import in_parallel, run_both
from policystore.backends.base import Backend
from policystore.digest import Digest
from policystore.errors import FormatError, IntegrityError, NotFoundError, StorageError
from policystore.format.keys import MAX_RECORD, deleted_key, version_key, versions_prefix
from policystore.format.records import Hint, Version, pointer_bytes
from policystore.repository.mirror.objects import ObjectCopier
from policystore.repository.record_log import Probe, RecordLog

__all__ = ["Record", "Sides", "find_newest", "kinds_of"]


@dataclass(frozen=True)
class Record:
    """The record of a version, with its bytes."""

    version: Version
    data: bytes

    @property
    def number(self) -> int:
        """The number of the version."""
        return self.version.number or 0


@dataclass(frozen=True)
class Sides:
    """The source and the target of a copy.

    Attributes:
        source, target: the backends.
        objects: copies objects from the source to the target.
        dry_run: True to write nothing.
    """

    source: Backend
    target: Backend
    objects: ObjectCopier
    dry_run: bool

    @property
    def workers(self) -> int:
        """How many records are read at once."""
        return self.objects.workers

    def read(self, backend: Backend, key: str, *, limit: int = MAX_RECORD) -> bytes:
        """Read a record that has to exist, because a later one exists.

        Raises:
            IntegrityError: the record is missing.
        """
        try:
            return bytes(backend.get(key, limit=limit))
        except NotFoundError:
            raise IntegrityError(
                f"{backend.location(key)} is missing, though later records exist: the record was "
                "lost. Restore the record from a backup; verify() lists what else is missing."
            ) from None

    def create(self, key: str, data: bytes) -> bool:
        """Create a key of the target; return False if the key exists."""
        if self.dry_run:
            return self.target.size(key) is None
        return self.target.create(key, data)

    def create_or_read(self, key: str, data: bytes, *, limit: int = MAX_RECORD) -> bytes:
        """Create a key of the target, and return its bytes: other ones if the key existed.

        Raises:
            StorageError: the server refuses to create a key that does not exist.
        """
        if self.create(key, data):
            return data
        try:
            return bytes(self.target.get(key, limit=limit))
        except NotFoundError:
            raise StorageError(
                f"{self.target.location(key)}: the server refuses to create this key, as if it "
                "existed, but does not find the key. No record was written."
            ) from None

    def put(self, key: str, data: bytes) -> None:
        """Write a key of the target whose bytes belong to its name, as the nonce in it says."""
        if not self.dry_run:
            self.target.put(key, [data])

    def replace(self, key: str, data: bytes) -> None:
        """Write a key of the target that only saves reading."""
        if not self.dry_run:
            self.target.replace(key, data)

    def write_pointer(self, name: str) -> None:
        """Tell those who list names to read the marks of a name."""
        if self.target.size(deleted_key(name)) is None:
            self.create(deleted_key(name), pointer_bytes())

    def equal(self, key: str, *, limit: int = MAX_RECORD) -> bool:
        """Return whether a key has the same bytes on both sides."""
        at_once = max(self.source.parallel, self.target.parallel) > 1
        source = partial(self.source.get, key, limit=limit)
        target = partial(self.target.get, key, limit=limit)
        try:
            ours, theirs = run_both(source, target, at_once=at_once)
        except (NotFoundError, FormatError):
            return False  # absent, or longer than such a record may be
        return bytes(ours) == bytes(theirs)

    def versions(self, backend: Backend, name: str, numbers: Iterable[int]) -> list[Record]:
        """Read records of versions, several at once.

        Raises:
            IntegrityError: a record is missing.
            FormatError: a record is damaged, or is of another version.
        """
        read = partial(self._read_version, backend, name)
        return in_parallel(read, numbers, workers=self.workers)

    def _read_version(self, backend: Backend, name: str, number: int) -> Record:
        key = version_key(name, number)
        data = self.read(backend, key)
        version = Version.from_bytes(data, backend.location(key))
        if (version.name, version.number) != (name, number):
            raise FormatError(
                f"{backend.location(key)}: the record is of {version.ref}: it was moved or copied "
                "to this key"
            )
        return Record(version, data)


def find_newest(log: RecordLog[Any], known: int) -> Probe:
    """Find the newest number of a list, from a number on that should exist; 0 for none."""
    if known:
        return log.newest(Hint(known, Digest("0" * 64)))
    # One request shows that a list is empty.
    return log.newest(None, log.first_look()[1])


def kinds_of(backend: Backend, name: str) -> set[str]:
    """List the kinds of records that a name has, such as ``@versions`` and ``@tags``."""
    start = versions_prefix(name).removesuffix("@versions/")
    listed = backend.prefixes(start, "/")
    return {kind for kind in (key[len(start) : -1] for key in listed) if kind.startswith("@")}
