"""Read the records of versions, and say what is there if a name or a version is not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice

from policystore._util.concurrency import in_parallel
from policystore.backends.base import Backend
from policystore.digest import Digest
from policystore.errors import (
    FormatError,
    IntegrityError,
    NotFoundError,
    PolicyStoreError,
    StorageError,
)
from policystore.format.keys import MAX_RECORD, version_key
from policystore.format.records import Version
from policystore.repository.lookup.listing import names_advice
from policystore.repository.lookup.marker import require_store
from policystore.repository.lookup.state import (
    NameState,
    nothing_stands_error,
    read_mark,
    read_state,
)

__all__ = [
    "check_state",
    "digest_in",
    "named_state",
    "read_version",
    "read_versions",
    "try_version",
    "with_marks",
]

_PAGE = 256  # records that are read before the next ones are begun
_DIGITS = re.compile(r"[0-9a-f]{8,64}\Z")


def named_state(backend: Backend, name: str, *, standing: bool = True) -> NameState:
    """Return which versions of a name stand.

    Args:
        backend: the storage of the store.
        name: the name.
        standing: whether a name of which no version stands is an error.

    Raises:
        NotFoundError: no such name, or no version of it stands.
    """
    state = read_state(backend, name)
    check_state(backend, state, standing=standing)
    return state


def check_state(backend: Backend, state: NameState, *, standing: bool = True) -> None:
    """Check that a name exists and, with ``standing``, that a version of it stands.

    Raises:
        NotFoundError: no such name, or no version of it stands; the message lists names that exist,
            or says who deleted the versions.
    """
    if not state.newest.number:
        raise _no_name_error(backend, state.name)
    if standing and not state.stands:
        raise nothing_stands_error(backend, state)


def _no_name_error(backend: Backend, name: str) -> NotFoundError:
    require_store(backend)
    if _DIGITS.match(name):
        advice = f" A digest is written 'blake3:{name}'."
    else:
        try:
            advice = names_advice(backend, name)
        except StorageError as error:
            advice = f" The names of the store cannot be listed: {error}"
    return NotFoundError(f"no name {name!r} in {backend.url}.{advice}")


def read_version(backend: Backend, name: str, number: int, data: bytes | None = None) -> Version:
    """Read one version record, whether the version stands or not.

    Args:
        backend: the storage of the store.
        name: the name.
        number: the number of the version.
        data: the bytes of the record, if they were read already.

    Raises:
        NotFoundError: no such name or number.
        IntegrityError: the record is missing, though later ones exist.
        FormatError: the record is damaged, or is of another name or number.
    """
    key = version_key(name, number)
    if data is None:
        try:
            data = bytes(backend.get(key, limit=MAX_RECORD))
        except NotFoundError:
            newest = named_state(backend, name, standing=False).newest.number
            if number < newest:
                raise IntegrityError(
                    f"version {number} of {name!r} in {backend.url} is missing, though later "
                    "versions exist: the record was lost. Restore the record from a backup; "
                    "verify() lists what else is missing."
                ) from None
            raise NotFoundError(
                f"no version {number} of {name!r} in {backend.url}; its versions are 1 to {newest}"
            ) from None
    location = backend.location(key)
    version = Version.from_bytes(data, location)
    if (version.name, version.number) != (name, number):
        raise FormatError(
            f"{location}: the record is of {version.ref}: it was moved or copied to this key"
        )
    return version


def try_version(backend: Backend, name: str, number: int) -> Version | None:
    """Read a version record that may be needed; None if the record cannot be read.

    If the version is needed, it is read again, and that read raises the error.
    """
    try:
        data = bytes(backend.get(version_key(name, number), limit=MAX_RECORD))
        return read_version(backend, name, number, data)
    except PolicyStoreError:
        return None


def digest_in(record: bytes | None) -> Digest | None:
    """Return the digest of the policy in the bytes of a version record; None if damaged.

    If the record is needed, it is read again, and that read raises the error.
    """
    try:
        return None if record is None else Version.from_bytes(record, "a version record").digest
    except FormatError:
        return None


def read_versions(
    backend: Backend, name: str, numbers: Iterable[int], *, workers: int
) -> Iterator[Version]:
    """Read the records of several versions, in order; errors as in :func:`read_version`."""
    left = iter(numbers)
    while page := list(islice(left, _PAGE)):
        yield from in_parallel(partial(read_version, backend, name), page, workers=workers)


def with_marks(
    backend: Backend, state: NameState, versions: Iterable[Version], workers: int
) -> list[Version]:
    """Return versions with the marks that deleted them, in ``Version.deleted``."""
    spans = [(version, state.span(version.number or 0)) for version in versions]
    numbers = {span.mark for _, span in spans if span is not None}
    read = in_parallel(partial(read_mark, backend, state.name), numbers, workers=workers)
    marks = dict(zip(numbers, read, strict=True))
    return [
        version if span is None else replace(version, deleted=marks[span.mark])
        for version, span in spans
    ]
