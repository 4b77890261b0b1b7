"""The marker of a store whose storage was emptied, or whose marker was deleted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from policystore import FormatError, NotFoundError, PolicyStore, Snapshot, StorageError
from policystore.backends.memory import MemoryBackend
from policystore.format.keys import MARKER
from policystore.repository.lookup.marker import repair_marker
from tests.support.faults import FaultyBackend, Plan

Make = Callable[..., Snapshot]


def emptied(folder: Path) -> None:
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.unlink()


@pytest.mark.parametrize("name", ["a", "b", None])
def test_a_push_into_an_emptied_store_makes_the_marker_again(
    name: str | None,
    tmp_path: Path,
    make_snapshot: Make,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = PolicyStore(tmp_path)
    store.push(make_snapshot(0), "a")
    assert caplog.text == ""
    emptied(tmp_path)
    version = store.push(make_snapshot(1), name)
    assert "put the marker back" in caplog.text
    other = PolicyStore(tmp_path)
    assert other.verify().ok
    assert other.pull(version.digest) == make_snapshot(1)
    assert other.push(make_snapshot(2), "a").number == (2 if name == "a" else 1)


@pytest.mark.parametrize("name", ["a", "b", None])
def test_after_a_failed_push_an_emptied_storage_gets_no_new_store(
    name: str | None, make_snapshot: Make
) -> None:
    backend = MemoryBackend(f"emptied-{name}")
    faulty = FaultyBackend(backend)
    store = PolicyStore.over(faulty)
    store.push(make_snapshot(0), "a")
    faulty.follow(Plan(0 if name is None else 1, "refused"))
    with pytest.raises(StorageError):
        store.push(make_snapshot(1), name)
    assert store.push(make_snapshot(2), "a").number == 2  # the store is still there
    faulty.follow(Plan(0 if name is None else 1, "refused"))
    with pytest.raises(StorageError):
        store.push(make_snapshot(1), name)
    backend._space.data.clear()
    for _ in range(2):
        with pytest.raises(StorageError, match=r"is empty, though .* make another PolicyStore"):
            store.push(make_snapshot(1), name)
    assert backend._space.data == {}
    PolicyStore.over(backend).push(make_snapshot(3), "a")
    store.push(make_snapshot(1), name)
    assert store.verify().ok


@pytest.mark.parametrize("name", ["a", None])
@pytest.mark.parametrize("use", [lambda s: s.pull("a"), lambda s: s.resolve("a@1")])
def test_the_first_push_after_a_pull_warns_of_an_emptied_store(
    use: Callable[[PolicyStore], object],
    name: str | None,
    tmp_path: Path,
    make_snapshot: Make,
    caplog: pytest.LogCaptureFixture,
) -> None:
    PolicyStore(tmp_path).push(make_snapshot(0), "a")
    store = PolicyStore(tmp_path)
    use(store)
    emptied(tmp_path)
    store.push(make_snapshot(1), name)
    assert "put the marker back" in caplog.text
    assert PolicyStore(tmp_path).verify().ok


def test_the_first_push_of_all_warns_of_nothing(
    tmp_path: Path, make_snapshot: Make, caplog: pytest.LogCaptureFixture
) -> None:
    store = PolicyStore(tmp_path)
    with pytest.raises(NotFoundError):
        store.pull("a")
    store.push(make_snapshot(1), "a")
    assert caplog.text == ""


def test_after_a_pull_and_a_failed_push_an_emptied_storage_gets_no_new_store(
    make_snapshot: Make,
) -> None:
    backend = MemoryBackend("emptied-reader")
    PolicyStore.over(backend).push(make_snapshot(0), "a")
    faulty = FaultyBackend(backend)
    store = PolicyStore.over(faulty)
    store.pull("a")
    faulty.follow(Plan(0, "refused"))
    with pytest.raises(StorageError):
        store.push(make_snapshot(1), "a")
    backend._space.data.clear()
    with pytest.raises(StorageError, match=r"is empty, though .* make another PolicyStore"):
        store.push(make_snapshot(1), "a")
    assert backend._space.data == {}


def test_a_push_of_version_one_puts_a_deleted_marker_back(
    tmp_path: Path, make_snapshot: Make
) -> None:
    store = PolicyStore(tmp_path)
    store.push(make_snapshot(0), "a")
    (tmp_path / MARKER).unlink()
    store.push(make_snapshot(1), "b")
    assert PolicyStore(tmp_path).names() == ["a", "b"]


def test_a_marker_of_a_newer_format_is_never_replaced(tmp_path: Path, make_snapshot: Make) -> None:
    store = PolicyStore(tmp_path)
    store.push(make_snapshot(0), "a")
    (tmp_path / MARKER).unlink()
    (tmp_path / MARKER).write_text('{"format":2,"kind":"store"}')
    for name in ("b", None):
        with pytest.raises(FormatError, match="format"):
            store.push(make_snapshot(1), name)
    assert (tmp_path / MARKER).read_text() == '{"format":2,"kind":"store"}'


@pytest.mark.parametrize("name", ["a", None])
def test_repair_puts_the_marker_back(name: str | None, tmp_path: Path, make_snapshot: Make) -> None:
    store = PolicyStore(tmp_path)
    version = store.push(make_snapshot(0), name)
    (tmp_path / MARKER).unlink()
    with pytest.raises(FormatError, match=r"is not a policy store.*repair\(\) puts it back"):
        PolicyStore(tmp_path).push(make_snapshot(1), "b")
    assert repair_marker(store._backend) is True
    assert repair_marker(store._backend) is False
    assert PolicyStore(tmp_path).pull(version.digest) == make_snapshot(0)
    assert PolicyStore(tmp_path).push(make_snapshot(1), "b").number == 1


@pytest.mark.parametrize("key", ["objects/ab/other.bin", "names/readme.txt", "models/x.pt"])
def test_repair_refuses_files_that_are_not_of_a_store(key: str) -> None:
    backend = MemoryBackend(f"repair-{key}")
    with pytest.raises(NotFoundError, match="no policy store"):
        repair_marker(backend)
    backend.put(key, [b"x"])
    with pytest.raises(FormatError, match="is not a policy store"):
        repair_marker(backend)
    assert backend.size(MARKER) is None
