"""Test the calls of a backend, one by one, against the raw storage."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from policystore.backends.base import Backend, Chunks, Problems
from policystore.digest import Digest
from policystore.errors import FormatError, NotFoundError
from policystore.format.keys import (
    MARKER,
    NAMES,
    hint_key,
    object_key,
    tag_key,
    tags_prefix,
    trash_key,
    version_key,
)
from policystore.testing.storage import StorageContract

__all__ = ["BackendContract"]

_MIB = 1 << 20
_LONG_NAME = "/".join(["Team-1_x.y" * 10] * 3)  # capitals are escaped, so that keys get longer
_KEYS = [
    MARKER,
    object_key(Digest("ab" * 32)),
    object_key(Digest("0f" * 32)),
    hint_key("a"),
    version_key("a", 1),
    version_key("a", 2),
    tag_key("a", "Best", 1),
    tag_key("a", "t", 1),
    version_key("a-b", 1),
    version_key("a/c", 1),
    version_key(_LONG_NAME, 9_999_999_999),
]
"""Keys of each form that a store writes."""


class BackendContract(StorageContract):
    """Tests that every backend has to pass, on any storage.

    Subclass this class, name the subclass ``Test…`` and define the methods of
    :class:`~policystore.testing.storage.StorageContract`. The tests use a backend only through
    :class:`~policystore.backends.base.Backend`.
    """

    @pytest.fixture
    def backend(self) -> Backend:
        """Return a backend over an empty storage."""
        return self.make_backend()

    # Properties

    def test_it_describes_itself(self, backend: Backend) -> None:
        assert isinstance(backend.url, str)
        assert backend.url
        assert type(backend.is_remote) is bool
        assert type(backend.parallel) is int
        assert backend.parallel >= 1
        assert "0000000001.json" in backend.location(version_key("a", 1))

    def test_constructing_and_reading_write_nothing(self, backend: Backend) -> None:
        backend.size(MARKER)
        list(backend.keys(""))
        assert self.raw_keys() == set()

    # Reading

    def test_reading_an_absent_key_raises_not_found(self, backend: Backend) -> None:
        for _ in range(2):  # in an empty storage, and beside other keys
            for key in (version_key("a", 2), object_key(Digest("00" * 32))):
                with pytest.raises(NotFoundError):
                    backend.get(key)
                with pytest.raises(NotFoundError):
                    backend.get(key, limit=10, share=True)
                with pytest.raises(NotFoundError):
                    backend.head(key, 10)
                assert backend.size(key) is None
            self.raw_write(version_key("a", 1), b"1")

    @pytest.mark.parametrize("size", [0, 1, 1000, 3 * _MIB])
    def test_all_bytes_of_a_key_are_read(self, backend: Backend, size: int) -> None:
        key, data = object_key(Digest("ab" * 32)), _bytes(size)
        self.raw_write(key, data)
        for read in (
            backend.get(key),
            backend.get(key, limit=size),
            backend.get(key, limit=size + 1, share=True, size=size),
        ):
            assert bytes(read) == data
            assert memoryview(read).readonly
        assert backend.size(key) == size

    def test_more_bytes_than_allowed_are_refused(self, backend: Backend) -> None:
        key = version_key("a", 1)
        self.raw_write(key, _bytes(2 * _MIB))
        for limit in (0, 1, 2 * _MIB - 1):
            with pytest.raises(FormatError):
                backend.get(key, limit=limit)

    def test_head_returns_at_most_count_bytes(self, backend: Backend) -> None:
        key = version_key("a", 1)
        self.raw_write(key, b"0123456789")
        assert bytes(backend.head(key, 4)) == b"0123"
        assert bytes(backend.head(key, 10)) == b"0123456789"
        assert bytes(backend.head(key, 1000)) == b"0123456789"
        self.raw_write(key, b"")
        assert bytes(backend.head(key, 4)) == b""

    def test_on_bytes_counts_add_up_to_the_size(self, backend: Backend) -> None:
        key, data = object_key(Digest("ab" * 32)), _bytes(3 * _MIB)
        written: list[int] = []
        backend.put(key, [data[:_MIB], data[_MIB:]], on_bytes=written.append)
        read: list[int] = []
        backend.get(key, limit=len(data), size=len(data), on_bytes=read.append)
        for parts in (written, read):
            assert all(part > 0 for part in parts)
            assert sum(parts) in (0, len(data))

    # Writing

    def test_put_writes_all_chunks_in_order(self, backend: Backend) -> None:
        whole = _bytes(2 * _MIB + 3)
        cases: list[Chunks] = [
            [],
            [b""],
            [b"abc"],
            [b"a", memoryview(b"bc"), b"", memoryview(bytearray(b"d"))],
            [whole[:7], memoryview(whole)[7:_MIB], whole[_MIB:]],
        ]
        for chunks in cases:
            backend.put(object_key(Digest("ab" * 32)), chunks)
            expected = b"".join(chunks)
            assert self.raw_read(object_key(Digest("ab" * 32))) == expected

    def test_put_again_changes_nothing(self, backend: Backend) -> None:
        for data in (b"small", _bytes(2 * _MIB)):
            for _ in range(3):
                backend.put(object_key(Digest("ab" * 32)), [data])
                assert self.raw_read(object_key(Digest("ab" * 32))) == data
        assert self.raw_keys() == {object_key(Digest("ab" * 32))}

    @pytest.mark.parametrize("size", [100, 2 * _MIB])
    def test_put_replaces_a_damaged_copy(self, backend: Backend, size: int) -> None:
        key, data = object_key(Digest("ab" * 32)), _bytes(size)
        backend.put(key, [data])
        flipped = data[:-1] + bytes([data[-1] ^ 1])
        for damaged in (b"", data[:-1], data + b"x", flipped):
            self.raw_write(key, damaged)
            backend.put(key, [data])
            assert self.raw_read(key) == data
        self.raw_delete(key)
        backend.put(key, [data])
        assert self.raw_read(key) == data

    def test_create_makes_a_key_once(self, backend: Backend) -> None:
        other = self.make_backend()
        for key in _KEYS:
            assert backend.create(key, b"first") is True
            assert backend.create(key, b"second") is False
            assert other.create(key, b"third") is False
            assert self.raw_read(key) == b"first"
        assert self.raw_keys() == set(_KEYS)

    def test_create_refuses_a_key_that_another_program_wrote(self, backend: Backend) -> None:
        for data in (b"", b"1"):
            self.raw_write(version_key("a", 1), data)
            assert backend.create(version_key("a", 1), b"2") is False
            assert self.raw_read(version_key("a", 1)) == data

    def test_one_of_many_concurrent_creates_succeeds(self, backend: Backend) -> None:
        """Check that no two writers create the same number: a version would be lost."""
        backends = [self.make_backend() for _ in range(8)]
        for number in range(1, 11):
            together = threading.Barrier(len(backends))

            def create(index: int, key: str, gate: threading.Barrier) -> bool:
                gate.wait(60)
                return backends[index].create(key, f"writer {index}".encode())

            key = version_key("a", number)
            with ThreadPoolExecutor(len(backends)) as pool:
                answers = list(
                    pool.map(create, range(8), [key] * 8, [together] * 8),
                )
            assert answers.count(True) == 1
            assert self.raw_read(key) == f"writer {answers.index(True)}".encode()

    def test_verify_exclusive_create_accepts_this_storage(self, backend: Backend) -> None:
        backend.create(MARKER, b"marker")
        backend.verify_exclusive_create(MARKER, b"marker")
        assert self.raw_read(MARKER) == b"marker"
        assert self.raw_keys() == {MARKER}

    def test_replace_creates_and_overwrites(self, backend: Backend) -> None:
        for data in (b"one", b"another", b"", _bytes(2 * _MIB), b"last"):
            backend.replace(hint_key("a"), data)
            assert self.raw_read(hint_key("a")) == data
        assert self.raw_keys() == {hint_key("a")}

    def test_a_reader_sees_the_old_or_the_new_bytes(self, backend: Backend) -> None:
        values = [bytes([value]) * 300_000 for value in range(2)]
        backend.replace(hint_key("a"), values[0])
        done = threading.Event()
        odd: list[bytes] = []

        def read() -> None:
            reader = self.make_backend()
            while not done.is_set():
                data = bytes(reader.get(hint_key("a")))
                if data not in values:
                    odd.append(data)
                    return

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            for turn in range(30):
                backend.replace(hint_key("a"), values[turn % 2])
        finally:
            done.set()
            for reader in readers:
                reader.join()
        assert odd == []

    def test_one_backend_object_reads_what_another_wrote(self, backend: Backend) -> None:
        other = self.make_backend()
        assert other.size(MARKER) is None
        backend.create(MARKER, b"marker")
        backend.put(object_key(Digest("ab" * 32)), [b"object"])
        backend.replace(hint_key("a"), b"hint")
        assert bytes(other.get(MARKER)) == b"marker"
        assert bytes(other.get(object_key(Digest("ab" * 32)))) == b"object"
        assert bytes(other.get(hint_key("a"))) == b"hint"
        assert set(other.keys("")) == self.raw_keys()

    # Listings

    @pytest.fixture
    def filled(self, backend: Backend) -> Backend:
        """Return a backend over a storage with keys of each form."""
        for key in _KEYS:
            self.raw_write(key, b"x")
        return backend

    def test_an_empty_storage_lists_nothing(self, backend: Backend) -> None:
        problems: Problems = []
        assert list(backend.keys("", problems=problems)) == []
        assert list(backend.keys("names/a/", problems=problems)) == []
        assert list(backend.prefixes(NAMES, "/@")) == []
        assert list(backend.prefixes(tags_prefix("a"), "/")) == []
        assert problems == []

    def test_keys_lists_all_keys_with_the_prefix(self, filled: Backend) -> None:
        starts = (
            "p objects/ objects/ab/ab objects/zz names/ names/a names/a/ names/a/@tags/ "
            "names/a/@versions/000000000 nothing"
        )
        for start in ["", *starts.split()]:
            listed = list(filled.keys(start))
            assert sorted(listed) == sorted(key for key in _KEYS if key.startswith(start)), start
        problems: Problems = []
        assert set(filled.keys("", problems=problems)) == set(_KEYS)
        assert problems == []

    def test_prefixes_end_with_the_delimiter_and_are_listed_once(self, filled: Backend) -> None:
        long = version_key(_LONG_NAME, 1).partition("@")[0] + "@"
        names = list(filled.prefixes(NAMES, "/@"))
        assert sorted(names) == sorted(["names/a/@", "names/a-b/@", "names/a/c/@", long])
        assert sorted(filled.prefixes(tags_prefix("a"), "/")) == [
            "names/a/@tags/!best/",
            "names/a/@tags/t/",
        ]
        assert list(filled.prefixes(tags_prefix("a-b"), "/")) == []
        for start, found in {
            "names/a": ["names/a-b/@", "names/a/@", "names/a/c/@"],
            "names/a/": ["names/a/c/@"],
            "names/a/c": ["names/a/c/@"],
            "names/a-": ["names/a-b/@"],
            "names/b": [],
        }.items():
            assert sorted(filled.prefixes(start, "/@")) == found, start
        assert sorted(filled.prefixes("names/a", "/")) == ["names/a-b/", "names/a/"]
        folders = {f"{key.partition('/')[0]}/" for key in _KEYS if "/" in key}
        assert sorted(filled.prefixes("", "/")) == sorted(folders)

    def test_entries_tell_sizes_and_times(self, backend: Backend) -> None:
        begun = backend.server_time()
        backend.put(object_key(Digest("ab" * 32)), [b"four"])
        backend.create(version_key("a", 1), b"")
        entries = {entry.key: entry for entry in backend.entries("")}
        assert entries.keys() == self.raw_keys() == set(backend.keys(""))
        assert entries[object_key(Digest("ab" * 32))].nbytes == 4
        assert entries[version_key("a", 1)].nbytes == 0
        for entry in entries.values():
            assert entry.time is not None
            assert begun - 1 <= entry.time <= backend.server_time() + 1
        assert [entry.key for entry in backend.entries("names/a/@v")] == [version_key("a", 1)]
        assert list(backend.entries("names/b")) == []

    def test_the_time_of_the_server_leaves_no_key(self, backend: Backend) -> None:
        backend.create(MARKER, b"marker")
        assert backend.server_time() <= backend.server_time()
        assert self.raw_keys() == {MARKER}

    def test_delete_removes_one_key(self, filled: Backend) -> None:
        for count, key in enumerate(_KEYS, 1):
            filled.delete(key)
            filled.delete(key)  # an absent key is no error
            assert filled.size(key) is None
            assert self.raw_keys() == set(_KEYS[count:])
        assert filled.create(_KEYS[0], b"again") is True

    @pytest.mark.parametrize("size", [0, 100, 2 * _MIB])
    def test_copy_makes_a_new_key_of_the_same_bytes(self, backend: Backend, size: int) -> None:
        digest, data = Digest("ab" * 32), _bytes(size)
        for target in (trash_key(digest, "1" * 32), object_key(Digest("cd" * 32))):
            backend.put(object_key(digest), [data])
            begun = backend.server_time()
            for _ in range(2):  # to a new key, and over an existing one
                backend.copy(object_key(digest), target)
                assert self.raw_read(target) == data
            (entry,) = backend.entries(target)
            assert entry.time is not None
            assert entry.time >= begun - 1
            backend.delete(object_key(digest))
            assert self.raw_read(target) == data
        backend.copy(trash_key(digest, "1" * 32), object_key(digest))
        assert self.raw_read(object_key(digest)) == data

    def test_copying_an_absent_key_raises_not_found(self, filled: Backend) -> None:
        with pytest.raises(NotFoundError):
            filled.copy(object_key(Digest("cd" * 32)), trash_key(Digest("cd" * 32), "1" * 32))
        assert self.raw_keys() == set(_KEYS)

    def test_a_deleted_key_is_gone(self, filled: Backend) -> None:
        for key in _KEYS:
            self.raw_delete(key)
            assert filled.size(key) is None
        assert list(filled.keys("")) == []
        assert list(filled.prefixes(NAMES, "/@")) == []


def _bytes(count: int) -> bytes:
    """Return ``count`` bytes in which neighbouring blocks differ."""
    return np.arange(-(-count // 4), dtype="<u4").tobytes()[:count]
