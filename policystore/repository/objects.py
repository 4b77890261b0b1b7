"""Objects out of a store: verified, parsed once, in parallel where there are several."""

from __future__ import annotations

import os
from dataclasses import dataclass

from policystore._util.concurrency import in_parallel
from policystore._util.progress import BytesCallback, Meter, ObjectProgress
from policystore.backends.base import Backend
from policystore.cache import NodeCache
from policystore.digest import Digest, digest_of
from policystore.errors import FormatError, IntegrityError, NotFoundError
from policystore.format.arrays import Array
from policystore.format.keys import object_key
from policystore.format.metadata import External
from policystore.format.policy import (
    MAX_POLICY,
    ParsedPolicy,
    decode_policy,
    decode_tensor,
)
from policystore.format.safetensors import MAX_HEADER, declared_size
from policystore.snapshot import Snapshot

__all__ = ["ObjectReader", "StoredPolicy"]

_REPAIR = (
    "Restore it from a backup, or push the policy again from where you have it: that replaces a "
    "damaged copy."
)


@dataclass(frozen=True)
class StoredPolicy:
    """A policy object as it was read: its digest, its size in bytes, and what it says."""

    digest: Digest
    nbytes: int
    parsed: ParsedPolicy


class ObjectReader:
    """The objects of a store; every byte is checked against its address, always.

    Args:
        backend: where they are.
        cache: where copies of them are kept on this machine, if anywhere.
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
        moved: BytesCallback | None = None,
    ) -> bytes | memoryview:
        """The bytes of an object.

        Args:
            digest: which.
            limit: how many bytes it may have; more are refused unread. None: as many as its own
                header promises.
            size: how many it has, where that is known: then a large one may come in parts.
            moved: told of the parts.

        Raises:
            NotFoundError: no such object.
            IntegrityError: other bytes stand there, or more than there may be.
        """
        limit = limit if size is None else size

        def fetch() -> bytes | memoryview:
            return self._fetch(digest, limit, size, moved)

        return fetch() if self.cache is None else self.cache.fetched(digest, limit, fetch)

    def _fetch(
        self, digest: Digest, limit: int | None, size: int | None, moved: BytesCallback | None
    ) -> bytes | memoryview:
        backend, key = self.backend, object_key(digest)
        where = backend.location(key)
        try:
            if limit is None:
                limit = declared_size(backend.head(key, 8 + MAX_HEADER), where)
            data = backend.get(key, limit=limit, share=True, size=size, moved=moved)
        except NotFoundError:
            raise NotFoundError(f"no object {digest} in {backend.url}") from None
        except FormatError as error:
            raise IntegrityError(f"{where} is damaged: {error}. {_REPAIR}") from None
        found = digest_of(data)
        if found != digest:
            raise IntegrityError(
                f"{where} is damaged: its {memoryview(data).nbytes} bytes have the digest "
                f"{found.short}, not {digest.short}. {_REPAIR}"
            )
        return data

    def policy(self, digest: Digest) -> StoredPolicy:
        """A policy object without the tensors that stand outside it; errors as of ``read``, and
        FormatError for an object that is no policy, or one of a newer format.
        """
        data = self.read(digest)
        where = self.backend.location(object_key(digest))
        return StoredPolicy(
            digest, memoryview(data).nbytes, decode_policy(data, where, inline=False)
        )

    def snapshot(self, digest: Digest, meter: Meter | None = None) -> Snapshot:
        """A whole policy, every byte of it verified.

        Raises:
            NotFoundError: no such policy.
            IntegrityError: an object is damaged, or one that the policy needs is missing.
            FormatError: the object is not a policy, or of a newer format.
            StorageError: the storage failed.
        """
        return self.whole(self.policy(digest), meter)

    def whole(self, policy: StoredPolicy, meter: Meter | None = None) -> Snapshot:
        """A policy object that was read, with its tensors in objects of their own.

        Args:
            policy: the policy object.
            meter: told of all bytes, those of the policy object first.
        """
        parsed = policy.parsed
        # Each object once, however many names it has: tied tensors share their memory.
        alone = {(item.digest, item.dtype, item.shape): item for item in parsed.external.values()}
        if meter is not None:
            meter.expect(policy.nbytes + sum(item.size for item in alone.values()))
            meter.moved(policy.nbytes)
        arrays = in_parallel(
            lambda external: self._external(external, meter),
            alone.values(),
            workers=max(self.backend.parallel, min(8, os.cpu_count() or 1)),
        )
        found = dict(zip(alone, arrays, strict=True))
        external = {
            name: found[item.digest, item.dtype, item.shape]
            for name, item in parsed.external.items()
        }
        return Snapshot._of_parsed(parsed, external, policy.digest)

    def _external(self, external: External, meter: Meter | None) -> Array:
        item = ObjectProgress(meter, external.size)
        try:
            data = self.read(external.digest, size=external.size, moved=item.moved)
        except NotFoundError as error:
            raise IntegrityError(
                f"{error}, though a policy there needs it: the store has lost it. {_REPAIR}"
            ) from None
        item.end()
        where = self.backend.location(object_key(external.digest))
        return decode_tensor(data, external, where)
