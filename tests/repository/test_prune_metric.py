"""``prune(keep_best=…)`` with a metric that no version has."""

from __future__ import annotations

import pytest

from policystore import NotFoundError, PolicyStore, Version
from policystore.testing import make_snapshot


def test_a_misspelt_metric_deletes_nothing() -> None:
    store = PolicyStore("memory://prune-metric")
    for n in range(4):
        store.push(make_snapshot(n), "a", metrics={"return": float(n)} if n else {})
    with pytest.raises(
        NotFoundError, match=r"metric 'retrun'. Its versions have return\. Did you mean 'ret"
    ):
        store.prune("a", keep_best=("retrun", "max", 2))
    assert len(store.log("a")) == 4
    store.prune("a", keep_best=("return", "max", 2))
    assert [version.number for version in store.log("a")] == [4, 3]


def test_versions_without_any_metric_cannot_tell_a_mistake() -> None:
    store = PolicyStore("memory://prune-without")
    for n in range(3):
        store.push(make_snapshot(n), "a")
    store.prune("a", keep_last=2, keep_best=("return", "max", 5))
    assert [version.number for version in store.log("a")] == [3, 2]


def test_metrics_of_annotations_count() -> None:
    store = PolicyStore("memory://prune-annotated")
    for n in range(4):
        store.push(make_snapshot(n), "a", metrics={"elo": 100 * n})
    store.annotate("a@1", metrics={"elo": 2000})
    store.annotate("a@2", note="do not lose")

    def is_noted(version: Version) -> bool:
        return any(each.note for each in version.annotations or ())

    store.prune("a", keep_best=("elo", "max", 1), keep=is_noted)

    assert [version.number for version in store.log("a")] == [4, 2, 1]
