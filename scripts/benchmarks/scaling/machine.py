"""What a machine shares: the cache on its disk, and objects that Ray brings."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable

from policystore._util.cache_folder import default_max_bytes
from policystore.cache import _LOCK_DIGITS
from scripts.benchmarks.scaling.assumptions import Assumptions
from scripts.benchmarks.scaling.bucket import Machine
from scripts.benchmarks.scaling.calls import Calls
from scripts.benchmarks.scaling.engine import Acquire, Call, Engine, Lock, Release, Sleep

__all__ = ["Cache", "broadcast", "cached_reader"]

_KEPT = 0.9  # share of the limit that is kept when room is made, as in policystore.cache


class Cache:
    """The objects on the disk of one machine; the least recently used are removed for room.

    Args:
        max_bytes: the limit; by default that of policystore.

    Attributes:
        hits, misses: how many reads found an object, or did not.
    """

    __slots__ = ("_objects", "_total", "hits", "max_bytes", "misses")

    def __init__(self, max_bytes: int | None = None) -> None:
        self.max_bytes = default_max_bytes() if max_bytes is None else max_bytes
        self.hits = self.misses = 0
        self._objects: OrderedDict[str, int] = OrderedDict()
        self._total = 0

    def has(self, digest: str) -> bool:
        """Return whether an object is in the cache; it is then the one that was used last."""
        if digest not in self._objects:
            return False
        self._objects.move_to_end(digest)
        return True

    def add(self, digest: str, nbytes: int) -> None:
        """Keep an object, after making room for it."""
        if nbytes > self.max_bytes or digest in self._objects:
            return
        if self._total + nbytes > self.max_bytes:
            while self._objects and self._total + nbytes > self.max_bytes * _KEPT:
                self._total -= self._objects.popitem(last=False)[1]
        self._objects[digest] = nbytes
        self._total += nbytes


def cached_reader(
    engine: Engine, machine: Machine, assumed: Assumptions
) -> Callable[[str, int], Call]:
    """Return a function that reads an object through the cache of a machine, as NodeCache does.

    One process downloads an object, and the others wait for the lock of its digest. Each then reads
    the object from the disk, hashes it, and gives the lock to the next.
    """
    if machine.cache is None:
        machine.cache = Cache()
    cache: Cache = machine.cache

    def read(digest: str, nbytes: int) -> Call:
        if cache.has(digest):
            cache.hits += 1
            yield Sleep(nbytes / assumed.hash_bytes)
            return True
        lock = machine.locks.setdefault(digest[:_LOCK_DIGITS], Lock())
        yield Acquire(lock)
        try:
            if cache.has(digest):
                cache.hits += 1
                yield Sleep(nbytes / assumed.hash_bytes)
                return True
            cache.misses += 1
            yield from Calls.fetch(digest, nbytes)
            machine.disk_free_at = max(machine.disk_free_at, engine.now) + (
                nbytes / assumed.disk_bytes
            )
            yield Sleep(nbytes / assumed.hash_bytes + machine.disk_free_at - engine.now)
            cache.add(digest, nbytes)
            return True
        finally:
            yield Release(lock)

    return read


def broadcast(assumed: Assumptions, nbytes: int, machines: int) -> list[float]:
    """Return when each machine holds an object of Ray, in seconds after it was put on the first.

    A machine that holds the object sends it on, to a few machines at a time. So the number of
    machines that hold the object multiplies with each round.
    """
    each = assumed.ray_fetch + nbytes / (assumed.node * assumed.ray_share)
    free = [0.0] * assumed.ray_sends  # when each holder can send once more
    heapq.heapify(free)
    held = [0.0]
    while len(held) < machines:
        end = heapq.heappop(free) + each
        held.append(end)
        for _ in range(assumed.ray_sends + 1):  # the new holder sends, and the sender again
            heapq.heappush(free, end)
    return held
