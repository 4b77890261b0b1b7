"""Cut a stream of items into lists of a limited length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

__all__ = ["batches"]

_Item = TypeVar("_Item")


def batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Yield the items in lists of ``size``; the last list may be shorter.

    No item is taken from ``items`` before the list that holds it is asked for.
    """
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch
