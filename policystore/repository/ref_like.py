"""Accept refs in all their forms: text, Digest or Version."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from policystore.digest import Digest
from policystore.errors import InvalidInputError
from policystore.format.records import Version
from policystore.format.refs import Ref, parse_ref
from policystore.snapshot import Snapshot

__all__ = ["RefLike", "as_list", "as_ref"]

RefLike: TypeAlias = str | Digest | Version
"""A ref such as ``soccer/main@7``, a Digest, or a Version that ``push`` or ``log`` returned."""


def as_ref(ref: RefLike) -> Ref:
    """Parse a ref. A Version means its digest: in another store its number may be another policy.

    Raises:
        InvalidInputError: not a ref; for a Snapshot, the message says what to write.
    """
    if isinstance(ref, Snapshot):
        raise InvalidInputError(
            "expected a ref, found a Snapshot, which is the policy itself and needs no pull. "
            "version = store.push(snap, 'soccer/main') returns a ref of it, and snap.digest is the "
            "digest under which a store that holds it finds it"
        )
    if isinstance(ref, Digest):
        return Ref(digest=ref.hex)
    if isinstance(ref, Version):
        return Ref(digest=ref.digest.hex)
    return parse_ref(ref)


def as_list(refs: Iterable[RefLike], argument: str) -> list[RefLike]:
    """Make a list of several refs.

    Raises:
        InvalidInputError: a single ref, or not iterable; the message names the argument.
    """
    if isinstance(refs, (str, Digest, Version)) or not isinstance(refs, Iterable):
        raise InvalidInputError(f"{argument} is a list of refs, not {refs!r}")
    return list(refs)
