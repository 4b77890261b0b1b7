"""Define what a store needs from the storage that keeps its bytes: a few calls on keys.

A key is ASCII text with parts between ``/``; :mod:`policystore.format.keys` builds all keys. A
backend does not know what the bytes mean. ``docs/backends.md`` shows how to write one, and
:mod:`policystore.testing` holds the tests that each backend has to pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from policystore._util.progress import BytesCallback
from policystore.digest import Digest, digest_of

__all__ = [
    "Backend",
    "Chunks",
    "Entry",
    "HashesReads",
    "KeepsUploads",
    "Problems",
    "UnfinishedUpload",
    "get_hashed",
]

Chunks: TypeAlias = Sequence[bytes | memoryview]
"""The bytes of one key in pieces, to be written one after the other."""

Problems: TypeAlias = list[tuple[str, str]]
"""Keys or starts of keys that could not be listed, each with the reason."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Describe a key in a listing.

    Attributes:
        key: the key.
        nbytes: the number of its bytes.
        time: when the key got its bytes or was copied, by the clock of the storage, in seconds
            since 1970; None if the storage does not tell. The time may be later than the real time,
            but never more than a second earlier.
    """

    key: str
    nbytes: int
    time: float | None

    def is_old(self, before: float) -> bool:
        """Return whether the key is at least as old as a time; False if its time is not known.

        A collector takes only keys that are old.
        """
        return self.time is not None and self.time <= before


class Backend(Protocol):
    """Keep bytes under keys.

    Several threads may call one backend at once. Every call may raise
    :class:`~policystore.errors.StorageError`: the storage failed, and readers see the same as
    before the call. Every write may raise
    :class:`~policystore.errors.ReadOnlyError`: this user may not write.
    """

    @property
    def url(self) -> str:
        """The folder or URL of the store, for messages and pickles."""

    @property
    def is_remote(self) -> bool:
        """Whether requests go through a network.

        If True, the answer to a write may be lost after the write was applied, and the node cache
        keeps copies of objects. From version 2 of a name on, a push writes the hint at the same
        time as the record of the version, and not after the record, unless another writer took the
        number first. With version 1 it writes no hint: a push that is interrupted must not leave a
        name with a hint and without versions.
        """

    @property
    def parallel(self) -> int:
        """How many calls to make at once for speed; 1 if a call takes almost no time."""

    def get(
        self,
        key: str,
        *,
        limit: int | None = None,
        share: bool = False,
        size: int | None = None,
        on_bytes: BytesCallback | None = None,
    ) -> bytes | memoryview:
        """Read all bytes of a key, as a read-only buffer.

        Args:
            key: the key.
            limit: how many bytes the key may have at most. A longer key is not read to its end.
            share: allow a view of the storage itself, if no other user can change its bytes.
            size: how many bytes the key has, if the caller knows it. A backend may then read a
                large key in parts, several at once.
            on_bytes: called with the bytes of each part, if the key is read in parts.

        Raises:
            NotFoundError: the key does not exist.
            FormatError: the key has more than ``limit`` bytes.
        """

    def head(self, key: str, count: int) -> bytes:
        """Read the first ``count`` bytes of a key, or all bytes of a shorter key.

        Raises:
            NotFoundError: the key does not exist.
        """

    def size(self, key: str) -> int | None:
        """Return the number of bytes of a key; None if the key does not exist."""

    def put(self, key: str, chunks: Chunks, *, on_bytes: BytesCallback | None = None) -> None:
        """Write a key whose bytes never change, because the key is their address.

        The bytes are durable when this call returns. A reader sees all bytes or no key. If the key
        exists with the same bytes, the call only has to make them durable; a backend may also write
        them again. If the key exists with other bytes, which is a damaged copy, the call replaces
        the whole key.

        Args:
            key: the key.
            chunks: its bytes, in pieces.
            on_bytes: called with the bytes of each part, if the key is written in parts.
        """

    def create(self, key: str, data: bytes) -> bool:
        """Create a key that does not exist. If several writers try at once, exactly one succeeds.

        Returns:
            True if this call created the key; the key is then durable. False if the key exists.
        """

    def verify_exclusive_create(self, key: str, data: bytes) -> None:
        """Check that :meth:`create` refuses a key that exists. Some servers overwrite such a key.

        This call does nothing if the operating system or the code of the backend guarantees that
        :meth:`create` refuses such a key.

        Args:
            key: a key that exists.
            data: the bytes of the key. The key has these bytes after the call, whatever happens.

        Raises:
            StorageError: the server overwrites the key. Then, if two writers push to one name at
                the same time, one version would be lost.
        """

    def replace(self, key: str, data: bytes) -> None:
        """Create or overwrite a key. A reader sees the old bytes or the new bytes, never both."""

    def keys(self, prefix: str, *, problems: Problems | None = None) -> Iterator[str]:
        """List all keys that start with ``prefix``, in any order, without unfinished writes.

        A backend may leave out files that operating systems and file servers make, such as
        ``.DS_Store``; no key of a store has such a form.

        Args:
            prefix: the start of the keys; "" for all keys.
            problems: a list to which the call adds what cannot be listed. If ``problems`` is None,
                the first problem raises StorageError.
        """

    def entries(self, prefix: str, *, problems: Problems | None = None) -> Iterator[Entry]:
        """List all keys that start with ``prefix`` with their sizes and times.

        Args:
            prefix: as in :meth:`keys`. A prefix below ``tmp/`` lists unfinished writes.
            problems: as in :meth:`keys`.
        """

    def prefixes(
        self, prefix: str, delimiter: str, *, problems: Problems | None = None
    ) -> Iterator[str]:
        """List the different starts of keys, up to the first ``delimiter`` after ``prefix``.

        Each start is listed once, with the delimiter at its end, in any order. Keys without the
        delimiter after ``prefix`` are left out. With the keys ``names/a/@hint``,
        ``names/b/c/@hint`` and ``names/b/c/@versions/1``, ``prefixes("names/", "/@")`` lists
        ``names/a/@`` and ``names/b/c/@``.

        Args:
            prefix: the start of the keys, such as ``names/`` or ``names/soc``. With the delimiter
                ``/`` it may be "", for all keys.
            delimiter: ``/`` or ``/@``.
            problems: a list to which the call adds the folders below ``prefix`` that this user may
                not list, if the storage has rights for each folder. If ``problems`` is None, such a
                folder raises StorageError, as every other failure does.
        """

    def location(self, key: str) -> str:
        """Return the path or URL of a key, for messages."""

    # Only the collector makes the calls below.

    def server_time(self) -> float:
        """Return the time by the clock of the storage, as it would appear in :class:`Entry`.

        The call writes a key below ``tmp/``, looks at its time and deletes the key.

        Raises:
            StorageError: the storage does not tell the times of keys.
        """

    def delete(self, key: str) -> None:
        """Delete a key. If the key does not exist, do nothing."""

    def copy(self, key: str, target: str) -> None:
        """Write the bytes of a key to another key, which is then as new as after a write.

        The bytes are durable when this call returns. A reader of ``target`` sees all bytes or no
        key. If ``target`` exists, the call replaces it.

        Raises:
            NotFoundError: ``key`` does not exist.
        """


@runtime_checkable
class HashesReads(Protocol):
    """Hash the bytes of a key while they are read, if that is faster than hashing them later."""

    def get_hashed(
        self,
        key: str,
        *,
        limit: int | None = None,
        share: bool = False,
        size: int | None = None,
        on_bytes: BytesCallback | None = None,
    ) -> tuple[bytes | memoryview, Digest]:
        """Read all bytes of a key, and return the bytes and their digest.

        The digest is that of the returned memory: nothing can write to the memory after it was
        hashed. Arguments and errors are those of :meth:`Backend.get`.
        """


def get_hashed(
    backend: Backend,
    key: str,
    *,
    limit: int | None = None,
    size: int | None = None,
    on_bytes: BytesCallback | None = None,
) -> tuple[bytes | memoryview, Digest]:
    """Read all bytes of a key, and return the bytes and their digest.

    The bytes may be a view of the storage itself, if no other user can change them. Arguments and
    errors are those of :meth:`Backend.get`.
    """
    # isinstance(backend, HashesReads) would take as long as a read of a small file.
    hashes_reads = getattr(backend, "get_hashed", None)
    if hashes_reads is not None:
        found: tuple[bytes | memoryview, Digest] = hashes_reads(
            key, limit=limit, share=True, size=size, on_bytes=on_bytes
        )
        return found
    data = backend.get(key, limit=limit, share=True, size=size, on_bytes=on_bytes)
    return data, digest_of(data)


@dataclass(frozen=True)
class UnfinishedUpload:
    """Describe an upload in parts that was begun and not finished.

    Attributes:
        key: the key that the upload writes.
        upload_id: the name that the server gave the upload.
        time: when the upload was begun, by the clock of the storage, in seconds since 1970; None if
            the storage does not tell.
    """

    key: str
    upload_id: str
    time: float | None


@runtime_checkable
class KeepsUploads(Protocol):
    """Look after the unfinished uploads of a storage that keeps their parts, as S3 does.

    The calls raise StorageError if the storage failed, and ReadOnlyError if the storage refuses a
    write.
    """

    def unfinished_uploads(self) -> Iterator[UnfinishedUpload]:
        """List the unfinished uploads of objects of this store."""

    def abort_upload(self, upload: UnfinishedUpload) -> None:
        """Delete the parts of an upload. If the upload does not exist, do nothing."""

    def deletion_limits(self) -> list[str]:
        """Return sentences that say why deleted bytes stay in the storage, or an empty list."""
