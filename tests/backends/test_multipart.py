"""Large objects move in parts, several at once, in bounded memory.

Also tested: progress, and that all processes of a machine share one download.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from policystore import (
    Digest,
    IntegrityError,
    PolicyStore,
    ReadOnlyError,
    Snapshot,
    Spec,
    StorageError,
)
from policystore._util import concurrency
from policystore.backends import s3_copy, s3_multipart
from policystore.backends.bodies import receiving
from policystore.format import metadata, safetensors
from policystore.format.keys import object_key
from tests.support.cells import sampled
from tests.support.s3_server import Answer, Proxy, Request, client, error

PART = 5 << 20  # bytes; the smallest that a server takes
LONG = 60.0  # seconds; more than anything takes here
Make = Callable[..., Snapshot]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_multipart, "_PART", PART)


@pytest.fixture(scope="module")
def snap() -> Snapshot:
    """Return a snapshot: a tensor of more than three parts, and a tensor of one request."""
    random = np.random.default_rng(0)
    return Snapshot(
        weights={
            "large": random.standard_normal((4, 1 << 20), dtype=np.float32),
            "small": random.standard_normal(1 << 18, dtype=np.float32),
        },
        spec=Spec(),
    )


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + LONG
    while not holds():
        assert time.monotonic() < deadline, "it still does not hold"
        time.sleep(0.02)


def parts(proxy: Proxy) -> list[Request]:
    return [request for request in proxy.seen if "partNumber" in request.path]


def uploads(endpoint: str, bucket: str) -> list[Any]:
    return list(client(endpoint).list_multipart_uploads(Bucket=bucket).get("Uploads", ()))


@pytest.mark.long
def test_a_large_tensor_goes_and_comes_in_parts(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, snap: Snapshot
) -> None:
    moved: list[tuple[int, int]] = []
    version = store.push(snap, "a", progress=lambda done, total: moved.append((done, total)))
    assert version.objects is not None
    total = sum(version.objects.values())
    sizes = [len(request.body) for request in parts(proxy)]
    assert len(sizes) == 4
    assert sorted(sizes)[1:] == [PART] * 3
    assert moved == sorted(moved)
    assert len(moved) == 4 + 2
    assert {of for _, of in moved} == {total}
    assert moved[-1] == (total, total)
    proxy.seen.clear()
    store.push(snap, "a")
    assert not [request for request in proxy.seen if len(request.body) >= 1 << 20]
    proxy.seen.clear()
    moved.clear()
    found = store.pull("a", progress=lambda done, total: moved.append((done, total)))
    assert found == snap
    assert not found.weights["large"].flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        found.weights["large"].setflags(write=True)
    ranged = [request.headers["range"] for request in proxy.seen if "objects" in request.path]
    assert len([r for r in ranged if not r.startswith("bytes=0-")]) == 3
    assert moved == sorted(moved)
    assert moved[-1] == (total, total)


def test_an_error_of_the_progress_callback_ends_the_call(
    store: PolicyStore,
    s3_bucket: str,
    s3_endpoint: str,
    snap: Snapshot,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # After an interrupt, the end of an upload has 0.3 s: not enough on a busy machine.
    monkeypatch.setattr(s3_multipart, "_ABORT_SECONDS", LONG)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            store.push(snap, "a", progress=stop)
    # An upload that began when the interrupt came is ended after the call.
    eventually(lambda: uploads(s3_endpoint, s3_bucket) == [])
    assert store.names() == []
    store.push(snap, "a")
    with pytest.raises(KeyboardInterrupt):
        store.pull("a", progress=stop)
    assert store.pull("a") == snap


@pytest.mark.parametrize("copies", [False, True])
def test_an_interrupt_while_an_upload_begins_leaves_no_upload(
    store: PolicyStore,
    proxy: Proxy,
    s3_bucket: str,
    s3_endpoint: str,
    snap: Snapshot,
    monkeypatch: pytest.MonkeyPatch,
    copies: bool,
) -> None:
    interrupted = threading.Event()
    begun = threading.Event()

    def late(request: Request, answer: Answer) -> Answer:
        if request.path.endswith("?uploads"):
            begun.set()
            assert interrupted.wait(LONG)
        return answer

    def interrupt() -> None:
        if begun.is_set():
            raise KeyboardInterrupt

    if copies:
        store.push(snap, "a")
        monkeypatch.setattr(s3_copy, "_MOST", 1 << 20)
        monkeypatch.setattr(s3_copy, "_PART", PART)
    proxy.after = late
    monkeypatch.setattr(concurrency, "raise_if_interrupted", interrupt)
    monkeypatch.setattr(concurrency, "_EVENT_POLL", 0.05)
    with pytest.raises(KeyboardInterrupt):
        if copies:
            store.delete("a")
            store.collect_garbage(grace=timedelta(0), exclusive=True, dry_run=False)
        else:
            store.push(snap, "a")
    assert uploads(s3_endpoint, s3_bucket)
    interrupted.set()
    eventually(lambda: uploads(s3_endpoint, s3_bucket) == [])


@pytest.mark.parametrize("which", sampled(["?uploads", "partNumber=2", "uploadId"], "uploadId"))
def test_a_lost_answer_during_a_multipart_upload(
    store: PolicyStore,
    proxy: Proxy,
    s3_bucket: str,
    s3_endpoint: str,
    snap: Snapshot,
    which: str,
) -> None:
    """Lose the answer to the start, to a part, or to the end of an upload.

    After the end, the server does not know the upload any more.
    """
    lost: list[str] = []

    def forget(request: Request) -> Answer | None:
        ending = request.method == "POST" and "uploadId" in request.path
        return error(404, "NoSuchUpload") if ending and request.path in lost else None

    proxy.before = forget

    def lose(request: Request) -> bool:
        method = "PUT" if "partNumber" in which else "POST"
        if request.method == method and which in request.path and not lost:
            lost.append(request.path)
            return True
        return False

    proxy.lose = lose
    assert store.push(snap, "a").number == 1
    assert lost
    assert store.pull("a") == snap
    assert len(store.log("a")) == 1
    assert uploads(s3_endpoint, s3_bucket) == []  # none that would cost money for ever


@pytest.mark.long
def test_after_a_lost_start_the_uploads_of_other_writers_go_on(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, s3_endpoint: str, snap: Snapshot
) -> None:
    """Begin other uploads of the same key: with a part, long ago, by another user, of another key.

    An upload without a part that began while the answer was lost is one of this writer.
    """
    raw, others = client(s3_endpoint), dict[str, str]()
    now = datetime.now(timezone.utc).replace(microsecond=0)

    def lose(request: Request) -> bool:
        if others or request.method != "POST" or "?uploads" not in request.path:
            return False
        key = request.path.split("/", 2)[2].removesuffix("?uploads")
        for what in ("part", "early", "user", "key"):
            at = {"Bucket": s3_bucket, "Key": f"{key}.other" if what == "key" else key}
            others[what] = raw.create_multipart_upload(**at)["UploadId"]
            if what == "part":
                raw.upload_part(**at, UploadId=others[what], PartNumber=1, Body=b"x")
        return True

    def dated(request: Request, answer: Answer) -> Answer:
        if request.method != "GET" or "uploads" not in request.path:
            return answer
        text = answer.body.decode()
        for upload in re.findall("<Upload>.*?</Upload>", text, re.DOTALL):
            early = others.get("early", "-") in upload
            time = (now - timedelta(hours=1) if early else now).isoformat()
            told = re.sub("<Initiated>.*?</Initiated>", f"<Initiated>{time}</Initiated>", upload)
            if others.get("user", "-") in upload:
                told = re.sub(r"(<Initiator>\s*<ID>).*?(</ID>)", r"\1another\2", told, flags=re.S)
            text = text.replace(upload, told)
        return Answer(answer.status, answer.headers, text.encode())

    proxy.lose, proxy.after = lose, dated
    store.push(snap, "a")
    left = {upload["UploadId"] for upload in uploads(s3_endpoint, s3_bucket)}
    assert left == set(others.values())


@pytest.mark.long
@pytest.mark.parametrize("written", [True, False])
def test_an_upload_that_somebody_ended(
    written: bool, store: PolicyStore, proxy: Proxy, s3_bucket: str, s3_endpoint: str,
    snap: Snapshot,
) -> None:  # fmt: skip
    """Another writer of the same object ends this upload after its own, or a rule ends it."""
    if written:
        store.push(snap)
    hidden = written

    def end(request: Request) -> Answer | None:
        nonlocal hidden
        if hidden and request.method == "HEAD":
            return Answer(404)  # the other writer has not finished yet
        if "partNumber" in request.path:
            hidden = False
            return error(404, "NoSuchUpload")
        return None

    proxy.before = end
    if written:
        assert store.push(snap, "a").number == 1
        assert store.pull("a") == snap
    else:
        with pytest.raises(StorageError, match="has ended the upload in parts"):
            store.push(snap, "a")
        assert store.names() == []


def test_an_upload_that_fails_leaves_nothing_behind(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, s3_endpoint: str, snap: Snapshot
) -> None:
    def broken(request: Request) -> Answer | None:
        return error(500, "InternalError") if "partNumber=3" in request.path else None

    proxy.before = broken
    with pytest.raises(StorageError):
        store.push(snap, "a")
    assert uploads(s3_endpoint, s3_bucket) == []
    proxy.before = lambda request: None
    store.push(snap, "a")
    assert store.pull("a") == snap


@pytest.mark.long
def test_another_object_in_its_place(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, s3_endpoint: str, snap: Snapshot
) -> None:
    version = store.push(snap, "a")
    assert version.objects is not None
    digest = max(version.objects, key=lambda digest: (version.objects or {})[digest]).hex
    key = f"p/objects/{digest[:2]}/{digest}.safetensors"
    raw = client(s3_endpoint)
    data = raw.get_object(Bucket=s3_bucket, Key=key)["Body"].read()
    flipped = data[:-1] + bytes([data[-1] ^ 1])
    for other in (data + b"x", data[:-1], data[: PART // 2], b"", flipped):
        raw.put_object(Bucket=s3_bucket, Key=key, Body=other)
        with pytest.raises(IntegrityError, match="is damaged"):
            store.pull("a")
    store.push(snap, "a")
    assert store.pull("a") == snap

    def whole(request: Request, answer: Answer) -> Answer:
        kept = {k: v for k, v in answer.headers.items() if k.lower() != "content-range"}
        return Answer(answer.status, kept, answer.body)

    proxy.after = whole
    with pytest.raises(IntegrityError, match="ignores ranges"):
        store.pull("a")


def test_a_declared_size_alone_takes_no_memory(
    store: PolicyStore, s3_bucket: str, s3_endpoint: str
) -> None:
    """Declare a huge tensor in a policy object of some hundred bytes; only stored bytes count."""
    policy = declare_huge_tensor(s3_endpoint, s3_bucket, b"x" * 1000)
    with pytest.raises(IntegrityError, match="is damaged"):
        store.pull(policy)


def declare_huge_tensor(endpoint: str, bucket: str, data: bytes) -> Digest:
    """Put a policy into a bucket that declares a tensor of 64 TiB, and return its digest.

    Args:
        data: the bytes in the place of the tensor object.
    """
    raw, tensor = client(endpoint), Digest("ab" * 32)
    external = {"dtype": "U8", "shape": [1 << 46], "digest": str(tensor)}
    meta = metadata.build_metadata(Spec(), {}, {"big": external})
    policy = safetensors.encode_tensors({"a": np.zeros(2, np.float32)}, meta)
    bodies = {policy.digest: b"".join(policy.chunks), tensor: data}
    for digest, body in bodies.items():
        raw.put_object(Bucket=bucket, Key=f"p/{object_key(digest)}", Body=body)
    return policy.digest


def test_a_server_that_confirms_a_size_beyond_the_memory(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, s3_endpoint: str
) -> None:
    """The server and the policy lie alike, and there are bytes for the first part."""
    policy = declare_huge_tensor(s3_endpoint, s3_bucket, b"x" * PART)
    size = metadata.External(np.dtype(np.uint8), (1 << 46,), Digest("ab" * 32)).size

    def lie(request: Request, answer: Answer) -> Answer:
        if "ab" * 32 not in request.path:
            return answer
        said = {k: v for k, v in answer.headers.items() if k.lower() != "content-range"}
        span = request.headers.get("range", "").removeprefix("bytes=")
        return Answer(answer.status, {**said, "Content-Range": f"bytes {span}/{size}"}, answer.body)

    proxy.after = lie
    with pytest.raises(StorageError, match=rf"reading s3://.*: {size} bytes or more do not fit"):
        store.pull(policy)
    assert len([request for request in proxy.seen if "ab" * 32 in request.path]) == 1


def test_too_little_memory_for_the_parts_of_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(receiving, "np", SimpleNamespace(empty=refuse, uint8=np.uint8))
    with pytest.raises(StorageError, match="reading a: not enough memory for 20 bytes"):
        s3_multipart.read_parts(lambda start, count, into: b"x" * 10, 20, None, "reading a")


def test_an_object_that_is_larger_than_any_can_be_is_not_copied() -> None:
    asked: list[object] = []
    at = {"Bucket": "b", "Key": "k"}
    with pytest.raises(StorageError, match="more than an object of S3 can have"):
        s3_copy.copy_object(lambda call: asked.append(call), at, at, 1 << 60)  # type: ignore[arg-type, func-returns-value]
    assert asked == []


@pytest.mark.parametrize("pulls", [True, False])
def test_after_an_error_few_more_requests_are_made(
    pulls: bool, store: PolicyStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call does not wait for the other objects, which may take minutes."""
    random = np.random.default_rng(3)
    snap = Snapshot(
        weights={f"w{n}": random.standard_normal(25 << 18, dtype=np.float32) for n in range(4)},
        spec=Spec(),
    )
    if pulls:
        store.push(snap, "a")
    seen = 0

    def break_one(request: Request) -> Answer | None:
        nonlocal seen
        if "partNumber" not in request.path and "range" not in request.headers:
            return None
        if "/objects/" not in request.path:
            return None
        seen += 1
        return error(403, "AccessDenied") if seen == 3 else None

    proxy.before = break_one
    with pytest.raises(StorageError if pulls else ReadOnlyError):
        store.pull("a") if pulls else store.push(snap, "a")
    assert seen < 18  # of 24; some requests were already running when the error came


@pytest.mark.long
def test_few_parts_are_in_memory_at_once(
    s3_endpoint: str, proxy: Proxy, s3_bucket: str, store: PolicyStore
) -> None:
    """Memory stays bounded for any number of objects and parts."""
    now = most = 0

    def count(request: Request) -> Answer | None:
        nonlocal now, most
        now += len(request.body) >= 1 << 20
        most = max(most, now)
        return None

    def discount(request: Request, answer: Answer) -> Answer:
        nonlocal now
        now -= len(request.body) >= 1 << 20
        return answer

    proxy.before, proxy.after, proxy.quiet = count, discount, 0.02
    random = np.random.default_rng(1)
    snap = Snapshot(
        weights={
            f"w{n}": random.standard_normal((1 + n % 4) << 18, dtype=np.float32) for n in range(24)
        },
        spec=Spec(),
    )
    store.push(snap, "a")
    assert 1 < most <= 8
    assert store.pull("a") == snap


@pytest.mark.long
def test_a_hundred_pulls_run_at_the_same_time(
    store: PolicyStore, proxy: Proxy, make_snapshot: Make
) -> None:
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(store.push, map(make_snapshot, range(100))))
    store.pull(versions[0])
    proxy.quiet = 0.05
    proxy.rounds()
    assert len(store.pull_many(versions)) == 100
    assert proxy.rounds() <= 100 / 10


@pytest.mark.long
def test_many_processes_that_pull_one_policy_download_it_once(
    proxy: Proxy, s3_bucket: str, store: PolicyStore, make_snapshot: Make, tmp_path: Any
) -> None:
    version = store.push(make_snapshot(1, large=True), "a")
    program = """
        import os, sys
        from policystore import PolicyStore
        url, endpoint, cache, digest = sys.argv[1:]
        store = PolicyStore(url, storage_options={"endpoint_url": endpoint}, cache=cache)
        store.names()  # imports, before the fork, what takes long
        ready, go = os.pipe(), os.pipe()
        children = []
        for _ in range(32):
            child = os.fork()
            if not child:
                os.close(go[1])
                store.names()
                os.write(ready[1], b"r")
                os.read(go[0], 1)  # until all are there
                snap = store.pull(digest)
                os._exit(0 if str(snap.digest) == digest else 3)
            children.append(child)
        for _ in children:
            os.read(ready[0], 1)
        os.close(go[1])
        print({os.waitpid(child, 0)[1] for child in children})
    """
    proxy.seen.clear()
    proxy.quiet = 0.1
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), store.url, proxy.endpoint,
         str(tmp_path / "cache"), str(version.digest)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "{0}", done.stderr
    fetched = [request.path for request in proxy.seen if "/objects/" in request.path]
    assert len(fetched) == len(set(fetched)) == 3
