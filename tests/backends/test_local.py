"""What is special about a folder of a filesystem: durability, permissions, full disks, maps."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
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
from policystore.backends import local
from policystore.backends.local import LocalBackend

Make = Callable[..., Snapshot]


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def as_nobody(program: str, *args: str) -> str:
    """Run a program as a user without rights: the test's own, or nobody where that is root."""
    drop = "import os\nif os.getuid() == 0:\n    os.setgid(65534); os.setuid(65534)\n"
    # Imported, and used once, before the rights are dropped: the interpreter and the checkout may
    # be in private folders, and some imports are made by calls.
    before = """
    import sys, tempfile
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


def test_every_byte_is_flushed_before_its_name_and_every_name_before_the_record(
    tmp_path: Path, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replays the calls: at every moment, what is named must be on the disk already."""
    events: list[tuple[str, str]] = []
    fsync, link, rename, mkdir, open_ = os.fsync, os.link, os.replace, os.mkdir, os.open
    names: dict[int, str] = {}

    def traced_open(path: Any, *args: Any, **kwargs: Any) -> int:
        descriptor = open_(path, *args, **kwargs)
        names[descriptor] = str(path)
        return descriptor

    monkeypatch.setattr(os, "open", traced_open)
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(("fsync", names[fd])), fsync(fd))[1])
    monkeypatch.setattr(
        os, "link", lambda a, b: (events.append(("name", f"{a}\n{b}")), link(a, b))[1]
    )
    monkeypatch.setattr(
        os, "replace", lambda a, b: (events.append(("name", f"{a}\n{b}")), rename(a, b))[1]
    )
    monkeypatch.setattr(
        os, "mkdir", lambda p, m=0o777: (events.append(("mkdir", str(p))), mkdir(p, m))[1]
    )

    root = tmp_path / "deep" / "er" / "s"
    PolicyStore(root).push(make_snapshot(large=True), "a/b")

    flushed: set[str] = set()
    unflushed_entries: set[str] = set()  # folders with new entries that were not flushed
    for kind, what in events:
        if kind == "fsync":
            flushed.add(what)
            unflushed_entries.discard(what)
        elif kind == "mkdir":
            unflushed_entries.add(str(Path(what).parent))
        else:
            source, target = what.split("\n")
            assert source in flushed, f"{target} was named before its bytes were flushed"
            if "@versions" in target:
                needed = {f for f in unflushed_entries if "/tmp" not in f[len(str(root)) :]}
                assert not needed, f"the record came before these were flushed: {needed}"
            if not target.endswith("@hint"):
                unflushed_entries.add(str(Path(target).parent))
    assert [what for kind, what in events if kind == "name" and "@versions" in what]
    assert not unflushed_entries - {str(root / "tmp")}


def test_a_hit_is_flushed_too(
    tmp_path: Path, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have died between its rename and its flush."""
    version = PolicyStore(tmp_path / "s").push(make_snapshot())
    seen: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(os.fstat(fd).st_ino), fsync(fd))[1])
    PolicyStore(tmp_path / "s").push(make_snapshot())
    hexadecimal = version.digest.hex
    path = tmp_path / "s" / "objects" / hexadecimal[:2] / f"{hexadecimal}.safetensors"
    for needed in (path, path.parent, path.parent.parent, tmp_path / "s"):
        assert needed.stat().st_ino in seen


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "fsync", "link", "replace", "mkdir"])
def test_a_disk_that_fails_leaves_the_store_as_it_was(
    tmp_path: Path, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    """Fails the 1st, 2nd, 3rd… of each call, until a push gets through."""
    root = tmp_path / "s"
    PolicyStore(root).push(make_snapshot(1), "a")
    original = getattr(os, call)
    for fail_at in range(1, 100):
        before = tree(root)
        count = 0

        def failing(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == fail_at:  # noqa: B023
                raise OSError(code, os.strerror(code))
            return original(*args, **kwargs)

        monkeypatch.setattr(os, call, failing)
        try:
            PolicyStore(root).push(make_snapshot(fail_at + 10, large=True), "a")
        except StorageError as error:
            assert os.strerror(code) in str(error)
            if code == errno.ENOSPC:
                assert "free some space" in str(error)
            monkeypatch.undo()
            report = PolicyStore(root).verify()
            assert report.ok, str(report)
            after = tree(root)
            assert not [key for key in after if key.startswith("tmp/")]
            assert before.items() <= after.items()
            if call != "fsync":  # a failed flush behind the link: visible, and not promised
                assert {
                    k for k in after.keys() - before.keys() if not k.startswith("objects/")
                } == set()
        monkeypatch.undo()
        if count < fail_at:
            break
    else:
        raise AssertionError("no push got through")
    assert fail_at > 1
    assert PolicyStore(root).pull("a") == make_snapshot(fail_at + 10, large=True)


def test_a_file_size_limit_of_the_process(tmp_path: Path, make_snapshot: Make) -> None:
    """A real refusal of the kernel rather than a simulated one."""
    root = tmp_path / "s"
    PolicyStore(root).push(make_snapshot(1), "a")
    program = """
    import resource, signal, sys
    import numpy as np
    from policystore import PolicyStore, Snapshot, StorageError
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        PolicyStore(sys.argv[1]).push(Snapshot(weights={"w": np.ones(50_000)}), "a")
    except StorageError as error:
        print("refused", error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(root)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "refused" in done.stdout
    assert "larger than this process" in done.stdout
    assert PolicyStore(root).verify().ok
    assert len(PolicyStore(root).log("a")) == 1
    assert list((root / "tmp").iterdir()) == []


def test_a_folder_that_may_only_be_read(tmp_path: Path, make_snapshot: Make) -> None:
    for folder in (tmp_path, *tmp_path.parents[:4]):  # pytest's own are for their user alone
        if folder.stat().st_mode & 0o005 == 0o005:
            break
        os.chmod(folder, 0o755)
    shelf = tmp_path / "shelf"
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


def test_old_leftovers_are_swept_and_young_ones_left(tmp_path: Path, make_snapshot: Make) -> None:
    root = tmp_path / "s"
    PolicyStore(root).push(make_snapshot(1), "a")
    old, young = root / "tmp" / "old", root / "tmp" / "young"
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    PolicyStore(root).push(make_snapshot(2), "a")
    assert not old.exists()
    assert young.exists()
    assert PolicyStore(root).verify().ok


def test_without_hard_links_names_move_by_exclusive_renames(
    tmp_path: Path, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    store = PolicyStore(tmp_path / "s")
    for seed in range(3):
        assert store.push(make_snapshot(seed), "a").number == seed + 1
    backend = LocalBackend(tmp_path / "t")
    assert backend.create("x", b"1")
    assert not backend.create("x", b"2")
    assert backend.get("x") == b"1"
    assert store.verify().ok
    assert list((tmp_path / "s" / "tmp").iterdir()) == []


def test_without_links_and_exclusive_renames_names_are_refused_and_digests_work(
    tmp_path: Path, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "s"
    PolicyStore(root).push(make_snapshot())

    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(local.ctypes, "CDLL", lambda *_a, **_k: object())
    store = PolicyStore(root)
    with pytest.raises(StorageError, match=r"hard links.*without a name"):
        store.push(make_snapshot(1), "a")
    assert store.pull(store.push(make_snapshot(2))) == make_snapshot(2)
    assert store.names() == []


def is_mapped(array: np.ndarray) -> bool:
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    while isinstance(base, memoryview):
        base = base.obj
    return isinstance(base, mmap.mmap)


def test_large_arrays_are_views_of_the_page_cache_where_that_is_safe(
    tmp_path: Path, make_snapshot: Make
) -> None:
    store = PolicyStore(tmp_path / "s")
    version = store.push(make_snapshot(large=True))
    assert is_mapped(store.pull(version).weights["frozen"])
    assert not is_mapped(store.pull(version).weights["encoder.bias"])
    # Others may write there: a change after verification would change the arrays.
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


def test_what_was_pulled_outlives_the_store(tmp_path: Path, make_snapshot: Make) -> None:
    store = PolicyStore(tmp_path / "s")
    snap = store.pull(store.push(make_snapshot(large=True)))
    for path in (tmp_path / "s" / "objects").rglob("*.safetensors"):
        path.unlink()
    assert snap.encode().policy.digest == make_snapshot(large=True).digest


def test_a_folder_that_vanishes_between_two_pushes(tmp_path: Path, make_snapshot: Make) -> None:
    store = PolicyStore(tmp_path / "s")
    store.push(make_snapshot(1), "a")
    for path in sorted((tmp_path / "s").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(StorageError, match="removed meanwhile"):
        store.push(make_snapshot(2), "a")
    assert store.push(make_snapshot(3), "a").number == 1
    assert store.verify().ok


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
