"""Turn exceptions of remote filesystems into errors of :mod:`policystore.errors`.

No other module does this. An exception is recognized by the server's answer that is attached to it,
or by the name of its class. So this module imports neither botocore nor aiohttp, which other
filesystems do not need.
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
    "missing",  # the key does not exist
    "taken",  # the key exists, and the write should only create a new key
    "conflict",  # another conditional write of the key is under way: try again
    "empty",  # the request asked for a range of an object without bytes
    "busy",  # the server or the network failed: the request may or may not have been applied
    "denied",  # these credentials do not allow the request
    "credentials",  # there are no credentials, or the server does not know them
    "bucket",  # the bucket does not exist
    "unsupported",  # the server does not implement the request
    "options",  # the filesystem cannot be opened with these options
    "other",
]

_MAX_TEXT = 300
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
    "SignatureDoesNotMatch": "credentials",
    "TokenRefreshRequired": "credentials",
}
_FULL = (
    "The bucket, or the quota of the bucket or of its owner, is full. Free space or raise the "
    "quota, and push again."
)
_ACCOUNT = (
    "The account that owns the bucket or the credentials is suspended, or not set up for this "
    "request. Ask the owner of the account, or the provider."
)
_REGION = (
    "The bucket is in another region, or at another endpoint. Give the region of the bucket by "
    "storage_options={'client_kwargs': {'region_name': …}}, and its endpoint_url."
)
_CLOCK = (
    "The clock of this machine and the clock of the server differ too much for a signature. Set "
    "the clock of this machine, such as by NTP."
)
_CHANGED = (
    "The bytes that arrived are not the bytes that were sent. Look for a proxy or another device "
    "between this machine and the server that changes requests."
)
_TOO_LARGE = (
    "The object, or one request for a part of it, is larger than this server takes. Raise the "
    "limit of the server or of the proxy before it, or keep the store on another server."
)
_LOCKED = (
    "Object lock, or another rule against changes, protects this key. Wait until its retention "
    "ends, or exclude the store from the rule."
)
_METHOD = (
    "The server does not allow this request here. Use the endpoint_url of the S3 service, which is "
    "not the address of a website that is served from the bucket. If the key was deleted in a "
    "bucket with versioning, restore its last version."
)
_KEY_SERVICE = (
    "The bucket encrypts with a key of a key service, and the service refuses the use of the key. "
    "Enable the key, and grant kms:Decrypt and kms:GenerateDataKey to these credentials."
)
_ENCRYPTION = (
    "The object is encrypted in a way that needs a parameter of every request. Give the same "
    "storage_options, such as s3_additional_kwargs, as the writers of the store."
)
_ARCHIVED = (
    "The object was moved to an archive, such as Glacier, by a lifecycle rule. Restore it with the "
    "tools of the server, and exclude the store from the rule."
)
_PROTOCOL = (
    "The server does not understand the request. Check that the endpoint_url is that of an S3 "
    "server, and that no proxy changes requests."
)
_STORAGE_CLASS = "Check the storage class and the encryption in storage_options."
_CHECKSUM = (
    "The bucket takes no write without a checksum. Open the store with "
    "storage_options={'config_kwargs': {'request_checksum_calculation': 'when_supported'}}."
)
_MEMORY = (
    "The bytes of the request or of its answer do not fit into the memory that is free. Free some "
    "memory, or raise the limits of this process."
)
_UPLOAD_GONE = (
    "The upload in parts was ended by another program, or by a lifecycle rule for unfinished "
    "uploads. Push again."
)
# What to do about a code of the server; the kind says only whether to try again.
_ADVICE: dict[str, tuple[Kind, str]] = {
    **dict.fromkeys(
        ("QuotaExceeded", "InsufficientStorage", "InsufficientCapacity", "StorageFull", "507",
         "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"), ("other", _FULL)),
    **dict.fromkeys(
        ("AccountProblem", "AllAccessDisabled", "InvalidPayer", "NotSignedUp", "OptInRequired",
         "UserSuspended", "AccountIsDisabled"), ("other", _ACCOUNT)),
    **dict.fromkeys(
        ("AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "Redirect",
         "IllegalLocationConstraintException", "301", "307"), ("other", _REGION)),
    **dict.fromkeys(("RequestTimeTooSkewed", "RequestExpired"), ("other", _CLOCK)),
    **dict.fromkeys(
        ("BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"),
        ("busy", _CHANGED)),
    **dict.fromkeys(("EntityTooLarge", "MaxMessageLengthExceeded", "413"), ("other", _TOO_LARGE)),
    **dict.fromkeys(
        ("ObjectLocked", "BlobImmutableDueToPolicy"), ("other", _LOCKED)),
    **dict.fromkeys(("MethodNotAllowed", "405"), ("other", _METHOD)),
    **dict.fromkeys(
        ("InvalidStorageClass", "InvalidEncryptionAlgorithmError"), ("other", _STORAGE_CLASS)),
    **dict.fromkeys(("MalformedXML", "InvalidURI"), ("other", _PROTOCOL)),
    "InvalidObjectState": ("other", _ARCHIVED),
    "NoSuchUpload": ("missing", _UPLOAD_GONE),
}  # fmt: skip
# Texts in the message of a server, for codes that say too little: the first that fits counts.
_MESSAGES: tuple[tuple[str, str], ...] = (
    ("object lock parameters", _CHECKSUM),
    ("object lock", _LOCKED),
    ("worm protected", _LOCKED),
    ("kms:", _KEY_SERVICE),
    ("server side encryption", _ENCRYPTION),
    ("server-side encryption", _ENCRYPTION),
)
_STATUSES: dict[int, Kind] = {
    401: "credentials", 403: "denied", 404: "missing", 408: "busy", 409: "conflict", 412: "taken",
    416: "empty", 429: "busy", 501: "unsupported",
}  # fmt: skip
_THROTTLED = (429, 503)
_THROTTLED_CODES = (
    "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded",
)  # fmt: skip
# Names of classes or of their bases; the first that fits counts.
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
    """A request that failed.

    Attributes:
        kind: what went wrong.
        reason: one line of text from the server or the client library.
        advice: what to do, if the server's answer says it.
        is_throttled: whether the server answered that there are too many requests now. Such an
            answer comes at once, and stays the same for as long as many clients ask. A failure of a
            network or of a server passes sooner, or not at all.
    """

    kind: Kind
    reason: str
    advice: str = ""
    is_throttled: bool = False

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed in a moment."""
        return self.kind in ("busy", "conflict")


def failure_of(error: BaseException) -> Failure:
    """Classify an exception of fsspec, s3fs, botocore or aiohttp."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        # Only __cause__ is followed. __context__ may belong to another request, whose failure was
        # being handled when this request was made.
        chain.append(cause)
        cause = cause.__cause__
    for link in chain:
        answer = getattr(link, "response", None)
        if isinstance(answer, Mapping):
            return _failure_of_answer(answer)
        if isinstance(link, MemoryError):
            return Failure("other", "not enough memory", _MEMORY)
    for link in chain:
        status = getattr(link, "status", None)  # aiohttp's
        if type(status) is int and status >= 400:
            reason = _one_line(f"HTTP status {status}")
            return Failure(_kind_of_status(status), reason, is_throttled=status in _THROTTLED)
        names = {cls.__name__ for cls in type(link).__mro__}
        for name, kind in _CLASSES:
            if name in names:
                return Failure(kind, _one_line(f"{type(link).__name__}: {link}"))
    return Failure("other", _one_line(f"{type(error).__name__}: {error}"))


def _failure_of_answer(answer: Mapping[str, Any]) -> Failure:
    """Classify an answer of a server, as botocore attaches it to its exceptions."""
    fault = answer.get("Error") or {}
    code = str(fault.get("Code", ""))
    status = (answer.get("ResponseMetadata") or {}).get("HTTPStatusCode")
    if type(status) is not int:
        status = int(code) if code.isascii() and code.isdigit() else 0
    message = str(fault.get("Message", ""))
    kind, advice = _advice(code or str(status), message)
    kind = kind or _CODES.get(code) or _kind_of_status(status)
    # The answer to a HEAD request has no body, so its code is the status.
    is_throttled = kind == "busy" and (status in _THROTTLED or code in _THROTTLED_CODES)
    return Failure(kind, _one_line(f"{code or status}: {message}"), advice, is_throttled)


def _advice(code: str, message: str) -> tuple[Kind | None, str]:
    """Return what to do about an answer, and its kind, if the code or the message says it."""
    if code in _ADVICE:
        return _ADVICE[code]
    if code.startswith("KMS"):
        return ("busy" if "Throttl" in code else "other"), _KEY_SERVICE
    if code in ("AccessDenied", "InvalidRequest"):
        for text, advice in _MESSAGES:
            if text in message.lower():
                return "other", advice
    return None, ""


def _kind_of_status(status: int) -> Kind:
    return _STATUSES.get(status) or ("busy" if status >= 500 else "other")


def _one_line(text: str) -> str:
    """Shorten a text to one printable line: a server may send long texts with any characters."""
    line = " ".join(text.split())
    line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
    return line if len(line) <= _MAX_TEXT else line[:_MAX_TEXT] + "…"


def mapped_error(
    failure: Failure, action: str, location: str, options: StorageOptions, *, writing: bool
) -> PolicyStoreError:
    """Build the error for a failed request; the caller raises it ``from None``.

    Args:
        failure: the failure.
        action: what was done, such as ``"reading"`` or ``"looking at"``.
        location: the URL of the key.
        options: the options whose secrets the text of the server may repeat.
        writing: whether the request was a write.
    """
    report = f"{action} {location}: {options.scrub(failure.reason)}."
    if failure.kind == "missing" and not writing:
        return NotFoundError(f"no key {location}")
    if failure.kind == "bucket":
        return StorageError(
            f"{report} There is no such bucket. Check its name and the endpoint_url; policystore "
            "does not make buckets."
        )
    if failure.advice and failure.kind != "busy":
        return StorageError(f"{report} {failure.advice} Nothing was changed.")
    if failure.kind == "credentials":
        return StorageError(f"{report} {_credentials_advice(options)}")
    if failure.kind == "denied" and writing:
        return ReadOnlyError(
            f"{report} These credentials may not write this key. Use credentials that may write, "
            "or open the store with read_only=True to read only."
        )
    if failure.kind == "denied":
        return StorageError(
            f"{report} These credentials may not read this key. If credentials may not list the "
            "bucket, some servers give the same answer for a key that does not exist: grant "
            "s3:ListBucket beside s3:GetObject."
        )
    if failure.kind == "options":
        return InvalidInputError(f"{report} Check the store's URL and storage_options.")
    if failure.kind == "unsupported" and writing:
        return StorageError(
            f"{report} The server does not implement this request. Names need conditional writes, "
            "with If-None-Match: push without a name and pull by digest, or keep the store on a "
            "server that supports conditional writes."
        )
    if failure.kind == "busy":
        effect = "the write may or may not have been applied" if writing else "nothing was changed"
        return StorageError(
            f"{report} Tried several times; {effect}. "
            + (
                failure.advice
                or "Check the network, the endpoint_url and the server, and try again."
            )
        )
    return StorageError(f"{report} The server refused the request; nothing was changed.")


def _credentials_advice(options: StorageOptions) -> str:
    """Write what to do if a server does not know the credentials."""
    advice = (
        "Give credentials that the server knows, by storage_options, a profile, the environment "
        "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or the instance."
    )
    if not options.absent:
        return advice
    return (
        f"{advice} This store came out of a pickle, and secrets are not pickled: "
        f"{', '.join(options.absent)} stayed behind."
    )
