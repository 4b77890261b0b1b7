"""Errors of files name the path that the caller knows."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from policystore import NotFoundError, Snapshot
from policystore._util import files
from policystore.errors import StorageError


def test_an_error_of_a_write_names_the_folder_and_not_the_temporary_file(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    with (
        pytest.raises(StorageError) as found,
        files.mapped_errors("writing x", writing=True),
    ):
        files.replace_file(folder / "x.onnx", [b"1"])
    assert str(found.value) == (
        f"writing x: [Errno 2] No such file or directory: '{folder}'. "
        "The folder does not exist, or was removed meanwhile."
    )


def test_an_error_of_the_rename_names_the_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ("x" * 300)
    monkeypatch.setattr(Path, "is_symlink", lambda self: False)
    monkeypatch.setattr(Path, "is_dir", lambda self: False)
    monkeypatch.setattr(Path, "exists", lambda self: False)
    with pytest.raises(OSError, match="File name too long") as found:
        files.replace_file(path, [b"1"])
    assert found.value.filename == str(path)
    assert found.value.filename2 is None
    assert os.listdir(tmp_path) == []


def test_an_error_of_another_file_stays_as_it_is(tmp_path: Path) -> None:
    def chunks() -> object:
        yield (tmp_path / "source").read_bytes()

    with pytest.raises(FileNotFoundError) as found:
        files.replace_file(tmp_path / "x", chunks())  # type: ignore[arg-type]
    assert found.value.filename == str(tmp_path / "source")
    assert os.listdir(tmp_path) == []


def test_a_missing_file_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "none.safetensors"
    with pytest.raises(NotFoundError) as found:
        Snapshot.load(path)
    assert str(found.value) == f"loading a snapshot from {path}: no such file"
    with (
        pytest.raises(NotFoundError, match=rf"reading: no such file: {path}"),
        files.mapped_errors("reading"),
    ):
        path.read_bytes()
    assert pickle.loads(pickle.dumps(found.value)).message == found.value.message
