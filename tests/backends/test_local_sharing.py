"""A folder that several users share: new files and folders have the rights of its root."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from policystore import PolicyStore, ReadOnlyError, Snapshot, StorageError
from policystore._util import folders
from policystore._util.files import without_group, write_new
from policystore._util.folders import refusal_hint
from policystore.backends.local import LocalBackend
from tests.backends.test_local import as_nobody
from tests.support.caching import warnings

Make = Callable[..., Snapshot]
UMASKS = [0o000, 0o002, 0o022, 0o027, 0o077]


@pytest.fixture(params=UMASKS, ids="{:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def rights(root: Path, kind: Callable[[Path], bool]) -> set[str]:
    """Return the modes of what is below a folder."""
    return {f"{stat.S_IMODE(p.stat().st_mode):04o}" for p in root.rglob("*") if kind(p)}


@pytest.mark.parametrize(
    ("mode", "folder", "file"),
    [
        ("2775", "2775", "0444"),
        ("2770", "2770", "0440"),
        ("0775", "0775", "0444"),
        ("0750", "0750", "0440"),
        ("0700", "0700", "0400"),
        ("0755", "0755", "0444"),
        ("3775", "2775", "0444"),  # members may still replace the hints of each other
        ("1777", "1777", "0444"),
    ],
)
def test_what_is_new_has_the_rights_of_the_root_whatever_the_umask(
    tmp_path: Path, make_snapshot: Make, umask: int, mode: str, folder: str, file: str
) -> None:
    root = tmp_path / "s"
    root.mkdir()
    root.chmod(int(mode, 8))
    store = PolicyStore(root)
    store.push(make_snapshot(large=True), "team/a")
    store.tag("team/a", "best")
    assert rights(root, Path.is_dir) == {folder}
    assert rights(root, Path.is_file) == {file}
    assert rights(root.parent, lambda path: path == root) == {mode}


def test_a_root_that_the_store_makes_has_the_rights_that_the_umask_leaves(
    tmp_path: Path, make_snapshot: Make, umask: int
) -> None:
    PolicyStore(tmp_path / "s").push(make_snapshot(), "a")
    expected = f"{0o777 & ~umask:04o}"
    assert rights(tmp_path, Path.is_dir) == {expected}


def test_what_is_new_has_the_group_of_the_root(
    tmp_path: Path, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the bit 2000, the system gives what is new to the group of the user."""
    root = tmp_path / "s"
    root.mkdir()
    root.chmod(0o770)
    asked: set[tuple[str, int]] = set()
    of_root = folders.rights_of(root)
    other = folders.Rights(of_root.folder, of_root.file, of_root.group + 1)
    monkeypatch.setattr("policystore.backends.local.rights_of", lambda _: other)
    monkeypatch.setattr(folders, "rights_of", lambda _: other)
    monkeypatch.setattr(os, "chown", lambda path, user, group: asked.add(("folder", group)))
    monkeypatch.setattr(os, "fchown", lambda file, user, group: asked.add(("file", group)))
    PolicyStore(root).push(make_snapshot(), "a")
    assert asked == {("folder", other.group), ("file", other.group)}


def test_a_group_that_cannot_be_given_takes_rights_with_it(
    tmp_path: Path, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's own group must not get what the group of the root may do."""
    root = tmp_path / "s"
    root.mkdir()
    root.chmod(0o775)
    of_root = folders.rights_of(root)
    other = folders.Rights(of_root.folder, of_root.file, of_root.group + 1)
    monkeypatch.setattr("policystore.backends.local.rights_of", lambda _: other)
    monkeypatch.setattr(folders, "rights_of", lambda _: other)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    monkeypatch.setattr(os, "fchown", refuse)
    PolicyStore(root).push(make_snapshot(), "a")
    assert rights(root, Path.is_dir) == {"0755"}
    assert rights(root, Path.is_file) == {"0444"}
    assert [oct(without_group(mode)) for mode in (0o2770, 0o775, 0o440)] == [
        "0o700", "0o755", "0o400",
    ]  # fmt: skip


def test_a_folder_whose_maker_was_killed_gets_its_rights_from_the_next_write(
    tmp_path: Path, make_snapshot: Make
) -> None:
    root = tmp_path / "s"
    PolicyStore(root).push(make_snapshot(1), "a")
    root.chmod(0o775)
    closed = root / "names" / "b"
    closed.mkdir(mode=0o700)  # as mkdir leaves it under a umask of 077
    private = root / "names" / "private"
    private.mkdir(mode=0o700)  # chosen by its owner: something is in it
    (private / "@hint").write_bytes(b"")
    PolicyStore(root).push(make_snapshot(1), "b")
    PolicyStore(root).push(make_snapshot(1), "private/c")
    assert stat.S_IMODE(closed.stat().st_mode) == 0o775
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


def test_a_filesystem_without_modes_is_used_as_it_is(
    tmp_path: Path, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "s"
    root.mkdir()
    root.chmod(0o775)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    store = PolicyStore(root)
    store.push(make_snapshot(), "a")
    assert store.verify().ok


def test_another_error_of_chmod_is_raised(
    tmp_path: Path, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0o077)
    try:
        root = tmp_path / "s"
        root.mkdir()
        root.chmod(0o775)

        def fail(*_: object) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "chmod", fail)
        with pytest.raises(StorageError, match="Input/output error"):
            PolicyStore(root).push(make_snapshot(), "a")
    finally:
        os.umask(before)


# What an earlier version, or a copy with `cp -r`, left with a narrow umask


@pytest.fixture
def narrow(open_folder: Path, make_snapshot: Make) -> Iterator[Path]:
    """A shared store in which one member has left a name and an object that others may not use."""
    root = open_folder / "s"
    root.mkdir()
    root.chmod(0o777)
    store = PolicyStore(root)
    store.push(make_snapshot(1), "team/a")
    version = store.push(make_snapshot(2), "team/b")
    closed = [root / "names" / "team" / "b", root / "objects" / version.digest.hex[:2]]
    for path in closed:
        path.chmod(0o000 if os.getuid() else 0o700)  # as_nobody may be this user
    yield root
    for path in closed:
        path.chmod(0o777)


def test_names_leaves_out_what_may_not_be_listed_and_says_so(narrow: Path) -> None:
    program = """
    from policystore import PolicyStore
    store = PolicyStore(sys.argv[1])
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    print(store.names())
    assert store.pull("team/a") is not None
    for call in (lambda: store.pull("team/b"), lambda: store.pull("team/typo")):
        try:
            call()
        except Exception as error:
            print(type(error).__name__, error)
    print(store.verify())
    """
    told, names, refused, *rest = as_nobody(program, str(narrow)).splitlines()
    assert names == "['team/a']"
    assert "1 folders were left out" in told
    assert f"{narrow}/names/team/b" in told
    assert refused.startswith("StorageError")
    assert "with a umask that takes rights from others" in refused
    assert f"find {narrow} -user {os.getuid()} -type d -exec chmod 777" in refused
    assert any(line.startswith("NotFoundError") for line in rest), rest
    report = "\n".join(rest)
    assert "1 name," in report  # the names that may be read are checked
    assert f"{narrow}/names/team/b" in report


def test_a_write_that_is_refused_says_what_the_umask_did(narrow: Path) -> None:
    for path in narrow.rglob("*"):
        if path.is_dir():
            path.chmod(0o555 if os.getuid() else 0o755)
    program = """
    from policystore import PolicyStore, ReadOnlyError, Snapshot
    try:
        PolicyStore(sys.argv[1]).push(Snapshot(weights={}), "team/c")
    except ReadOnlyError as error:
        print(error)
    """
    refused = as_nobody(program, str(narrow))
    assert "this user may not write" in refused
    assert re.search("has the mode 0[57]55", refused)
    (command,) = re.findall(r"find .*? -type d -exec chmod 777 \{\} \+", refused)
    subprocess.run(command, shell=True, check=True)  # the owner follows the advice
    assert as_nobody(program, str(narrow)) == ""


def test_an_object_that_may_not_be_read_names_the_umask(
    tmp_path: Path, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "s"
    store = PolicyStore(root)
    version = store.push(make_snapshot(1))
    root.chmod(0o755)
    path = root / "objects" / version.digest.hex[:2] / f"{version.digest.hex}.safetensors"
    path.chmod(0o400)

    def refuse(*_: object, **__: object) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("policystore._util.folders._same_bytes", refuse)
    with pytest.raises(StorageError, match=r"its bytes cannot be checked.*umask.*chmod 444"):
        store.push(make_snapshot(1))
    path.chmod(0o444)
    with pytest.raises(StorageError, match="Its owner can let others read it"):
        store.push(make_snapshot(1))


def test_no_umask_is_blamed_where_the_root_itself_is_closed(tmp_path: Path) -> None:
    root = tmp_path / "s"
    backend = LocalBackend(root)
    backend.create("names/a/@versions/0000000001.json", b"x")
    root.chmod(0o700)
    assert refusal_hint(root, root / "names" / "a") == ""
    assert refusal_hint(root / "absent", root / "absent" / "names") == ""
    with (
        pytest.raises(ReadOnlyError, match="Use a folder that you may write to"),
        backend._mapped_errors("writing", root / "names", writing=True),
    ):
        raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("team/b", OSError(5, "Input/output error")),
        ("/names", PermissionError(13, "Permission denied")),
    ],
)
def test_only_refusals_are_left_out(
    tmp_path: Path,
    make_snapshot: Make,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    error: OSError,
) -> None:
    """A disk that fails must not look like a store with fewer names."""
    store = PolicyStore(tmp_path / "s")
    store.push(make_snapshot(1), "team/a")
    store.push(make_snapshot(1), "team/b")
    plain = os.scandir

    def failing(path: Any) -> Any:
        if str(path).endswith(place):
            raise error
        return plain(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(StorageError, match="listing"):
        store.names()


def test_one_warning_names_all_that_was_left_out(
    tmp_path: Path,
    make_snapshot: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = PolicyStore(tmp_path / "s")
    for name in ("a", "b", "c/d"):
        store.push(make_snapshot(1), name)
    plain = os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith(("/b", "/c")):
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert store.names() == ["a"]
    (told,) = warnings(caplog)
    assert "2 folders" in told
    assert "names/b" in told
    assert "names/c" in told


def test_the_mode_of_a_file_is_set_before_its_name(tmp_path: Path) -> None:
    write_new(tmp_path / "f", [b"x"], mode=0o440, group=os.getgid())
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o440
