"""Read objects of a store, check each against its digest, and assemble policies from them."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass

from policystore._util.concurrency import in_parallel
from policystore._util.progress import BytesCallback, Meter, ObjectProgress
from policystore.backends.base import Backend, get_hashed
from policystore.cache import NodeCache
from policystore.digest import Digest
from policystore.errors import FormatError, IntegrityError, NotFoundError, StorageError
from policystore.format.arrays import Array
from policystore.format.keys import (
    digest_of_key,
    digest_of_trash,
    object_key,
    object_prefix,
    trash_prefix,
    trash_start,
)
from policystore.format.metadata import External
from policystore.format.policy import (
    MAX_POLICY,
    ParsedPolicy,
    decode_policy,
    decode_tensor,
)
from policystore.format.safetensors import MAX_HEADER, declared_size
from policystore.snapshot import Snapshot

__all__ = ["MIN_WORKERS", "ObjectReader", "StoredPolicy"]

MIN_WORKERS = min(8, os.cpu_count() or 1)
"""How many policies are read at once, at least, also where calls are not slow."""

_MIN_LARGE = 4 << 20  # bytes

_REPAIR = (
    "Restore the object from a backup, or push the same policy again: a push replaces a damaged "
    "copy."
)


@dataclass(frozen=True)
class StoredPolicy:
    """A policy object that was read from a store.

    Attributes:
        digest: the address of the object.
        nbytes: the size of the object in bytes.
        parsed: the content of the object.
    """

    digest: Digest
    nbytes: int
    parsed: ParsedPolicy


class ObjectReader:
    """Read the objects of a store; every byte is checked against the digest of its object.

    Args:
        backend: the storage of the store.
        cache: the cache on this machine that keeps copies of the objects, if any.
    """

    def __init__(self, backend: Backend, cache: NodeCache | None = None) -> None:
        self.backend = backend
        self.cache = cache

    def read(
        self,
        digest: Digest,
        *,
        limit: int | None = MAX_POLICY,
        size: int | None = None,
        on_bytes: BytesCallback | None = None,
    ) -> bytes | memoryview:
        """Read the bytes of an object.

        Args:
            digest: the digest of the object.
            limit: how many bytes the object may have at most; a larger object is not read. None:
                as many bytes as the header of the object declares.
            size: how many bytes the object has, if the caller knows it. A large object may then be
                read in parts.
            on_bytes: called with the bytes of each part.

        Raises:
            NotFoundError: the object does not exist.
            IntegrityError: the bytes of the object do not match the digest, or are too many.
        """
        limit = limit if size is None else size

        def fetch() -> bytes | memoryview:
            return self._fetch(digest, limit, size, on_bytes)

        return fetch() if self.cache is None else self.cache.fetched(digest, limit, fetch)

    def _fetch(
        self, digest: Digest, limit: int | None, size: int | None, on_bytes: BytesCallback | None
    ) -> bytes | memoryview:
        """Read an object from the backend; arguments and errors as in :meth:`read`.

        The collector copies an object to the trash before it deletes the object, and back before it
        deletes the copy. So of two looks at each place, one finds the object.
        """
        problem = ""
        for _ in range(2):
            try:
                return self._fetch_key(object_key(digest), digest, limit, size, on_bytes)
            except NotFoundError:
                pass  # the collector may have moved the object to the trash
            try:
                data = self._fetch_trash(digest, limit)
            except StorageError as error:
                problem = f", and its trash cannot be read: {error}"
                continue
            if data is not None:
                return data
        raise NotFoundError(f"no object {digest} in {self.backend.url}{problem}")

    def _fetch_trash(self, digest: Digest, limit: int | None) -> bytes | memoryview | None:
        """Read an object from one of its copies in the trash; None if there is no copy."""
        damage: IntegrityError | None = None
        for key in self.backend.keys(trash_prefix(digest)):
            if digest_of_trash(key) == digest:
                try:
                    return self._fetch_key(key, digest, limit)
                except NotFoundError:
                    pass  # a collector has removed the copy since the listing
                except IntegrityError as error:
                    damage = error
        if damage is not None:
            raise damage
        return None

    def _fetch_key(
        self,
        key: str,
        digest: Digest,
        limit: int | None,
        size: int | None = None,
        on_bytes: BytesCallback | None = None,
    ) -> bytes | memoryview:
        """Read an object from one key.

        Raises:
            NotFoundError: the key does not exist.
            IntegrityError: as in :meth:`read`.
        """
        backend = self.backend
        try:
            if limit is None:
                start = backend.head(key, 8 + MAX_HEADER)
                limit = size = declared_size(start, backend.location(key))
            data, actual = get_hashed(backend, key, limit=limit, size=size, on_bytes=on_bytes)
        except FormatError as error:
            raise IntegrityError(
                f"{backend.location(key)} is damaged: {error}. {_REPAIR}"
            ) from None
        if actual != digest:
            raise IntegrityError(
                f"{backend.location(key)} is damaged: its {memoryview(data).nbytes} bytes have the "
                f"digest {actual.short}, not {digest.short}. {_REPAIR}"
            )
        return data

    def find(self, digits: str) -> list[Digest]:
        """List the objects whose digests start with ``digits``.

        If there are none, the copies in the trash are listed.

        Args:
            digits: 8 to 64 hexadecimal digits.

        Raises:
            StorageError: the storage failed.
        """
        if len(digits) == 64 and self.backend.size(object_key(Digest(digits))) is not None:
            return [Digest(digits)]
        for _ in range(2):  # as in _fetch
            for prefix, digest_of_listed in (
                (object_prefix(digits), digest_of_key),
                (trash_start(digits), digest_of_trash),
            ):
                digests = {digest_of_listed(key) for key in self.backend.keys(prefix)} - {None}
                if digests:
                    return sorted(digest for digest in digests if digest is not None)
        return []

    def policy(self, digest: Digest) -> StoredPolicy:
        """Read a policy object, without the tensors that are objects of their own.

        Raises:
            NotFoundError, IntegrityError: as in :meth:`read`.
            FormatError: the object is not a policy, or is of a newer format.
        """
        data = self.read(digest)
        location = self.backend.location(object_key(digest))
        return StoredPolicy(
            digest, memoryview(data).nbytes, decode_policy(data, location, inline=False)
        )

    def snapshot(self, policy: StoredPolicy, meter: Meter | None = None) -> Snapshot:
        """Read the tensors of a policy that are objects of their own, and make the snapshot.

        Args:
            policy: the policy object.
            meter: counts all bytes of the policy, first those of the policy object.

        Raises:
            IntegrityError: a tensor object is damaged or missing.
            StorageError: the storage failed.
        """
        parsed = policy.parsed
        # Each object is read once, also if several tensors have the same bytes. Such tensors share
        # their memory.
        unique = {(item.digest, item.dtype, item.shape): item for item in parsed.external.values()}
        if meter is not None:
            meter.expect(policy.nbytes + sum(item.size for item in unique.values()))
            meter.add(policy.nbytes)
        arrays = in_parallel(
            lambda external: self._tensor(external, meter),
            unique.values(),
            workers=max(self.backend.parallel, self._workers(unique.values())),
        )
        by_content = dict(zip(unique, arrays, strict=True))
        by_name = {
            name: by_content[item.digest, item.dtype, item.shape]
            for name, item in parsed.external.items()
        }
        return Snapshot._of_parsed(parsed, by_name, policy.digest)

    @staticmethod
    def _workers(externals: Collection[External]) -> int:
        """Return how many tensors to read at once from a storage whose calls take almost no time.

        Threads are faster only for objects that take long to read and hash, without the lock of the
        interpreter.
        """
        large = sum(external.size >= _MIN_LARGE for external in externals)
        return max(1, min(MIN_WORKERS, large))

    def _tensor(self, external: External, meter: Meter | None) -> Array:
        """Read a tensor object that a policy object names."""
        progress = ObjectProgress(meter, external.size)
        try:
            data = self.read(external.digest, size=external.size, on_bytes=progress.add)
        except NotFoundError as error:
            raise IntegrityError(
                f"{error}, though a policy in this store needs the object: the store has lost it. "
                f"{_REPAIR}"
            ) from None
        progress.finish()
        location = self.backend.location(object_key(external.digest))
        return decode_tensor(data, external, location)
