"""What a remote filesystem's exception means, and the error of ours that says it.

The one place that maps them. Exceptions are told by the server's answer, or by the names of their
classes: neither botocore nor aiohttp is imported here, and other filesystems need not have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from policystore.backends.options import StorageOptions
from policystore.errors import (
    InvalidInputError,
    NotFoundError,
    PolicyStoreError,
    ReadOnlyError,
    StorageError,
)

__all__ = ["Failure", "Kind", "failure_of", "mapped_error"]

Kind: TypeAlias = Literal[
    "missing",  # no such key
    "taken",  # the key is there, and the write was only for an absent one
    "conflict",  # another conditional write of the key is under way: ask again
    "empty",  # a range of an object without bytes
    "busy",  # the server or the network failed: the request may or may not have been applied
    "denied",  # these credentials may not do this
    "credentials",  # there are none, or the server does not know them
    "bucket",  # no such bucket
    "unsupported",  # the server does not know the request
    "options",  # the filesystem cannot be opened this way
    "other",
]

_LONGEST = 300
_CODES: dict[str, Kind] = {
    "NoSuchBucket": "bucket",
    "NoSuchKey": "missing",
    "PreconditionFailed": "taken",
    "ConditionalRequestConflict": "conflict",
    "OperationAborted": "conflict",
    "InvalidRange": "empty",
    "NotImplemented": "unsupported",
    "InvalidBucketName": "options",
    "RequestTimeout": "busy",
    "SlowDown": "busy",
    "Throttling": "busy",
    "ThrottlingException": "busy",
    "TooManyRequests": "busy",
    "RequestLimitExceeded": "busy",
    "ExpiredToken": "credentials",
    "InvalidAccessKeyId": "credentials",
    "InvalidClientTokenId": "credentials",
    "InvalidSecurity": "credentials",
    "InvalidToken": "credentials",
    "NotSignedUp": "credentials",
    "RequestTimeTooSkewed": "credentials",
    "SignatureDoesNotMatch": "credentials",
    "TokenRefreshRequired": "credentials",
}
_STATUSES: dict[int, Kind] = {
    401: "credentials", 403: "denied", 404: "missing", 408: "busy", 409: "conflict", 412: "taken",
    416: "empty", 429: "busy", 501: "unsupported",
}  # fmt: skip
# Class names, of the class itself or one of its bases, most telling first.
_CLASSES: tuple[tuple[str, Kind], ...] = (
    ("ParamValidationError", "options"),
    ("InvalidRegionError", "options"),
    ("NoCredentialsError", "credentials"),
    ("PartialCredentialsError", "credentials"),
    ("CredentialRetrievalError", "credentials"),
    ("ProfileNotFound", "credentials"),
    ("SSOError", "credentials"),
    ("TokenRetrievalError", "credentials"),
    ("NoAuthTokenError", "credentials"),
    ("FileNotFoundError", "missing"),
    ("FileExistsError", "taken"),
    ("PermissionError", "denied"),
    ("HTTPClientError", "busy"),
    ("IncompleteReadError", "busy"),
    ("IncompleteRead", "busy"),
    ("ResponseParserError", "busy"),
    ("ClientPayloadError", "busy"),
    ("ServerDisconnectedError", "busy"),
    ("ConnectionError", "busy"),
    ("ClientConnectionError", "busy"),
    ("TimeoutError", "busy"),
    ("FSTimeoutError", "busy"),
)


@dataclass(frozen=True)
class Failure:
    """One request that failed: of which kind, and what the server or client said of it."""

    kind: Kind
    said: str

    @property
    def again(self) -> bool:
        """Whether the same request may well succeed in a moment."""
        return self.kind in ("busy", "conflict")


def failure_of(error: BaseException) -> Failure:
    """What an exception of fsspec, s3fs, botocore or aiohttp means."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        # Causes only: an exception's context may be of another request, which a caller handled
        # when it made this one.
        chain.append(cause)
        cause = cause.__cause__
    for link in chain:
        answer = getattr(link, "response", None)
        if isinstance(answer, Mapping):
            return _answered(answer)
    for link in chain:
        status = getattr(link, "status", None)  # aiohttp's
        if type(status) is int and status >= 400:
            return Failure(_of_status(status), _short(f"HTTP status {status}"))
        names = {cls.__name__ for cls in type(link).__mro__}
        for name, kind in _CLASSES:
            if name in names:
                return Failure(kind, _short(f"{type(link).__name__}: {link}"))
    return Failure("other", _short(f"{type(error).__name__}: {error}"))


def _answered(answer: Mapping[str, Any]) -> Failure:
    fault = answer.get("Error") or {}
    code = str(fault.get("Code", ""))
    status = (answer.get("ResponseMetadata") or {}).get("HTTPStatusCode")
    if type(status) is not int:
        status = int(code) if code.isascii() and code.isdigit() else 0
    kind = _CODES.get(code) or _of_status(status)
    return Failure(kind, _short(f"{code or status}: {fault.get('Message', '')}"))


def _of_status(status: int) -> Kind:
    return _STATUSES.get(status) or ("busy" if status >= 500 else "other")


def _short(text: str) -> str:
    """One printable line: a server's words may be long, and of any characters."""
    line = " ".join(text.split())
    line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "…"


def mapped_error(
    failure: Failure, doing: str, where: str, options: StorageOptions, *, writing: bool
) -> PolicyStoreError:
    """The error of ours for a failed request, to be raised ``from None``.

    Args:
        failure: what happened.
        doing: ``"reading"``, ``"writing"`` or ``"listing"``.
        where: the key's URL.
        options: whose secrets the server's words may repeat.
        writing: whether it was a write.
    """
    said = options.scrub(failure.said)
    told = f"{doing} {where}: {said}."
    if failure.kind == "missing" and not writing:
        return NotFoundError(f"no key {where}")
    if failure.kind == "bucket":
        return StorageError(
            f"{told} There is no such bucket. Check its name and the endpoint_url; policystore "
            "does not make buckets."
        )
    if failure.kind == "credentials":
        return StorageError(f"{told} {_credentials(options)}")
    if failure.kind == "denied" and writing:
        return ReadOnlyError(
            f"{told} These credentials may not write there. Use some that may, or open the store "
            "with read_only=True to read only."
        )
    if failure.kind == "denied":
        return StorageError(
            f"{told} These credentials may not read there. Some servers say this also of what is "
            "not there, to those who may not list the bucket: grant s3:ListBucket beside "
            "s3:GetObject."
        )
    if failure.kind == "options":
        return InvalidInputError(f"{told} Check the store's URL and storage_options.")
    if failure.kind == "unsupported" and writing:
        return StorageError(
            f"{told} The server does not implement this. Names rest on conditional writes, with "
            "If-None-Match: push without a name and pull by digest, or keep the store on a server "
            "that honours them."
        )
    if failure.kind == "busy":
        done = "the write may or may not have been applied" if writing else "nothing was changed"
        return StorageError(
            f"{told} Tried several times; {done}. Check the network, the endpoint_url and the "
            "server, and try again."
        )
    return StorageError(f"{told} The server refused the request; nothing was changed.")


def _credentials(options: StorageOptions) -> str:
    advice = (
        "Give credentials that the server knows, by storage_options, a profile, the environment "
        "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or the instance."
    )
    if not options.absent:
        return advice
    return (
        f"{advice} This store came out of a pickle, in which secrets do not travel: "
        f"{', '.join(options.absent)} stayed behind."
    )
