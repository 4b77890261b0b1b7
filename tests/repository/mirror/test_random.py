"""Random pushes, deletions, tags, collections and copies in both directions, some cut off."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from policystore import PolicyStore
from policystore.format.keys import object_key
from policystore.format.records import find_span
from policystore.testing import make_snapshot
from tests.support.mirrors import (
    Killed,
    Watched,
    backend_of,
    content,
    deleted_versions,
    faults,
    mark,
    over,
    versions,
)

MakeStore = Callable[[], PolicyStore]
SEEDS = 4


class World:
    """Two stores and a third that only receives, and what their users know.

    Attributes:
        pushed: the nonces that were pushed to each store, with the digest.
        removed: the nonces that a user of a store has deleted there, or somewhere before a copy.
    """

    def __init__(self, seed: int, make_store: MakeStore) -> None:
        self.random = random.Random(seed)
        self.stores = [make_store() for _ in range(3)]
        self.pushed: list[dict[str, str]] = [{}, {}, {}]
        self.removed: set[str] = set()
        self.count = 0

    def push(self, index: int) -> None:
        self.count += 1
        done = self.stores[index].push(make_snapshot(self.count), "a")
        self.pushed[index][done.nonce] = str(done.digest)

    def delete(self, index: int) -> None:
        store = self.stores[index]
        listed = versions(store, "a")
        if not listed:
            return
        gone = deleted_versions(store, "a")
        first = self.random.randint(1, len(listed))
        last = min(len(listed), first + self.random.randint(0, 2))
        numbers = [n for n in range(first, last + 1) if find_span(gone, n) is None]
        if numbers and numbers == list(range(numbers[0], numbers[-1] + 1)):
            mark(store, "a", "delete", (numbers[0], numbers[-1]))
            self.removed |= {listed[number - 1].nonce for number in numbers}

    def restore(self, index: int) -> None:
        store = self.stores[index]
        listed = versions(store, "a")
        for span in deleted_versions(store, "a"):
            number = self.random.randint(span.first, span.last)
            if number <= len(listed) and has_objects(store, number):
                mark(store, "a", "restore", (number, number))
                return

    def tag(self, index: int) -> None:
        store = self.stores[index]
        gone = deleted_versions(store, "a")
        standing = [v for v in versions(store, "a") if find_span(gone, v.number or 0) is None]
        if standing:
            store.tag(f"a@{self.random.choice(standing).number}", "best")

    def collect(self) -> None:
        """Remove the objects that no version of the first store needs, as after the grace."""
        store = self.stores[0]
        gone = deleted_versions(store, "a")
        needed = {
            object_key(v.digest)
            for v in versions(store, "a")
            if find_span(gone, v.number or 0) is None
        }
        for key in set(content(store, "objects/")) - needed:
            backend_of(store).delete(key)

    def copy(self, source: int, target: int) -> None:
        if not versions(self.stores[source], "a"):
            return
        fatal = self.random.choice([0, 0, self.random.randint(1, 12)])
        pushes = self.random.choice([0, 0, 0, self.random.randint(1, 12)])

        def disturb(count: int, key: str) -> None:
            if count == fatal:
                raise Killed
            if count == pushes:
                self.push(target)

        watched = Watched(backend_of(self.stores[target]), disturb)
        try:
            self.stores[source].copy_to(over(watched))
        except Killed:
            return
        self.stores[source].copy_to(self.stores[target])
        assert not self.stores[source].copy_to(self.stores[target]).changed
        self.check_copied(source, target)

    def steps(self) -> list[Callable[[], None]]:
        """Return what may happen next."""
        calls = [(self.push, 0), (self.push, 0), (self.push, 1), (self.restore, 0)]
        calls += [(call, index) for call in (self.delete, self.tag) for index in (0, 1)]
        pairs = [(0, 1), (0, 1), (0, 2), (1, 0), (1, 2)]
        return [
            self.collect,
            *(partial(call, index) for call, index in calls),
            *(partial(self.copy, source, target) for source, target in pairs),
        ]

    def check_copied(self, source: int, target: int) -> None:
        gone = deleted_versions(self.stores[source], "a")
        there = {v.nonce for v in versions(self.stores[target], "a")}
        for v in versions(self.stores[source], "a"):
            assert find_span(gone, v.number or 0) is not None or v.nonce in there, v
        if target == 2:
            return  # marks of one source may delete pushes until the next copy from that source
        gone = deleted_versions(self.stores[target], "a")
        for v in versions(self.stores[target], "a"):
            if v.nonce in self.pushed[target] and v.nonce not in self.removed:
                assert find_span(gone, v.number or 0) is None, f"{v.ref} was never deleted"

    def check(self) -> None:
        for index, store in enumerate(self.stores):
            listed = versions(store, "a")
            assert set(self.pushed[index]) <= {v.nonce for v in listed}, "a push was lost"
            assert max(Counter(v.nonce for v in listed).values(), default=1) == 1
            gone = deleted_versions(store, "a")
            for v in listed:
                if find_span(gone, v.number or 0) is None:
                    assert has_objects(store, v.number or 0), f"{v.ref} stands without its object"


def has_objects(store: PolicyStore, number: int) -> bool:
    record = versions(store, "a")[number - 1]
    return backend_of(store).size(object_key(record.digest)) is not None


@pytest.mark.parametrize(
    "seeds",
    [range(SEEDS), pytest.param(range(SEEDS, 1000), marks=[pytest.mark.long, pytest.mark.wide])],
)
def test_random_histories(make_store: MakeStore, seeds: range) -> None:
    for seed in seeds:
        world = World(seed, make_store)
        world.push(0)
        try:
            for _ in range(25):
                world.random.choice(world.steps())()
                world.check()
            for store in world.stores:
                if versions(store, "a"):
                    # The objects of deleted versions may have been collected.
                    assert [f for f in faults(store) if "needs the object" not in f] == []
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error
