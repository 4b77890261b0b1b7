"""Some options are secrets, and pickles and messages do not contain them."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

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
