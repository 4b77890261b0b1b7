"""Find the versions that a version was trained from. Records name parents by digest."""

from __future__ import annotations

from bisect import bisect_left

from policystore.digest import Digest
from policystore.format.records import Version

__all__ = ["Parent", "find_parents"]

Parent = int | str
"""The index of a version on the page, or the short digest of a policy that is not on the page."""


def find_parents(versions: list[Version]) -> list[list[Parent]]:
    """Return the parents of each version.

    Several versions may have the digest of a parent. The parent is then the newest of them that was
    pushed before the child, or the oldest one if the clocks of the writers say that all were pushed
    later.

    Args:
        versions: all versions of the report.
    """
    order = sorted(range(len(versions)), key=lambda at: (versions[at].time, at))
    rank = {index: at for at, index in enumerate(order)}
    ranks_of: dict[Digest, list[int]] = {}
    for at, index in enumerate(order):
        ranks_of.setdefault(versions[index].digest, []).append(at)
    parents: list[list[Parent]] = []
    for index, version in enumerate(versions):
        found: list[Parent] = []
        for digest in version.parents:
            ranks = [at for at in ranks_of.get(digest, ()) if at != rank[index]]
            if not ranks:
                found.append(digest.short)
            else:
                before = bisect_left(ranks, rank[index])
                found.append(order[ranks[max(0, before - 1)]])
        parents.append(list(dict.fromkeys(found)))
    return parents
