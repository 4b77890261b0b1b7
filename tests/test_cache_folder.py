"""The folder of the node cache: which it is, when it cannot be used, and locks in it."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from policystore import (
    Digest,
    InvalidInputError,
    NodeCache,
    PolicyStore,
    Snapshot,
)
from policystore import cache as caches
from policystore._util import cache_folder
from tests.support.caching import cached, object_files, warnings

Make = Callable[..., Snapshot]


@pytest.fixture
def origin(request: pytest.FixtureRequest) -> PolicyStore:
    return PolicyStore(f"memory://{request.node.nodeid}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


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

    def full_path(path: Path, *args: Any, **kwargs: Any) -> Any:
        if str(folder) in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return of_path(path, *args, **kwargs)

    monkeypatch.setattr(os, call, full)
    if sys.version_info < (3, 11) and call in ("replace", "mkdir"):  # pathlib keeps os's functions
        of_path = getattr(Path, call)
        monkeypatch.setattr(Path, call, full_path)
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
    before = object_files(folder)
    origin.push(make_snapshot(9, large=True), "a")
    cache = NodeCache(folder, max_bytes=5 << 20)
    store, fetched = cached(origin, cache)
    for _ in range(2):
        assert store.pull("a") == make_snapshot(9, large=True)
    (told,) = warnings(caplog)
    assert f"{folder} is no cache of policystore" in told
    assert "it holds names, objects, policystore.json" in told
    assert object_files(folder) == before
    assert own.verify().ok
    assert fetched


def test_processes_that_make_a_cache_at_once_never_find_its_tag_cut_off(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One process finds no tag, another one makes the whole cache, and the first one goes on.
    cache_folder.make_private(folder)
    real, seen = os.write, []

    def write(descriptor: int, data: bytes) -> int:
        seen.append((folder / "CACHEDIR.TAG").read_bytes())
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    cache_folder.mark_as_cache(folder)
    with monkeypatch.context() as patched:
        patched.setattr(cache_folder, "_is_marked", lambda tag: False)
        cache_folder.mark_as_cache(folder)
    whole = (folder / "CACHEDIR.TAG").read_bytes()
    assert whole.startswith(b"Signature: 8a477f597d28d172789f06886806bc55\n")
    assert seen == [b"", whole]


def test_a_folder_that_others_may_fill_is_not_used(
    origin: PolicyStore, folder: Path, make_snapshot: Make, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    origin.push(make_snapshot(1), "a")
    store, _ = cached(origin, folder)
    for _ in range(2):
        assert store.pull("a") == make_snapshot(1)
    assert "other users could write to it" in "".join(warnings(caplog))
    assert len(warnings(caplog)) == 1
    assert not any(folder.iterdir())


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


def holding(folder: Path, digest: Digest) -> subprocess.Popen[str]:
    """Another process that is downloading an object."""
    program = f"""
        import sys, time
        from policystore import Digest, NodeCache
        with NodeCache({str(folder)!r})._lock_for(Digest({digest.hex!r})):
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
    monkeypatch.setattr(caches, "_MAX_WAIT", 0.5)
    store, fetched = cached(origin, folder)
    began = time.monotonic()
    assert store.pull("a") == make_snapshot(1)
    assert time.monotonic() - began >= 0.5
    assert other.poll() is None
    assert len(fetched) == 1
    assert len(object_files(folder)) == 1


def test_one_that_is_killed_holds_nobody_up(
    origin: PolicyStore,
    folder: Path,
    make_snapshot: Make,
    monkeypatch: pytest.MonkeyPatch,
    holder: Callable[..., subprocess.Popen[str]],
) -> None:
    monkeypatch.setattr(caches, "_MAX_WAIT", 1e9)
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
        return PolicyStore(url, **kwargs)._resolver.objects.cache

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
    assert repr(store._resolver.objects.cache) == repr(given)
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


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user of a container, without a home and without an entry in the password file."""

    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("HOME", "XDG_CACHE_HOME", "POLICYSTORE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", no_home)
    monkeypatch.setattr(caches, "_TOLD", set())


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_goes_on_without_a_cache_and_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stores = [PolicyStore("s3://bucket/p") for _ in range(2)]
    stores.append(pickle.loads(pickle.dumps(stores[0])))
    assert [store._resolver.objects.cache for store in stores] == [None] * 3
    (told,) = warnings(caplog)
    assert "going on without a cache" in told
    assert "choose a folder for the cache" in told


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_may_still_choose_a_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.undo()
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setenv("POLICYSTORE_CACHE", str(folder))
    own = PolicyStore("s3://bucket/p")._resolver.objects.cache
    assert own is not None
    assert own.folder == folder
    assert warnings(caplog) == []


@pytest.mark.usefixtures("homeless")
def test_a_wrong_limit_stays_an_error_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLICYSTORE_CACHE_BYTES", "much")
    with pytest.raises(InvalidInputError, match="POLICYSTORE_CACHE_BYTES"):
        PolicyStore("s3://bucket/p")


@pytest.mark.parametrize("cache", ["relative", Path("relative"), NodeCache])
def test_a_relative_cache_means_the_same_folder_in_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    store = PolicyStore("memory://x", cache=NodeCache("relative") if cache is NodeCache else cache)
    data = pickle.dumps(store)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for each in (store, pickle.loads(data), pickle.loads(pickle.dumps(pickle.loads(data)))):
        found = each._resolver.objects.cache
        assert found is not None
        assert found.folder == tmp_path / "relative"


def test_a_folder_with_only_what_a_system_leaves_becomes_a_cache(
    origin: PolicyStore, folder: Path, make_snapshot: Make, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir(mode=0o700)
    (folder / ".DS_Store").write_bytes(b"x")
    origin.push(make_snapshot(1), "a")
    store, fetched = cached(origin, folder)
    for _ in range(2):
        assert store.pull("a") == make_snapshot(1)
    assert len(fetched) == 1
    assert warnings(caplog) == []
