"""Tell whether a backend holds a store, by the marker ``policystore.json`` in it."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice

from policystore._util.concurrency import in_parallel
from policystore._util.log import logger
from policystore.backends.base import Backend
from policystore.backends.factory import folders_above
from policystore.errors import FormatError, NotFoundError, PolicyStoreError, StorageError
from policystore.format.keys import (
    DELETED,
    KEPT,
    LEAGUES,
    MARKER,
    MAX_RECORD,
    NAMES,
    OBJECTS,
    TEMPORARY,
    TRASH,
    digest_of_key,
    folder_prefix,
    is_key,
    name_of_folder,
    version_key,
)
from policystore.format.records import check_marker, marker_bytes
from policystore.repository.lookup.listing import names_advice

__all__ = [
    "repair_marker",
    "require_store",
    "restore_marker",
    "store_above",
    "store_exists",
    "store_inside",
    "store_nearby",
    "vanished_error",
    "warn_of_emptied_store",
    "warn_of_outer_store",
]

_MAX_ABOVE, _MAX_BELOW = 3, 20  # folders that are looked at for a message
_MAX_KEYS = 1000  # of a folder that is looked at; a page of a listing on S3
_WITHOUT_NAMES = (OBJECTS, KEPT, TRASH, DELETED, LEAGUES, TEMPORARY)
_NO_STORE_NEARBY = (
    " Choose the folder of a store, or an empty folder to make a store in. If the store has lost "
    "the marker, repair() puts it back."
)


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
                f"{backend.url} is not a policy store: it holds other files and no {MARKER}."
                + (store_nearby(backend) or _NO_STORE_NEARBY)
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
        near = store_nearby(backend)
        raise NotFoundError(
            f"there is no policy store at {backend.url}"
            + (f".{near}" if near else "; the first push makes one.")
        )


def store_nearby(backend: Backend) -> str:
    """Return a sentence on a store in a folder above or below; empty if there is none.

    At most 3 folders above are looked at, and the first 20 folders below.
    """
    try:
        return store_above(backend) or _store_below(backend)
    except PolicyStoreError:
        return ""  # the advice is for a message about another error, which matters more


def store_above(backend: Backend) -> str:
    """Return a sentence on a store in a folder above; empty if there is none.

    Raises:
        StorageError: a folder above cannot be read.
    """
    for outer, path in islice(folders_above(backend), _MAX_ABOVE):
        if outer.size(MARKER) is not None:
            return (
                f" This place is inside the store {outer.url}: open PolicyStore({outer.url!r})."
                + _meaning_of(path, outer)
            )
    return ""


def _meaning_of(path: str, store: Backend) -> str:
    """Return a sentence on what a path in a store means there; empty if it can mean no name."""
    folder = f"{path}/"
    if folder.startswith(_WITHOUT_NAMES):
        return ""
    name = name_of_folder(folder if folder.startswith(NAMES) else folder_prefix(folder))
    if name is None:
        return ""
    try:
        if store.size(version_key(name, 1)) is not None:
            return f" {name!r} is a name there: log({name!r}) lists its versions."
        if next(iter(store.prefixes(folder_prefix(f"{name}/"), "/")), None) is not None:
            return f" names({name + '/'!r}) lists the names of that folder."
        return f" {name!r} is neither a name nor a folder there.{names_advice(store, name)}"
    except StorageError:
        return ""  # the store may be of other people


def _store_below(backend: Backend) -> str:
    folders = sorted(islice(backend.prefixes("", "/"), _MAX_BELOW))
    sizes = in_parallel(
        lambda folder: backend.size(folder + MARKER), folders, workers=backend.parallel
    )
    stores = [
        backend.location(folder.rstrip("/"))
        for folder, size in zip(folders, sizes, strict=True)
        if size is not None
    ]
    if not stores:
        return ""
    more = f", and {len(stores) - 3} more" if len(stores) > 3 else ""
    return f" A store is one folder below: {', '.join(stores[:3])}{more}."


def store_inside(backend: Backend, folder: str) -> str | None:
    """Return the location of a store in a folder of a store; None if none is found.

    At most the first 1,000 keys of the folder are looked at.

    Args:
        backend: the storage of the store.
        folder: the start of the keys of the folder, with a slash at its end.

    Raises:
        StorageError: the storage failed.
    """
    if backend.size(folder + MARKER) is not None:
        return backend.location(folder.rstrip("/"))
    for key in islice(backend.keys(folder), _MAX_KEYS):
        if key.endswith(f"/{MARKER}"):
            return backend.location(key.removesuffix(f"/{MARKER}"))
    return None


def warn_of_outer_store(backend: Backend) -> None:
    """Log a warning if a new store lies inside another one, because its path is too long.

    Only the push that makes a store looks. In a bucket, each folder above costs a request.
    """
    with suppress(PolicyStoreError):  # the folders above may be of other people
        above = store_above(backend)
        if above:
            logger.warning("a push makes a new store at %s.%s", backend.url, above)


def warn_of_emptied_store(backend: Backend) -> None:
    """Log a warning that a push has put the marker of a store back."""
    logger.warning(
        "%s was emptied, or its %s was deleted, while this process used the store: the push has "
        "put the marker back, and earlier policies may be lost",
        backend.url,
        MARKER,
    )


def vanished_error(backend: Backend) -> StorageError:
    """Build the error for a store that was there, and is not after the storage has failed."""
    return StorageError(
        f"{backend.url} is empty, though this process has used a store there before the last push "
        "failed: the store was emptied, moved or replaced. Nothing was written. Bring the store "
        "back and try again. To begin a new store there, make another PolicyStore with this URL."
    )


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
