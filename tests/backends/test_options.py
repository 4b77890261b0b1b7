"""Some options are secrets, and pickles and messages do not contain them."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from policystore import InvalidInputError, PolicyStore
from policystore.backends.options import StorageOptions

SECRET: list[dict[str, Any]] = [
    {"key": "hidden-1"}, {"secret": "hidden-1"}, {"token": "hidden-1"}, {"username": "hidden-1"},
    {"password": "hidden-1"}, {"account_key": "hidden-1"}, {"connection_string": "hidden-1"},
    {"sas_token": "hidden-1"}, {"credential": object()}, {"token": {"private_key": "hidden-1"}},
    {"client_kwargs": {"aws_secret_access_key": "hidden-1"}},
    {"client_kwargs": {"aws_access_key_id": "hidden-1"}},
    {"s3_additional_kwargs": {"SSECustomerKey": "hidden-1"}},
    {"s3_additional_kwargs": {"SSECustomerKey": b"hidden-1"}},
    {"endpoint_url": "https://me:hidden-1@host"}, {"session": object()},
    {"hosts": ["https://me:hidden-1@host"]},
]  # fmt: skip
OPEN: list[dict[str, Any]] = [
    {"endpoint_url": "https://host:9000/x@y"}, {"profile": "team"}, {"anon": True}, {"key": None},
    {"client_kwargs": {"region_name": "eu-west-1", "verify": False}},
    {"s3_additional_kwargs": {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "a", "BucketKeyEnabled": True}},
    {"config_kwargs": {"s3": {"addressing_style": "path"}}, "use_ssl": False},
]  # fmt: skip


@pytest.mark.parametrize("given", SECRET)
def test_secrets_are_not_pickled(given: dict[str, Any]) -> None:
    options = StorageOptions(given)
    assert options.copy() == given
    data = pickle.dumps(options)
    assert b"hidden-1" not in data
    assert "hidden-1" not in repr(options)
    other = pickle.loads(data)
    assert len(other.absent) == 1
    assert pickle.loads(pickle.dumps(other)).absent == other.absent


@pytest.mark.parametrize("given", OPEN)
def test_other_options_are_pickled(given: dict[str, Any]) -> None:
    other = pickle.loads(pickle.dumps(StorageOptions(given)))
    assert other.copy() == given
    assert other.absent == ()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"endpont_url": "http://x"}, "no option 'endpont_url'. Did you mean 'endpoint_url'?"),
        ({"profil": "team"}, "no option 'profil'. Did you mean 'profile'?"),
        ({"zzz": 1}, "no option 'zzz'. The documentation of S3FileSystem lists the options"),
        (
            {"client_kwargs": {"regoin_name": "x"}},
            "no option 'client_kwargs.regoin_name'. Did you mean 'client_kwargs.region_name'?",
        ),
        (
            {"config_kwargs": {"max_pool_conections": 3}},
            "no option 'config_kwargs.max_pool_conections'. Did you mean "
            "'config_kwargs.max_pool_connections'",
        ),
    ],
    ids=["top", "session", "far", "client", "config"],
)
def test_a_mistyped_option_is_named_with_near_ones(given: dict[str, Any], said: str) -> None:
    store = PolicyStore("s3://bucket/x", storage_options=given)
    with pytest.raises(InvalidInputError) as error:
        store.names()
    assert "s3://bucket/x cannot be opened with the storage_options given: S3FileSys" in str(error)
    assert said in str(error.value)
    assert "docs/s3.md" in str(error.value)
    assert "AioSession" not in str(error.value)


def test_an_option_that_only_requests_refuse_is_named() -> None:
    store = PolicyStore("https://127.0.0.1:9/x", storage_options={"zzz": 1})
    with pytest.raises(InvalidInputError, match="HTTPFileSystem has no option 'zzz'"):
        store.resolve("a/b")


def test_copy_returns_a_copy() -> None:
    given = {"client_kwargs": {"region_name": "x"}}
    options = StorageOptions(given)
    given["client_kwargs"]["region_name"] = "y"
    options.copy()["client_kwargs"]["region_name"] = "z"
    assert options.copy() == {"client_kwargs": {"region_name": "x"}}
    assert not StorageOptions().given
    assert StorageOptions({}).given


def test_texts_are_scrubbed() -> None:
    options = StorageOptions({"key": "abc", "secret": "abcdef", "token": "x"})
    assert options.scrub("abcdef abc x http://u:p@h/abc") == "*** *** x ***@h/***"
