"""Keep a set of millions of digests in little memory: 8 bytes of each, in a numpy array."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from policystore.digest import Digest

__all__ = ["DigestPrefixes"]

_MIN_MERGED = 1 << 18  # added digests; a merge sorts the whole array


class DigestPrefixes:
    """A set of digests, by their first 8 bytes.

    Two digests with the same 8 bytes count as one. So the set may hold a digest that nobody added,
    but never lacks one that was added.
    """

    def __init__(self) -> None:
        self._sorted: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        self._added = array("Q")

    def add(self, digest: Digest) -> None:
        """Add a digest."""
        self._added.append(_prefix(digest))
        if len(self._added) >= max(_MIN_MERGED, len(self._sorted) // 2):
            self._merge()

    def contain(self, digests: Iterable[Digest]) -> list[bool]:
        """Return for each digest whether the set holds the digest."""
        if self._added:
            self._merge()
        wanted = np.fromiter(map(_prefix, digests), np.uint64)
        if not len(self._sorted):
            return [False] * len(wanted)
        places = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        return [bool(same) for same in self._sorted[places] == wanted]

    def __len__(self) -> int:
        if self._added:
            self._merge()
        return len(self._sorted)

    def _merge(self) -> None:
        self._sorted = np.union1d(self._sorted, np.frombuffer(self._added, np.uint64))
        self._added = array("Q")


def _prefix(digest: Digest) -> int:
    return int(digest.hex[:16], 16)
