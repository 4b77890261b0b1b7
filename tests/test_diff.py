from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np
import pytest

from policystore import PolicyStore, Snapshot, Spec
from policystore.backends.base import Backend
from policystore.diff import FieldDiff, diff_snapshots
from policystore.testing.storage import Intercepted


def test_each_status() -> None:
    a = Snapshot(
        weights={
            "equal": np.array([1.0, np.nan]),
            "changed": np.array([3.0, 4.0, 0.0]),
            "gone": np.ones(1),
            "shape": np.ones((2, 3), np.float32),
            "dtype": np.ones(2, np.float32),
        }
    )
    b = Snapshot(
        weights={
            "equal": np.array([1.0, np.nan]),
            "changed": np.array([3.0, 3.0, -2.0]),
            "new": np.ones(1),
            "shape": np.ones((3, 2), np.float32),
            "dtype": np.ones(2, np.float64),
        }
    )
    diff = diff_snapshots(a, b)
    assert {name: row.status for name, row in diff.tensors.items()} == {
        "changed": "changed", "dtype": "dtype differs", "equal": "equal", "gone": "only in a",
        "new": "only in b", "shape": "shape differs",
    }  # fmt: skip
    changed = diff.tensors["changed"]
    assert (changed.max_change, changed.mean_change) == (2.0, 1.0)
    assert changed.relative_norm == pytest.approx(math.sqrt(5) / 5)
    assert diff.tensors["equal"].max_change == 0.0
    assert (diff.tensors["shape"].a, diff.tensors["shape"].b) == ("float32[2, 3]", "float32[3, 2]")
    assert (diff.a, diff.b, diff.equal) == (a.digest, b.digest, False)


def test_values_that_arithmetic_stumbles_over() -> None:
    pairs = {
        "from zero": (np.zeros(2), np.ones(2), 1.0, math.inf),
        "signed zero": (np.array([0.0]), np.array([-0.0]), 0.0, 0.0),
        "infinite": (np.array([np.inf, 1.0]), np.array([np.inf, 3.0]), 2.0, 0.0),
        "bool": (np.array([True, False]), np.array([True, True]), 1.0, 1.0),
        "uint8": (np.array([255], np.uint8), np.array([0], np.uint8), 255.0, 1.0),
        "bf16": (np.ones(2, ml_dtypes.bfloat16), np.full(2, 1.5, ml_dtypes.bfloat16), 0.5, 0.5),
        "0-d": (np.array(1), np.array(3), 2.0, 2.0),
    }
    for name, (left, right, largest, relative) in pairs.items():
        diff = diff_snapshots(Snapshot(weights={"w": left}), Snapshot(weights={"w": right}))
        row = diff.tensors["w"]
        assert row.status == "changed", name
        assert (row.max_change, row.relative_norm) == (largest, relative), name
    nan = diff_snapshots(
        Snapshot(weights={"w": np.ones(1)}), Snapshot(weights={"w": np.array([np.nan])})
    )
    assert math.isnan(nan.tensors["w"].max_change or 0)
    both = diff_snapshots(
        Snapshot(weights={"w": np.array([np.nan, 1.0])}),
        Snapshot(weights={"w": np.array([np.nan, 3.0])}),
    )
    assert both.tensors["w"].max_change == 2.0
    far = diff_snapshots(
        Snapshot(weights={"w": np.array([2**63 - 1, -(2**63)])}),
        Snapshot(weights={"w": np.array([2**63 - 2, 2**63 - 1])}),
    )
    assert far.tensors["w"].max_change == 2.0**64
    near = diff_snapshots(
        Snapshot(weights={"w": np.array([2**60])}), Snapshot(weights={"w": np.array([2**60 + 1])})
    )
    assert near.tensors["w"].max_change == 1.0


def test_spec_and_state() -> None:
    a = Snapshot(
        weights={},
        spec=Spec(algorithm="PPO", config={"lr": 1, "model": {"x": [1], "y": 2}}),
        state={"f": {"n": 3, "mean": np.ones(2)}},
    )
    b = Snapshot(
        weights={},
        spec=Spec(algorithm="DQN", config={"lr": 1.0, "model": {"x": [2], "z": 2}}),
        state={"f": {"n": 4, "mean": np.zeros(2)}},
    )
    diff = diff_snapshots(a, b)
    assert {field.path for field in diff.spec} == {
        "spec.algorithm", "spec.config.lr", "spec.config.model.x", "spec.config.model.y",
        "spec.config.model.z", "state.f.n",
    }  # fmt: skip
    assert FieldDiff("spec.config.model.y", 2, None, True, False) in diff.spec
    assert diff.state["__state__/0"].max_change == 1.0
    text = str(diff)
    for part in ("spec.algorithm: 'PPO' -> 'DQN'", "spec.config.model.z: absent -> 2", "max 1"):
        assert part in text


def test_equal_policies(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path)
    snap = Snapshot(weights={"w": np.ones(2)})
    store.push(snap, "a")
    diff = store.diff("a", snap)
    assert diff.equal
    assert "equal" in str(diff)
    assert diff.spec == ()
    store.push(Snapshot(weights={"w": np.zeros(2)}), "a")
    assert store.diff("a@1", "a@2").tensors["w"].max_change == 1.0


def test_the_metrics_of_two_versions() -> None:
    store = PolicyStore("memory://diff-metrics")
    snap = Snapshot(weights={"w": np.zeros(2, np.float32)})
    for value in (1.0, math.nan):
        store.push(snap, "a", metrics={"return": value, "n": 3, "eval": {"wins": value}})
    store.annotate("a@2", metrics={"elo": 1200})

    diff = store.diff("a@1", "a@2")

    assert [(field.path, field.a, field.b, field.has_a) for field in diff.metrics] == [
        ("metrics.elo", None, 1200, False),
        ("metrics.eval.wins", 1.0, "nan", True),
        ("metrics.return", 1.0, "nan", True),
    ]
    assert str(diff).splitlines() == [
        "a@1 and a@2: equal",
        "  metrics.elo: absent -> 1200",
        "  metrics.eval.wins: 1.0 -> 'nan'",
        "  metrics.return: 1.0 -> 'nan'",
    ]
    assert "metrics.elo" in diff._repr_html_()
    assert store.diff("a@1", snap).metrics == ()
    assert store.diff(snap.digest, "a@1").metrics == ()


@pytest.mark.parametrize("left", ["a@1", "version"])
def test_a_diff_reads_each_record_once(left: str) -> None:
    store = PolicyStore(f"memory://diff-reads-{left}")
    for value in (1.0, 2.0, 3.0):
        version = store.push(
            Snapshot(weights={"w": np.full(2, value)}), "a", metrics={"return": value}
        )
    backend = Intercepted(store._backend)
    read: Counter[str] = Counter()

    def get(key: str, **settings: Any) -> bytes | memoryview:
        read[key] += 1
        return store._backend.get(key, **settings)

    backend.get = get
    over = PolicyStore.over(cast(Backend, backend), cache=False)

    diff = over.diff(left if left == "a@1" else version, "a@2")

    assert [field.path for field in diff.metrics] == ["metrics.return"]
    records = {key: count for key, count in read.items() if "/@versions/" in key}
    assert records
    assert set(records.values()) == {1}
