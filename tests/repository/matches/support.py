"""Backends that count requests or lose answers, and ledgers written without a writer."""

from __future__ import annotations

import datetime
import itertools
import secrets
from collections import Counter
from collections.abc import Iterator
from typing import Any

from policystore.backends.base import Backend
from policystore.backends.memory import MemoryBackend
from policystore.digest import Digest, digest_of
from policystore.errors import StorageError
from policystore.format.keys import MARKER
from policystore.format.league_keys import batch_key
from policystore.format.records import marker_bytes
from policystore.format.records.match_batch import ListEnd, MatchBatch
from policystore.format.records.matches import Match, Outcome

PAGE = 1000


def empty_store() -> MemoryBackend:
    """Return a new store in memory."""
    backend = MemoryBackend(f"ledger-{secrets.token_hex(8)}")
    backend.create(MARKER, marker_bytes())
    return backend


def player(number: int) -> str:
    """Return a player by a number."""
    return f"blake3:{number:064x}"


class Around:
    """Pass calls on to a backend."""

    is_remote, parallel = True, 16

    def __init__(self, backend: Backend) -> None:
        self.inner = backend

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.inner, name)


class Counting(Around):
    """Count the requests that a bucket would get; a listing has one for each 1,000 keys."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.requests: Counter[str] = Counter()

    def get(self, key: str, **options: Any) -> Any:
        self.requests["get"] += 1
        return self.inner.get(key, **options)

    def size(self, key: str) -> int | None:
        self.requests["size"] += 1
        return self.inner.size(key)

    def create(self, key: str, data: bytes) -> bool:
        self.requests["create"] += 1
        return self.inner.create(key, data)

    def replace(self, key: str, data: bytes) -> None:
        self.requests["replace"] += 1
        self.inner.replace(key, data)

    def keys(self, prefix: str, **options: Any) -> Iterator[str]:
        return self._paged(self.inner.keys(prefix, **options))

    def prefixes(self, prefix: str, delimiter: str, **options: Any) -> Iterator[str]:
        return self._paged(self.inner.prefixes(prefix, delimiter, **options))

    def _paged(self, listed: Iterator[str]) -> Iterator[str]:
        found = list(listed)
        self.requests["list"] += max(1, -(-len(found) // PAGE))
        return iter(found)


class Flaky(Around):
    """Make the next creations fail.

    Attributes:
        faults: one for each of the next creations: ``""``, ``"refused"``: it is not applied;
            ``"lost"``: it is applied, and its answer is lost; ``"own"``: it is applied, and says
            that the key exists, as the retry of a request whose answer was lost does.
    """

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.faults: list[str] = []

    def create(self, key: str, data: bytes) -> bool:
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "refused":
            raise StorageError("refused")
        created = self.inner.create(key, data)
        if fault == "lost":
            raise StorageError("lost")
        return created and fault != "own"


def write_list(
    backend: Backend, count: int, *, writer: str = "", ended: bool = False, first: int = 0
) -> str:
    """Write a list of batches of one match each, and return its writer.

    Args:
        backend: the storage.
        count: how many batches.
        writer: id of the list.
        ended: whether the list is ended.
        first: the number of the first match, by which players are chosen.
    """
    writer = writer or secrets.token_hex(16)
    previous: Digest | None = None
    for number in range(1, count + 1 + ended):
        place: dict[str, Any] = {
            "league": "soccer", "epoch": 1, "writer": writer, "number": number,
            "nonce": secrets.token_hex(16), "previous": previous, "author": "ann",
            "time": datetime.datetime.fromtimestamp(first + number, datetime.timezone.utc),
        }  # fmt: skip
        index = first + number
        match = Match(
            players={"blue": player(index % 7), "red": player(index % 11)},
            episodes=100,
            outcomes=(Outcome((0, 1), 40), Outcome((1, 0), 60)),
        )
        record = ListEnd(**place) if number > count else MatchBatch(**place, matches=(match,))
        data = record.to_bytes()
        assert backend.create(batch_key("soccer", 1, writer, number), data)
        previous = digest_of(data)
    return writer


numbers = itertools.count(1)
"""Numbers by which tests tell their matches apart."""


def numbered(*iterations: int) -> list[Match]:
    """Return matches that are told apart by their iteration."""
    return [
        Match(
            players={"blue": player(number % 3), "red": player(number % 5)},
            episodes=1,
            outcomes=(Outcome((0, 1), 1),),
            iteration=number,
        )
        for number in iterations
    ]
