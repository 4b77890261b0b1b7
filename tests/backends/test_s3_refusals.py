"""Refusals of a bucket: credentials without rights, unknown credentials, wrong options."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from policystore import (
    InvalidInputError,
    PolicyStore,
    ReadOnlyError,
    Snapshot,
    StorageError,
)
from tests.support.s3_server import Proxy
from tests.support.s3_stores import (
    answering,
    open_store,
    request_lines,
)

Make = Callable[..., Snapshot]


def test_credentials_for_reading_only(
    store: PolicyStore, proxy: Proxy, make_snapshot: Make
) -> None:
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
def test_missing_write_rights_are_found_before_large_tensors_are_sent(
    name: str | None, proxy: Proxy, s3_bucket: str, make_snapshot: Make
) -> None:
    open_store(proxy, s3_bucket).push(make_snapshot(), "a")
    answering(proxy, 403, "AccessDenied", ("PUT", "POST"))
    proxy.told()
    with pytest.raises(ReadOnlyError, match="may not write"):
        open_store(proxy, s3_bucket).push(make_snapshot(1, large=True), name)
    sent = [line for line in request_lines(proxy, s3_bucket) if line.startswith(("PUT", "POST"))]
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
