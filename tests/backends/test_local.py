"""What is special about a folder: permissions, maps, links, pipes."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore import (
    IntegrityError,
    InvalidInputError,
    PolicyStore,
    ReadOnlyError,
    Snapshot,
    StorageError,
)
from policystore._util import files
from policystore.format.keys import object_key, trash_key

Make = Callable[..., Snapshot]


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def as_nobody(program: str, *args: str) -> str:
    """Run a program as a user without special rights: this user, or nobody if this is root."""
    drop = "import os\nif os.getuid() == 0:\n    os.setgid(65534); os.setuid(65534)\n"
    # Import policystore and use it once before the rights are dropped. The interpreter and the
    # checkout may be in private folders, and some imports happen only at the first call.
    before = """
    import difflib, logging, sys, tempfile
    import numpy as np
    import policystore
    with tempfile.TemporaryDirectory() as folder:
        store = policystore.PolicyStore(folder)
        store.push(policystore.Snapshot(weights={"w": np.ones(1)}), "a")
        store.tag("a", "t")
        store.pull("a@t")
        store.verify()
    """
    code = textwrap.dedent(before) + drop + textwrap.dedent(program)
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_files_are_read_only_and_nothing_temporary_is_left(
    tmp_path: Path, make_snapshot: Make
) -> None:
    PolicyStore(tmp_path / "s").push(make_snapshot(large=True), "a")
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "s").rglob("*") if p.is_file()}
    assert modes == {0o444}
    assert list((tmp_path / "s" / "tmp").iterdir()) == []


@pytest.mark.parametrize("form", ["relative", "path", "file", "file-escaped", "home"])
def test_the_forms_of_a_folder(
    form: str, tmp_path: Path, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "a b"
    url = {"relative": "a b", "path": folder, "file": f"file://{folder}".replace(" ", "%20"),
           "file-escaped": f"file://localhost{str(folder).replace(' ', '%20')}", "home": "~/a b"}[form]  # fmt: skip
    store = PolicyStore(url)
    monkeypatch.chdir("/")  # the folder was fixed when the store was opened
    store.push(make_snapshot(), "x")
    assert (folder / "policystore.json").is_file()
    assert store.url == str(folder)


@pytest.mark.parametrize(
    "url", ["", "s3://", "nonsense://x", "file://host/x", "file://", 7, None, b"x", "a\0b"]
)
def test_other_urls_are_refused(url: Any) -> None:
    with pytest.raises((InvalidInputError, TypeError)):
        PolicyStore(url)


def test_a_folder_that_is_a_file(tmp_path: Path, make_snapshot: Make) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(StorageError, match="f"):
        PolicyStore(tmp_path / "f").push(make_snapshot(), "a")
    assert (tmp_path / "f").read_text() == "x"


def test_a_folder_that_may_only_be_read(open_folder: Path, make_snapshot: Make) -> None:
    shelf = open_folder / "shelf"
    root = shelf / "s"
    PolicyStore(root).push(make_snapshot(large=True), "a")
    folders = [path for path in [shelf, *shelf.rglob("*")] if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    before = tree(root)
    program = """
    from policystore import PolicyStore, ReadOnlyError, Snapshot
    store = PolicyStore(sys.argv[1])
    assert store.pull("a").weights["encoder.bias"].shape == (16,)
    assert store.verify().ok
    for call in (lambda: store.push(store.pull("a"), "a"), lambda: store.tag("a", "t"),
                 lambda: PolicyStore(sys.argv[1] + "/../new").push(store.pull("a"))):
        try:
            call()
        except ReadOnlyError as error:
            assert "read_only=True" in str(error), error
            print("refused")
    """
    try:
        assert as_nobody(program, str(root)).split() == ["refused"] * 3
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert tree(root) == before


def is_mapped(array: np.ndarray) -> bool:
    """Return whether the kernel lists a file at the address of the array."""
    address = array.ctypes.data
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < end:
            return line.endswith((".safetensors", ".safetensors (deleted)"))
    raise AssertionError("no such address")


def test_large_arrays_are_views_of_the_page_cache_where_that_is_safe(
    tmp_path: Path, make_snapshot: Make
) -> None:
    store = PolicyStore(tmp_path / "s")
    version = store.push(make_snapshot(large=True))
    assert is_mapped(store.pull(version).weights["frozen"])
    assert not is_mapped(store.pull(version).weights["encoder.bias"])
    # Other users may write there. A change after the check would change the arrays.
    for mode, path in ((0o666, "file"), (0o777, "folder")):
        for file in (tmp_path / "s" / "objects").rglob("*.safetensors"):
            target = file if path == "file" else file.parent
            before = stat.S_IMODE(target.stat().st_mode)
            target.chmod(mode)
        pulled = store.pull(version)
        assert not is_mapped(pulled.weights["frozen"])
        assert pulled == make_snapshot(large=True)
        for file in (tmp_path / "s" / "objects").rglob("*.safetensors"):
            (file if path == "file" else file.parent).chmod(before)
    assert is_mapped(store.pull(version).weights["frozen"])


def test_nothing_is_mapped_from_a_network_filesystem(
    tmp_path: Path, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PolicyStore(tmp_path / "s")
    version = store.push(make_snapshot(large=True))
    monkeypatch.setattr(files, "_LOCAL_FILESYSTEMS", {"none"})
    monkeypatch.setattr(files, "_LOCAL_DEVICES", {})
    assert not is_mapped(store.pull(version).weights["frozen"])


EVERY_WRITER = """
import os, sys
from datetime import timedelta
from pathlib import Path

from policystore import NodeCache, PolicyStore
from policystore.backends.memory import MemoryBackend
from policystore.testing import make_snapshot

changed, changing = [], os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND
is_watching = True


def watch(event, args):
    if is_watching and event == "os.truncate":
        changed.append(event)
    if is_watching and event == "open" and args[2] & changing and not args[2] & os.O_EXCL:
        changed.append(os.fspath(args[0]))


sys.addaudithook(watch)
place = Path(sys.argv[1])
store, other = PolicyStore(place / "s"), PolicyStore(place / "other")
for seed in range(3):
    store.push(make_snapshot(seed, large=True), "a")
store.push(make_snapshot(7, large=True))
mapped = store.pull("a")
store.tag("a@2", "t")
store.annotate("a@2", note="x")
store.copy_to(other)
other.copy_to(store)
store.delete("a@1")
store.prune("a", keep_last=1)
assert store.collect_garbage(timedelta(0), dry_run=False, exclusive=True).moved.count
store.restore("a@1")
is_watching = False
for path in (place / "s" / "objects").rglob("*.safetensors"):
    path.unlink()
    path.write_bytes(b"damaged")
(place / "s/names/a/@versions/0000000001.json").unlink()
is_watching = True
assert store.verify(repair_from=other).repaired
store.push(make_snapshot(2, large=True), "a")
cache = NodeCache(place / "cache", max_bytes=8 << 20)
remote = PolicyStore.over(MemoryBackend("remote"), cache=cache)
for seed in range(4):  # the last objects take the room of the first ones
    remote.push(make_snapshot(seed, large=True), "a")
    remote.pull("a")
cache.clear()
for seed in range(2):
    make_snapshot(seed).save(place / "saved.safetensors")
assert mapped == make_snapshot(2, large=True)
is_watching = False
print(*changed, sep="\\n")
"""


def test_no_call_cuts_or_rewrites_a_file_that_may_be_mapped(tmp_path: Path) -> None:
    """If a file is cut while a process has a map of it, the process is killed.

    So files are written under new names, and then only linked, renamed and removed.
    """
    ran = subprocess.run(
        [sys.executable, "-c", EVERY_WRITER, str(tmp_path)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    locks = tmp_path / "cache" / "locks"
    changed = {Path(line) for line in ran.stdout.splitlines() if line}
    assert {path for path in changed if path.parent != locks} <= {
        tmp_path / "cache" / "CACHEDIR.TAG",
        Path(os.devnull),
    }


def test_a_pulled_snapshot_outlives_the_store(tmp_path: Path, make_snapshot: Make) -> None:
    store = PolicyStore(tmp_path / "s")
    snap = store.pull(store.push(make_snapshot(large=True)))
    for path in (tmp_path / "s" / "objects").rglob("*.safetensors"):
        path.unlink()
    assert snap._encode().policy.digest == make_snapshot(large=True).digest


def test_pipes_links_and_folders_in_the_place_of_objects(
    tmp_path: Path, make_snapshot: Make
) -> None:
    root = tmp_path / "s"
    store = PolicyStore(root)
    hexadecimal = store.push(make_snapshot(), "a").digest.hex
    path = root / "objects" / hexadecimal[:2] / f"{hexadecimal}.safetensors"
    (tmp_path / "other").write_bytes(b"other")
    for make in (
        lambda: os.mkfifo(path),
        lambda: path.symlink_to(tmp_path / "other"),
        lambda: path.symlink_to(path),
        path.mkdir,
    ):
        path.unlink() if path.is_file() or path.is_symlink() else None
        make()
        with pytest.raises((StorageError, IntegrityError)):
            store.pull("a")
        assert not store.verify().ok
        path.rmdir() if path.is_dir() else path.unlink()
    (root / "objects" / "loop").symlink_to(root)
    assert len(store.verify().faults) < 5


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("place", ["objects", "trash"])
def test_a_pipe_in_the_place_of_what_a_collector_moves(
    tmp_path: Path,
    make_snapshot: Make,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    links: bool,
) -> None:
    """A collector that opened the pipe as a file would wait for ever."""

    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    store = PolicyStore(tmp_path)
    digest = store.push(make_snapshot(1), "a").digest
    key = object_key(make_snapshot(2).digest)
    if place == "trash":
        (tmp_path / object_key(digest)).unlink()
        key = trash_key(digest, "ab" * 16)
    (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(tmp_path / key)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(StorageError, match=rf"{key} is not a regular file"):
        store.collect_garbage(timedelta(0), dry_run=False, exclusive=True)
    faults = {fault.key: fault.problem for fault in store.verify().faults}
    assert faults[key] == "a pipe, a socket or a device in the place of a file"
    assert store.stats(details=True).objects == (1 if place == "objects" else 0)


def test_objects_may_be_kept_on_another_disk_by_a_link(tmp_path: Path, make_snapshot: Make) -> None:
    root = tmp_path / "s"
    (tmp_path / "disk").mkdir()
    root.mkdir()
    (root / "objects").symlink_to(tmp_path / "disk")
    (root / "tmp").mkdir()
    PolicyStore(root).push(make_snapshot(1), "a")
    report = PolicyStore(root).verify()
    assert report.ok
    assert report.objects == 1


def test_a_file_of_terabytes_in_the_place_of_an_object(tmp_path: Path, make_snapshot: Make) -> None:
    root = tmp_path / "s"
    store = PolicyStore(root)
    for digest in store.push(make_snapshot(large=True), "a").objects or ():
        path = root / "objects" / digest.hex[:2] / f"{digest.hex}.safetensors"
        good = path.read_bytes()
        path.unlink()
        with path.open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(IntegrityError, match="1099511627776 bytes"):
            store.pull("a")
        path.unlink()
        path.write_bytes(good)


def test_read_only_error_is_a_permission_error(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), files.mapped_errors("writing", writing=True):
        raise OSError(errno.EROFS, "Read-only file system")
    assert issubclass(ReadOnlyError, PermissionError)
