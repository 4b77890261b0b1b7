"""Maps without descriptors, and memory that nothing can write to."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore import PolicyStore, Snapshot
from policystore._util import files, maps
from policystore._util.concurrency import in_parallel

MIB = 1 << 20
BYTES = np.arange(5 * MIB // 4, dtype="<u4").tobytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.write_bytes(BYTES)
    file.chmod(0o444)
    tmp_path.chmod(0o700)
    return file


@pytest.fixture(autouse=True)
def _all_maps_are_freed() -> Iterator[None]:
    gc.collect()
    before = len(maps._LIVE)
    yield
    gc.collect()
    assert len(maps._LIVE) == before


@pytest.mark.parametrize("share", [True, False])
def test_no_descriptor_stays_open_and_the_bytes_live_as_long_as_a_view(
    path: Path, share: bool
) -> None:
    before = os.listdir("/proc/self/fd")
    data = files.read_file(path, share=share)
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert data == BYTES
    array = np.ndarray((10,), "<u4", buffer=memoryview(data)[40:80])
    path.unlink()
    del data
    gc.collect()
    assert array.tolist() == list(range(10, 20))


@pytest.mark.parametrize("share", [True, False])
def test_no_writeable_view_can_be_made(path: Path, share: bool) -> None:
    data: Any = files.read_file(path, share=share)
    view = np.frombuffer(data, np.uint8)
    assert data.readonly
    array: Any = view
    while isinstance(array, np.ndarray):  # each array below the view, too
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        array = array.base.obj if isinstance(array.base, memoryview) else array.base
    with pytest.raises(TypeError):
        memoryview(array)  # there is no buffer behind the arrays
    with pytest.raises(TypeError, match="copied or pickled"):
        array.__reduce__()
    with pytest.raises(TypeError):
        ctypes.c_char.from_buffer(data)


@pytest.mark.parametrize("share", [True, False])
def test_the_pages_themselves_are_protected(path: Path, share: bool) -> None:
    program = f"""
        import ctypes
        from pathlib import Path
        import numpy as np
        from policystore._util.files import read_file
        data = read_file(Path({str(path)!r}), share={share})
        ctypes.memset(np.frombuffer(data, np.uint8).ctypes.data, 1, 1)
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True)
    assert done.returncode == -11  # SIGSEGV
    assert path.read_bytes() == BYTES


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
@pytest.mark.parametrize("share", [True, False])
def test_without_a_map_the_bytes_are_read(
    path: Path, monkeypatch: pytest.MonkeyPatch, share: bool, code: int
) -> None:
    class Full:
        def mmap(self, *_: object) -> int | None:
            ctypes.set_errno(code)
            return maps._FAILED

    monkeypatch.setattr(maps, "_LIBRARY", Full())
    assert type(files.read_file(path, share=share)) is bytes
    assert files.read_file(path, share=share) == BYTES


@pytest.mark.parametrize(("size", "mode", "mapped"), [
    (MIB // 4, 0o700, True),  # as each tensor that is an object of its own
    (MIB // 4 - 1, 0o700, False),
    (MIB // 4, 0o777, False),  # others could change the file
])  # fmt: skip
def test_small_files_are_mapped_where_only_this_user_writes(
    path: Path, size: int, mode: int, mapped: bool
) -> None:
    path.chmod(0o644)
    path.write_bytes(BYTES[:size])
    path.parent.chmod(mode)
    data = files.read_file(path, share=True)
    assert type(data) is (memoryview if mapped else bytes)
    assert data == BYTES[:size]


def test_another_error_of_the_map_is_raised(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def mmap(self, *_: object) -> int | None:
            ctypes.set_errno(errno.EACCES)
            return maps._FAILED

    monkeypatch.setattr(maps, "_LIBRARY", Broken())
    with pytest.raises(PermissionError):
        files.read_file(path, share=True)


def test_on_other_systems_the_bytes_are_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "_LIBRARY", None)
    assert type(files.read_file(path, share=True)) is bytes


def test_beyond_a_number_of_maps_the_bytes_are_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that used up its maps could not even allocate memory any more."""
    monkeypatch.setattr(maps, "_MOST", len(maps._LIVE) + 3)
    held = [files.read_file(path, share=True) for _ in range(5)]
    assert [type(data) for data in held] == [memoryview] * 3 + [bytes] * 2
    assert all(data == BYTES for data in held)
    del held[0]
    gc.collect()
    assert type(files.read_file(path, share=True)) is memoryview


@pytest.mark.parametrize("cut", [0, 1, 2 * MIB, 3 * MIB + 7])
def test_a_file_that_is_cut_during_the_read_gives_the_bytes_it_has(
    path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """Elsewhere than on this machine's own disk, others may cut a file at any time."""
    path.chmod(0o644)
    monkeypatch.setattr(maps, "_PART", MIB)
    plain = os.fstat

    def cut_after(descriptor: int) -> os.stat_result:
        status = plain(descriptor)
        os.truncate(path, cut)
        return status

    monkeypatch.setattr(os, "fstat", cut_after)
    assert files.read_file(path) == BYTES[:cut]


def test_parts_of_a_file_arrive_in_order(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "_PART", MIB // 3)
    monkeypatch.setattr(maps, "_cores", lambda: 8)
    assert files.read_file(path) == BYTES


def test_a_saved_snapshot_is_loaded_into_protected_memory(tmp_path: Path) -> None:
    snap = Snapshot(weights={"w": np.arange(2_000_000, dtype=np.float32)})
    snap.save(tmp_path / "f")
    loaded = Snapshot.load(tmp_path / "f")
    assert loaded == snap
    assert not loaded.weights["w"].base.flags.writeable
    (tmp_path / "f").write_bytes(b"")  # the snapshot has its own copy
    assert loaded.weights["w"][-1] == 1_999_999


def hold(tmp_path: Path, count: int, most_descriptors: int) -> str:
    """Pull a policy ``count`` times and hold all of them; return what the program printed."""
    program = f"""
        import os, resource
        import numpy as np
        from policystore import PolicyStore, Snapshot
        from policystore._util import files, maps
        os.umask(0o022)
        files._MIN_SHARED = 4096  # so that the test needs little time
        store = PolicyStore({str(tmp_path / "s")!r})
        snap = Snapshot(weights={{"w": np.arange(2000.0)}})
        digest = store.push(snap).digest
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, ({most_descriptors}, hard))
        held = [store.pull(digest) for _ in range({count})]
        mapped = len(maps._LIVE)
        assert all(each.weights["w"][-1] == 1999 for each in held)
        big = bytearray(100 << 20)  # other parts of the process still get memory
        print(len(held), mapped, len(os.listdir("/proc/self/fd")))
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_many_policies_are_held_with_few_descriptors(tmp_path: Path) -> None:
    held, mapped, descriptors = map(int, hold(tmp_path, 500, 64).split())
    assert (held, mapped) == (500, 500)
    assert descriptors < 20


@pytest.mark.long
def test_twenty_thousand_policies_are_held_at_once(tmp_path: Path) -> None:
    held, mapped, descriptors = map(int, hold(tmp_path, 20_000, 1024).split())
    assert (held, mapped) == (20_000, maps._MOST)
    assert descriptors < 20


@pytest.mark.long
def test_policies_of_many_tensors_are_held_with_few_descriptors(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path / "s")
    tensors = {f"w{i}": np.full(1_100_000, i, np.float32) for i in range(20)}
    refs = [store.push(Snapshot(weights={**tensors, "n": np.array(n)})).digest for n in range(60)]
    before = len(os.listdir("/proc/self/fd"))
    held = store.pull_many(refs)
    assert len(held) == 60
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(maps._LIVE) >= 1200


def test_files_that_are_read_beside_others_get_no_threads_of_their_own(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def noted(call: Any, items: Any, *, workers: int) -> Any:
        seen.append(workers)
        return in_parallel(call, items, workers=workers)

    monkeypatch.setattr(maps, "in_parallel", noted)
    monkeypatch.setattr(maps, "_cores", lambda: 8)
    files.read_file(path)
    assert in_parallel(files.read_file, [path, path], workers=2) == [BYTES, BYTES]
    assert seen == [4, 1, 1]


def test_memory_lives_as_long_as_a_thread_that_was_left_may_write_to_it() -> None:
    """After an interrupt, a thread may still wait for a disk, and then write what it read."""
    left: list[memoryview] = []

    def fill(buffer: memoryview) -> int:
        left.append(buffer[:MIB])
        raise KeyboardInterrupt

    before = len(maps._LIVE)
    with pytest.raises(KeyboardInterrupt):
        maps.protected_memory(4 * MIB, fill)
    gc.collect()
    assert len(maps._LIVE) == before + 1
    left[0][:3] = b"abc"
    left.clear()
    gc.collect()
    assert len(maps._LIVE) == before
