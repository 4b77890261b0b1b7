"""How many tensors of a policy are read at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore import PolicyStore, Snapshot
from policystore.repository import objects

MIB = 1 << 20


@pytest.mark.parametrize(
    ("sizes", "workers"),
    [
        ([1 * MIB] * 20, 1),  # threads would only wait for the lock of the interpreter
        ([8 * MIB], 1),
        ([8 * MIB] * 2 + [1 * MIB] * 5, 2),
        ([8 * MIB] * 3, 2),  # as many as there are processors
    ],
)
def test_threads_read_only_what_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int], workers: int
) -> None:
    monkeypatch.setattr(objects, "MIN_WORKERS", 2)
    weights = {f"w{n}": np.full(size // 4, n, np.float32) for n, size in enumerate(sizes)}
    store = PolicyStore(tmp_path / "s")
    version = store.push(Snapshot(weights=weights))
    seen: list[int] = []
    plain = objects.in_parallel

    def noted(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["workers"])
        return plain(*args, **kwargs)

    monkeypatch.setattr(objects, "in_parallel", noted)
    assert store.pull(version).digest == version.digest
    assert seen == [workers]
    assert max(8, os.cpu_count() or 1) >= objects.MIN_WORKERS
