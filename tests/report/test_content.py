"""What a page says of lineage, sizes and layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore import PolicyStore, Snapshot, Spec
from tests.report.documents import document_of, small
from tests.support.report_store import Clock, written_at


def fresh(name: str) -> PolicyStore:
    return PolicyStore(f"memory://report-content-{name}")


# Lineage


def test_parents_are_found_by_digest_across_names():
    store, clock = fresh("lineage"), Clock()
    with written_at(clock):
        first = store.push(small(1), "a")
        clock.wait(1)
        child = store.push(small(2), "b", parents=[first])
        clock.wait(1)
        store.push(small(3), "a", parents=[child, "a@1"])

    a, b = document_of(store)["names"]

    assert a["parents"] == [[], [2, 0]]
    assert b["parents"] == [[0]]


def test_of_several_versions_with_the_digest_the_newest_before_the_child_is_the_parent():
    store, clock = fresh("twins"), Clock()
    with written_at(clock):
        for seed in (1, 2, 1, 3, 1):
            clock.wait(1)
            parents = [small(1).digest] if seed == 3 else []
            store.push(small(seed), "a", parents=parents)

    (name,) = document_of(store)["names"]

    assert name["parents"] == [[], [], [], [2], []]


def test_a_parent_that_is_pushed_later_by_its_clock_and_one_that_is_not_on_the_page():
    store, clock = fresh("later"), Clock()
    with written_at(clock):
        clock.wait(5)
        parent = store.push(small(1), "a")
        clock.wait(-4)
        store.push(small(2), "b", parents=[parent])
        lonely = store.push(small(9))
        store.push(small(3), "c", parents=[lonely])

    a, b, c = document_of(store)["names"]

    assert (a["parents"], b["parents"]) == ([[]], [[0]])
    assert c["parents"] == [[small(9).digest.short]]


def test_a_policy_that_is_pushed_again_is_not_its_own_parent():
    store, clock = fresh("again"), Clock()
    with written_at(clock):
        first = store.push(small(1), "a")
        clock.wait(1)
        store.push(small(1), "a", parents=[first])

    (name,) = document_of(store)["names"]

    assert name["parents"] == [[], [0]]
    (alone,) = document_of(store, limit=1)["names"]
    assert alone["parents"] == [[first.digest.short]]


# Sizes


def test_shared_objects_count_once_and_belong_to_the_version_that_brought_them():
    store, clock = fresh("sizes"), Clock()
    frozen = np.ones((1024, 1024), np.float32)  # 4 MiB: the policies are split
    with written_at(clock):
        for step, name in enumerate(["b", "a", "a"]):
            clock.wait(1)
            store.push(
                Snapshot(weights={"trunk": frozen, "head": np.full(4, step, np.float32)}), name
            )

    document = document_of(store)
    a, b = document["names"]

    assert b["added"][0] > frozen.nbytes
    assert max(a["added"]) < 2000
    assert min(*a["whole"], *b["whole"]) > frozen.nbytes
    total = sum(a["whole"]) + sum(b["whole"])
    assert document["stored"] + document["saved"] == total
    assert document["saved"] == pytest.approx(2 * frozen.nbytes, rel=0.01)
    assert document["stored"] == store.stats().nbytes


# Layers


def layers(document: dict[str, Any], at: int = 0) -> dict[str, tuple[int, Any]]:
    rows = document["comparisons"][at]["layers"]
    return {document["strings"][name]: (status, change) for name, status, change, *_ in rows}


def test_layers_are_compared_and_the_largest_change_comes_first():
    store = fresh("layers")
    store.push(
        Snapshot(weights={"a": np.ones(4), "b": np.ones(4), "c": np.ones(4), "d": np.ones(2)}), "n"
    )
    store.push(
        Snapshot(
            weights={"a": np.full(4, 1.01), "b": np.full(4, 3.0), "c": np.ones(4), "d": np.ones(3)}
        ),
        "n",
    )

    document = document_of(store)
    (pair,) = document["comparisons"]

    assert list(layers(document)) == ["d", "b", "a"]
    assert layers(document)["d"] == (4, None)
    assert layers(document)["b"] == (1, 2)
    assert layers(document)["a"][1] == pytest.approx(0.01)
    assert (pair["equal"], pair["changed"], pair["reason"]) == (1, 3, "newest")
    assert pair["same_spec"] is True


def test_other_specs_and_states_are_named():
    store = fresh("specs")
    store.push(Snapshot(weights={}, state={"steps": 1, "mean": np.zeros(2)}), "n")
    store.push(
        Snapshot(weights={}, state={"steps": 2, "mean": np.ones(2)}, spec=Spec(stack="new")), "n"
    )

    document = document_of(store)
    (pair,) = document["comparisons"]

    assert (pair["same_spec"], pair["same_state"]) == (False, False)
    assert list(layers(document)) == ["__state__/0"]
    assert layers(document)["__state__/0"] == (1, "Infinity")


def test_the_interesting_pairs_come_first():
    store, clock = fresh("pairs"), Clock()
    with written_at(clock):
        for step in range(4):
            clock.wait(1)
            store.push(small(step), "a")
        store.tag("a@1", "old")
        clock.wait(1)
        store.push(small(7), "b", parents=["a@2"])

    def reasons(**arguments: Any) -> list[tuple[int, int, str]]:
        found = document_of(store, **arguments)["comparisons"]
        return [(pair["before"], pair["after"], pair["reason"]) for pair in found]

    assert reasons() == [
        (2, 3, "newest"),
        (0, 3, "tag old"),
        (1, 4, "parent"),
        (1, 2, "neighbours"),
        (0, 1, "neighbours"),
    ]
    assert reasons(diffs=2) == [(2, 3, "newest"), (0, 3, "tag old")]
    assert reasons(diffs=0) == []


def test_equal_policies_are_compared_without_reading():
    store = fresh("equal")
    version = store.push(small(1), "n")
    store.push(small(1), "n")
    store._backend.delete(f"objects/{version.digest.hex[:2]}/{version.digest.hex}.safetensors")

    document = document_of(store)

    assert document["problems"] == []
    assert document["comparisons"][0]["layers"] == []


def test_no_more_is_read_than_was_allowed_and_shared_objects_are_not_read(tmp_path: Path):
    store = PolicyStore(tmp_path / "store")
    frozen = np.ones((1024, 1024), np.float32)
    for step in range(3):
        store.push(Snapshot(weights={"trunk": frozen, "head": np.full(4, step, np.float32)}), "n")
    objects = dict(store.log("n")[0].objects or {})
    trunk = max(objects, key=objects.__getitem__)
    one_pair = 2 * min(objects.values())  # a pair needs the two policy objects alone
    (tmp_path / f"store/objects/{trunk.hex[:2]}/{trunk.hex}.safetensors").unlink()

    document = document_of(store)

    assert document["problems"] == []
    assert [list(layers(document, at)) for at in range(2)] == [["head"], ["head"]]
    assert document["comparisons"][0]["equal"] == 1
    assert len(document_of(store, diff_nbytes=one_pair)["comparisons"]) == 1
    assert document_of(store, diff_nbytes=one_pair - 1)["comparisons"] == []


# Flags


def test_numbers_that_are_not_finite_and_protected_tags_are_marked():
    store = fresh("flags")
    store.push(small(1), "n", metrics={"loss": float("nan")})
    store.push(small(2), "n")
    store.tag("n@1", "best", author="ann")
    store.protect("n", "best", by=["ann"], author="ann")

    document = document_of(store)
    (name,) = document["names"]
    ((place, odd),) = name["nonfinite"]
    ((_, moves, count, protection),) = name["tags"]

    assert (place, [document["strings"][at] for at in odd]) == (0, ["metrics.loss"])
    assert ([target for target, _, _ in moves], count) == ([1, 1], 2)
    assert document["strings"][protection].startswith("ann protected it at ")


# Columns


def test_metrics_become_columns_with_the_most_frequent_first():
    store = fresh("columns")
    store.push(small(1), "n", metrics={"rare": 1, "loss": {"vf": 0.5}, "kind": "a", "ok": True})
    store.push(
        small(2),
        "n",
        metrics={"loss": {"vf": float("nan")}, "kind": 3.0},
        source={"lr": 0.1, "env": "x"},
    )

    document = document_of(store)
    (name,) = document["names"]
    strings = document["strings"]

    assert name["metrics"] == [["loss/vf", [0.5, "NaN"]], ["rare", [1, None]], ["kind", [None, 3]]]
    assert [(key, [strings[at] for at in cells]) for key, cells in name["texts"]] == [
        ("kind", ["a", ""]),
        ("ok", ["True", ""]),
    ]
    assert name["source"] == [["lr", [None, 0.1]]]
    assert name["source_texts"][0][0] == "env"
