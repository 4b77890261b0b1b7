"""Filesystems of fsspec other than S3: all can be read, but only some can be written.

A filesystem can be written if it creates keys exclusively.
"""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import fsspec
import numpy as np
import pytest

from policystore import (
    Digest,
    FormatError,
    IntegrityError,
    InvalidInputError,
    MissingPackageError,
    NotFoundError,
    PolicyStore,
    ReadOnlyError,
    Snapshot,
    Spec,
    StorageError,
)
from policystore._util import maps
from policystore._util.concurrency import in_parallel
from policystore.backends.local import LocalBackend
from policystore.format import metadata, safetensors
from policystore.format.keys import object_key
from tests.support.fsspec_clouds import Attic, Cloud, install

Make = Callable[..., Snapshot]


@pytest.fixture
def attic(tmp_path: Path, make_snapshot: Make) -> Iterator[PolicyStore]:
    fsspec.register_implementation("attic", Attic, clobber=True)
    local = PolicyStore(tmp_path)
    local.push(make_snapshot(0), "a")
    local.push(make_snapshot(1, large=True), "a")
    local.tag("a@1", "first")
    fs = Attic()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"/shelf/{path.relative_to(tmp_path)}", path.read_bytes())
    yield PolicyStore("attic://shelf", storage_options={})
    Attic.store.clear()
    Attic.fault = None


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> PolicyStore:
    install(monkeypatch)
    return PolicyStore("gs://bucket/team", cache=False)


class Fault:
    """A fault that raises in the first ``times`` calls of one kind."""

    def __init__(self, error: Exception, call: str, times: int = 1000) -> None:
        self.error, self.call, self.times, self.tried = error, call, times, 0

    def __call__(self, call: str) -> None:
        if call == self.call:
            self.tried += 1
            if self.tried <= self.times:
                raise self.error


def test_everything_can_be_read(attic: PolicyStore, make_snapshot: Make) -> None:
    assert attic.pull(make_snapshot(0).digest) == make_snapshot(0)
    assert attic.pull(f"blake3:{make_snapshot(0).digest.hex[:10]}") == make_snapshot(0)
    assert attic.pull("a") == make_snapshot(1, large=True)
    assert attic.pull("a@first") == make_snapshot(0)
    assert attic.names() == ["a"]
    assert list(attic.tags("a")) == ["first"]
    assert attic.verify().ok
    with pytest.raises(NotFoundError, match="versions are 1 to 2"):
        attic.pull("a@7")


def test_every_write_is_refused_with_the_reason(attic: PolicyStore, make_snapshot: Make) -> None:
    before = set(Attic.store)
    for call in (
        lambda: attic.push(make_snapshot(2), "a"),
        lambda: attic.push(make_snapshot(2)),
        lambda: attic.tag("a@1", "t"),
        lambda: PolicyStore("attic://empty").push(make_snapshot(2), "a"),
    ):
        with pytest.raises(ReadOnlyError, match=r"only reads from attic://.*exclusively"):
            call()
    backend = attic._backend
    for write in (lambda: backend.put("x", [b""]), lambda: backend.replace("x", b"")):
        with pytest.raises(ReadOnlyError):
            write()
    assert set(Attic.store) == before


def test_failures_and_damage_raise_errors_of_policystore(
    attic: PolicyStore, make_snapshot: Make
) -> None:
    key = next(key for key in Attic.store if make_snapshot(0).digest.hex in key)
    Attic().pipe_file(key, b"damaged")
    with pytest.raises(IntegrityError):
        attic.pull("a@1")
    Attic().pipe_file("/shelf/names/a/@versions/0000000002.json", b"x" * 70_000)
    with pytest.raises(FormatError, match="more than 65536"):
        attic.pull("a")
    for error, tries in ((ConnectionResetError("gone"), 6), (RuntimeError("odd"), 1)):
        Attic.fault = fault = Fault(error, "cat_file")
        with pytest.raises(StorageError, match=f"{type(error).__name__}: {error}"):
            attic._backend.get("names/a/@versions/0000000001.json")
        assert fault.tried == tries
        with pytest.raises(StorageError, match=f"{type(error).__name__}: {error}"):
            attic.pull("a@1")
    Attic.fault = None
    with pytest.raises(NotFoundError, match="first push"):
        PolicyStore("attic://nothing").verify()


def test_a_cancelled_request_is_not_tried_again(attic: PolicyStore) -> None:
    tries: list[int] = []
    begun = threading.Event()

    def request(fs: object) -> None:
        tries.append(1)
        begun.set()
        time.sleep(0.1)  # the other call fails during this time
        raise ConnectionResetError

    def call(index: int) -> None:
        if index == 0:
            assert begun.wait(20)
            raise ValueError("it")
        attic._backend._attempt("reading", "x", request)  # type: ignore[attr-defined]

    with pytest.raises(ValueError, match="it"):
        in_parallel(call, range(2), workers=2)
    assert len(tries) == 1


def test_names_are_listed_without_their_versions(attic: PolicyStore) -> None:
    listed: list[str] = []
    ls = Attic.ls

    class Counting(Attic):
        def ls(self, path: str, *args: object, **kwargs: object) -> list[object]:
            listed.append(path)
            return ls(self, path, *args, **kwargs)

    fsspec.register_implementation("attic", Counting, clobber=True)
    assert attic.names() == ["a"]
    assert [path.rpartition("shelf")[2] for path in listed] == ["/names", "/names/a"]


def test_a_cloud_is_written_and_many_writers_lose_nothing(
    cloud: PolicyStore, make_snapshot: Make
) -> None:
    large = make_snapshot(1, large=True)
    assert cloud.push(make_snapshot(0), "a").number == 1
    assert cloud.push(large, "a").number == 2
    cloud.tag("a@1", "first")
    assert cloud.pull("a") == large
    assert cloud.pull("a@first") == make_snapshot(0)
    with ThreadPoolExecutor(8) as pool:
        stores = [PolicyStore("gs://bucket/team", cache=False) for _ in range(8)]
        made = list(pool.map(lambda s: [s.push(make_snapshot(2), "b") for _ in range(10)], stores))
    assert sorted(v.number for some in made for v in some) == list(range(1, 81))
    assert cloud.verify().ok


def test_a_cloud_that_does_not_create_exclusively_is_refused_for_names(
    cloud: PolicyStore, make_snapshot: Make
) -> None:
    cloud.push(make_snapshot(0), "a")
    Cloud.exclusive = False
    other = PolicyStore("gs://bucket/team", cache=False)
    with pytest.raises(StorageError, match=r"does not create exclusively.*without a name"):
        other.push(make_snapshot(1), "a")
    with pytest.raises(StorageError, match="does not create exclusively"):
        other.tag("a", "t")
    assert [version.number for version in other.log("a")] == [1]
    assert other.tags("a") == {}
    version = other.push(make_snapshot(1))
    assert other.pull(version.digest) == make_snapshot(1)


def test_lost_answers_of_a_cloud(cloud: PolicyStore, make_snapshot: Make) -> None:
    for call in ("pipe_file create", "pipe_file overwrite"):
        Cloud.fault = fault = Fault(ConnectionResetError("gone"), f"answer of {call}", times=2)
        assert cloud.push(make_snapshot(0), "a").number
        assert fault.tried >= 2  # the second try of what is created finds it there
    Cloud.fault = None
    assert [version.number for version in cloud.log("a")] == [2, 1]
    assert cloud.verify().ok


def test_a_cloud_sends_large_objects_once_and_replaces_damaged_ones(
    cloud: PolicyStore, make_snapshot: Make
) -> None:
    large = make_snapshot(1, large=True)
    cloud.push(large, "a")
    tensor = max(Cloud.store, key=lambda key: len(Cloud.store[key].getvalue()))
    whole = Cloud.store[tensor].getvalue()
    kept = Cloud.store[tensor]
    cloud.push(large, "a")
    assert Cloud.store[tensor] is kept
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        Cloud().pipe_file(tensor, damaged)
        cloud.push(large, "a")
        assert Cloud.store[tensor].getvalue() == whole


def test_cloud_credentials_that_may_only_read(cloud: PolicyStore, make_snapshot: Make) -> None:
    cloud.push(make_snapshot(0), "a")
    Cloud.fault = Fault(PermissionError("no"), "pipe_file overwrite")
    with pytest.raises(ReadOnlyError, match="may not write"):
        cloud.push(make_snapshot(1), "a")
    assert cloud.pull("a") == make_snapshot(0)


def test_urls_of_azure() -> None:
    url = "abfs://box@account.dfs.core.windows.net/p"
    with pytest.raises(MissingPackageError, match="pip install adlfs"):
        PolicyStore(url)
    with pytest.raises(InvalidInputError, match="a password") as caught:
        PolicyStore("abfs://box:secret@account/p")
    assert "secret" not in str(caught.value)
    with pytest.raises(MissingPackageError, match="pip install gcsfs"):
        PolicyStore("gs://bucket")


@pytest.fixture
def website(tmp_path: Path) -> Iterator[tuple[str, list[int]]]:
    """Yield the URL of a web server that ignores ranges, and the bytes sent of each file."""
    sent: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            file = tmp_path / self.path.lstrip("/")
            if not file.is_file():
                self.send_error(404)
                return
            sent.append(0)
            self.send_response(200)
            self.end_headers()
            with file.open("rb") as source, suppress(OSError):
                while block := source.read(1 << 16):
                    self.wfile.write(block)
                    sent[-1] += len(block)

        def log_message(self, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", sent
        server.shutdown()
        thread.join()


def test_a_website_that_ignores_ranges(
    website: tuple[str, list[int]], tmp_path: Path, make_snapshot: Make
) -> None:
    url, sent = website
    local = PolicyStore(tmp_path)
    version = local.push(make_snapshot(1, large=True), "a")
    store = PolicyStore(url, cache=False)
    assert store.pull("a") == make_snapshot(1, large=True)
    assert store.pull(version.digest) == make_snapshot(1, large=True)
    with pytest.raises(NotFoundError):
        store.pull("a@2")
    record = tmp_path / "names/a/@versions/0000000001.json"
    record.unlink()
    with record.open("wb") as endless:
        endless.truncate(1 << 30)
    sent.clear()
    with pytest.raises(FormatError, match="more than 65536"):
        store.pull("a@1")
    assert max(sent) < 1 << 25  # what buffers on the way may hold of the GiB


def test_a_website_that_sends_more_than_the_memory(
    website: tuple[str, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy declares as much."""
    url, sent = website
    tensor = Digest("ab" * 32)
    external = {"dtype": "U8", "shape": [1 << 46], "digest": str(tensor)}
    meta = metadata.build_metadata(Spec(), {}, {"big": external})
    policy = safetensors.encode_tensors({"a": np.zeros(2, np.float32)}, meta)
    LocalBackend(tmp_path).put(object_key(policy.digest), policy.chunks)
    endless = tmp_path / object_key(tensor)
    endless.parent.mkdir(parents=True)
    with endless.open("wb") as file:
        file.truncate(1 << 30)
    monkeypatch.setattr(maps, "memory_size", lambda: 4 << 20)
    with pytest.raises(StorageError, match=r"reading http://.* bytes or more do not fit"):
        PolicyStore(url, cache=False).pull(policy.digest)
    assert max(sent) < 1 << 25  # what buffers on the way may hold of the GiB


def test_urls_that_fsspec_does_not_know_or_cannot_open() -> None:
    for url in ("nonsense://x", "simplecache::s3://b/x", "attic://", "attic://a/../b"):
        with pytest.raises(InvalidInputError):
            PolicyStore(url)


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"s3fs.*pip install 'policystore\[s3\]'"):
        PolicyStore("s3://bucket")
