"""A folder of a store is listed page by page: a name may have a hundred thousand versions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from policystore._util import folders
from policystore.backends.local import LocalBackend


class _Counted:
    """Count the entries that are taken from a listing of the system."""

    def __init__(self) -> None:
        self.taken = 0

    def scandir(self, path: Any) -> _Scan:
        return _Scan(self, path)


class _Scan:
    def __init__(self, count: _Counted, path: Any) -> None:
        self.count = count
        self.entries = os.scandir(path)

    def __enter__(self) -> _Scan:
        return self

    def __exit__(self, *error: object) -> None:
        self.entries.close()

    def __iter__(self) -> Iterator[os.DirEntry[str]]:
        return self

    def __next__(self) -> os.DirEntry[str]:
        entry = next(self.entries)
        self.count.taken += 1
        return entry


class _System:
    """Stand in for ``os`` in the module that lists folders."""

    def __init__(self, count: _Counted) -> None:
        self.scandir = count.scandir

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> _Counted:
    count = _Counted()
    monkeypatch.setattr(folders, "os", _System(count))
    return count


def test_the_entries_of_a_large_folder_are_not_all_in_memory(
    tmp_path: Path, counted: _Counted
) -> None:
    inside = tmp_path / "names" / "a" / "@versions"
    inside.mkdir(parents=True)
    for number in range(3000):
        (inside / f"{number:010d}.json").touch()
    backend = LocalBackend(tmp_path)
    listed = backend.entries("names/")
    next(listed)
    assert counted.taken < 100
    assert len(list(islice(listed, 99))) == 99
    assert counted.taken < 1500
    assert len(list(listed)) == 2900
    assert counted.taken == 3000 + 2


def test_a_look_at_whether_a_folder_holds_something_takes_few_entries(
    tmp_path: Path, counted: _Counted
) -> None:
    inside = tmp_path / "objects" / "ab"
    inside.mkdir(parents=True)
    for number in range(500):
        (inside / f"{number}.safetensors").touch()
    assert list(LocalBackend(tmp_path).prefixes("objects/", "/")) == ["objects/ab/"]
    assert counted.taken < 100


def test_every_page_is_without_what_others_leave(tmp_path: Path) -> None:
    folder = tmp_path / "objects" / "ab"
    folder.mkdir(parents=True)
    names = {f"{number}.safetensors" for number in range(1500)}
    foreign = {f".{number}.swp" for number in range(1500)}
    for name in names | foreign:
        (folder / name).touch()
    found = {entry.key.rpartition("/")[2] for entry in LocalBackend(tmp_path).entries("objects/")}
    assert found == names
    assert set(LocalBackend(tmp_path).keys("objects/ab/1499")) == {"objects/ab/1499.safetensors"}
