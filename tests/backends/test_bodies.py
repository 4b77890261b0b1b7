"""Large bodies are sent and received piece by piece, without a second copy in memory."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from policystore import PolicyStore, Snapshot
from policystore.backends import s3, s3_multipart
from policystore.backends.bodies import sending
from policystore.backends.bodies.receiving import memory_for, receive
from policystore.backends.bodies.sending import BodyReader
from policystore.backends.s3_multipart import PartedBody
from tests.support.s3_server import Proxy

DATA = bytes(range(256)) * 40


def parted(data: bytes = DATA) -> PartedBody:
    return PartedBody([data[:7], memoryview(data)[7:5000], b"", data[5000:]])


def test_a_body_reads_as_a_file_with_its_bytes() -> None:
    body, expected = parted().open(), io.BytesIO(DATA)
    assert len(body) == len(DATA)
    for offset, whence in ((0, 0), (10, 0), (5, 1), (-3000, 2), (len(DATA) - 3, 0), (9, 2)):
        assert body.seek(offset, whence) == expected.seek(offset, whence) == body.tell()
        for size in (1, 4096, 0, -1, None):
            assert body.read(size) == expected.read(size)
            body.seek(offset, whence)
            expected.seek(offset, whence)


def test_a_body_is_sent_from_where_it_was_read_to_and_again_from_its_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def sent() -> list[bytes]:
        return [block async for block in body]

    monkeypatch.setattr(sending, "_BLOCK", 3000)
    body = parted().open()
    assert list(map(len, asyncio.run(sent()))) == [3000, 3000, 3000, 1240]
    for start in (7, 0):
        body.seek(start)
        assert b"".join(asyncio.run(sent())) == DATA[start:]


AT_THE_END = """
import atexit, sys, threading
import numpy as np
from policystore import PolicyStore, Snapshot

url, endpoint, way = sys.argv[1:]
store = PolicyStore(url, storage_options={"endpoint_url": endpoint}, cache=False)
rng = np.random.default_rng(0)
snaps = [Snapshot(weights={"w": rng.standard_normal(mib << 17)}) for mib in (0, 2, 33)]
store.push(snaps[0], "a")


def push():
    if way == "thread":
        threading.main_thread().join()
    for snap in snaps[1:]:
        store.push(snap, "a")
        assert store.pull("a") == snap
    print("pushed")


if way == "thread":
    threading.Thread(target=push).start()
else:
    atexit.register(push)
"""


@pytest.mark.parametrize("way", ["thread", "atexit"])
def test_a_push_goes_on_when_the_main_thread_has_ended(
    way: str, s3_endpoint: str, s3_bucket: str
) -> None:
    command = [sys.executable, "-c", AT_THE_END, f"s3://{s3_bucket}/p", s3_endpoint, way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "pushed\n", done.stderr


def test_the_parts_of_a_body_are_files_that_make_up_its_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(s3_multipart, "_PART", 3000)
    body = parted()
    parts = [body.open_part(number) for number in range(1, body.count + 1)]
    assert [len(part) for part in parts] == [3000, 3000, 3000, 1240]
    assert b"".join(part.read() for part in parts) == DATA


class Body:
    """A body of an answer, in blocks."""

    def __init__(self, *blocks: bytes) -> None:
        self._blocks = [*blocks, b""]

    async def read(self, size: int) -> bytes:
        return self._blocks.pop(0)


def test_a_body_is_received_into_the_memory_that_stays() -> None:
    memory = memory_for(10, "a test")
    found = asyncio.run(receive(Body(b"0123", b"456789"), count=None, limit=10, into=memory))
    assert isinstance(found, memoryview)
    assert bytes(found) == b"0123456789"
    assert np.shares_memory(np.frombuffer(found, np.uint8), memory)
    with pytest.raises(ValueError, match="WRITEABLE"):
        np.frombuffer(found, np.uint8).flags.writeable = True


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [((b"012", b"34"), b"01234"), ((b"0123", b"4567", b"89"), b"01234567"), ((), b"")],
)
def test_a_server_that_sends_fewer_or_more_bytes_than_it_said(
    blocks: tuple[bytes, ...], expected: bytes
) -> None:
    call = receive(Body(*blocks), count=None, limit=20, into=memory_for(8, "a test"))
    assert asyncio.run(call) == expected
    assert asyncio.run(receive(Body(b"x" * 9), count=None, limit=8, into=None)) is None


def test_large_bodies_go_out_in_pieces_and_without_waiting(
    store: PolicyStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    read = BodyReader.read

    def counted(self: BodyReader, size: int | None = -1) -> bytes:
        data = read(self, size)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(BodyReader, "read", counted)
    monkeypatch.setattr(s3_multipart, "_PART", 5 << 20)
    rng = np.random.default_rng(0)
    snap = Snapshot(
        weights={
            "parts": rng.standard_normal(12 << 17),  # 12 MiB
            "one": rng.standard_normal(2 << 17),
        }
    )
    store.push(snap, "a")
    sent = [request for request in proxy.seen if len(request.body) >= 1 << 20]
    assert sorted(len(request.body) >> 20 for request in sent) == [2, 2, 5, 5]
    assert max(sizes) <= 1 << 20
    assert not any({"expect", "transfer-encoding"} & request.headers.keys() for request in sent)
    assert store.pull("a") == snap


def test_a_large_object_of_one_request_is_not_joined(
    store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Any] = []
    make: Callable[..., Any] = memory_for

    def noted(size: int, label: str) -> Any:
        taken.append(make(size, label))
        return taken[-1]

    monkeypatch.setattr(s3, "memory_for", noted)
    snap = Snapshot(weights={"w": np.random.default_rng(0).standard_normal(5 << 17)})
    store.push(snap, "a")
    pulled = store.pull("a")
    assert pulled == snap
    assert np.shares_memory(pulled.weights["w"], taken[-1])
    with pytest.raises(ValueError, match="WRITEABLE"):
        pulled.weights["w"].flags.writeable = True
