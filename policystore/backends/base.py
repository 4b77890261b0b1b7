"""The seam between the store and what keeps its bytes: nine calls on keys.

Keys are ``/``-separated ASCII text as :mod:`policystore.format.keys` builds it. A backend knows nothing
of what it keeps. Tests replace it with a few lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

from policystore._util.progress import BytesCallback

__all__ = ["Backend", "Chunks", "Problems"]

Chunks: TypeAlias = Sequence[bytes | memoryview]
Problems: TypeAlias = list[tuple[str, str]]


class Backend(Protocol):
    """Bytes under keys.

    Every call may raise :class:`~policystore.errors.StorageError` (the storage failed; what was
    visible before is visible still) and writes may raise
    :class:`~policystore.errors.ReadOnlyError`. Calls may come from several threads at once.
    """

    @property
    def url(self) -> str:
        """What the user opened, for messages and pickles."""

    @property
    def parallel(self) -> int:
        """How many calls at once are faster than one after the other; 1 where waiting is none."""

    def get(
        self,
        key: str,
        *,
        limit: int | None = None,
        share: bool = False,
        size: int | None = None,
        moved: BytesCallback | None = None,
    ) -> bytes | memoryview:
        """All bytes of a key, as a read-only buffer.

        Args:
            key: which.
            limit: raise FormatError, without reading it, if there are more bytes than this.
            share: allow a view of the storage itself where nobody else can change it.
            size: how many bytes there are, where the caller knows; then many may come in parts.
            moved: told of the parts, if they come in parts.

        Raises:
            NotFoundError: no such key.
        """

    def head(self, key: str, count: int) -> bytes:
        """The first ``count`` bytes of a key, or all of a shorter one.

        Raises:
            NotFoundError: no such key.
        """

    def size(self, key: str) -> int | None:
        """Bytes of a key; None where there is no such key."""

    def put(self, key: str, chunks: Chunks, *, moved: BytesCallback | None = None) -> None:
        """Store immutable bytes under a key that is their address, durably.

        A reader sees all of them or nothing. If the key is there already with these bytes, it is
        made as durable as a new one and left alone; a damaged copy is replaced as a whole.

        Args:
            key: which.
            chunks: the bytes, in pieces.
            moved: told of the parts, if they go in parts.
        """

    def create(self, key: str, data: bytes) -> bool:
        """Create a key if it is absent; of several writers at once exactly one creates it.

        Returns:
            True if this call created it, durably; False if the key was there.
        """

    def verify_exclusive_create(self, key: str, data: bytes) -> None:
        """Make sure that :meth:`create` refuses a key that is there: some servers say that
        they do and overwrite. Costs nothing where the operating system promises it.

        Args:
            key: one that is there.
            data: its bytes, which stand there afterwards whatever happens.

        Raises:
            StorageError: it does not, so that of two writers of one name one would be lost.
        """

    def replace(self, key: str, data: bytes) -> None:
        """Create or overwrite a key; a reader sees the old bytes or the new, never a mixture."""

    def keys(self, prefix: str, *, problems: Problems | None = None) -> Iterator[str]:
        """All keys that start with ``prefix``, in no order; unfinished writes are none.

        Args:
            prefix: what they start with.
            problems: where parts that cannot be listed are noted, as key and reason; without it
                the first of them raises StorageError.
        """

    def prefixes(self, prefix: str, delimiter: str) -> Iterator[str]:
        """What keys that start with ``prefix`` hold up to and with the next ``delimiter`` behind
        it, each once, in no particular order. ``prefix`` ends with ``/``; ``delimiter`` is ``/``
        or ``/@``.
        """

    def location(self, key: str) -> str:
        """Where a person finds the key: a path or URL, for messages."""
