"""Tell whether a backend holds a store, by the marker ``policystore.json`` in it."""

from __future__ import annotations

from policystore.backends.base import Backend
from policystore.errors import FormatError, NotFoundError
from policystore.format.keys import MARKER, MAX_RECORD
from policystore.format.records import check_marker

__all__ = ["require_store", "store_exists"]


def store_exists(backend: Backend) -> bool:
    """Return whether the backend holds a store; False if it is empty.

    Raises:
        FormatError: the backend holds other files, or a store of a newer format.
    """
    marker = _read_marker(backend)
    if marker is None:
        if next(iter(backend.keys("")), None) is None:
            return False
        # Another process may have made the store after the first read. A new store gets its marker
        # before other keys.
        marker = _read_marker(backend)
        if marker is None:
            raise FormatError(
                f"{backend.url} is not a policy store: it holds other files and no {MARKER}. "
                "Choose the folder of a store, or an empty folder to make a store in."
            )
    check_marker(marker, backend.location(MARKER))
    return True


def require_store(backend: Backend) -> None:
    """Check that the backend holds a store.

    Raises:
        NotFoundError: the backend is empty.
        FormatError: as in :func:`store_exists`.
    """
    if not store_exists(backend):
        raise NotFoundError(f"there is no policy store at {backend.url}; the first push makes one")


def _read_marker(backend: Backend) -> bytes | memoryview | None:
    try:
        return backend.get(MARKER, limit=MAX_RECORD)
    except NotFoundError:
        return None
