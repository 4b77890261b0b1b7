"""What is special about a bucket: requests, lost answers, refusals, forks, secrets."""

from __future__ import annotations

import copy
import os
import pickle
import re
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections import namedtuple
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from policystore import (
    FormatError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    PolicyStore,
    PolicyStoreError,
    ReadOnlyError,
    Snapshot,
    Spec,
    StorageError,
)
from policystore.backends import s3
from policystore.backends.options import StorageOptions
from policystore.repository import record_log
from tests.support.s3_server import KEY, SECRET, Answer, Proxy, Request, client, error

Make = Callable[..., Snapshot]
RECORD = "names/a/@versions/"


def open_store(proxy: Proxy, bucket: str, **kwargs: Any) -> PolicyStore:
    options = {"endpoint_url": proxy.endpoint, **kwargs.pop("storage_options", {})}
    kwargs.setdefault("cache", False)
    return PolicyStore(f"s3://{bucket}/p", storage_options=options, **kwargs)


def put(request: Request, part: str = "") -> bool:
    return request.method == "PUT" and part in request.path.replace("%40", "@")


def records(bucket: str, endpoint: str) -> list[str]:
    found = client(endpoint).list_objects_v2(Bucket=bucket, Prefix="p/names/a/@versions/")
    return [entry["Key"][-15:] for entry in found.get("Contents", ())]


def told(proxy: Proxy, bucket: str) -> list[str]:
    """Requests as lines, with digests and the bucket left out."""
    lines = (line.replace("%40", "@").replace(f"/{bucket}/p/", "") for line in proxy.told())
    return [re.sub(r"objects/\w\w/\w+", "objects/…", line) for line in lines]


# Requests


def test_the_requests_of_every_call(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, make_snapshot: Make
) -> None:
    """How many, and how many after one another; whoever changes a number here says so."""
    counts: dict[str, tuple[int, int]] = {}
    lines: dict[str, list[str]] = {}
    proxy.quiet = 0.12

    def count(what: str, call: Callable[[], Any]) -> Any:
        proxy.told()
        proxy.rounds()
        result = call()
        lines[what] = told(proxy, s3_bucket)
        counts[what] = (len(lines[what]), proxy.rounds())
        return result

    def other() -> PolicyStore:
        return open_store(proxy, s3_bucket)

    count("push, new store", lambda: store.push(make_snapshot(0), "a"))
    version = count("push", lambda: store.push(make_snapshot(1), "a"))
    count("push, new process", lambda: other().push(make_snapshot(2), "a"))
    count("push, new name", lambda: store.push(make_snapshot(2), "b"))
    count("push without a name", lambda: store.push(make_snapshot(3)))
    large = count("push, large", lambda: store.push(make_snapshot(4, large=True), "a"))
    count("push, large, again", lambda: store.push(make_snapshot(4, large=True), "a"))
    count("tag", lambda: store.tag("a@2", "champion"))
    for number in (1, 3, 1, 2):
        store.tag(f"a@{number}", "champion")
    count("pull by digest", lambda: store.pull(version.digest))
    count("pull by digest, large", lambda: store.pull(large.digest))
    count("pull by number", lambda: store.pull("a@2"))
    count("pull by name", lambda: store.pull("b"))
    count("pull by name, large", lambda: store.pull("a"))
    count("pull by tag", lambda: store.pull("a@champion"))
    client(proxy.endpoint).delete_object(Bucket=s3_bucket, Key="p/names/a/@hint")
    count("pull by name, no hint", lambda: store.pull("a"))
    count("resolve", lambda: store.resolve("b"))
    count("names", store.names)
    for what, each in lines.items():
        print(f"{what}: {counts[what]}")
        for line in each:
            print(f"    {line}")
    # Sixteen at once open connections of their own, on a busy machine one after another.
    wide = {what: counts.pop(what)[0] for what in ("tag", "pull by tag", "pull by name, no hint")}
    assert wide == {"tag": 18, "pull by tag": 19, "pull by name, no hint": 24}
    assert counts == {
        "push, new store": (9, 5),
        "push": (6, 3),
        "push, new process": (8, 3),
        "push, new name": (5, 3),
        "push without a name": (1, 1),
        "push, large": (9, 5),
        "push, large, again": (8, 4),
        "pull by digest": (1, 1),
        "pull by digest, large": (3, 2),
        "pull by number": (2, 2),
        "pull by name": (4, 2),
        "pull by name, large": (7, 3),
        "resolve": (3, 2),
        "names": (1, 1),
    }
    # Tensors of less than a MiB are sent again, larger ones are asked for.
    again_sent = sorted(line for line in lines["push, large, again"] if "objects" in line)
    assert [line.split()[0] for line in again_sent] == ["HEAD", "PUT", "PUT"]


def test_every_get_is_one_ranged_request(
    store: PolicyStore, proxy: Proxy, make_snapshot: Make
) -> None:
    store.push(make_snapshot(large=True), "a")
    proxy.told()
    store.pull("a")
    gets = [request for request in proxy.seen if request.method == "GET"]
    assert gets
    assert all("range" in request.headers for request in gets)
    small = [r.headers["range"] for r in gets if "names/" in r.path]
    assert set(small) == {"bytes=0-65536"}  # the byte over the limit tells of more


def test_more_bytes_than_belong_there_are_not_read(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, s3_endpoint: str, make_snapshot: Make
) -> None:
    store.push(make_snapshot(), "a")
    key = f"p/{RECORD}0000000001.json"
    client(s3_endpoint).put_object(Bucket=s3_bucket, Key=key, Body=b"x" * (8 << 20))
    sent: list[int] = []

    def measured(request: Request, answer: Answer) -> Answer:
        sent.append(len(answer.body))
        return answer

    proxy.after = measured
    with pytest.raises(FormatError, match=r"8388608 bytes, and at most 65536"):
        store.pull("a")
    assert max(sent) <= (64 << 10) + 1


def test_a_server_that_ignores_ranges_is_cut_off(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, s3_endpoint: str, make_snapshot: Make
) -> None:
    store.push(make_snapshot(), "a")

    for headers, said in (
        ({}, "8388608 bytes"),
        ({"Transfer-Encoding": "chunked"}, "more than 65536"),
    ):

        def everything(request: Request, headers: dict[str, str] = headers) -> Answer | None:
            if request.method == "GET" and "versions" in request.path:
                return Answer(200, headers, b"x" * (8 << 20))
            return None

        proxy.before = everything
        with pytest.raises(FormatError, match=f"{said}.*at most 65536"):
            store.pull("a")


def test_objects_without_bytes(s3_endpoint: str, proxy: Proxy, s3_bucket: str) -> None:
    client(s3_endpoint).put_object(Bucket=s3_bucket, Key="p/x", Body=b"")
    backend = open_store(proxy, s3_bucket)._backend
    assert bytes(backend.get("x")) == bytes(backend.get("x", limit=5)) == b""
    assert backend.head("x", 10) == b""
    assert backend.size("x") == 0


def test_what_a_console_makes_as_a_folder_is_no_file(
    s3_endpoint: str, store: PolicyStore, s3_bucket: str, make_snapshot: Make
) -> None:
    client(s3_endpoint).put_object(Bucket=s3_bucket, Key="p/", Body=b"")
    store.push(make_snapshot(), "a")
    assert store.verify().ok


def test_listings_of_more_than_a_page(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, s3_endpoint: str
) -> None:
    raw = client(s3_endpoint)
    with ThreadPoolExecutor(8) as pool:
        keys = {f"names/n{i:04d}/@versions/0000000001.json" for i in range(1005)}
        list(pool.map(lambda k: raw.put_object(Bucket=s3_bucket, Key=f"p/{k}", Body=b"x"), keys))
    assert set(store._backend.keys("names/")) == keys
    assert len(store.names()) == 1005
    assert set(store._backend.prefixes("names/", "/")) == {k.partition("@")[0] for k in keys}
    assert len([line for line in proxy.told() if "list-type" in line]) == 6


def test_objects_of_one_mib_are_not_sent_twice_and_damaged_ones_are(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, s3_endpoint: str
) -> None:
    snap = Snapshot(weights={"w": np.arange(2 << 20, dtype=np.float32)}, spec=Spec())
    version = store.push(snap, "a")
    assert version.objects is not None
    tensor = next(d for d in version.objects if d != version.digest).hex
    key = f"p/objects/{tensor[:2]}/{tensor}.safetensors"
    proxy.told()
    store.push(snap, "a")
    assert not [request for request in proxy.seen if len(request.body) >= 1 << 20]
    raw = client(s3_endpoint)
    data = bytearray(raw.get_object(Bucket=s3_bucket, Key=key)["Body"].read())
    data[-1] ^= 1
    raw.put_object(Bucket=s3_bucket, Key=key, Body=bytes(data))
    with pytest.raises(IntegrityError):
        store.pull("a")
    store.push(snap, "a")
    assert store.pull("a") == snap


# Refusals and lost answers


def test_an_answer_lost_on_any_write_makes_one_version(
    proxy: Proxy, s3_bucket: str, s3_endpoint: str, make_snapshot: Make
) -> None:
    for number, part in enumerate(["policystore.json", "objects/", RECORD, "@hint", ""], 1):
        lost: list[str] = []

        def lose(request: Request, part: str = part, lost: list[str] = lost) -> bool:
            if put(request, part) and request.path not in lost:
                lost.append(request.path)
                return True
            return False

        proxy.lose = lose
        store = open_store(proxy, s3_bucket)  # one that proves and looks for the marker anew
        version = store.push(make_snapshot(number, large=True), "a")
        assert version.number == number, part
        assert lost
        proxy.lose = lambda request: False
        assert store.pull("a") == make_snapshot(number, large=True)
        assert len(records(s3_bucket, s3_endpoint)) == number
    assert store.verify().ok


def test_an_answer_lost_while_another_takes_the_number(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, s3_endpoint: str, make_snapshot: Make
) -> None:
    store.push(make_snapshot(0), "a")
    other = PolicyStore(store.url, storage_options={"endpoint_url": s3_endpoint})
    turns: list[int] = []

    def fail_and_let_another(request: Request) -> Answer | None:
        if put(request, RECORD) and not turns:
            turns.append(1)
            other.push(make_snapshot(1), "a")  # takes number 2 while ours is unknown
            return error(500, "InternalError")
        return None

    proxy.before = fail_and_let_another
    assert store.push(make_snapshot(2), "a").number == 3
    assert [v.digest for v in store.log("a")] == [make_snapshot(s).digest for s in (2, 1, 0)]
    assert store.verify().ok


@pytest.mark.parametrize(
    ("status", "code"),
    [(409, "ConditionalRequestConflict"), (500, "InternalError"), (503, "SlowDown"),
     (429, "TooManyRequests"), (400, "RequestTimeout")],
)  # fmt: skip
def test_a_record_refused_for_a_moment_is_tried_again(
    status: int, code: str, store: PolicyStore, proxy: Proxy, make_snapshot: Make
) -> None:
    store.push(make_snapshot(0), "a")
    refused: list[str] = []

    def refuse(request: Request) -> Answer | None:
        if put(request, RECORD) and len(refused) < 3:
            refused.append(request.path)
            return error(status, code)
        return None

    proxy.before = refuse
    assert store.push(make_snapshot(1), "a").number == 2
    assert len(set(refused)) == 1
    assert len(store.log("a")) == 2


def test_a_server_that_never_recovers_is_given_up(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, s3_endpoint: str, make_snapshot: Make
) -> None:
    store.push(make_snapshot(0), "a")
    tried: list[Request] = []

    def refuse(request: Request) -> Answer | None:
        if put(request, RECORD):
            tried.append(request)
            return error(500, "InternalError")
        return None

    proxy.before = refuse
    with pytest.raises(StorageError, match=r"0000000002\.json.*InternalError.*may or may not"):
        store.push(make_snapshot(1), "a")
    assert len(tried) == 6
    proxy.before = lambda request: None
    assert store.push(make_snapshot(1), "a").number == 2
    proxy.told()
    proxy.lose = lambda request: put(request, RECORD)
    with pytest.raises(StorageError, match="may or may not have been applied"):
        store.push(make_snapshot(2), "a")
    # aiohttp asks again by itself where a connection that was kept is closed on it.
    assert 6 <= len([request for request in proxy.seen if put(request, RECORD)]) <= 12
    proxy.lose = lambda request: False
    assert store.resolve("a") == make_snapshot(2).digest  # it was


def test_a_body_cut_in_the_middle_is_read_again(
    store: PolicyStore, proxy: Proxy, make_snapshot: Make
) -> None:
    store.push(make_snapshot(large=True), "a")
    cut: set[str] = set()

    def shorten(request: Request, answer: Answer) -> Answer:
        if request.method == "GET" and request.path not in cut and len(answer.body) > 10:
            cut.add(request.path)
            headers = {**answer.headers, "Content-Length": str(len(answer.body))}
            return Answer(answer.status, {**headers, "Connection": "close"}, answer.body[:-7])
        return answer

    proxy.after = shorten
    close = proxy._handle

    def handle(handler: Any) -> None:
        before = len(cut)
        close(handler)
        handler.close_connection |= len(cut) > before

    proxy._handle = handle  # type: ignore[method-assign]
    assert store.pull("a") == make_snapshot(large=True)
    assert len(cut) >= 4


def test_nobody_answers(s3_bucket: str, make_snapshot: Make) -> None:
    dead = PolicyStore(
        f"s3://{s3_bucket}/p", storage_options={"endpoint_url": "http://127.0.0.1:9"}
    )
    started = time.monotonic()
    for call in (lambda: dead.pull("a"), lambda: dead.push(make_snapshot(), "a"), dead.names):
        with pytest.raises(StorageError, match=rf"{s3_bucket}/p.*Tried several times.*endpoint"):
            call()
    assert time.monotonic() - started < 20


# What the server says no to


def answering(proxy: Proxy, status: int, code: str, methods: tuple[str, ...]) -> None:
    def refuse(request: Request) -> Answer | None:
        return error(status, code) if request.method in methods else None

    proxy.before = refuse


def test_a_key_that_may_only_read(store: PolicyStore, proxy: Proxy, make_snapshot: Make) -> None:
    store.push(make_snapshot(), "a")
    answering(proxy, 403, "AccessDenied", ("PUT",))
    with pytest.raises(ReadOnlyError, match=r"s3://.*AccessDenied.*read_only=True"):
        store.push(make_snapshot(1), "a")
    with pytest.raises(ReadOnlyError):
        store.tag("a", "t")
    assert store.pull("a") == make_snapshot()
    assert store.resolve("a") == make_snapshot().digest
    assert store.names() == ["a"]
    assert len(store.log("a")) == 1
    assert store.verify().ok


@pytest.mark.parametrize("name", ["a", None])
def test_a_key_that_may_only_read_is_told_before_large_tensors_are_sent(
    name: str | None, proxy: Proxy, s3_bucket: str, make_snapshot: Make
) -> None:
    open_store(proxy, s3_bucket).push(make_snapshot(), "a")
    answering(proxy, 403, "AccessDenied", ("PUT", "POST"))
    proxy.told()
    with pytest.raises(ReadOnlyError, match="may not write"):
        open_store(proxy, s3_bucket).push(make_snapshot(1, large=True), name)
    sent = [line for line in told(proxy, s3_bucket) if line.startswith(("PUT", "POST"))]
    assert sent == ["PUT policystore.json if-none-match"]


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "AccessDenied", "s3:ListBucket"),
        (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "AWS_ACCESS_KEY_ID"),
        (400, "ExpiredToken", "AWS_ACCESS_KEY_ID"),
        (404, "NoSuchBucket", "no such bucket"),
        (418, "Teapot", "Teapot"),
        (400, "MalformedXML", "MalformedXML"),
    ],
)
def test_refusals_are_storage_errors_that_say_what_to_do(
    status: int, code: str, said: str, store: PolicyStore, proxy: Proxy, make_snapshot: Make
) -> None:
    store.push(make_snapshot(), "a")
    answering(proxy, status, code, ("GET",))
    for call in (
        lambda: store.pull(make_snapshot().digest),
        lambda: store.pull("a@1"),
        store.names,
    ):
        with pytest.raises(StorageError, match=said) as caught:
            call()
        assert store.url in str(caught.value)
        assert pickle.loads(pickle.dumps(caught.value)).message == caught.value.message


def test_no_such_bucket(s3_endpoint: str, s3_bucket: str, make_snapshot: Make) -> None:
    store = PolicyStore("s3://no-such-bucket-here", storage_options={"endpoint_url": s3_endpoint})
    calls: list[Callable[[], Any]] = [
        lambda: store.push(make_snapshot(), "a"), lambda: store.pull("a"), store.names,
        store.verify, lambda: store.pull(make_snapshot().digest),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(StorageError, match=r"no-such-bucket-here.*no such bucket"):
            call()


def test_no_credentials_anywhere(
    s3_endpoint: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, make_snapshot: Make
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    store = PolicyStore(f"s3://{s3_bucket}", storage_options={"endpoint_url": s3_endpoint})
    with pytest.raises(StorageError, match="NoCredentials.*AWS_ACCESS_KEY_ID"):
        store.pull("a")
    absent = PolicyStore(f"s3://{s3_bucket}", storage_options={"profile": "no-such-profile"})
    with pytest.raises(StorageError, match=r"no-such-profile.*a profile"):
        absent.pull("a")


def test_options_that_s3fs_does_not_take(s3_bucket: str) -> None:
    for options in ({"nonsense": 1}, {"key": "a", "username": "b"}, {"config_kwargs": {"no": 1}}):
        with pytest.raises(InvalidInputError, match="storage_options"):
            PolicyStore(f"s3://{s3_bucket}", storage_options=options).pull("a")
    with pytest.raises(InvalidInputError, match="storage_options"):
        PolicyStore("s3://UPPER_case bucket").pull("a")


def test_a_server_that_overwrites_what_it_should_not(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, s3_endpoint: str, make_snapshot: Make
) -> None:
    raw = client(s3_endpoint)

    def without_condition(request: Request) -> None:
        # What is there goes first, for the condition itself is signed.
        if put(request) and "if-none-match" in request.headers:
            raw.delete_object(Bucket=s3_bucket, Key=request.path.split("/", 2)[2])

    proxy.before = without_condition
    with pytest.raises(StorageError, match=r"does not create exclusively.*without a name"):
        store.push(make_snapshot(), "a")
    assert records(s3_bucket, s3_endpoint) == []
    version = store.push(make_snapshot())
    assert store.pull(version.digest) == make_snapshot()
    with pytest.raises(StorageError, match="does not create exclusively"):
        store._writer.move_tag("a", "t", None)


@pytest.mark.parametrize("finds", [True, False])
def test_a_server_that_says_of_every_key_that_it_is_there(
    finds: bool, store: PolicyStore, proxy: Proxy, make_snapshot: Make, monkeypatch: Any
) -> None:
    monkeypatch.setattr(record_log, "_MAX_TRIES", 20)
    store.push(make_snapshot(), "a")
    asked: list[str] = []

    def refuse(request: Request) -> Answer | None:
        if RECORD not in request.path.replace("%40", "@"):
            return None
        if request.method == "PUT":
            asked.append(request.path)
            return error(412, "PreconditionFailed")
        if asked:
            return Answer(200, {}, b"{}") if finds else error(404, "NoSuchKey")
        return None

    proxy.before = refuse
    said = "numbers were taken" if finds else "as if it existed"
    with pytest.raises(StorageError, match=said):
        store.push(make_snapshot(), "a")
    assert len(asked) == (20 if finds else 1)
    proxy.before = lambda request: None
    assert [version.number for version in store.log("a")] == [1]


def test_a_record_that_comes_in_drips_is_given_up(
    store: PolicyStore, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.push(make_snapshot(), "a")
    monkeypatch.setattr(s3, "_SLOW_START", -1.0)  # as if so much time had passed
    monkeypatch.setattr(s3, "_MIN_SPEED", 1 << 40)
    with pytest.raises(StorageError, match="too slow"):
        store.pull("a@1")


def test_a_first_push_that_fails_leaves_no_name(
    store: PolicyStore, proxy: Proxy, make_snapshot: Make
) -> None:
    proxy.before = lambda request: (
        error(403, "AccessDenied") if put(request, "@versions/") else None
    )
    with pytest.raises(ReadOnlyError):
        store.push(make_snapshot(), "a")
    proxy.before = lambda request: None
    assert store.names() == []
    assert store.verify().ok
    assert store.push(make_snapshot(), "a").number == 1


def test_a_server_without_conditional_writes(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, make_snapshot: Make
) -> None:
    def refuse(request: Request) -> Answer | None:
        return error(501, "NotImplemented") if "if-none-match" in request.headers else None

    open_store(proxy, s3_bucket).push(make_snapshot())
    proxy.before = refuse
    for large in (False, True):
        with pytest.raises(StorageError, match=r"NotImplemented.*without a name"):
            store.push(make_snapshot(large=large), "a")
        version = store.push(make_snapshot(large=large))
        assert store.pull(version.digest) == make_snapshot(large=large)


def test_listings_that_never_end(store: PolicyStore, proxy: Proxy, make_snapshot: Make) -> None:
    page = (
        "<ListBucketResult><IsTruncated>true</IsTruncated>{}"
        "<Contents><Key>p/names/x</Key></Contents><Contents><Key>elsewhere</Key></Contents>"
        "<Contents></Contents><CommonPrefixes><Prefix>p/names/y/@</Prefix></CommonPrefixes>"
        "<CommonPrefixes><Prefix>elsewhere/@</Prefix></CommonPrefixes></ListBucketResult>"
    )
    for token in ("", "<NextContinuationToken>t</NextContinuationToken>"):
        text = page.format(token).encode()

        def answer(request: Request, text: bytes = text) -> Answer | None:
            return (
                Answer(200, {"Content-Type": "application/xml"}, text)
                if "list-type" in request.path
                else None
            )

        proxy.before = answer
        with pytest.raises(StorageError, match="does not list as S3 does"):
            list(store._backend.keys(""))
        problems: list[tuple[str, str]] = []
        assert set(store._backend.keys("", problems=problems)) == {"names/x"}
        assert len(problems) == 1
        found: set[str] = set()
        with pytest.raises(StorageError, match="does not list as S3 does"):
            for prefix in store._backend.prefixes("names/", "/@"):
                found.add(prefix)
        assert found == {"names/y/@"}


def test_answers_that_are_no_xml_and_no_s3(
    store: PolicyStore, proxy: Proxy, make_snapshot: Make
) -> None:
    store.push(make_snapshot(), "a")
    for status in (200, 302, 404, 500):
        for body in (b"", b"<html>\xff<b></a>"):
            proxy.before = lambda request, s=status, b=body: Answer(s, {}, b)
            calls: list[Callable[[], Any]] = [
                lambda: store.pull("a"), store.names, lambda: store.push(make_snapshot(), "a"),
            ]  # fmt: skip
            for call in calls:
                try:
                    call()
                except PolicyStoreError as error:
                    assert "botocore" not in type(error).__module__
                else:
                    assert status == 200


# Threads, processes, pickles, secrets


def test_threads_share_one_store(store: PolicyStore, make_snapshot: Make) -> None:
    snaps = [make_snapshot(seed) for seed in range(24)]
    with ThreadPoolExecutor(24) as pool:
        versions = list(pool.map(lambda snap: store.push(snap, "a"), snaps))
        pulled = list(pool.map(store.pull, versions))
    assert pulled == snaps
    assert sorted(v.number or 0 for v in versions) == list(range(1, 25))


def test_sixty_four_requests_are_under_way_at_once(
    store: PolicyStore, proxy: Proxy, make_snapshot: Make
) -> None:
    version = store.push(make_snapshot(), "a")
    meeting = threading.Barrier(64, timeout=20)

    def meet(request: Request) -> None:
        meeting.wait()  # broken, and all requests with it, unless 64 of them come

    proxy.before = meet
    with ThreadPoolExecutor(64) as pool:
        assert set(pool.map(lambda _: store.pull(version).digest, range(64))) == {version.digest}


def run(program: str, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *args],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_forked_process_makes_its_own_connections(
    s3_endpoint: str, s3_bucket: str, make_snapshot: Make
) -> None:
    program = """
        import os, sys, threading, time
        import numpy as np
        from policystore import PolicyStore, Snapshot, Spec

        def snap(n):
            return Snapshot(weights={"w": np.full(3, n)}, spec=Spec())

        store = PolicyStore(sys.argv[1], storage_options={"endpoint_url": sys.argv[2]})
        store.push(snap(0), "a")
        stop = threading.Event()

        def busy():  # requests are under way while the process forks
            while not stop.is_set():
                store.pull("a@1")

        readers = [threading.Thread(target=busy) for _ in range(4)]
        for reader in readers:
            reader.start()
        children = []
        for n in range(1, 5):
            child = os.fork()
            if not child:
                started = time.monotonic()
                assert store.pull("a@1") == snap(0)
                store.push(snap(n), "a")
                os._exit(0 if time.monotonic() - started < 30 else 3)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        stop.set()
        for reader in readers:
            reader.join()
        assert store.pull("a@1") == snap(0)  # the parent's connections are as they were
        print(codes, sorted(v.number for v in store.log("a")), store.verify().ok)
    """
    out = run(program, f"s3://{s3_bucket}/p", s3_endpoint)
    assert out.strip() == "[0, 0, 0, 0] [1, 2, 3, 4, 5] True"


def test_a_process_forked_while_a_connection_is_made(
    s3_endpoint: str, s3_bucket: str, make_snapshot: Make
) -> None:
    program = """
        import gc, os, signal, sys, weakref
        from policystore import PolicyStore
        from policystore.backends import fsspec as remote

        store = PolicyStore(sys.argv[1], storage_options={"endpoint_url": sys.argv[2]})
        store.names()
        inherited = weakref.ref(store._backend._opened[1])
        with remote._LOCK:  # as another thread of the parent would hold it
            child = os.fork()
            if not child:
                signal.alarm(40)  # ends a child that waits for ever
                print(store.names())
                sys.stdout.flush()
                gc.collect()
                assert inherited()  # its end would write into the parent's sockets
                os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), store.names())
    """
    url = f"s3://{s3_bucket}/p"
    PolicyStore(url, storage_options={"endpoint_url": s3_endpoint}).push(make_snapshot(), "a")
    assert run(program, url, s3_endpoint).split("\n")[:2] == ["['a']", "0 ['a']"]


def test_nothing_is_imported_or_asked_before_the_first_request(
    proxy: Proxy, s3_bucket: str
) -> None:
    program = """
        import sys
        from policystore import PolicyStore
        store = PolicyStore(sys.argv[1], storage_options={"endpoint_url": sys.argv[2]})
        import pickle; pickle.loads(pickle.dumps(store)); repr(store)
        print({"fsspec", "s3fs", "botocore", "aiohttp", "asyncio"} & set(sys.modules))
    """
    assert run(program, f"s3://{s3_bucket}/p", proxy.endpoint).strip() == "set()"
    assert proxy.told() == []


SECRETS = {
    "key": KEY,
    "secret": SECRET,
    "token": "TOKENOFTHETESTS",
    "client_kwargs": {"aws_session_token": "NESTEDOFTHETESTS", "region_name": "eu-west-1"},
    "config_kwargs": {"proxies": {"http": "http://me:PROXYPASSWORD@host"}},
}
WORDS = (KEY, SECRET, "TOKENOFTHETESTS", "NESTEDOFTHETESTS", "PROXYPASSWORD")


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA7:Zq9/SeCr3t@bucket/p",
        "s3://u:SeCr3t@bucket",
        "https://host/p?sig=SeCr3t",
        "https://host/p#SeCr3t",
    ],
)
def test_urls_with_secrets_in_them_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        PolicyStore(url)
    assert "SeCr3t" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"Authorization": "Bearer SeCr3t"}},
        {"client_kwargs": {"headers": {"X-Api-Key": "SeCr3t"}}},
        {"api_key": "SeCr3t"},
        {"client_kwargs": {"cookies": {"session": "SeCr3t"}}},
        {"auth": namedtuple("BasicAuth", "login password")("u", "SeCr3t")},
        {"endpoint_url": "http://u:Zq9/SeCr3t@host"},
    ],
)
def test_secrets_of_any_form_stay_behind(options: dict[str, Any]) -> None:
    given = StorageOptions(options)
    assert b"SeCr3t" not in pickle.dumps(given)
    assert "SeCr3t" not in repr(given)
    assert pickle.loads(pickle.dumps(given)).absent
    assert "SeCr3t" not in given.scrub("refused: http://u:Zq9/SeCr3t@host/x")
    assert given.scrub("http://host:9000/p/names/a/@hint") == "http://host:9000/p/names/a/@hint"


@pytest.mark.parametrize(
    "options",
    [
        {"asynchronous": True},
        {"loop": 5},
        {"config_kwargs": {"max_pool_connections": -5}},
        {"client_kwargs": "x"},
        {"config_kwargs": {"no_such": 1}},
    ],
)
def test_options_that_would_hang_or_fail_later(options: dict[str, Any], s3_bucket: str) -> None:
    with pytest.raises(InvalidInputError, match="storage_options"):
        PolicyStore(f"s3://{s3_bucket}/p", storage_options=options).names()


def test_secrets_are_in_no_repr_and_no_pickle(s3_endpoint: str) -> None:
    store = PolicyStore("s3://bucket/p", storage_options={"endpoint_url": s3_endpoint, **SECRETS})
    shown = [repr(store), repr(store._options), store.url, str(vars(store))]
    shown += [pickle.dumps(store, protocol).decode("latin-1") for protocol in (0, 2, 5)]
    for text in shown:
        assert not [word for word in WORDS if word in text]
    other = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(store))))
    assert other._options.copy() == {
        "endpoint_url": s3_endpoint,
        "client_kwargs": {"region_name": "eu-west-1"},
        "config_kwargs": {"proxies": {}},
    }
    assert other._options.absent == (
        "key", "secret", "token", "client_kwargs.aws_session_token", "config_kwargs.proxies.http",
    )  # fmt: skip
    assert copy.deepcopy(store) is copy.copy(store) is store


def test_secrets_are_in_no_error(proxy: Proxy, s3_bucket: str, make_snapshot: Make) -> None:
    store = open_store(proxy, s3_bucket, storage_options={"key": KEY, "secret": SECRET})
    store.push(make_snapshot(), "a")

    def repeat(request: Request) -> Answer:
        text = (
            f"<Error><Code>Odd</Code><Message>{KEY} {SECRET} http://u:{SECRET}@h</Message></Error>"
        )
        return Answer(403, {"Content-Type": "application/xml"}, text.encode())

    proxy.before = repeat
    calls: list[Callable[[], Any]] = [
        lambda: store.pull("a@1"), lambda: store.push(make_snapshot(), "a"), store.names,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(PolicyStoreError) as caught:
            call()
        text = "".join(traceback.format_exception(caught.value))
        assert not [word for word in WORDS if word in text]
        assert "***" in text
    for options in ({"endpoint_url": f"not a url {SECRET}"}, {SECRET: 1}):
        with pytest.raises(PolicyStoreError) as caught:
            PolicyStore(
                "s3://bucket", storage_options={"secret": SECRET, "key": KEY, **options}
            ).pull("a")
        assert SECRET not in "".join(traceback.format_exception(caught.value))
    for url in (f"s3://{KEY}:{SECRET}@bucket/p", f"https://me:{SECRET}@host/x"):
        with pytest.raises(InvalidInputError, match="user or a password") as caught:
            PolicyStore(url)
        assert SECRET not in "".join(traceback.format_exception(caught.value))
    for wrong in (SECRET, [SECRET], {1: SECRET}):
        with pytest.raises(InvalidInputError, match="storage_options is a dict") as caught:
            PolicyStore("s3://bucket", storage_options=wrong)  # type: ignore[arg-type]
        assert SECRET not in str(caught.value)


def test_a_pickled_store_says_which_secrets_it_left_behind(
    s3_endpoint: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, make_snapshot: Make
) -> None:
    options = {"endpoint_url": s3_endpoint, "key": KEY, "secret": SECRET}
    store = PolicyStore(f"s3://{s3_bucket}", storage_options=options)
    store.push(make_snapshot(), "a")
    travelled = pickle.dumps(store)
    assert pickle.loads(travelled).pull("a") == make_snapshot()  # by the environment's
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    with pytest.raises(StorageError, match="pickle.*key, secret stayed behind"):
        pickle.loads(travelled).pull("a")
    assert store.pull("a") == make_snapshot()


def test_the_forms_of_a_url(s3_endpoint: str, s3_bucket: str, make_snapshot: Make) -> None:
    options = {"endpoint_url": s3_endpoint}
    for number, url in enumerate(("s3://{}", "s3://{}/", "s3://{}/a/b c/ü/", "s3a://{}/d"), 1):
        store = PolicyStore(url.format(s3_bucket), storage_options=options)
        store.push(make_snapshot(number), "n")
        assert store.names() == ["n"]
        assert store.pull("n") == make_snapshot(number)
        assert not store.url.endswith("/")
        if number == 1:
            raw = client(s3_endpoint)
            for entry in raw.list_objects_v2(Bucket=s3_bucket)["Contents"]:
                raw.delete_object(Bucket=s3_bucket, Key=entry["Key"])
    for bad in (
        "s3://",
        "s3:///x",
        "s3://b//x",
        "s3://b/../x",
        "s3://b/./x",
        "s3://b/x?versionId=3",
    ):
        with pytest.raises(InvalidInputError, match="form s3://bucket"):
            PolicyStore(bad)


def test_local_stores_take_no_options(tmp_path: Any) -> None:
    for url in (tmp_path, f"file://{tmp_path}", "memory://x", str(tmp_path)):
        with pytest.raises(InvalidInputError, match="take none"):
            PolicyStore(url, storage_options={"key": "x"})
    assert PolicyStore("memory://x", storage_options=None).names() == []


def test_what_is_missing_is_not_found(store: PolicyStore, make_snapshot: Make) -> None:
    store.push(make_snapshot(), "a")
    with pytest.raises(NotFoundError, match="no key s3://"):
        store._backend.get("x")
    with pytest.raises(NotFoundError):
        store._backend.head("x", 5)
    assert store._backend.size("x") is None
