"""A store in memory whose time the test sets, and marks that are written without a store's calls."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from policystore import PolicyStore, Snapshot
from policystore.backends.base import Backend
from policystore.backends.memory import MemoryBackend
from policystore.digest import digest_of
from policystore.errors import NotFoundError
from policystore.format.keys import OBJECTS, TRASH, mark_key
from policystore.format.records import Mark, with_spans
from policystore.format.records.marks import Action
from policystore.repository.collect.report import GarbageReport

GRACE = datetime.timedelta(days=7)
DAY = 24 * 3600.0
EPOCH = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)


def policy(seed: int) -> Snapshot:
    """Return a policy of one object."""
    return Snapshot(weights={"w": np.full(3, float(seed))})


class TimedStore:
    """A store in memory; its clock moves only when the test moves it."""

    def __init__(self, backend: MemoryBackend | None = None) -> None:
        self.now = EPOCH.timestamp()
        self.backend = backend or MemoryBackend(uuid.uuid4().hex)
        self.backend._space.clock = lambda: self.now
        self.store = PolicyStore.over(self.backend, cache=False)
        self.store._writer._clock = lambda: self.now

    def wait(self, days: float) -> None:
        self.now += days * DAY

    def collect(self, **options: Any) -> GarbageReport:
        return self.store.collect_garbage(**{"grace": GRACE, "dry_run": False, **options})

    def objects(self) -> set[str]:
        return set(self.backend.keys(OBJECTS))

    def trash(self) -> set[str]:
        return set(self.backend.keys(TRASH))

    def everything(self) -> dict[str, bytes]:
        return dict(self.backend._space.data)


def write_mark(
    backend: Backend,
    name: str,
    action: Action,
    changed: Iterable[tuple[int, int]],
    guard: Callable[[Callable[[], bool]], bool] = lambda create: create(),
) -> None:
    """Append a mark to a name, as ``delete``, ``prune`` and ``restore`` do.

    Args:
        backend: the storage.
        name: the name.
        action: what the mark does.
        changed: the versions that the mark changes.
        guard: calls the function that creates the record.
    """
    number, previous, deleted = 1, None, ()
    while True:
        try:
            data = bytes(backend.get(mark_key(name, number)))
        except NotFoundError:
            break
        previous = data
        deleted = Mark.from_bytes(data, "the mark before").deleted  # type: ignore[assignment]
        number += 1
    changed = tuple(changed)
    by = None if action == "restore" else number
    mark = Mark(
        name=name,
        number=number,
        action=action,
        changed=changed,
        deleted=with_spans(deleted, changed, by),
        previous=None if previous is None else digest_of(previous),
        time=EPOCH,
        author="test",
        message="",
        nonce="0" * 32,
    )
    assert guard(lambda: backend.create(mark_key(name, number), mark.to_bytes()))
