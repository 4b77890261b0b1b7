"""The node cache: fewer requests, the same answers, no more bytes than it may hold."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from policystore import (
    Digest,
    IntegrityError,
    NodeCache,
    NotFoundError,
    PolicyStore,
    Snapshot,
)
from policystore.cache import CacheUsage
from policystore.digest import digest_of
from tests.support.caching import cached, files_of, object_files, warnings

Make = Callable[..., Snapshot]


@pytest.fixture
def origin(request: pytest.FixtureRequest) -> PolicyStore:
    return PolicyStore(f"memory://{request.node.nodeid}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_what_was_pulled_is_not_fetched_again(
    origin: PolicyStore, folder: Path, make_snapshot: Make
) -> None:
    version = origin.push(make_snapshot(1, large=True), "a")
    first, fetched = cached(origin, folder)
    assert first.pull("a") == make_snapshot(1, large=True)
    assert len(fetched) == 3  # the policy and two tensors outside it
    for store, again in (cached(origin, folder), cached(origin, str(folder))):
        assert store.pull(version.digest) == make_snapshot(1, large=True)
        assert store.pull("a") == make_snapshot(1, large=True)
        assert again == []
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in object_files(folder)} == {0o400}
    assert not any((folder / "tmp").iterdir())


def test_tensors_that_policies_share_are_fetched_once(
    origin: PolicyStore, folder: Path, make_snapshot: Make
) -> None:
    origin.push(make_snapshot(1, large=True), "a")
    origin.push(make_snapshot(2, large=True), "a")
    store, fetched = cached(origin, folder)
    store.pull_many(["a@1"])
    fetched.clear()
    store.pull("a@2")
    assert len(fetched) == 2  # not the frozen one


@pytest.mark.parametrize("large", [False, True])
def test_a_flipped_bit_is_noticed_refetched_and_reported(
    origin: PolicyStore,
    folder: Path,
    make_snapshot: Make,
    caplog: pytest.LogCaptureFixture,
    large: bool,
) -> None:
    version = origin.push(make_snapshot(1, large=large), "a")
    store, fetched = cached(origin, folder)
    store.pull("a")
    for path in object_files(folder):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.chmod(0o600)
        path.write_bytes(data)
        path.chmod(0o400)
        caplog.clear()
        fetched.clear()
        assert store.pull(version.digest) == make_snapshot(1, large=large)
        assert [key.rpartition("/")[2] for key in fetched] == [path.name]
        (told,) = warnings(caplog)
        assert f"{path} is damaged" in told
        caplog.clear()
        fetched.clear()
        assert store.pull(version.digest) == make_snapshot(1, large=large)
        assert (fetched, warnings(caplog)) == ([], [])


def test_what_is_no_copy_is_replaced(
    origin: PolicyStore, folder: Path, make_snapshot: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Cut short, longer than any object may be, or a folder: each costs one download."""
    version = origin.push(make_snapshot(1), "a")
    store, fetched = cached(origin, folder)
    store.pull("a")
    (path,) = object_files(folder)
    data = path.read_bytes()
    for other in (data[:-1], b"", data + b"x"):
        path.unlink()
        path.write_bytes(other)
        fetched.clear()
        assert store.pull(version.digest) == make_snapshot(1)
        assert len(fetched) == 1
        assert path.read_bytes() == data
    path.unlink()
    path.mkdir()
    assert store.pull(version.digest) == make_snapshot(1)
    assert store.pull(version.digest) == make_snapshot(1)
    assert any("going on without the cache" in told for told in warnings(caplog))


def test_a_cache_heals_no_store(origin: PolicyStore, folder: Path, make_snapshot: Make) -> None:
    """Verify reads what is in the store, and a damaged object is not taken over."""
    version = origin.push(make_snapshot(1), "a")
    store, _ = cached(origin, folder)
    store.pull("a")
    data: dict[str, bytes] = origin._backend._space.data  # type: ignore[attr-defined]
    (key,) = (key for key in data if key.startswith("objects/"))
    good = data[key]
    data[key] = good[:-1] + bytes([good[-1] ^ 1])
    assert not store.verify().ok
    assert store.pull("a") == make_snapshot(1)
    other, _ = cached(origin, folder.with_name("other"))
    for _ in range(2):
        with pytest.raises(IntegrityError):
            other.pull(version.digest)
    assert object_files(folder.with_name("other")) == []
    with pytest.raises(NotFoundError):
        store.pull(Digest("0" * 64))


def test_the_least_recently_used_go(origin: PolicyStore, folder: Path, make_snapshot: Make) -> None:
    versions = [origin.push(make_snapshot(seed)) for seed in range(12)]
    size = max(sum((version.objects or {}).values()) for version in versions)
    limit = 5 * size + size // 2
    store, fetched = cached(origin, NodeCache(folder, max_bytes=limit))
    for at, version in enumerate(versions):
        store.pull(version)
        os.utime(files_of(folder, version), (at, at))
        store.pull(versions[0])  # used again each time
        assert sum(path.stat().st_size for path in object_files(folder)) <= limit
    assert len([key for key in fetched if versions[0].digest.hex in key]) == 1
    fetched.clear()
    for version in (versions[0], versions[-1]):
        store.pull(version)
    assert fetched == []
    store.pull(versions[1])
    assert len(fetched) == 1


def test_one_larger_than_the_cache_stays_outside(
    origin: PolicyStore, folder: Path, make_snapshot: Make
) -> None:
    origin.push(make_snapshot(1), "a")
    store, _ = cached(origin, NodeCache(folder, max_bytes=10))
    assert store.pull("a") == make_snapshot(1)
    assert object_files(folder) == []


def test_only_its_own_files_count_and_go(
    origin: PolicyStore, folder: Path, make_snapshot: Make
) -> None:
    for seed in range(8):
        origin.push(make_snapshot(seed), f"n{seed}")
    size = memoryview(origin._backend.get(next(iter(origin._backend.keys("objects/"))))).nbytes
    store, _ = cached(origin, NodeCache(folder, max_bytes=3 * size))
    store.pull("n0")
    mine = folder / "objects" / "ab" / "notes.txt"
    mine.parent.mkdir(exist_ok=True)
    mine.write_bytes(b"x" * 10 * size)
    for seed in range(1, 8):
        store.pull(f"n{seed}")
    assert mine.exists()
    assert 1 < len([path for path in object_files(folder) if path.suffix == ".safetensors"]) <= 3


def test_many_who_fill_it_at_once_leave_no_more_than_it_may_hold(folder: Path) -> None:
    objects = {digest_of(data): data for data in (bytes([seed]) * 100_000 for seed in range(16))}
    cache = NodeCache(folder, max_bytes=400_000)
    cache.fetched(digest_of(b"x"), None, lambda: b"x")
    together = threading.Barrier(len(objects))

    def fetch(data: bytes) -> bytes:
        together.wait(20)
        return data

    with ThreadPoolExecutor(len(objects)) as pool:
        list(
            pool.map(
                lambda item: cache.fetched(item[0], None, lambda: fetch(item[1])), objects.items()
            )
        )
    held = sum(
        path.stat().st_size for path in object_files(folder) if path.suffix == ".safetensors"
    )
    assert held <= 400_000


def test_another_size_said_of_an_object_costs_the_others_nothing(
    origin: PolicyStore, folder: Path, make_snapshot: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """A hostile store may say anything of an object that others keep here."""
    version = origin.push(make_snapshot(1), "a")
    store, fetched = cached(origin, folder)
    store.pull("a")
    cache = NodeCache(folder)
    assert cache.get(version.digest, 10) is None
    fetched.clear()
    assert store.pull(version.digest) == make_snapshot(1)
    assert (fetched, warnings(caplog)) == ([], [])


@pytest.mark.parametrize(
    "code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EACCES]
)
def test_a_copy_that_this_process_cannot_read_now_stays(
    origin: PolicyStore,
    folder: Path,
    make_snapshot: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: int,
) -> None:
    """The cache belongs to all processes of the user, and only one of them is short of something."""
    versions = [origin.push(make_snapshot(seed), "a") for seed in range(3)]
    store, fetched = cached(origin, folder)
    store.pull("a@1")
    store.pull("a@2")
    kept = object_files(folder)
    plain = os.open

    def failing(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(folder) in str(path):
            raise OSError(code, os.strerror(code), str(path))
        return plain(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", failing)
    for version in versions:
        assert store.pull(version.digest) is not None
    monkeypatch.undo()

    assert object_files(folder) == kept
    assert "cannot be read, so the store is asked" in "".join(warnings(caplog))
    fetched.clear()
    assert store.pull("a@1") == make_snapshot(0)
    assert fetched == []


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_process_that_lacked_something_for_a_while_keeps_objects_again(
    origin: PolicyStore,
    folder: Path,
    make_snapshot: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: int,
) -> None:
    for seed in range(3):
        origin.push(make_snapshot(seed), "a")
    store, fetched = cached(origin, folder)
    plain = os.open

    def failing(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(folder) in str(path) and args[0] & os.O_CREAT:
            raise OSError(code, os.strerror(code), str(path))
        return plain(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", failing)
    for number in (1, 2):
        assert store.pull(f"a@{number}") == make_snapshot(number - 1)
    monkeypatch.undo()
    (told,) = warnings(caplog)
    assert "objects are not kept in the cache" in told

    for _ in range(2):
        assert store.pull("a@3") == make_snapshot(2)
    assert len(fetched) == 3
    assert len(object_files(folder)) == 1


def test_a_cache_counts_and_deletes_its_objects(
    tmp_path: Path, make_snapshot: Callable[..., Snapshot]
) -> None:
    cache = NodeCache(tmp_path / "cache")
    assert cache.usage() == cache.clear() == CacheUsage(0, 0)
    assert not cache.folder.exists()
    store = PolicyStore(tmp_path / "store", cache=cache)
    snapshots = [make_snapshot(seed) for seed in range(2)]
    for snap in snapshots:
        store.push(snap, "main")
        store.pull("main")

    usage = cache.usage()
    assert usage.objects == 2
    assert usage.nbytes == sum(version.nbytes or 0 for version in store.log("main"))
    assert cache.clear() == usage
    assert cache.usage().objects == 0
    assert store.pull("main") == snapshots[-1]
    assert cache.usage().objects == 1
