"""Tell whether a backend holds a store, by the marker ``policystore.json`` in it."""

from __future__ import annotations

from policystore.backends.base import Backend
from policystore.errors import FormatError, NotFoundError
from policystore.format.keys import MARKER, MAX_RECORD, NAMES, OBJECTS, digest_of_key, is_key
from policystore.format.records import check_marker, marker_bytes

__all__ = ["repair_marker", "require_store", "restore_marker", "store_exists"]


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
                "Choose the folder of a store, or an empty folder to make a store in. If the store "
                "has lost the marker, repair() puts it back."
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


def restore_marker(backend: Backend) -> bool:
    """Create the marker of a store if it is absent, as after somebody emptied the storage.

    The caller knows that the backend holds a store, and is about to write into it.

    Returns:
        Whether the marker was absent.

    Raises:
        FormatError: the store has a newer format.
        ReadOnlyError: this user may not write.
    """
    marker = _read_marker(backend)
    if marker is None:
        if backend.create(MARKER, marker_bytes()):
            return True
        marker = backend.get(MARKER, limit=MAX_RECORD)  # another process has created it
    check_marker(marker, backend.location(MARKER))
    return False


def repair_marker(backend: Backend) -> bool:
    """Create the marker where a store has lost it: where there are objects and records of a store.

    Returns:
        Whether the marker was absent.

    Raises:
        NotFoundError: the backend is empty.
        FormatError: the backend holds no object and no record of a store, or a store of a newer
            format.
        ReadOnlyError: this user may not write.
    """
    if _read_marker(backend) is None and not _holds_keys(backend):
        require_store(backend)  # raises, because there is neither a marker nor a key of a store
    return restore_marker(backend)


def _holds_keys(backend: Backend) -> bool:
    """Return whether the backend holds an object, or a record of a name."""
    if any(is_key(key) for key in backend.keys(NAMES)):
        return True
    return any(digest_of_key(key) is not None for key in backend.keys(OBJECTS))


def _read_marker(backend: Backend) -> bytes | memoryview | None:
    try:
        return backend.get(MARKER, limit=MAX_RECORD)
    except NotFoundError:
        return None
