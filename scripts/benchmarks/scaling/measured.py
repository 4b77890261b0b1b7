"""Measure how many requests the calls for upkeep and leagues make, by making them.

Each call runs on small stores in memory, whose requests are counted. Stores of three sizes give the
requests for each name, version and object; a fourth store checks that the numbers add up.
"""

from __future__ import annotations

import datetime
import functools
import itertools
import logging
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from policystore import PolicyStore, Snapshot
from policystore.format.records.sums import body_bytes
from policystore.league import League
from policystore.repository.matches.ledger import Ledger
from scripts.benchmarks.scaling.replay import RecordingBackend, Trace

__all__ = ["CALLS", "Cost", "body_bytes_a_matchup", "cost_of", "refresh_cost"]

_SIZES = ((2, 3), (4, 3), (2, 6))  # names, and versions of each name
_CHECK = (3, 5)
_CREATED = {"PUT", "CREATE"}


@dataclass(frozen=True)
class Cost:
    """Requests of a call: fixed ones, and those for each name and for each version.

    Each version has one object of its own. Pages of listings are among the fixed ones: a listing of
    more than 1,000 keys has more, which the scenario adds.
    """

    fixed: Counter[str]
    name: Counter[str]
    version: Counter[str]

    def of(self, names: int, versions: int) -> Counter[str]:
        """Return the requests for a store of so many names and versions in all."""
        total: Counter[str] = Counter()
        for part, count in ((self.fixed, 1), (self.name, names), (self.version, versions)):
            for operation, each in part.items():
                total[operation] += each * count
        return +total


def _collect(store: PolicyStore) -> None:
    store.collect_garbage(grace=datetime.timedelta(0), dry_run=False, exclusive=True)


def _prune(store: PolicyStore) -> None:
    for name in store.names():
        store.prune(name, keep_last=1)


CALLS: dict[str, Callable[[PolicyStore], object]] = {
    "verify": lambda store: store.verify(),
    "collect_garbage": _collect,
    "prune each name": _prune,
    "log of each name": lambda store: [store.log(name) for name in store.names()],
}


def _requests(call: str, names: int, versions: int) -> Counter[str]:
    """Make a store, and count the requests of one call."""
    trace = Trace()
    backend = RecordingBackend(uuid.uuid4().hex, trace, "x")
    store = PolicyStore.over(backend, cache=False)
    for name in range(names):
        for version in range(versions):
            weights = {"w": np.full(2, 100.0 * name + version, np.float32)}
            store.push(Snapshot(weights=weights), f"soccer/n{name}")
    trace.requests.clear()
    CALLS[call](store)
    # The digests fall into other parts in each store; a real store has objects in all 256 parts.
    parts = {key[8:10] for key in backend._space.data if key.startswith("objects/")}
    counts = trace.counts()
    if call == "collect_garbage":
        counts["LIST"] -= 2 * len(parts)
    return counts


@functools.cache
def cost_of(call: str) -> Cost:
    """Return the requests of a call of :data:`CALLS`.

    Raises:
        AssertionError: the requests are no sum of fixed ones and those of names and versions.
    """
    logging.getLogger("policystore").setLevel(logging.ERROR)
    one, more_names, more_versions = (_requests(call, *size) for size in _SIZES)
    (names, versions), (names_2, _), (_, versions_2) = _SIZES
    operations = {*one, *more_names, *more_versions}
    name, version, fixed = Counter[str](), Counter[str](), Counter[str]()
    for operation in operations:
        each = (more_versions[operation] - one[operation]) / (names * (versions_2 - versions))
        slope = (more_names[operation] - one[operation]) / (names_2 - names)
        version[operation] = round(each)
        name[operation] = round(slope - each * versions)
        fixed[operation] = round(one[operation] - slope * names)
    cost = Cost(fixed, name, version)
    found, expected = _requests(call, *_CHECK), cost.of(_CHECK[0], _CHECK[0] * _CHECK[1])
    if +found != expected:
        raise AssertionError(f"{call}: {found} requests, and {expected} by names and versions")
    return cost


def _league(writers: int, matches: int) -> tuple[RecordingBackend, Trace]:
    trace, space = Trace(), uuid.uuid4().hex
    store = PolicyStore.over(RecordingBackend(space, trace, "x"), cache=False)
    store.push(Snapshot(weights={"w": np.zeros(1, np.float32)}), "a")
    for writer in range(writers):
        players = [f"blake3:{writer * 1000 + n:064x}" for n in range(matches + 1)]
        League(store, "soccer").record(
            [
                {
                    "players": {"red": first, "blue": second},
                    "episodes": 4,
                    "wins": {"red": 3, "blue": 1},
                    "draws": 0,
                }
                for first, second in itertools.pairwise(players)
            ]
        )
    trace.requests.clear()
    return RecordingBackend(space, trace, "x"), trace


@functools.cache
def refresh_cost(writers: int) -> Counter[str]:
    """Count the requests by which a reader of a league notices that nothing is new."""
    backend, trace = _league(writers, 2)
    ledger = Ledger(backend, "soccer", may_write=False)
    ledger.totals()
    trace.requests.clear()
    ledger.totals()
    return trace.counts()


@functools.cache
def body_bytes_a_matchup() -> float:
    """Return the bytes of one matchup in the body of a summary."""
    backend, _ = _league(1, 200)
    ledger = Ledger(backend, "soccer", may_write=False)
    ledger.totals()
    assert ledger._known is not None  # noqa: S101
    return sum(map(len, body_bytes(ledger._known.tally, "soccer", 1))) / 200
