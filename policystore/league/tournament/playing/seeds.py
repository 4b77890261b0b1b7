"""Seeds of episodes: numbers that follow from what is played, and from nothing else."""

from __future__ import annotations

from policystore.digest import digest_of
from policystore.format.canonical_json import canonical_json

__all__ = ["derive_seed"]

_BITS = 31  # numpy's own limit is 32, and some environments take a signed number


def derive_seed(*parts: object) -> int:
    """Return a number from 0 to 2^31 - 1 that follows from texts, numbers and None.

    The same in every process and on every machine; other parts give a seed that has nothing to do
    with it. It is the beginning of the BLAKE3 hash of the parts' canonical JSON.
    """
    return int(digest_of(canonical_json(list(parts))).hex[:16], 16) >> (64 - _BITS)
