"""Keep millions of digests, each with a place, in about 40 bytes for each digest."""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

__all__ = ["PackedDigests"]

_FIRST_SLOTS = 1 << 8


class PackedDigests:
    """A set of items of one length that gives each item a place: 0, 1, 2… as they are added.

    The items lie side by side in one block of memory, which is much smaller than a set or a dict of
    Python. A table of slots says where an item lies. The slot of an item depends on Python's hash,
    which differs in each process, so nobody can write keys that all fall into the same slot.

    Args:
        width: how many bytes each item has.
    """

    __slots__ = ("_items", "_slots", "_width")

    def __init__(self, width: int) -> None:
        self._width = width
        self._items = bytearray()
        self._slots = _no_slots(_FIRST_SLOTS)  # 0 for a free slot, else a place + 1

    def __len__(self) -> int:
        return len(self._items) // self._width

    def add(self, item: bytes) -> int:
        """Add an item, and return its place; the place that it has if it was added before."""
        slot = self._slot_of(item)
        number = self._slots[slot]
        if number:
            return number - 1
        place = len(self)
        self._items += item
        self._slots[slot] = place + 1
        if 3 * len(self) > 2 * len(self._slots):
            self._grow()
        return place

    def place(self, item: bytes) -> int | None:
        """Return the place of an item; None if the item was not added."""
        number = self._slots[self._slot_of(item)]
        return number - 1 if number else None

    def item(self, place: int) -> bytes:
        """Return the item at a place."""
        start = place * self._width
        return bytes(self._items[start : start + self._width])

    def in_order(self) -> npt.NDArray[np.uint32]:
        """Return all places in the order of their items."""
        if not self._items:
            return np.empty(0, np.uint32)
        items = np.frombuffer(self._items, f"S{self._width}")
        return items.argsort().astype(np.uint32)

    def _slot_of(self, item: bytes) -> int:
        """Return the slot of an item, or the free slot where the item belongs."""
        items, slots, width = self._items, self._slots, self._width
        last = len(slots) - 1  # the number of slots is a power of two
        slot = hash(item) & last
        while number := slots[slot]:
            if items[(number - 1) * width : number * width] == item:
                break
            slot = (slot + 1) & last
        return slot

    def _grow(self) -> None:
        slots = self._slots = _no_slots(2 * len(self._slots))
        last = len(slots) - 1
        for place in range(len(self)):
            slot = hash(self.item(place)) & last
            while slots[slot]:
                slot = (slot + 1) & last
            slots[slot] = place + 1


def _no_slots(count: int) -> array[int]:
    return array("I", bytes(4 * count))
