"""Calls of stores with many versions and many names, against the same calls of a small store."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from policystore import PolicyStore, Snapshot
from scripts.benchmarks.lines.harness.rows import Report
from scripts.benchmarks.lines.harness.settings import Settings
from scripts.benchmarks.lines.harness.store_files import Shape, files_below, fill
from scripts.benchmarks.lines.harness.times import Prepared, Times, in_turn

__all__ = ["measure"]

_SMALL = 10
_LIMIT = 1.2
_NAME = "n/0"


def measure(settings: Settings, report: Report) -> None:
    sizes = [_SMALL, 100] if settings.quick else [_SMALL, 1000, 100_000]
    with settings.folder() as folder:
        _versions(settings, report, {size: str(folder / f"{size}") for size in sizes})
    with settings.folder() as folder:
        _names(settings, report, {size: str(folder / f"{size}") for size in (_SMALL, sizes[-1])})


def _store(root: str, shape: Shape) -> PolicyStore:
    """Return a new store, whose name ``n/0`` has one more version, which can be pulled."""
    store = PolicyStore(root)
    store.push(Snapshot(weights={"w": np.zeros(3, np.float32)}), "other")  # makes the folder
    fill(files_below(Path(root)), shape)
    store.push(_policy(0), _NAME)
    return store


def _policy(number: int) -> Snapshot:
    random = np.random.default_rng(number)
    return Snapshot(weights={"w": random.standard_normal((64, 64), dtype=np.float32)})


def _versions(settings: Settings, report: Report, roots: dict[int, str]) -> None:
    """Measure stores whose versions all have one name."""
    stores = {
        size: _store(root, Shape(size, size, nbytes=8, with_objects=False))
        for size, root in roots.items()
    }
    numbers = itertools.count(1)

    def push(store: PolicyStore) -> Prepared:
        return Prepared(lambda: _policy(next(numbers)), lambda snap: store.push(snap, _NAME))

    calls: dict[str, Callable[[PolicyStore], Any]] = {
        "resolve": lambda store: lambda: store.resolve(_NAME),
        "pull": lambda store: lambda: store.pull(_NAME),
        "first page of log": lambda store: lambda: store.log(_NAME, limit=10),
        "push": push,
    }
    for size, store in stores.items():
        newest = store.log(_NAME, limit=1)[0]
        report.check(newest.number == size + 1, f"{size} versions: the newest is {newest.number}")
        report.check(store.pull(_NAME).digest == _policy(0).digest, "a pull gave another policy")
    for call, make in calls.items():
        times = in_turn(
            {str(size): make(store) for size, store in stores.items()},
            settings.rounds(60), warm_up=5, repeat=1 if call == "push" else 5,
        )  # fmt: skip
        for size in list(stores)[1:]:
            report.compare(f"{call}, {size:,} versions", f"{_SMALL} versions", times[str(size)],
                           times[str(_SMALL)], limit=_LIMIT)  # fmt: skip


def _names(settings: Settings, report: Report, roots: dict[int, str]) -> None:
    """Measure stores whose names have one version each."""
    stores = {
        size: _store(root, Shape(size, 1, nbytes=8, with_objects=False))
        for size, root in roots.items()
    }
    for size, store in stores.items():
        report.check(len(store.names("n/")) == size, f"{size} names: names() has others")
    times = in_turn(
        {str(size): lambda store=store: store.names("n/") for size, store in stores.items()},
        settings.rounds(7),
    )
    listed = {
        size: Times(tuple(seconds / size for seconds in times[str(size)].seconds))
        for size in stores
    }
    large = max(stores)
    report.compare(f"names(prefix) of {large:,} names, per name", f"{_SMALL} names, per name",
                   listed[large], listed[_SMALL], limit=_LIMIT)  # fmt: skip
    times = in_turn(
        {str(size): lambda store=store: store.pull(_NAME) for size, store in stores.items()},
        settings.rounds(60), warm_up=5, repeat=5,
    )  # fmt: skip
    report.compare(f"pull, {large:,} names", f"{_SMALL} names", times[str(large)],
                   times[str(_SMALL)], limit=_LIMIT)  # fmt: skip
