"""Read the bytes under one key, and compare them with a digest.

Pulls look into the trash if an object is not in its place. A check of the store must not do that.
"""

from __future__ import annotations

from policystore.backends.base import Backend
from policystore.digest import Digest, digest_of
from policystore.errors import FormatError, IntegrityError
from policystore.format.safetensors import MAX_HEADER, declared_size

__all__ = ["read_exactly"]

_LARGE = 64 << 20  # above this size, the header is read first: it says how many bytes to expect
_ADVICE = (
    "Restore the object from a backup, repair it with verify(repair_from=…), or push the same "
    "policy again"
)


def read_exactly(backend: Backend, key: str, digest: Digest, size: int) -> bytes | memoryview:
    """Read the bytes of a key, and check them.

    Args:
        backend: the storage.
        key: the key of an object, or of a copy in the trash.
        digest: the digest of the object.
        size: how many bytes the key has, by a listing.

    Raises:
        NotFoundError: the key does not exist.
        IntegrityError: the bytes have another digest, or are more than ``size``.
        StorageError: the storage failed.
    """
    location = backend.location(key)
    try:
        if size > _LARGE:
            declared = declared_size(backend.head(key, 8 + MAX_HEADER), location)
            if declared != size:
                raise FormatError(f"its header declares {declared} bytes, and it has {size}")
        data = backend.get(key, limit=size, share=True, size=size)
    except FormatError as error:
        raise IntegrityError(f"{location} is damaged: {error}. {_ADVICE}") from None
    actual = digest_of(data)
    if actual != digest:
        raise IntegrityError(
            f"{location} is damaged: its {memoryview(data).nbytes} bytes have the digest "
            f"{actual.short}, not {digest.short}. {_ADVICE}"
        )
    return data
