"""Bytes that are handed out while they are read, and sizes that do not fit into memory."""

from __future__ import annotations

import errno
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore import StorageError
from policystore._util import concurrency, files, maps
from policystore._util.concurrency import in_parallel, run_both
from policystore.digest import Hasher, digest_of

MIB = 1 << 20
BYTES = np.arange(5 * MIB // 4, dtype="<u4").tobytes()
COPYING = ["small", "one thread", "two threads", "no thread to be had"]  # ways to read


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.write_bytes(BYTES)
    file.chmod(0o644)
    tmp_path.chmod(0o700)
    return file


@pytest.fixture(params=["mapped", *COPYING])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The way in which a file is read."""
    way: str = request.param
    monkeypatch.setattr(maps, "_BLOCK", MIB // 2 + 1)
    monkeypatch.setattr(maps, "_MIN_AHEAD", 0)
    monkeypatch.setattr(maps, "_is_core_free", lambda: "one" not in way)
    if way == "small":
        monkeypatch.setattr(files, "_MIN_PROTECTED", 6 * MIB)
    if way.startswith("no"):
        monkeypatch.setattr(concurrency, "_FREE", 0)
    return way


def test_each_byte_is_handed_out_once_in_order(path: Path, way: str) -> None:
    pieces: list[bytes] = []
    data = files.read_file(path, share=way == "mapped", on_data=lambda b: pieces.append(bytes(b)))
    assert data == BYTES
    assert b"".join(pieces) == BYTES
    assert len(pieces) == (1 if way in ("mapped", "small") else 10)


@pytest.mark.parametrize("way", COPYING, indirect=True)
def test_the_returned_bytes_are_those_that_were_handed_out(path: Path, way: str) -> None:
    """Another user may write to the file at any moment."""
    hasher = Hasher()

    def hash_and_write(piece: memoryview) -> None:
        hasher.update(piece)
        with path.open("r+b") as file:
            file.write(b"other bytes" * (len(BYTES) // 11))

    data = files.read_file(path, on_data=hash_and_write)
    assert digest_of(data) == hasher.digest()
    assert data != path.read_bytes()


@pytest.mark.parametrize("way", COPYING, indirect=True)
@pytest.mark.parametrize("cut", [0, MIB // 2, MIB // 2 + 1, 3 * MIB])
def test_of_a_file_that_is_cut_no_more_is_handed_out_than_returned(
    path: Path, way: str, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    plain = os.fstat

    def cut_after(descriptor: int) -> os.stat_result:
        status = plain(descriptor)
        os.truncate(path, cut)
        return status

    monkeypatch.setattr(os, "fstat", cut_after)
    hasher = Hasher()
    data = files.read_file(path, on_data=hasher.update)
    assert data == BYTES[:cut]
    assert hasher.digest() == digest_of(data)


@pytest.mark.parametrize("way", ["two threads"], indirect=True)
def test_a_thread_that_is_held_up_while_it_reads_a_block(
    path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = threading.Semaphore(0)
    plain = os.preadv

    def slow(descriptor: int, buffers: Any, position: int) -> int:
        if position == 0:
            for _ in range(9):  # all other blocks are read by the other thread meanwhile
                assert others.acquire(timeout=30)
        count = plain(descriptor, buffers, position)
        others.release()
        return count

    monkeypatch.setattr(os, "preadv", slow)
    pieces: list[bytes] = []
    assert files.read_file(path, on_data=lambda piece: pieces.append(bytes(piece))) == BYTES
    assert b"".join(pieces) == BYTES


@pytest.mark.parametrize("way", ["one thread", "two threads"], indirect=True)
@pytest.mark.parametrize("bad", [0, 1, 9])
def test_an_error_in_any_block_ends_the_read(
    path: Path, way: str, bad: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = os.preadv

    def failing(descriptor: int, buffers: Any, position: int) -> int:
        if position == bad * maps._BLOCK:
            raise OSError(errno.EIO, "a bad sector")
        return plain(descriptor, buffers, position)

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(OSError, match="a bad sector"):
        files.read_file(path, on_data=lambda piece: None)

    def refuse(piece: memoryview) -> None:
        raise ValueError("refused")

    monkeypatch.setattr(os, "preadv", plain)
    with pytest.raises(ValueError, match="refused"):
        files.read_file(path, on_data=refuse)


@pytest.mark.parametrize(("load", "threads"), [(0.2, 2), (1.0, 2), (1.6, 1), (40.0, 1)])
def test_a_thread_reads_ahead_only_where_a_core_is_free(
    path: Path, monkeypatch: pytest.MonkeyPatch, load: float, threads: int
) -> None:
    monkeypatch.setattr(maps, "_MIN_AHEAD", 0)
    monkeypatch.setattr(maps, "_cores", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    seen: list[bool] = []

    def noted(main: Any, other: Any, *, at_once: bool) -> Any:
        seen.append(at_once)
        return run_both(main, other, at_once=at_once)

    monkeypatch.setattr(maps, "run_both", noted)
    files.read_file(path, on_data=lambda piece: None)
    in_parallel(lambda _: files.read_file(path, on_data=lambda piece: None), [1, 2], workers=2)
    assert seen == [threads == 2, False, False]  # beside other reads, no thread of its own


# Sizes that do not fit into memory


def test_a_file_that_is_larger_than_the_memory_is_a_typed_error(tmp_path: Path) -> None:
    file = tmp_path / "sparse"
    file.touch()
    os.truncate(file, 8 << 40)
    with pytest.raises(StorageError, match=r"reading .*sparse: 8796093022208 bytes or more do not"):
        files.read_file(file)


def test_too_little_memory_for_a_read_is_a_typed_error() -> None:
    with (
        pytest.raises(StorageError, match=r"reading x: not enough memory\. Free some"),
        files.mapped_errors("reading x"),
    ):
        bytearray(1 << 60)


@pytest.mark.parametrize(
    ("texts", "size"),
    [
        ({"/proc/meminfo": "MemTotal:  8 kB\nMemFree: 4 kB\nSwapTotal:  2 kB\n"}, 10 << 10),
        ({"/proc/meminfo": "MemTotal:  8 kB\n", "/sys/fs/cgroup/memory.max": "max\n"}, 8 << 10),
        ({"/proc/meminfo": "MemTotal:  8 kB\n", "/sys/fs/cgroup/memory.max": "4096\n"}, 4096),
        ({"/sys/fs/cgroup/memory/memory.limit_in_bytes": "77\n"}, 77),
        ({}, sys.maxsize),
    ],
)
def test_the_memory_of_the_machine_or_of_the_container(
    monkeypatch: pytest.MonkeyPatch, texts: dict[str, str], size: int
) -> None:
    monkeypatch.setattr(maps, "_text", lambda file: texts.get(file, ""))
    assert maps.memory_size.__wrapped__() == size
