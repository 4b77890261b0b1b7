"""Find versions by the digest of the weights that acting needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from itertools import islice

from policystore._util.concurrency import in_parallel
from policystore._util.messages import brief
from policystore.digest import PREFIX, Digest
from policystore.errors import AmbiguousError, InvalidInputError, NotFoundError
from policystore.format.records import Version
from policystore.repository.lookup.marker import require_store
from policystore.repository.lookup.state import read_state
from policystore.repository.resolver import Resolver
from policystore.snapshot import Snapshot

__all__ = ["acting_digits", "find_acting", "standing_versions"]

_DIGITS = re.compile(r"[0-9a-f]{8,64}\Z")
_PAGE = 256  # records that are read before the next ones are begun


def acting_digits(digest: object) -> str:
    """Return the hexadecimal digits of an acting digest, or of its beginning.

    Args:
        digest: a Digest, or its text with or without ``blake3:``, of at least 8 digits.

    Raises:
        InvalidInputError: another value; the message says what to write.
    """
    if isinstance(digest, Digest):
        return digest.hex
    lines = {Snapshot: "find_acting(snap.acting_digest)", Version: "find_acting(version.acting)"}
    line = lines.get(type(digest))
    if line is not None:
        raise InvalidInputError(
            f"find_acting takes a digest, not a {type(digest).__name__}: {line}"
        )
    digits = digest.removeprefix(PREFIX) if isinstance(digest, str) else ""
    if not _DIGITS.match(digits):
        raise InvalidInputError(
            "an acting digest is a Digest, or 8 to 64 lower-case hexadecimal digits such as "
            f"'blake3:ab12cd34', not {brief(digest)}"
        )
    return digits


def find_acting(resolver: Resolver, digits: str, prefix: str) -> list[Version]:
    """Return the versions that stand and whose acting weights have such a digest.

    The search makes one listing of the names, about three requests for each name, and one request
    for each version. As many requests as the backend takes run at once.

    Args:
        resolver: reads the names of the store.
        digits: 8 to 64 hexadecimal digits.
        prefix: the beginning of the names to search; empty for all names.

    Returns:
        The versions, newest first by the clocks of their writers; at least one.

    Raises:
        NotFoundError: no version has such weights, or the store does not exist.
        AmbiguousError: the digests of several different weights start with ``digits``.
        IntegrityError, FormatError: a record is missing or damaged.
        StorageError: the storage failed.
    """
    found: list[Version] = []
    count = 0
    for version in standing_versions(resolver, prefix):
        count += 1
        if version.acting_digest.hex.startswith(digits):
            found.append(version)
    if not found:
        require_store(resolver.backend)
        below = f" below {prefix!r}" if prefix else ""
        raise NotFoundError(
            f"none of the {count} versions{below} in {resolver.backend.url} has acting "
            f"weights whose digest starts with {PREFIX}{digits}. Policies that were pushed without "
            f"a name are not searched. If this is the digest of a whole policy, pull it: "
            f"store.pull('{PREFIX}{digits[:12]}')"
        )
    different = sorted({each.acting_digest for each in found})
    if len(different) > 1:
        raise AmbiguousError(
            f"{PREFIX}{digits} fits the acting weights of {len(different)} different policies: "
            + ", ".join(map(str, different[:5]))
            + "; give more digits"
        )
    # The sort is stable, so equal times leave the versions of a name in the order of their numbers.
    return sorted(found, key=lambda each: each.time, reverse=True)


def standing_versions(resolver: Resolver, prefix: str) -> Iterator[Version]:
    """Read all versions that stand, each name newest first, several records at once.

    Args:
        resolver: reads the names of the store.
        prefix: the beginning of the names; empty for all names.
    """
    read = partial(read_state, resolver.backend)
    states = in_parallel(read, resolver.names(prefix), workers=resolver.workers)
    left = ((state.name, number) for state in states for number in state.numbers())
    while page := list(islice(left, _PAGE)):
        yield from in_parallel(
            lambda place: resolver.read_version(*place), page, workers=resolver.workers
        )
