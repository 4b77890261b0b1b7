"""A storage whose calls fail on purpose, and an Uploader to a store over it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from policystore import PolicyStore, Snapshot, Spec
from policystore.rllib.callbacks.lineage import Lineage
from policystore.rllib.callbacks.upload_history import Copy
from policystore.rllib.callbacks.upload_queue import Uploader
from tests.support.waiting import FOREVER, until

__all__ = ["FOREVER", "Faulty", "best", "copy", "iterations", "until", "uploader_to"]


class Faulty:
    """A storage whose calls a test can stop (``gate``) or let fail (``fail``, ``after``)."""

    def __init__(self, store: PolicyStore) -> None:
        self._inner = store._backend
        self.gate = threading.Event()
        self.gate.set()
        self.fail: Callable[[str, str], Exception | None] = lambda call, key: None
        self.after: Callable[[str, str], Exception | None] = lambda call, key: None
        self.calls: list[tuple[str, str]] = []
        store._use(self)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._inner, name)
        if name in ("url", "location", "is_remote", "parallel"):
            return inner

        def call(key: str, *args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, key))
            assert self.gate.wait(FOREVER)
            if (error := self.fail(name, key)) is not None:
                raise error
            found = inner(key, *args, **kwargs)
            if (error := self.after(name, key)) is not None:
                raise error
            return found

        return call


def uploader_to(store: PolicyStore, **given: Any) -> Uploader:
    options = {"max_pending": 4, "lowest": False, "names": {"main": "a"}, **given}
    names = options.pop("names")
    options["metrics"] = dict.fromkeys(names, options.pop("metric", "r"))
    return Uploader(store, names, **options)


def copy(iteration: int, value: float | None = None, run: str = "run", policy: str = "main",
         name: str = "a", seed: int | None = None, lineage: Lineage | None = None) -> Copy:  # fmt: skip
    number = iteration if seed is None else seed
    snap = Snapshot(weights={"w": np.full(3, number, np.float32)}, spec=Spec(stack="old"))
    metrics = {} if value is None else {"r": value}
    lineage = Lineage() if lineage is None else lineage
    return Copy(policy, name, snap, run, iteration, value, metrics, lineage)


def iterations(store: PolicyStore, name: str = "a") -> list[int]:
    return [version.metrics["iteration"] for version in reversed(store.log(name))]


def best(store: PolicyStore) -> Any:
    return store.tags("a")["best"].metrics["r"]
