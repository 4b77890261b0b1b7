"""Find policies by their digest, or by the first digits of it."""

from __future__ import annotations

from policystore.digest import Digest
from policystore.errors import AmbiguousError, NotFoundError
from policystore.format.keys import object_key
from policystore.format.policy import ParsedPolicy, decode_object
from policystore.repository.lookup.marker import require_store
from policystore.repository.objects import ObjectReader, StoredPolicy

__all__ = ["find_digest", "policy_by_digest"]


def find_digest(objects: ObjectReader, digits: str) -> Digest:
    """Return the digest of the policy whose digest starts with ``digits``.

    Args:
        objects: reads the objects of the store.
        digits: 8 to 64 hexadecimal digits.

    Raises:
        NotFoundError: no digest starts with these digits.
        AmbiguousError: the digests of several policies start with these digits.
    """
    backend = objects.backend
    candidates = objects.find(digits)
    if len(candidates) > 1:
        # Tensor objects have digests, too. Of several objects that fit, only policies count.
        candidates = [digest for digest in candidates if _is_policy(objects, digest)]
    if not candidates:
        require_store(backend)
        if len(digits) == 64:
            raise NotFoundError(f"no object {Digest(digits)} in {backend.url}")
        raise NotFoundError(f"no policy in {backend.url} has a digest that starts with {digits}")
    if len(candidates) > 1:
        raise AmbiguousError(
            f"blake3:{digits} fits {len(candidates)} policies: "
            + ", ".join(str(digest) for digest in sorted(candidates)[:5])
            + "; give more digits"
        )
    return candidates[0]


def policy_by_digest(objects: ObjectReader, digits: str) -> StoredPolicy:
    """Read the policy whose digest starts with ``digits``; one request for all 64 digits.

    Raises:
        NotFoundError, AmbiguousError: as in :func:`find_digest`.
        IntegrityError, FormatError: the object is damaged, or is not a policy.
    """
    if len(digits) == 64:
        try:
            return objects.policy(Digest(digits))
        except NotFoundError:
            pass  # find_digest raises a better error, unless the object exists now
    return objects.policy(find_digest(objects, digits))


def _is_policy(objects: ObjectReader, digest: Digest) -> bool:
    data = objects.read(digest, limit=None)
    content = decode_object(data, objects.backend.location(object_key(digest)))
    return isinstance(content, ParsedPolicy)
