"""``files.replace_file``: what killed processes leave beside a file, and who removes it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from policystore import Snapshot
from policystore._util import files


class Killed(BaseException):
    """Stands for the end of the process: nothing after it runs."""


def leave(path: Path, monkeypatch: pytest.MonkeyPatch, age: float) -> Path:
    """Leave the temporary file of a killed write to a path, and return it."""
    before = set(path.parent.iterdir())

    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(Killed):
            files.replace_file(path, chunks())
    (left,) = set(path.parent.iterdir()) - before
    os.utime(left, (time.time() - age,) * 2)
    return left


def test_the_next_write_removes_old_leftovers_of_the_same_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "main.onnx", tmp_path / "other.onnx"
    old = leave(path, monkeypatch, age=2 * 3600)
    young = leave(path, monkeypatch, age=60)  # its process may run
    of_other = leave(other, monkeypatch, age=2 * 3600)
    mine = tmp_path / ".mine.tmp"
    mine.write_text("")
    os.utime(mine, (0, 0))
    files.replace_file(path, [b"whole"])
    assert path.read_bytes() == b"whole"
    assert not old.exists()
    assert set(tmp_path.iterdir()) == {path, young, of_other, mine}


def test_a_save_removes_what_a_killed_save_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snap = Snapshot(weights={})
    path = tmp_path / "main.safetensors"
    leave(path, monkeypatch, age=2 * 3600)
    snap.save(path)
    assert list(tmp_path.iterdir()) == [path]


def test_names_as_long_as_the_system_allows_are_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    files.replace_file(path, [b"1"])
    files.replace_file(path, [b"2"])
    assert path.read_bytes() == b"2"
    assert list(tmp_path.iterdir()) == [path]
