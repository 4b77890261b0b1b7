"""What stands in the place of a Snapshot and is none gets an error with the line to write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from policystore import Digest, InvalidInputError, PolicyStore, Snapshot, Spec
from policystore import torch as policystore_torch
from policystore.snapshot_advice import instead_of_snapshot

SNAP = Snapshot(weights={"weight": np.ones((2, 2), np.float32)})


def version() -> Any:
    return PolicyStore("memory://advice").push(SNAP, "soccer/main")


FOUND: dict[str, tuple[Callable[[], Any], str, str]] = {
    "a version": (version, "the Version soccer/main@", "store.pull(version)"),
    "a digest": (lambda: Digest("ab" * 32), "the Digest blake3:abab", "store.pull(digest)"),
    "a name": (lambda: "soccer/main", "the text 'soccer/main'", "store.pull('soccer/main')"),
    "a ref": (lambda: "soccer/main@7", "the text", "store.pull('soccer/main@7')"),
    "digits": (lambda: "blake3:ab12cd34", "the text", "store.pull('blake3:ab12cd34')"),
    "a file": (lambda: "main.safetensors", "the text", "Snapshot.load('main.safetensors')"),
    "a folder": (lambda: "~/ray_results/x", "the text", "read_checkpoint('~/ray_results/x')"),
    "a path": (lambda: Path("/tmp/x"), "the path '/tmp/x'", "read_checkpoint('/tmp/x')"),
    "a path of a file": (lambda: Path("a.safetensors"), "the path", "load('a.safetensors')"),
    "a spec": (lambda: Spec(stack="new"), "Spec(stack='new')", "Snapshot(weights={…}, spec=spec)"),
    "a store": (lambda: PolicyStore("memory://x"), "PolicyStore", "store.pull('soccer/main')"),
    "weights": (lambda: {"w": np.ones(2)}, "a dict with 1 keys", "snap.replace(weights=weights)"),
    "a state dict": (
        lambda: torch.nn.Linear(2, 2).state_dict(),
        "a OrderedDict with 2 keys",
        "Snapshot(weights=weights, spec=snap.spec)",
    ),
    "several": (lambda: {"main": SNAP}, "a dict of 1 Snapshots", "give one, snaps['main']"),
    "a list": (lambda: [SNAP, SNAP], "a list of 2 Snapshots", "give one, snaps[0]"),
    "a module": (lambda: torch.nn.Linear(2, 2), "Linear", "policystore.torch.snapshot(module)"),
}
TAKES: dict[str, Callable[[Any], Any]] = {
    "push": lambda value: PolicyStore("memory://advice").push(value),
    "same_policy": SNAP.same_policy,
    "torch.load_into": lambda value: policystore_torch.load_into(torch.nn.Linear(2, 2), value),
}


@pytest.mark.parametrize("case", FOUND)
@pytest.mark.parametrize("call", TAKES)
def test_the_line_to_write_is_told(case: str, call: str) -> None:
    make, kind, line = FOUND[case]
    with pytest.raises(InvalidInputError, match="expected a Snapshot, found") as raised:
        TAKES[call](make())
    assert kind in str(raised.value)
    assert line in str(raised.value)


@pytest.mark.parametrize("value", [None, 7, object, {}, [], b"soccer/main"])
def test_of_any_other_value_the_message_says_the_kind(value: Any) -> None:
    message = str(instead_of_snapshot(value))
    assert message.startswith("expected a Snapshot, found ")
    assert len(message) > len("expected a Snapshot, found ")


@pytest.mark.parametrize("value", [SNAP, Spec(), {"w": np.ones(1)}, Path("x"), torch.nn.ReLU()])
def test_diff_takes_refs_and_snapshots_alone(value: Any) -> None:
    store = PolicyStore("memory://advice")
    store.push(SNAP, "soccer/main")
    if value is SNAP:
        assert store.diff(value, "soccer/main").equal
        return
    for sides in ((value, SNAP), ("soccer/main", value)):
        with pytest.raises(InvalidInputError, match=r"diff takes refs and Snapshots: expected a"):
            store.diff(*sides)


TAKES_REFS: dict[str, Callable[[PolicyStore], Any]] = {
    "pull": lambda store: store.pull(SNAP),  # type: ignore[arg-type]
    "pull_many": lambda store: store.pull_many([SNAP]),  # type: ignore[list-item]
    "resolve": lambda store: store.resolve(SNAP),  # type: ignore[arg-type]
    "tag": lambda store: store.tag(SNAP, "best"),  # type: ignore[arg-type]
    "parents": lambda store: store.push(SNAP, "a", parents=[SNAP]),  # type: ignore[list-item]
}


@pytest.mark.parametrize("call", TAKES_REFS)
def test_a_snapshot_in_the_place_of_a_ref_is_told_the_way_back(call: str) -> None:
    store = PolicyStore("memory://advice")
    with pytest.raises(InvalidInputError, match=r"found a Snapshot.*store\.push\(snap, 'soccer"):
        TAKES_REFS[call](store)


def test_a_torch_load_with_swapped_arguments_is_told_the_order() -> None:
    with pytest.raises(InvalidInputError, match=r"load_into\(module, snap\)"):
        policystore_torch.load_into(SNAP, torch.nn.Linear(2, 2))  # type: ignore[arg-type]
