"""Find versions by the digest of the weights that acting needs."""

from __future__ import annotations

import re
from functools import partial
from itertools import islice

from policystore._util.concurrency import in_parallel
from policystore._util.messages import brief
from policystore.digest import PREFIX, Digest
from policystore.errors import AmbiguousError, InvalidInputError, NotFoundError
from policystore.format.records import Version
from policystore.repository.marker import require_store
from policystore.repository.record_log import version_log
from policystore.repository.resolver import MIN_WORKERS, Resolver
from policystore.snapshot import Snapshot

__all__ = ["acting_digits", "find_acting"]

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
    """Return the versions whose acting weights have a digest that starts with ``digits``.

    The search makes one listing of the names, about two requests for each name, and one request for
    each version. As many requests as the backend takes run at once.

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
    names = resolver.names(prefix)
    workers = max(MIN_WORKERS, resolver.backend.parallel)
    counts = in_parallel(partial(_count, resolver), names, workers=workers)
    # One by one: a forged record may give a name ten billion versions.
    places = (
        (name, number)
        for name, count in zip(names, counts, strict=True)
        for number in range(count, 0, -1)
    )
    found: list[Version] = []
    while page := list(islice(places, _PAGE)):
        versions = in_parallel(lambda place: resolver.read_version(*place), page, workers=workers)
        found += [each for each in versions if each.acting_digest.hex.startswith(digits)]
    if not found:
        require_store(resolver.backend)
        below = f" below {prefix!r}" if prefix else ""
        raise NotFoundError(
            f"none of the {sum(counts)} versions{below} in {resolver.backend.url} has acting "
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


def _count(resolver: Resolver, name: str) -> int:
    """Return the number of the newest version of a name; 0 if the name has none."""
    versions = version_log(resolver.backend, name)
    return versions.newest(versions.read_hint()).number
