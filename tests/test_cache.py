"""The node cache: fewer requests, the same answers, whatever happens to its files."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import shutil
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from policystore import (
    Digest,
    IntegrityError,
    InvalidInputError,
    NodeCache,
    NotFoundError,
    PolicyStore,
    Snapshot,
)
from policystore import cache as caches
from policystore.digest import digest_of

Make = Callable[..., Snapshot]


@pytest.fixture
def origin(request: pytest.FixtureRequest) -> PolicyStore:
    return PolicyStore(f"memory://{request.node.nodeid}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def cached(origin: PolicyStore, cache: Any) -> tuple[PolicyStore, list[str]]:
    """A store with a cache before it, and the objects that it fetches from now on."""
    store = PolicyStore(origin.url, cache=cache)
    fetched: list[str] = []
    backend: Any = store._backend
    plain = backend.get

    def get(key: str, **kwargs: Any) -> Any:
        if key.startswith("objects/"):
            fetched.append(key)
        return plain(key, **kwargs)

    backend.get = get
    return store, fetched


def files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "objects").rglob("*") if path.is_file())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


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
    assert {stat.S_IMODE(path.stat().st_mode) for path in files(folder)} == {0o400}
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
    for path in files(folder):
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
    (path,) = files(folder)
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
    assert files(folder.with_name("other")) == []
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
        assert sum(path.stat().st_size for path in files(folder)) <= limit
    assert len([key for key in fetched if versions[0].digest.hex in key]) == 1
    fetched.clear()
    for version in (versions[0], versions[-1]):
        store.pull(version)
    assert fetched == []
    store.pull(versions[1])
    assert len(fetched) == 1


def files_of(folder: Path, version: Any) -> Path:
    return folder / "objects" / version.digest.hex[:2] / f"{version.digest.hex}.safetensors"


def test_one_larger_than_the_cache_stays_outside(
    origin: PolicyStore, folder: Path, make_snapshot: Make
) -> None:
    origin.push(make_snapshot(1), "a")
    store, _ = cached(origin, NodeCache(folder, max_bytes=10))
    assert store.pull("a") == make_snapshot(1)
    assert files(folder) == []


def test_a_cache_that_is_cleared_away_begins_anew(
    origin: PolicyStore, folder: Path, make_snapshot: Make, caplog: pytest.LogCaptureFixture
) -> None:
    for seed in range(3):
        origin.push(make_snapshot(seed), "a")
    store, fetched = cached(origin, folder)
    store.pull("a@1")
    shutil.rmtree(folder)
    for _ in range(2):
        assert store.pull("a@2") == make_snapshot(1)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    shutil.rmtree(folder / "objects")
    for _ in range(2):
        assert store.pull("a@3") == make_snapshot(2)
    assert len(fetched) == 3
    assert warnings(caplog) == []


def test_a_file_where_the_cache_should_be_costs_one_warning(
    origin: PolicyStore, folder: Path, make_snapshot: Make, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write_text("mine")
    origin.push(make_snapshot(1), "a")
    for cache in (folder, folder / "below"):
        caplog.clear()
        store, _ = cached(origin, cache)
        for _ in range(2):
            assert store.pull("a") == make_snapshot(1)
        (told,) = warnings(caplog)
        assert "going on without the cache" in told
    assert folder.read_text() == "mine"


@pytest.mark.parametrize("call", ["write", "open", "replace", "mkdir"])
def test_a_disk_that_fails_costs_one_warning(
    origin: PolicyStore,
    folder: Path,
    make_snapshot: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
) -> None:
    for seed in range(3):
        origin.push(make_snapshot(seed), "a")
    store, _ = cached(origin, folder)
    plain = getattr(os, call)

    def full(target: Any, *args: Any, **kwargs: Any) -> Any:
        writing = call != "open" or args[0] & os.O_CREAT
        if writing and (call == "write" or str(folder) in str(target)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(target, *args, **kwargs)

    monkeypatch.setattr(os, call, full)
    for number in (1, 2, 3, 1):
        assert store.pull(f"a@{number}") == make_snapshot(number - 1)
    monkeypatch.undo()
    (told,) = warnings(caplog)
    assert f"going on without the cache {folder}" in told
    assert "No space left" in told
    assert not folder.exists() or not any(
        path.is_file() and path.parent.name != "locks" and path.name != "CACHEDIR.TAG"
        for path in folder.rglob("*")
    )


def test_a_folder_of_something_else_never_becomes_a_cache(
    origin: PolicyStore,
    folder: Path,
    make_snapshot: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What a cache holds is deleted to make room, and a store has files of the same names."""
    own = PolicyStore(folder)
    for seed in range(4):
        own.push(make_snapshot(seed), f"n{seed}")
    folder.chmod(0o700)
    before = files(folder)
    origin.push(make_snapshot(9, large=True), "a")
    cache = NodeCache(folder, max_bytes=5 << 20)
    store, fetched = cached(origin, cache)
    for _ in range(2):
        assert store.pull("a") == make_snapshot(9, large=True)
    (told,) = warnings(caplog)
    assert f"{folder} is no cache of policystore" in told
    assert "it holds names, objects, policystore.json" in told
    assert files(folder) == before
    assert own.verify().ok
    assert fetched


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
    assert 1 < len([path for path in files(folder) if path.suffix == ".safetensors"]) <= 3


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
    held = sum(path.stat().st_size for path in files(folder) if path.suffix == ".safetensors")
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


def test_a_folder_that_others_may_fill_is_not_used(
    origin: PolicyStore, folder: Path, make_snapshot: Make, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    origin.push(make_snapshot(1), "a")
    store, _ = cached(origin, folder)
    for _ in range(2):
        assert store.pull("a") == make_snapshot(1)
    assert "others could write there" in "".join(warnings(caplog))
    assert len(warnings(caplog)) == 1
    assert not any(folder.iterdir())


def holding(folder: Path, digest: Digest) -> subprocess.Popen[str]:
    """Another process that is downloading an object."""
    program = f"""
        import sys, time
        from policystore import Digest, NodeCache
        with NodeCache({str(folder)!r})._turn(Digest({digest.hex!r})):
            print("holding", flush=True)
            time.sleep(600)
        """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
    )


@pytest.fixture
def holder() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*args: Any) -> subprocess.Popen[str]:
        process = holding(*args)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_another_download_is_waited_for_so_long_and_no_longer(
    origin: PolicyStore,
    folder: Path,
    make_snapshot: Make,
    monkeypatch: pytest.MonkeyPatch,
    holder: Callable[..., subprocess.Popen[str]],
) -> None:
    version = origin.push(make_snapshot(1), "a")
    other = holder(folder, version.digest)
    monkeypatch.setattr(caches, "_PATIENCE", 0.5)
    store, fetched = cached(origin, folder)
    began = time.monotonic()
    assert store.pull("a") == make_snapshot(1)
    assert time.monotonic() - began >= 0.5
    assert other.poll() is None
    assert len(fetched) == 1
    assert len(files(folder)) == 1


def test_one_that_is_killed_holds_nobody_up(
    origin: PolicyStore,
    folder: Path,
    make_snapshot: Make,
    monkeypatch: pytest.MonkeyPatch,
    holder: Callable[..., subprocess.Popen[str]],
) -> None:
    monkeypatch.setattr(caches, "_PATIENCE", 1e9)
    version = origin.push(make_snapshot(1), "a")
    process = holder(folder, version.digest)
    process.kill()
    process.wait()
    store, _ = cached(origin, folder)
    assert store.pull("a") == make_snapshot(1)


def test_which_cache_a_store_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    def of(url: str, **kwargs: Any) -> NodeCache | None:
        return PolicyStore(url, **kwargs)._find._objects.cache

    monkeypatch.setenv("POLICYSTORE_CACHE", str(tmp_path / "here"))
    monkeypatch.setenv("POLICYSTORE_CACHE_BYTES", "1000")
    own = of("s3://bucket/p")
    assert own is not None
    assert (own.folder, own.max_bytes) == (tmp_path / "here", 1000)
    monkeypatch.delenv("POLICYSTORE_CACHE")
    monkeypatch.delenv("POLICYSTORE_CACHE_BYTES")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    own = of("s3://bucket/p")
    assert own is not None
    assert (own.folder, own.max_bytes) == (tmp_path / "xdg" / "policystore", 10 << 30)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    own = of("s3://bucket/p")
    assert own is not None
    assert own.folder == tmp_path / ".cache" / "policystore"
    assert of("memory://x") is of(str(tmp_path)) is of("s3://bucket/p", cache=False) is None
    given = NodeCache(folder, max_bytes=7)
    store = pickle.loads(pickle.dumps(PolicyStore("s3://bucket/p", cache=given)))
    assert repr(store._find._objects.cache) == repr(given)
    for wrong in (True, 7, b"x"):
        with pytest.raises(InvalidInputError, match="cache"):
            PolicyStore("memory://x", cache=wrong)  # type: ignore[arg-type]
    for size in (-1, 1.5, "9"):
        with pytest.raises(InvalidInputError, match="max_bytes"):
            NodeCache(folder, max_bytes=size)  # type: ignore[arg-type]
    for limit in ("10 GiB", "9" * 5000):
        monkeypatch.setenv("POLICYSTORE_CACHE_BYTES", limit)
        with pytest.raises(InvalidInputError, match="POLICYSTORE_CACHE_BYTES"):
            of("s3://bucket/p")
    monkeypatch.delenv("POLICYSTORE_CACHE_BYTES")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(InvalidInputError, match="choose a folder for the cache"):
        NodeCache("relative")
    assert not folder.exists()
