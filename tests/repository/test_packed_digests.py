"""Items of one length get places; the places in order are those of the sorted items."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from policystore.repository.packed_digests import PackedDigests


@pytest.mark.parametrize("width", [32, 48])
@pytest.mark.parametrize("count", [0, 1, 170, 171, 5000])
def test_it_is_a_dict_of_items_and_places(width: int, count: int) -> None:
    numbers = random.Random(count)
    items = [numbers.randbytes(width) for _ in range(count)]
    packed, expected = PackedDigests(width), dict[bytes, int]()
    for item in items + items[::3]:
        assert packed.add(item) == expected.setdefault(item, len(expected))
    assert len(packed) == len(expected) == count
    assert [packed.place(item) for item in items] == list(range(count))
    assert [packed.item(place) for place in range(count)] == items
    assert [packed.item(place) for place in packed.in_order()] == sorted(items)
    assert packed.place(numbers.randbytes(width)) is None


def test_zeros_at_the_end_count() -> None:
    packed = PackedDigests(32)
    items = [b"a" + bytes(31), bytes(32), bytes(31) + b"\1", b"\xff" * 32, b"a" * 31 + b"\0"]
    for item in items:
        packed.add(item)
    assert [packed.item(place) for place in packed.in_order()] == sorted(items)
    assert packed.place(bytes(32)) == 1


def test_an_item_takes_little_more_than_its_bytes() -> None:
    tracemalloc.start()
    try:
        packed = PackedDigests(32)
        for number in range(20_000):
            packed.add(number.to_bytes(32, "big"))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / 20_000 < 32 + 16
