"""Suggest renames, where the names of a snapshot and of a target have nothing in common."""

from __future__ import annotations

from collections.abc import Mapping

from policystore.format.arrays import Array

__all__ = ["renames_that_fit"]

_MOST_TENSORS = 400  # of each side; a suggestion is not worth more comparisons


def renames_that_fit(given: Mapping[str, Array], target: Mapping[str, Array]) -> dict[str, str]:
    """Return renames by prefix that give tensors of a snapshot the names of a target.

    Two names belong together if they end alike, and the tensors have the same shape. A prefix is
    used only if all tensors of the snapshot that begin with it find a place, and no place is used
    twice. The suggestion is a guess: layers of the same shape may do different things.

    Returns:
        prefix in the snapshot -> prefix in the target; empty if nothing fits.
    """
    if max(len(given), len(target)) > _MOST_TENSORS:
        return {}
    places: dict[tuple[str, str], set[str]] = {}
    for name, array in given.items():
        for other, needed in target.items():
            if array.shape == needed.shape and array.dtype == needed.dtype:
                for pair in _prefix_pairs(name, other):
                    places.setdefault(pair, set()).add(name)
    found: dict[str, str] = {}
    placed: set[str] = set()
    used: set[str] = set()
    best = sorted(places, key=lambda pair: (-len(places[pair]), len(pair[1]), pair))
    for prefix, place in best:
        names = {name for name in given if name.startswith(prefix)}
        results = {place + name[len(prefix) :] for name in names}
        whole = names == places[prefix, place]
        if whole and names.isdisjoint(placed) and results.isdisjoint(used):
            found[prefix] = place
            placed |= names
            used |= results
    return found


def _prefix_pairs(name: str, other: str) -> list[tuple[str, str]]:
    """Return the prefixes of two names behind which both names end alike, at least one part."""
    mine, theirs = name.split("."), other.split(".")
    pairs = []
    for common in range(1, min(len(mine), len(theirs))):
        if mine[-common:] != theirs[-common:]:
            break
        start, other_start = ".".join(mine[:-common]) + ".", ".".join(theirs[:-common]) + "."
        pairs.append((start, other_start))
    return pairs
