"""Exceptions of other libraries become errors of policystore, whichever library raised them."""

from __future__ import annotations

import errno
import re

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


def client_error(status: int, code: str, message: str = "m") -> boto.ClientError:
    answer = {
        "Error": {"Code": code, "Message": message},
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


LOCK = "Access Denied because object protected by object lock."
CHECKSUM = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters"
ADVICE = [
    (403, "QuotaExceeded", "m", "raise the quota"), (507, "InsufficientStorage", "m", "quota"),
    (507, "507", "Insufficient Storage", "quota"), (507, "XMinioStorageFull", "m", "quota"),
    (403, "RequestTimeTooSkewed", "m", "Set the clock"), (403, "RequestExpired", "m", "the clock"),
    (403, "InvalidObjectState", "m", "Glacier.*Restore"), (403, "AccountProblem", "m", "account"),
    (403, "InvalidPayer", "m", "account"), (403, "UserSuspended", "m", "account"),
    (403, "NotSignedUp", "m", "account"), (400, "KMS.DisabledException", "m", "kms:Decrypt"),
    (403, "AccessDenied", "not authorized to perform: kms:GenerateDataKey", "grant kms:Decrypt"),
    (400, "KMS.NotFoundException", "m", "Enable the key"), (400, "EntityTooLarge", "m", "larger"),
    (413, "413", "m", "larger than this server takes"), (403, "AccessDenied", LOCK, "retention"),
    (400, "ObjectLocked", "m", "retention"), (400, "MalformedXML", "m", "endpoint_url"),
    (405, "MethodNotAllowed", "m", "website.*restore"), (405, "405", "m", "website.*restore"),
    (301, "PermanentRedirect", "m", "region_name"), (301, "301", "m", "region_name"),
    (400, "AuthorizationHeaderMalformed", "m", "region_name"), (400, "InvalidStorageClass", "m", "class"),
    (400, "InvalidRequest", CHECKSUM, "request_checksum_calculation"),
    (400, "InvalidRequest", "stored using a form of Server Side Encryption", "s3_additional_kwargs"),
]  # fmt: skip


@pytest.mark.parametrize("writing", [True, False])
@pytest.mark.parametrize(("status", "code", "message", "said"), ADVICE)
def test_a_refusal_says_what_to_do(
    status: int, code: str, message: str, said: str, writing: bool
) -> None:
    failure = failure_of(translate_boto_error(client_error(status, code, message)))
    assert not failure.may_pass
    error = mapped_error(failure, "doing", "s3://b/k", StorageOptions(), writing=writing)
    assert type(error) is StorageError
    assert re.search(f"s3://b/k: {code}.*{said}", str(error))
    for wrong in ("AWS_ACCESS_KEY_ID", "read_only", "s3:ListBucket"):
        assert wrong not in str(error)


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (400, "XAmzContentSHA256Mismatch", "changes requests"), (400, "BadDigest", "changes requests"),
        (400, "IncompleteBody", "changes requests"), (400, "KMS.ThrottlingException", "key service"),
    ],
)  # fmt: skip
def test_a_refusal_that_may_pass_is_tried_again_and_then_says_what_to_do(
    status: int, code: str, said: str
) -> None:
    failure = failure_of(translate_boto_error(client_error(status, code)))
    assert failure.may_pass
    error = mapped_error(failure, "writing", "s3://b/k", StorageOptions(), writing=True)
    assert re.search(f"{code}.*Tried several times.*{said}", str(error))


def test_too_little_memory_says_what_to_do() -> None:
    error = MemoryError()
    try:
        raise ConnectionError("while reading") from error
    except ConnectionError as around:
        failure = failure_of(around)
    assert not failure.may_pass
    raised = mapped_error(failure, "reading", "s3://b/k", StorageOptions({}), writing=False)
    assert isinstance(raised, StorageError)
    assert "reading s3://b/k: not enough memory" in str(raised)
    assert "Free some memory" in str(raised)
