"""Where a folder is, and what else is in it: other disks, files of systems, deep and lost folders."""

from __future__ import annotations

import errno
import inspect
import os
import pickle
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from policystore import (
    FormatError,
    InvalidInputError,
    NotFoundError,
    PolicyStore,
    Snapshot,
    StorageError,
)
from policystore._util import files
from policystore._util.foreign import is_foreign
from policystore.backends.local import LocalBackend
from policystore.format.keys import MARKER, hint_key, object_key, tag_key, version_key

Make = Callable[..., Snapshot]


# objects/ or names/ on another disk


@pytest.fixture
def disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a store whose objects are on another disk, by a link; the system is simulated."""
    root = tmp_path / "s"
    for folder in (root, tmp_path / "disk"):
        folder.mkdir()
    (root / "objects").symlink_to(tmp_path / "disk")
    for name in ("replace", "link"):
        plain = getattr(os, name)

        def across(source: Any, target: Any, plain: Any = plain) -> None:
            if Path(source).resolve().is_relative_to(tmp_path / "disk") != Path(
                target
            ).parent.resolve().is_relative_to(tmp_path / "disk"):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
            plain(source, target)

        monkeypatch.setattr(os, name, across)
    return root


def test_objects_on_another_disk_are_written_beside_their_places(
    disks: Path, make_snapshot: Make
) -> None:
    store = PolicyStore(disks)
    for seed in range(3):
        assert store.push(make_snapshot(seed, large=True), "a").number == seed + 1
    assert store.pull("a") == make_snapshot(2, large=True)
    report = PolicyStore(disks).verify()
    assert report.ok, str(report)
    assert list((disks / "objects" / ".tmp").iterdir()) == []
    assert list((disks / "tmp").iterdir()) == []


def test_names_on_another_disk(
    disks: Path, tmp_path: Path, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    (disks / "objects").unlink()
    (disks / "names").symlink_to(tmp_path / "disk")
    store = PolicyStore(disks)
    store.push(make_snapshot(1), "a")
    store.push(make_snapshot(2), "a")
    store.tag("a", "best")
    assert store.names() == ["a"]
    assert store.verify().ok


def test_a_copy_to_the_trash_and_back_crosses_disks(disks: Path) -> None:
    backend = LocalBackend(disks)
    backend.put("objects/ab/x.safetensors", [b"bytes"])
    backend.copy("objects/ab/x.safetensors", "trash/ab/x/1.safetensors")
    backend.delete("objects/ab/x.safetensors")
    backend.copy("trash/ab/x/1.safetensors", "objects/ab/x.safetensors")
    assert backend.get("objects/ab/x.safetensors") == b"bytes"


def test_unfinished_files_on_another_disk_are_no_keys_and_are_swept(
    disks: Path, make_snapshot: Make
) -> None:
    PolicyStore(disks).push(make_snapshot(1), "a")
    old, young = (disks / "objects" / ".tmp" / name for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    assert PolicyStore(disks).verify().ok
    assert not [key for key in LocalBackend(disks).keys("") if ".tmp" in key]
    PolicyStore(disks).push(make_snapshot(2), "a")
    assert not old.exists()
    assert young.exists()


def test_a_full_other_disk_is_an_error(
    disks: Path, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PolicyStore(disks)
    store.push(make_snapshot(1), "a")

    def full(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="cross-device"):
        store.push(make_snapshot(2), "a")
    monkeypatch.undo()
    assert list((disks / "objects" / ".tmp").iterdir()) == []
    assert len(store.log("a")) == 1


# What systems, file servers, sync tools and editors leave

FILES = [
    ".DS_Store", "._x", ".apdisk", "Thumbs.db", "desktop.ini", ".nfs000000000000abcd",
    ".fuse_hidden0001", ".directory", ".gitkeep", ".keep", ".gitignore", "aquota.user", ".a.swp",
    "x~",
]  # fmt: skip
FOLDERS = [
    "lost+found", "@eaDir", ".snapshot", ".Trash-1000", ".Trashes", ".Spotlight-V100",
    "$RECYCLE.BIN", "System Volume Information", "#recycle", ".zfs", ".stfolder",
]  # fmt: skip


def litter(folder: Path) -> None:
    for name in FILES:
        (folder / name).write_bytes(b"x")
    for name in FOLDERS:
        (folder / name / "inside").mkdir(parents=True)
        (folder / name / "inside" / "file.json").write_bytes(b"x")


def test_what_systems_leave_is_no_fault_and_no_name(tmp_path: Path, make_snapshot: Make) -> None:
    root = tmp_path / "s"
    store = PolicyStore(root)
    store.push(make_snapshot(1), "team/a")
    before = set(LocalBackend(root).keys(""))
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        litter(folder)
    report = store.verify()
    assert report.ok, str(report)
    assert store.names() == ["team/a"]
    assert set(LocalBackend(root).keys("")) == before
    assert {entry.key for entry in LocalBackend(root).entries("")} == before
    assert store.push(make_snapshot(2), "team/a").number == 2


def test_a_folder_that_holds_only_such_files_is_empty(tmp_path: Path, make_snapshot: Make) -> None:
    litter(tmp_path)
    (tmp_path / "lost+found").chmod(0)  # a new disk: only its root user may list this folder
    assert PolicyStore(tmp_path).push(make_snapshot(), "a").ref == "a@1"
    assert PolicyStore(tmp_path).verify().ok


@pytest.mark.parametrize("name", ["README.txt", "model.pt", "names", ".env"])
def test_other_files_still_stand_in_the_way(tmp_path: Path, make_snapshot: Make, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(FormatError, match="it holds other files"):
        PolicyStore(tmp_path).push(make_snapshot(), "a")


def test_no_key_of_a_store_looks_like_such_a_file() -> None:
    names = ["a", "Thumbs.db", "desktop.ini", "icon", "x/y.swp", "lost-found", "_._", "Quota.user"]
    keys = [MARKER, object_key(Snapshot(weights={}).digest)]
    for name in names:
        keys += [hint_key(name), version_key(name, 1), tag_key(name, "Best", 1)]
    for key in keys:
        *folders, file = key.split("/")
        assert not is_foreign(file, False), key
        assert not [folder for folder in folders if is_foreign(folder, True)], key


# Working directories, long paths, moves


@pytest.fixture
def lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory of this process was removed."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()


@pytest.mark.usefixtures("lost")
@pytest.mark.parametrize("url", ["relative", Path("relative"), "./x"])
def test_a_relative_folder_in_a_removed_working_directory(url: Any) -> None:
    with pytest.raises(InvalidInputError, match="give an absolute path"):
        PolicyStore(url)


@pytest.mark.usefixtures("lost")
def test_absolute_folders_work_in_a_removed_working_directory(
    tmp_path: Path, make_snapshot: Make
) -> None:
    store = pickle.loads(pickle.dumps(PolicyStore(tmp_path / "s")))
    store.push(make_snapshot(), "a")
    assert store.pull("a") == make_snapshot()


def test_a_folder_that_is_deeper_than_the_stack_of_python(
    tmp_path: Path, make_snapshot: Make
) -> None:
    deep = str(tmp_path) + "/d" * 400
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 300)
    try:
        assert PolicyStore(deep).push(make_snapshot(), "a").ref == "a@1"
        assert PolicyStore(deep).pull("a") == make_snapshot()
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize("call", ["push", "pull", "names", "verify"])
def test_a_path_that_is_too_long_is_a_typed_error(
    tmp_path: Path, make_snapshot: Make, call: str
) -> None:
    store = PolicyStore(str(tmp_path) + "/d" * 3000)
    run: dict[str, Callable[[], object]] = {
        "push": lambda: store.push(make_snapshot(), "a"),
        "pull": lambda: store.pull("a"),
        "names": store.names,
        "verify": store.verify,
    }
    with pytest.raises(StorageError, match="use a folder nearer the root"):
        run[call]()


def test_a_folder_whose_name_ends_with_a_colon(tmp_path: Path, make_snapshot: Make) -> None:
    store = PolicyStore(f"{tmp_path}/a://b")
    store.push(make_snapshot(), "x")
    assert pickle.loads(pickle.dumps(store)).pull("x") == make_snapshot()
    assert (tmp_path / "a:" / "b" / MARKER).is_file()


def test_a_folder_that_is_moved_away_and_back_loses_nothing(
    tmp_path: Path, make_snapshot: Make
) -> None:
    root = tmp_path / "s"
    store = PolicyStore(root)
    store.push(make_snapshot(1), "a")
    root.rename(tmp_path / "away")
    for _ in range(2):
        with pytest.raises(StorageError, match=r"s is gone, .* move it back, and try again"):
            store.push(make_snapshot(2), "a")
    assert not root.exists()
    (tmp_path / "away").rename(root)
    assert store.push(make_snapshot(3), "a").number == 2
    assert [v.digest for v in store.log("a")] == [make_snapshot(3).digest, make_snapshot(1).digest]
    assert store.verify().ok


CALLS: dict[str, Callable[[PolicyStore, Snapshot], object]] = {
    "push": lambda store, snap: store.push(snap, "a"),
    "push of a new name": lambda store, snap: store.push(snap, "b"),
    "push without a name": lambda store, snap: store.push(snap),
    "tag": lambda store, snap: store.tag("a@1", "best"),
    "delete": lambda store, snap: store.delete("a@1"),
    "pull": lambda store, snap: store.pull("a"),
    "pull by digest": lambda store, snap: store.pull(snap.digest),
    "names": lambda store, snap: store.names("a"),
    "stats": lambda store, snap: store.stats(),
    "verify": lambda store, snap: store.verify(),
    "collect_garbage": lambda store, snap: store.collect_garbage(),
    "repair": lambda store, snap: store.repair(),
    "copy_to": lambda store, snap: PolicyStore("memory://places").copy_to(store),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("used_by", ["push", "pull", "names"])
def test_an_unmounted_folder_gets_no_new_store(
    tmp_path: Path, make_snapshot: Make, call: str, used_by: str
) -> None:
    root, away = tmp_path / "s", tmp_path / "away"
    PolicyStore(root).push(make_snapshot(1), "a")
    PolicyStore("memory://places").push(make_snapshot(3), "c")
    store = PolicyStore(root)
    uses: dict[str, Callable[[], object]] = {
        "push": lambda: store.push(make_snapshot(2), "a"),
        "pull": lambda: store.pull("a"),
        "names": store.names,
    }
    uses[used_by]()
    root.rename(away)
    root.mkdir()
    (root / "NOT MOUNTED").touch()  # what stays of an unmounted folder is often not empty
    for _ in range(2):
        with pytest.raises(StorageError, match=r"s is another folder now.*Mount the folder again"):
            CALLS[call](store, make_snapshot(5))
    assert [path.name for path in root.iterdir()] == ["NOT MOUNTED"]
    (root / "NOT MOUNTED").unlink()
    away.rename(tmp_path / "other") if call == "push" else shutil.copytree(away, tmp_path / "other")
    root.rmdir()
    (tmp_path / "other").rename(root)  # mounted again; a copy has another number
    count = len(store.log("a"))
    assert store.push(make_snapshot(4), "a").number == count + 1
    assert store.verify().ok


def test_a_folder_that_was_never_a_store_may_be_made_anew(
    tmp_path: Path, make_snapshot: Make
) -> None:
    root = tmp_path / "s"
    store = PolicyStore(root)
    root.mkdir()
    with pytest.raises(NotFoundError, match="no policy store"):
        store.pull("a")
    root.rename(tmp_path / "away")
    root.mkdir()
    assert store.push(make_snapshot(), "a").number == 1


def test_a_folder_of_a_file_server_is_read_several_calls_at_once(
    tmp_path: Path, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PolicyStore(tmp_path / "s")
    assert store._backend.parallel == 1
    monkeypatch.setattr(files, "_LOCAL_FILESYSTEMS", {"none"})
    monkeypatch.setattr(files, "_LOCAL_DEVICES", {})
    assert store._backend.parallel == 1  # there is no folder yet
    for seed in range(12):
        assert store.push(make_snapshot(seed, large=seed % 3 == 0), "a").number == seed + 1
    assert store._backend.parallel > 1
    assert len(store.log("a")) == 12
    assert store.verify().ok
