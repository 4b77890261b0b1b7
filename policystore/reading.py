"""Objects out of a backend: verified, parsed once, in parallel where there are several."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TypeVar

from policystore.backends.base import Backend
from policystore.container import MAX_HEADER, declared_size
from policystore.digest import Digest, digest_of
from policystore.encoding import MAX_POLICY, External, ParsedPolicy, decode_policy, decode_tensor
from policystore.errors import FormatError, IntegrityError, NotFoundError
from policystore.layout import object_key
from policystore.snapshot import Snapshot
from policystore.tensors import Array

__all__ = ["assemble", "in_parallel", "read_object", "read_snapshot"]

_REPAIR = (
    "Restore it from a backup, or push the policy again from where you have it: that replaces a "
    "damaged copy."
)

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def in_parallel(call: Callable[[_In], _Out], items: Iterable[_In], *, workers: int) -> list[_Out]:
    """Results in order; the first error is raised once the calls under way have ended."""
    listed = list(items)
    if len(listed) < 2 or workers < 2:
        return [call(item) for item in listed]
    # Imported late: it is a tenth of what importing this package takes.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(workers, len(listed)), "policystore") as pool:
        futures = [pool.submit(call, item) for item in listed]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def read_object(
    backend: Backend, digest: Digest, *, limit: int | None = MAX_POLICY
) -> bytes | memoryview:
    """The bytes of an object, checked against their address, always.

    Args:
        backend: where.
        digest: which.
        limit: how many bytes it may have; more are refused unread. None: as many as its own header
            promises.

    Raises:
        NotFoundError: no such object.
        IntegrityError: other bytes stand there, or more than there may be.
    """
    key = object_key(digest)
    try:
        if limit is None:
            limit = declared_size(backend.head(key, 8 + MAX_HEADER), backend.location(key))
        data = backend.get(key, limit=limit, share=True)
    except NotFoundError:
        raise NotFoundError(f"no object {digest} in {backend.url}") from None
    except FormatError as error:
        raise IntegrityError(f"{backend.location(key)} is damaged: {error}. {_REPAIR}") from None
    found = digest_of(data)
    if found != digest:
        raise IntegrityError(
            f"{backend.location(key)} is damaged: its {memoryview(data).nbytes} bytes have the "
            f"digest {found.short}, not {digest.short}. {_REPAIR}"
        )
    return data


def read_policy(backend: Backend, digest: Digest) -> ParsedPolicy:
    """A policy object without the tensors that stand outside it."""
    data = read_object(backend, digest)
    return decode_policy(data, backend.location(object_key(digest)), inline=False)


def read_external(backend: Backend, external: External) -> Array:
    """One tensor that stands in an object of its own."""
    try:
        data = read_object(backend, external.digest, limit=external.size)
    except NotFoundError as error:
        raise IntegrityError(
            f"{error}, though a policy there needs it: the store has lost it. {_REPAIR}"
        ) from None
    return decode_tensor(data, external, backend.location(object_key(external.digest)))


def assemble(backend: Backend, parsed: ParsedPolicy, digest: Digest) -> Snapshot:
    """A snapshot from a policy object that was read, and its tensors in objects of their own."""
    # Each object once, however many names it has: tied tensors share their memory.
    alone = {(item.digest, item.dtype, item.shape): item for item in parsed.external.values()}
    arrays = in_parallel(
        lambda item: read_external(backend, item),
        alone.values(),
        workers=min(8, os.cpu_count() or 1),
    )
    found = dict(zip(alone, arrays, strict=True))
    external = {
        name: found[item.digest, item.dtype, item.shape] for name, item in parsed.external.items()
    }
    return Snapshot.of_parsed(parsed, external, digest)


def read_snapshot(backend: Backend, digest: Digest) -> Snapshot:
    """A whole policy, every byte of it verified.

    Raises:
        NotFoundError: no such policy.
        IntegrityError: an object is damaged, or one that the policy needs is missing.
        FormatError: the object is not a policy, or of a newer format.
        StorageError: the storage failed.
    """
    return assemble(backend, read_policy(backend, digest), digest)
