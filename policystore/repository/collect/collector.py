"""Collect garbage: one pass over a store."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable

from policystore._util.concurrency import in_parallel
from policystore._util.deadlines import Clock, boottime
from policystore._util.progress import Meter
from policystore.errors import InvalidInputError
from policystore.format.keys import OBJECTS, TEMPORARY, TRASH
from policystore.repository.collect.counter import Counter
from policystore.repository.collect.leagues import sweep_leagues
from policystore.repository.collect.leftovers import MIN_AGE, sweep_leftovers
from policystore.repository.collect.report import GarbageReport
from policystore.repository.collect.sweep import Sweep
from policystore.repository.lookup.marker import require_store
from policystore.repository.objects import ObjectReader
from policystore.repository.roots.search import find_roots

__all__ = ["MIN_GRACE", "check_grace", "collect_garbage"]

MIN_GRACE = datetime.timedelta(hours=2)
"""The shortest grace while others may use the store. It has to be longer than ``MAX_DELAY`` of
:mod:`policystore.repository.freshness` and ``MAX_MOVE`` of
:mod:`policystore.repository.collect.sweep` together."""

_PARTS_AT_ONCE = 8


def check_grace(grace: datetime.timedelta, *, exclusive: bool) -> None:
    """Check the grace of a collection.

    Raises:
        InvalidInputError: not a span of time, a negative one, or one that is too short.
    """
    if not isinstance(grace, datetime.timedelta):
        raise InvalidInputError(
            f"grace is a datetime.timedelta, such as timedelta(days=7), not {grace!r}"
        )
    if grace < datetime.timedelta(0):
        raise InvalidInputError(f"grace is a span of time of at least 0, not {grace}")
    if grace < MIN_GRACE and not exclusive:
        raise InvalidInputError(
            f"a grace of {grace} is too short while others may use the store: give at least "
            f"{MIN_GRACE}. If nobody else reads or writes the store until the call returns, give "
            "exclusive=True."
        )


def collect_garbage(
    objects: ObjectReader,
    *,
    grace: datetime.timedelta,
    dry_run: bool,
    exclusive: bool,
    meter: Meter,
    heal: Callable[[str], list[int]] = lambda name: [],
    clock: Clock = boottime,
) -> GarbageReport:
    """Move objects that nothing needs to the trash, and delete what is old in the trash.

    Args:
        objects: reads the objects of the store.
        grace: how long an object has to be unneeded and unchanged.
        dry_run: whether to change nothing.
        exclusive: the promise of the caller that nobody else uses the store.
        meter: counts the names and the parts of the store.
        heal: restores the versions of a name whose deletion was cut off after a tag was moved to
            them, and returns their numbers; not called in a dry run.
        clock: measures how long the steps take; it should count the time that the machine sleeps.

    Raises:
        InvalidInputError: as in :func:`check_grace`.
        NotFoundError: the store does not exist.
        FormatError: a key or record that the collector does not understand.
        ReadOnlyError: this user may not write or delete.
        StorageError: the storage failed.
    """
    check_grace(grace, exclusive=exclusive)
    backend = objects.backend
    require_store(backend)
    # The time of the storage before anything is read: what comes later is younger than the grace.
    now = backend.server_time()
    report = GarbageReport(
        backend.url,
        dry_run,
        grace,
        datetime.datetime.fromtimestamp(now, datetime.timezone.utc),
    )
    counter = Counter(report)
    before = now - grace.total_seconds()
    roots = find_roots(objects, before, meter)
    if not dry_run:
        _check_deletes(objects)
    parts = {
        prefix.rpartition("/")[0][-2:]
        for kind in (OBJECTS, TRASH)
        for prefix in backend.prefixes(kind, "/")
    }
    meter.expect(len(parts))
    sweep = Sweep(backend, roots.digests, before, counter, clock)

    def run(part: str) -> None:
        sweep.run(part)
        meter.add(1)

    in_parallel(run, sorted(parts), workers=min(_PARTS_AT_ONCE, backend.parallel))
    sweep_leagues(backend, roots.leagues, counter)
    sweep_leftovers(backend, min(before, now - MIN_AGE), counter)
    counter.explain()
    if not dry_run:
        for name in sorted(roots.dangling):
            report.notes += [
                f"{name}@{number} was restored: a tag points to it, and its deletion was cut off"
                for number in heal(name)
            ]
    return report


def _check_deletes(objects: ObjectReader) -> None:
    """Check that the credentials may delete, before objects are copied to the trash.

    Raises:
        ReadOnlyError: the credentials may not delete.
    """
    probe = f"{TEMPORARY}{secrets.token_hex(16)}"
    objects.backend.replace(probe, b"")
    objects.backend.delete(probe)
