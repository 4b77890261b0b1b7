"""Delete and restore policies that were pushed without a name."""

from __future__ import annotations

import secrets
from functools import partial
from itertools import islice

from policystore._util.log import logger
from policystore.digest import Digest
from policystore.errors import AmbiguousError, InvalidInputError, NotFoundError
from policystore.format.keys import (
    digest_of_kept,
    digest_of_key,
    digest_of_trash,
    kept_key,
    kept_prefix,
    kept_start,
    object_prefix,
    trash_start,
)
from policystore.format.records import Kept
from policystore.repository.acting import standing_versions
from policystore.repository.deletion.marking import MarkNotes
from policystore.repository.deletion.restore import bring_back, needed_objects
from policystore.repository.freshness import Freshness
from policystore.repository.lookup.marker import require_store
from policystore.repository.resolver import Resolver

__all__ = ["delete_kept", "restore_kept"]

_SHOWN = 3  # versions in a message


def delete_kept(resolver: Resolver, digits: str) -> None:
    """Remove the records of all pushes of a policy without a name.

    Args:
        resolver: reads the store.
        digits: 8 to 64 digits of the digest of the policy.

    Raises:
        NotFoundError: no such push; the message names versions that have this policy.
        AmbiguousError: the digits fit several policies.
    """
    backend = resolver.backend
    keys = list(backend.keys(kept_start(digits)))
    digest = _only(digits, {found for key in keys if (found := digest_of_kept(key)) is not None})
    versions = [
        version.ref
        for version in standing_versions(resolver, "")
        if version.digest.hex.startswith(digits)
    ]
    named = ", ".join(versions[:_SHOWN]) + (", …" if versions[_SHOWN:] else "")
    if digest is None:
        require_store(backend)
        advice = (
            f" The policy belongs to {named}: delete that version, such as by "
            f"store.delete({versions[0]!r})"
            if versions
            else ""
        )
        raise NotFoundError(
            f"no policy whose digest starts with {digits} is in {backend.url} without a name: no "
            f"such policy was pushed without a name, or the policy was deleted.{advice}"
        )
    for key in keys:
        if digest_of_kept(key) == digest:
            backend.delete(key)
    if versions:
        logger.warning(
            "the push of %s without a name was deleted; the policy stays in %s, because %s has it",
            digest.short,
            backend.url,
            named,
        )


def restore_kept(resolver: Resolver, digits: str, notes: MarkNotes) -> None:
    """Write a new record for a policy without a name, after all its objects were found.

    Args:
        resolver: reads the store.
        digits: 8 to 64 digits of the digest of the policy.
        notes: who restores the policy.

    Raises:
        InvalidInputError: the policy is kept already.
        NotFoundError: no such policy, or an object of the policy is not in the store any more;
            nothing was written.
        AmbiguousError: the digits fit several policies.
    """
    backend = resolver.backend
    digest = Digest(digits) if len(digits) == 64 else _find(resolver, digits)
    if next(iter(backend.keys(kept_prefix(digest))), None) is not None:
        raise InvalidInputError(
            f"{digest} is kept without a name in {backend.url}, so there is nothing to restore"
        )
    objects = needed_objects(resolver.objects, digest)
    kept = Kept(digest, objects, notes.time, notes.author, secrets.token_hex(16))
    key, data = kept_key(digest, kept.nonce), kept.to_bytes()
    fresh = Freshness(partial(bring_back, resolver.objects, objects, str(digest)))
    # The nonce makes the key unique, so the storage need not create the key exclusively.
    fresh.call(lambda: backend.put(key, [data]))


def _find(resolver: Resolver, digits: str) -> Digest:
    """Return the digest of the only object or trashed object whose digest begins so."""
    backend = resolver.backend
    found = set(map(digest_of_key, backend.keys(object_prefix(digits))))
    found |= set(map(digest_of_trash, backend.keys(trash_start(digits))))
    digest = _only(digits, {each for each in found if each is not None})
    if digest is None:
        require_store(backend)
        raise NotFoundError(f"no policy in {backend.url} has a digest that starts with {digits}")
    return digest


def _only(digits: str, digests: set[Digest]) -> Digest | None:
    """Return the only digest; None if there is none."""
    if len(digests) > 1:
        raise AmbiguousError(
            f"blake3:{digits} fits {len(digests)} digests: "
            + ", ".join(map(str, islice(sorted(digests), _SHOWN)))
            + "; give more digits"
        )
    return next(iter(digests), None)
