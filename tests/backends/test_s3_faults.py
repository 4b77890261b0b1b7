"""Answers of a server that are lost, cut short, late, or different from those of S3."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from policystore import (
    PolicyStore,
    PolicyStoreError,
    ReadOnlyError,
    Snapshot,
    StorageError,
)
from policystore.backends.bodies import receiving
from policystore.repository import record_log
from tests.support.s3_server import Answer, Proxy, Request, client, error
from tests.support.s3_stores import (
    RECORD,
    is_put,
    open_store,
    record_names,
)

Make = Callable[..., Snapshot]


@pytest.mark.long
def test_an_answer_lost_on_any_write_makes_one_version(
    proxy: Proxy, s3_bucket: str, s3_endpoint: str, make_snapshot: Make
) -> None:
    for number, part in enumerate(["policystore.json", "objects/", RECORD, "@hint", ""], 1):
        lost: list[str] = []

        def lose(request: Request, part: str = part, lost: list[str] = lost) -> bool:
            if is_put(request, part) and request.path not in lost:
                lost.append(request.path)
                return True
            return False

        proxy.lose = lose
        store = open_store(proxy, s3_bucket)  # tests the server again
        version = store.push(make_snapshot(number, large=True), "a")
        assert version.number == number, part
        assert lost
        proxy.lose = lambda request: False
        assert store.pull("a") == make_snapshot(number, large=True)
        assert len(record_names(s3_bucket, s3_endpoint)) == number
    assert store.verify().ok


@pytest.mark.long
def test_an_answer_lost_while_another_takes_the_number(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, s3_endpoint: str, make_snapshot: Make
) -> None:
    store.push(make_snapshot(0), "a")
    other = PolicyStore(store.url, storage_options={"endpoint_url": s3_endpoint})
    turns: list[int] = []

    def fail_and_let_another(request: Request) -> Answer | None:
        if is_put(request, RECORD) and not turns:
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
        if is_put(request, RECORD) and len(refused) < 3:
            refused.append(request.path)
            return error(status, code)
        return None

    proxy.before = refuse
    assert store.push(make_snapshot(1), "a").number == 2
    assert len(set(refused)) == 1
    assert len(store.log("a")) == 2


@pytest.mark.parametrize(
    ("method", "status", "code", "tries"),
    [("GET", 503, "SlowDown", 12), ("HEAD", 503, "", 12), ("PUT", 429, "TooManyRequests", 12),
     ("PUT", 500, "InternalError", 6)],
)  # fmt: skip
def test_a_server_that_asks_for_fewer_requests_gets_more_tries(
    method: str, status: int, code: str, tries: int, store: PolicyStore, proxy: Proxy
) -> None:
    """Thousands of machines that begin at once are served within half a minute, not three seconds.

    The answer to a HEAD request has no body, and so no code.
    """
    backend = store._backend
    backend.replace("x", b"1")
    call = {
        "GET": partial(backend.get, "x"),
        "HEAD": partial(backend.size, "x"),
        "PUT": partial(backend.replace, "x", b"1"),
    }[method]
    tried: list[Request] = []

    def refuse(request: Request) -> Answer | None:
        if request.method == method and len(tried) < limit:
            tried.append(request)
            return error(status, code) if method != "HEAD" else Answer(status, {}, b"")
        return None

    proxy.before = refuse
    limit = tries - 1
    call()
    assert len(tried) == limit
    tried.clear()
    limit = 100
    with pytest.raises(StorageError, match="Tried several times"):
        call()
    assert len(tried) == tries


def test_a_server_that_never_recovers_raises_storage_error(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, s3_endpoint: str, make_snapshot: Make
) -> None:
    store.push(make_snapshot(0), "a")
    tried: list[Request] = []

    def refuse(request: Request) -> Answer | None:
        if is_put(request, RECORD):
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
    proxy.lose = lambda request: is_put(request, RECORD)
    with pytest.raises(StorageError, match="may or may not have been applied"):
        store.push(make_snapshot(2), "a")
    # aiohttp itself sends a request again if the server has closed a kept connection.
    assert 6 <= len([request for request in proxy.seen if is_put(request, RECORD)]) <= 12
    proxy.lose = lambda request: False
    assert store.resolve("a") == make_snapshot(2).digest  # the write was applied


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


def test_no_server_at_the_endpoint(s3_bucket: str, make_snapshot: Make) -> None:
    dead = PolicyStore(
        f"s3://{s3_bucket}/p", storage_options={"endpoint_url": "http://127.0.0.1:9"}
    )
    for call in (lambda: dead.pull("a"), lambda: dead.push(make_snapshot(), "a"), dead.names):
        with pytest.raises(StorageError, match=rf"{s3_bucket}/p.*Tried several times.*endpoint"):
            call()


def test_a_server_without_exclusive_create_is_refused(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, s3_endpoint: str, make_snapshot: Make
) -> None:
    raw = client(s3_endpoint)

    def without_condition(request: Request) -> None:
        # The existing key is deleted first. The condition cannot be removed, because it is signed.
        if is_put(request) and "if-none-match" in request.headers:
            raw.delete_object(Bucket=s3_bucket, Key=request.path.split("/", 2)[2])

    proxy.before = without_condition
    with pytest.raises(StorageError, match=r"does not create exclusively.*without a name"):
        store.push(make_snapshot(), "a")
    assert record_names(s3_bucket, s3_endpoint) == []
    version = store.push(make_snapshot())
    assert store.pull(version.digest) == make_snapshot()
    with pytest.raises(StorageError, match="does not create exclusively"):
        store._writer.move_tag("a", "t", None)


@pytest.mark.parametrize("finds", [True, False])
def test_a_server_that_refuses_every_create(
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


def test_a_record_that_arrives_too_slowly_raises(
    store: PolicyStore, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.push(make_snapshot(), "a")
    monkeypatch.setattr(receiving, "_SLOW_START", -1.0)  # as if so much time had passed
    monkeypatch.setattr(receiving, "_MIN_SPEED", 1 << 40)
    with pytest.raises(StorageError, match="too slow"):
        store.pull("a@1")


def test_a_first_push_that_fails_leaves_no_name(
    store: PolicyStore, proxy: Proxy, make_snapshot: Make
) -> None:
    proxy.before = lambda request: (
        error(403, "AccessDenied") if is_put(request, "@versions/") else None
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


def test_a_listing_whose_pages_repeat_keys_under_new_tokens(
    store: PolicyStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two keys in turn, with another token each time; an honest server may send empty pages."""
    monkeypatch.setattr("policystore.backends.s3._MAX_IDLE_PAGES", 20)
    pages = itertools.count()

    def answer(request: Request, *, last: int) -> Answer | None:
        if "list-type" not in request.path:
            return None
        page = next(pages)
        text = (
            f"<ListBucketResult><IsTruncated>{str(page != last).lower()}</IsTruncated>"
            f"<NextContinuationToken>t{page}</NextContinuationToken>"
            + (f"<Contents><Key>p/names/{page % 2}</Key></Contents>" if page > 10 else "")
            + "</ListBucketResult>"
        )
        return Answer(200, {"Content-Type": "application/xml"}, text.encode())

    proxy.before = partial(answer, last=-1)
    with pytest.raises(StorageError, match="does not list as S3 does"):
        list(store._backend.keys(""))
    assert next(pages) < 40
    pages = itertools.count()
    proxy.before = partial(answer, last=12)
    assert list(store._backend.keys("")) == ["names/1", "names/0"]


@pytest.mark.long
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
