"""Exceptions of other libraries become errors of policystore, whichever library raised them."""

from __future__ import annotations

import errno

import aiohttp
import botocore.exceptions as boto
import pytest
from fsspec.exceptions import FSTimeoutError
from s3fs.errors import translate_boto_error

from policystore.backends.fsspec_errors import failure_of, mapped_error
from policystore.backends.options import StorageOptions
from policystore.errors import (
    InvalidInputError,
    NotFoundError,
    PolicyStoreError,
    ReadOnlyError,
    StorageError,
)


def client_error(status: int, code: str) -> boto.ClientError:
    answer = {
        "Error": {"Code": code, "Message": "m"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return boto.ClientError(answer, "PutObject")


KINDS = [
    (client_error(412, "PreconditionFailed"), "taken"),
    (client_error(409, "ConditionalRequestConflict"), "conflict"),
    (client_error(409, "OperationAborted"), "conflict"),
    (client_error(404, "404"), "missing"),
    (client_error(404, "NoSuchBucket"), "bucket"),
    (client_error(403, "403"), "denied"),
    (client_error(403, "AccessDenied"), "denied"),
    (client_error(403, "SignatureDoesNotMatch"), "credentials"),
    (client_error(400, "ExpiredToken"), "credentials"),
    (client_error(500, "InternalError"), "busy"),
    (client_error(599, ""), "busy"),
    (client_error(501, "NotImplemented"), "unsupported"),
    (client_error(400, "RequestTimeout"), "busy"),
    (client_error(400, "EntityTooLarge"), "other"),
    (boto.NoCredentialsError(), "credentials"),
    (boto.ProfileNotFound(profile="p"), "credentials"),
    (boto.EndpointConnectionError(endpoint_url="u"), "busy"),
    (boto.ReadTimeoutError(endpoint_url="u"), "busy"),
    (boto.ConnectTimeoutError(endpoint_url="u"), "busy"),
    (boto.ConnectionClosedError(endpoint_url="u"), "busy"),
    (boto.ResponseStreamingError(error="e"), "busy"),
    (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), "busy"),
    (boto.ParamValidationError(report="r"), "options"),
    (aiohttp.ClientPayloadError("cut"), "busy"),
    (aiohttp.ServerDisconnectedError(), "busy"),
    (FSTimeoutError(), "busy"),
    (TimeoutError(), "busy"),
    (ConnectionResetError(), "busy"),
    (FileNotFoundError("x"), "missing"),
    (PermissionError("x"), "denied"),
    (OSError(errno.EIO, "x"), "other"),
    (RuntimeError("x"), "other"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "kind"), KINDS, ids=str)
def test_kinds(error: Exception, kind: str) -> None:
    assert failure_of(error).kind == kind
    # s3fs raises a plain OSError, whose cause holds the server's answer.
    assert failure_of(translate_boto_error(error)).kind == kind


def test_the_context_of_an_exception_is_not_its_cause() -> None:
    try:
        try:
            raise client_error(412, "PreconditionFailed")
        except boto.ClientError:
            raise OSError(errno.EIO, "another request")  # noqa: B904
    except OSError as error:
        assert failure_of(error).kind == "other"


def test_what_a_server_says_becomes_one_short_printable_line() -> None:
    answer = {"Error": {"Code": "Odd", "Message": "a\nb\x1b[31m" + "x" * 10_000}}
    said = failure_of(boto.ClientError(answer, "GetObject")).reason
    assert said.isprintable()
    assert said.startswith("Odd: a b\\x1b[31mxxx")
    assert len(said) < 400
    for odd in ({}, {"Error": None}, {"Error": {"Code": None}, "ResponseMetadata": None}):
        assert failure_of(_with(odd)).kind == "other"


def _with(response: object) -> Exception:
    error = OSError("x")
    error.response = response  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("status", "code", "writing", "expected"),
    [
        (404, "NoSuchKey", False, NotFoundError), (404, "NoSuchKey", True, StorageError),
        (403, "AccessDenied", True, ReadOnlyError), (403, "AccessDenied", False, StorageError),
        (404, "NoSuchBucket", True, StorageError), (403, "InvalidAccessKeyId", True, StorageError),
        (400, "InvalidBucketName", False, InvalidInputError), (500, "", True, StorageError),
    ],
)  # fmt: skip
def test_errors(status: int, code: str, writing: bool, expected: type[PolicyStoreError]) -> None:
    failure = failure_of(client_error(status, code))
    error = mapped_error(failure, "doing", "s3://b/k", StorageOptions(), writing=writing)
    assert type(error) is expected
    assert "s3://b/k" in str(error)
