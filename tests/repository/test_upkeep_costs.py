"""What calls that look after a store do for each object, counted: requests, threads, copies."""

from __future__ import annotations

import dataclasses
import threading
import tracemalloc
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore import Digest, PolicyStore, Snapshot, Spec
from policystore.backends.base import Entry
from policystore.backends.memory import MemoryBackend
from policystore.digest import digest_of
from policystore.format.keys import object_key, trash_key, version_key
from policystore.format.policy import ParsedPolicy, decode_object
from policystore.format.safetensors import header_layout
from policystore.repository.annotations import fill_version
from policystore.repository.deletion import prune
from policystore.repository.verify import parts
from policystore.repository.verify.claims import Claims
from policystore.repository.verify.listing import list_store
from policystore.repository.verify.run import Need
from policystore.repository.verify.selection import Selection


def _policy(number: int, size: int = 3) -> Snapshot:
    return Snapshot(weights={"w": np.full(size, number, np.float32)}, spec=Spec(algorithm="PPO"))


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    """Return a store with thirty versions; ten of them are deleted."""
    store = PolicyStore(tmp_path)
    for number in range(30):
        store.push(_policy(number), "a", metrics={"return": float(number * 7 % 30)})
    for number in range(1, 11):
        store.delete(f"a@{number}")
    return store


def _count_reads(store: PolicyStore, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    reads: Counter[str] = Counter()
    read = store._backend._read  # type: ignore[attr-defined]

    def counted(key: str, *arguments: Any) -> Any:
        reads[key] += 1
        return read(key, *arguments)

    monkeypatch.setattr(store._backend, "_read", counted)
    return reads


def test_verify_reads_every_key_once_and_lays_out_the_parts_of_equal_policies_once(
    store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = _count_reads(store, monkeypatch)
    layouts: list[object] = []

    def layout(*arguments: Any) -> Any:
        layouts.append(arguments)
        return header_layout(*arguments)

    monkeypatch.setattr(parts, "header_layout", layout)
    report = store.verify()
    assert (report.ok, report.objects, report.versions) == (True, 30, 30)
    assert set(reads.values()) == {1}
    assert len(layouts) == 2  # the files of the weights and of the state


@pytest.mark.long
def test_verify_holds_about_a_hundred_bytes_for_each_object(store: PolicyStore) -> None:
    """Each object has a record of its own, as if nothing were shared."""
    count = 5000
    digests = [digest_of(b"%d" % number) for number in range(count)]
    versions = [
        dataclasses.replace(
            store.version("a@30"), number=number, digest=digest, objects={digest: number}
        )
        for number, digest in enumerate(digests, 1)
    ]
    backend = MemoryBackend("test")
    backend.entries = lambda *_, **__: (  # type: ignore[method-assign]
        Entry(object_key(digest), 100, 0.0) for digest in digests
    )
    tracemalloc.start()
    try:
        inventory = list_store(backend, None)
        claims = Claims(inventory, Selection())
        for number, version in enumerate(versions, 1):
            claims.add(version, Need(version_key("a", number), "a", number))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / count < 130
    places = [inventory.objects.digests.place(bytes.fromhex(digest.hex)) for digest in digests]
    assert [claims.needs(place) for place in places if place is not None] == [
        [Need(version_key("a", number), "a", number)] for number in range(1, count + 1)
    ]


def test_many_kinds_of_policies_do_not_fill_the_memory(store: PolicyStore) -> None:
    for size in range(1, 60):
        store.push(_policy(1, size), "sizes")
    known = parts.KnownPartFiles()
    for size in range(1, 60):
        snap = _policy(1, size)
        data = b"".join(snap._encode().policy.chunks)
        parsed = decode_object(data, "test")
        assert isinstance(parsed, ParsedPolicy)
        digests = known.of(data, parsed).digests(parsed.tensors)
        assert digests == (snap.weights_digest, snap.acting_digest, snap.state_digest)
    assert len(known._known) == 32
    assert store.verify().ok


def test_a_dry_collection_starts_no_thread(
    store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    start = threading.Thread.start

    def counted(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)

    for number in range(9):  # copies in one part of the trash, of objects that nothing needs
        digest = Digest(f"ab{number:062x}")
        store._backend.put(trash_key(digest, f"{number:032x}"), [b"a copy"])
    reads = _count_reads(store, monkeypatch)
    monkeypatch.setattr(threading.Thread, "start", counted)
    report = store.collect_garbage(timedelta(0), exclusive=True)
    assert (report.moved.count, report.needed.count, report.purged.count) == (10, 20, 9)
    assert not started
    assert not [key for key in reads if key.startswith("objects/")]
    assert set(reads.values()) == {1}
    report = store.collect_garbage(timedelta(0), exclusive=True, dry_run=False)
    assert (report.moved.count, report.needed.count) == (10, 20)


def test_prune_reads_each_record_once_and_copies_none(
    store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.annotate("a@15", metrics={"return": 99.0})
    reads = _count_reads(store, monkeypatch)
    filled: list[int | None] = []

    def fill(version: Any, *arguments: Any) -> Any:
        filled.append(version.number)
        return fill_version(version, *arguments)

    monkeypatch.setattr(prune, "fill_version", fill)
    report = store.prune("a", keep_best=("return", "max", 4), dry_run=True)
    values = {number: float((number - 1) * 7 % 30) for number in range(11, 31)} | {15: 99.0}
    best = sorted(values, key=lambda number: (-values[number], -number))[:4]
    assert set(report.kept) == {*best, 30}
    assert filled == [15]
    records = {key: n for key, n in reads.items() if "/@versions/" in key}
    assert len(records) == 20
    assert set(records.values()) == {1}


@pytest.mark.parametrize("mode", ["max", "min"])
def test_of_equal_values_prune_keeps_the_newest(store: PolicyStore, mode: str) -> None:
    for number in range(6):
        store.push(_policy(100 + number), "b", metrics={"return": float(number // 3)})
    report = store.prune("b", keep_best=("return", mode, 2), keep_tagged=False, dry_run=True)
    assert set(report.kept) == ({6, 5} if mode == "max" else {6, 3, 2})
