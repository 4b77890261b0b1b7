"""URLs and options of a bucket, and the secrets in them."""

from __future__ import annotations

import copy
import os
import pickle
import traceback
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest

from policystore import (
    InvalidInputError,
    PolicyStore,
    PolicyStoreError,
    Snapshot,
    StorageError,
)
from policystore.backends.options import StorageOptions
from tests.support.s3_server import KEY, SECRET, Answer, Proxy, Request, client
from tests.support.s3_stores import (
    open_store,
)

Make = Callable[..., Snapshot]


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
def test_secrets_of_any_form_are_not_pickled(options: dict[str, Any]) -> None:
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
