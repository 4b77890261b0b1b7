"""Files of a store are flushed in the right order, and a failing disk does no harm."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from policystore import (
    PolicyStore,
    ReadOnlyError,
    Snapshot,
    StorageError,
)
from policystore.backends import exclusive_link
from policystore.backends.local import LocalBackend

Make = Callable[..., Snapshot]


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_every_byte_is_flushed_before_its_name_and_every_name_before_the_record(
    tmp_path: Path, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Follow all calls of the system: a file must be flushed before it gets its name."""
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


def test_an_object_that_exists_is_flushed_again(
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
    """Let the 1st, 2nd, 3rd… call of each kind fail, until a push succeeds."""
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
            if call != "fsync":  # if the flush after the link fails, the version may exist
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
    """The kernel itself refuses the write; nothing is simulated."""
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


def test_only_old_temporary_files_are_removed(tmp_path: Path, make_snapshot: Make) -> None:
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


def test_without_hard_links_records_are_created_by_exclusive_renames(
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
    monkeypatch.setattr(exclusive_link.ctypes, "CDLL", lambda *_a, **_k: object())
    store = PolicyStore(root)
    with pytest.raises(StorageError, match=r"hard links.*without a name"):
        store.push(make_snapshot(1), "a")
    assert store.pull(store.push(make_snapshot(2))) == make_snapshot(2)
    assert store.names() == []


def test_a_deleted_store_is_made_again_only_where_the_folder_is_opened_anew(
    tmp_path: Path, make_snapshot: Make
) -> None:
    store = PolicyStore(tmp_path / "s")
    store.push(make_snapshot(1), "a")
    for path in sorted((tmp_path / "s").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(StorageError, match="removed meanwhile"):
        store.push(make_snapshot(2), "a")
    for _ in range(2):
        with pytest.raises(StorageError, match=r"is empty, though .* make another PolicyStore"):
            store.push(make_snapshot(2), "a")
    again = PolicyStore(tmp_path / "s")
    assert again.push(make_snapshot(3), "a").number == 1
    assert again.verify().ok
    assert store.push(make_snapshot(2), "a").number == 2


@pytest.mark.parametrize("call", ["open", "link", "replace", "mkdir"])
def test_a_disk_that_becomes_read_only_is_refused_and_read(
    tmp_path: Path, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    root = tmp_path / "s"
    store = PolicyStore(root)
    store.push(make_snapshot(1), "a")
    plain = getattr(os, call)

    def refusing(target: Any, *args: Any, **kwargs: Any) -> Any:
        if call != "open" or args[0] & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(target))
        return plain(target, *args, **kwargs)

    before = tree(root)
    monkeypatch.setattr(os, call, refusing)
    with pytest.raises(ReadOnlyError, match="Read-only file system"):
        store.push(make_snapshot(2), "b" if call == "mkdir" else "a")
    assert store.pull("a") == make_snapshot(1)
    assert store.names() == ["a"]
    assert store.verify().ok
    monkeypatch.undo()
    assert before.items() <= tree(root).items()
    assert store.push(make_snapshot(3), "a").number == 2


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENFILE, "too many open files"),
        (errno.ESTALE, "mount it again"),
        (errno.EIO, "check both"),
        (errno.EROFS, "mounted read-only"),
        (errno.ENAMETOOLONG, "nearer the root"),
        (errno.EACCES, "Check the permissions"),
    ],
)
def test_an_error_of_the_system_says_what_to_do(
    tmp_path: Path, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch, code: int, advice: str
) -> None:
    store = PolicyStore(tmp_path / "s")
    store.push(make_snapshot(1), "a")
    plain = os.open

    def failing(path: Any, *args: Any, **kwargs: Any) -> int:
        if "objects" in str(path):
            raise OSError(code, os.strerror(code), str(path))
        return plain(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(StorageError, match=advice):
        store.pull("a")
