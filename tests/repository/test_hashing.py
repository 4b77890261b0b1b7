"""How often the bytes of a policy are hashed and decoded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore import IntegrityError, PolicyStore, Snapshot, Spec, StorageError
from policystore.backends.local import LocalBackend
from policystore.backends.memory import MemoryBackend
from policystore.digest import Hasher
from policystore.format import metadata as format_metadata
from policystore.format import policy as format_policy
from policystore.format import safetensors
from policystore.format.keys import object_key

Make = Callable[..., Snapshot]
MIB = 1 << 20
WEIGHTS = {name: np.full(MIB // 2, n, np.float32) for n, name in enumerate("abcd")}  # 8 MiB


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the pieces that are hashed during the test."""
    sizes: list[int] = []
    plain = Hasher.update

    def update(self: Hasher, chunk: Any) -> None:
        sizes.append(memoryview(chunk).nbytes)
        plain(self, chunk)

    monkeypatch.setattr(Hasher, "update", update)
    return sizes


@pytest.mark.parametrize(
    ("acting", "times"),
    [
        (None, 2),  # for the objects, and for the digest of all weights
        (tuple("abcd"), 2),
        (("a", "b"), 2.5),
    ],
)
def test_a_push_hashes_no_part_of_a_policy_twice(
    tmp_path: Path, hashed: list[int], acting: tuple[str, ...] | None, times: float
) -> None:
    snap = Snapshot(weights=WEIGHTS, spec=Spec(acting=acting))
    version = PolicyStore(tmp_path / "s").push(snap, "a")
    assert 8 * MIB * times <= sum(hashed) < 8 * MIB * times + 100_000
    hashed.clear()
    found = PolicyStore(tmp_path / "s").pull("a")
    assert 8 * MIB <= sum(hashed) < 8 * MIB + 100_000
    assert (found.weights_digest, found.acting_digest, found.state_digest) == (
        version.weights_digest,
        version.acting_digest,
        version.state_digest,
    )


@pytest.mark.parametrize("named", [True, False])
def test_the_record_of_a_large_push_has_the_digests_of_the_parts(
    tmp_path: Path, named: bool
) -> None:
    snap = Snapshot(weights=WEIGHTS, spec=Spec(acting=("a",)), state={"filter": np.ones(3)})
    version = PolicyStore(tmp_path / "s").push(snap, "a" if named else None)
    again = Snapshot(weights=WEIGHTS, spec=Spec(acting=("a",)), state={"filter": np.ones(3)})
    assert (version.weights_digest, version.acting_digest, version.state_digest) == (
        again.weights_digest,
        again.acting_digest,
        again.state_digest,
    )
    assert len({version.weights_digest, version.acting_digest, version.state_digest}) == 3


def test_a_large_push_that_fails_writes_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise StorageError("the disk is full")

    store = PolicyStore(tmp_path / "s")
    with monkeypatch.context() as patched:
        patched.setattr(LocalBackend, "put", refuse)
        with pytest.raises(StorageError, match="the disk is full"):
            store.push(Snapshot(weights=WEIGHTS), "a")
    assert store.names() == []
    assert store.push(Snapshot(weights=WEIGHTS), "a").number == 1


def test_a_backend_that_does_not_hash_what_it_reads(make_snapshot: Make) -> None:
    store = PolicyStore("memory://plain-reads")
    assert type(store._backend) is MemoryBackend
    version = store.push(make_snapshot(large=True), "a")
    assert store.pull("a") == make_snapshot(large=True)
    key = object_key(version.digest)
    store._backend.replace(key, bytes(store._backend.get(key))[:-1] + b"x")
    with pytest.raises(IntegrityError, match="is damaged"):
        store.pull("a")


def test_a_shared_folder_gives_the_digest_of_the_bytes_that_were_read(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    store = PolicyStore(tmp_path)
    snap = Snapshot(weights={"w": np.arange(2 * MIB, dtype=np.float32)})
    store.push(snap, "a")
    assert store.pull("a") == snap
    file = max(tmp_path.glob("objects/*/*"), key=lambda path: path.stat().st_size)
    file.chmod(0o666)
    with file.open("r+b") as damaged:
        damaged.seek(-1, 2)
        damaged.write(b"x")
    with pytest.raises(IntegrityError, match="is damaged"):
        store.pull("a")


def test_a_pull_builds_the_header_of_equal_tensors_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PolicyStore(tmp_path / "s")
    store.push(Snapshot(weights=WEIGHTS), "a")
    built: list[Any] = []
    plain = safetensors.header_layout

    def noted(shapes: Any, meta: Any) -> Any:
        built.append(shapes)
        return plain(shapes, meta)

    monkeypatch.setattr(format_metadata, "header_layout", noted)
    format_metadata.tensor_layout.cache_clear()
    for _ in range(2):
        assert len(store.pull("a").weights) == 4
    assert len(built) == 1


def test_verify_decodes_each_policy_once(
    tmp_path: Path, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PolicyStore(tmp_path / "s")
    store.push(make_snapshot(1, large=True), "a")
    store.push(make_snapshot(2), "a")
    store.push(make_snapshot(3))
    decoded: list[str] = []
    plain = format_policy._read_policy

    def noted(*args: Any, **kwargs: Any) -> Any:
        decoded.append(args[1])
        return plain(*args, **kwargs)

    monkeypatch.setattr(format_policy, "_read_policy", noted)
    report = store.verify()
    assert report.ok
    assert len(decoded) == len(set(decoded)) == report.policies == 3
