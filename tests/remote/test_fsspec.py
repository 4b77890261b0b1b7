"""Filesystems of fsspec other than S3: read, and never written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from policystore import (
    FormatError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    PolicyStore,
    ReadOnlyError,
    Snapshot,
    StorageError,
)

Make = Callable[..., Snapshot]


class Attic(MemoryFileSystem):
    """Some filesystem or other, which fails when told to."""

    protocol = "attic"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    fault: Exception | None = None
    tried = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("attic://", "memory://"))

    def cat_file(self, path: str, **kwargs: Any) -> bytes:
        type(self).tried += 1
        if self.fault is not None:
            raise self.fault
        return super().cat_file(path, **kwargs)


@pytest.fixture
def attic(tmp_path: Path, make_snapshot: Make) -> Iterator[PolicyStore]:
    fsspec.register_implementation("attic", Attic, clobber=True)
    local = PolicyStore(tmp_path)
    local.push(make_snapshot(0), "a")
    local.push(make_snapshot(1, large=True), "a")
    local.tag("a@1", "first")
    Attic.tried, Attic.fault = 0, None
    fs = Attic()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"/shelf/{path.relative_to(tmp_path)}", path.read_bytes())
    yield PolicyStore("attic://shelf", storage_options={})
    Attic.store.clear()


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


def test_failures_and_damage_are_ours(attic: PolicyStore, make_snapshot: Make) -> None:
    key = next(key for key in Attic.store if make_snapshot(0).digest.hex in key)
    Attic().pipe_file(key, b"damaged")
    with pytest.raises(IntegrityError):
        attic.pull("a@1")
    Attic().pipe_file("/shelf/names/a/@versions/0000000002.json", b"x" * 70_000)
    with pytest.raises(FormatError, match="more than 65536"):
        attic.pull("a")
    Attic.tried, Attic.fault = 0, ConnectionResetError("gone")
    with pytest.raises(StorageError, match="ConnectionResetError: gone"):
        attic.pull("a@1")
    assert Attic.tried == 6
    Attic.tried, Attic.fault = 0, RuntimeError("odd")
    with pytest.raises(StorageError, match="RuntimeError: odd"):
        attic.pull("a@1")
    assert Attic.tried == 1
    Attic.fault = None
    with pytest.raises(NotFoundError, match="first push"):
        PolicyStore("attic://nothing").verify()


def test_urls_that_fsspec_does_not_know_or_cannot_open() -> None:
    for url in ("nonsense://x", "simplecache::s3://b/x", "attic://", "attic://a/../b"):
        with pytest.raises(InvalidInputError):
            PolicyStore(url)


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InvalidInputError, match=r"s3fs.*pip install 'policystore\[s3\]'"):
        PolicyStore("s3://bucket")
