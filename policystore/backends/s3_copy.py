"""Copy objects within a bucket of S3, without moving their bytes through this machine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from policystore._util.concurrency import in_parallel, shielded
from policystore.backends.filesystems import run
from policystore.backends.s3_multipart import begin_upload
from policystore.errors import PolicyStoreError, StorageError

__all__ = ["copy_object"]

_MOST = 5 << 30  # bytes that one request copies, a limit of S3
_PART = 1 << 30  # bytes
_PARTS_AT_ONCE = 8
_MAX_PARTS = 10_000  # the most parts of one object, a limit of S3

_Out = TypeVar("_Out")


class _Attempt(Protocol):
    """Make a request, a function of the filesystem; None if the source does not exist."""

    def __call__(self, call: Callable[[Any], _Out]) -> _Out | None: ...


def copy_object(
    attempt: _Attempt, source: dict[str, str], target: dict[str, str], size: int
) -> bool:
    """Copy an object; readers see the copy when it is whole.

    Args:
        attempt: makes a request.
        source: the parameters of a request that name the bucket and the key of the object.
        target: the same for the copy.
        size: how many bytes the object has.

    Returns:
        False if the object does not exist.

    Raises:
        StorageError: ``size`` is larger than an object can be.
    """
    if size > _MOST:
        return _copy_parts(attempt, source, target, size)

    def call(fs: Any) -> bool:
        run(fs, fs._call_s3, "copy_object", **target, CopySource=source)
        return True

    return bool(attempt(call))


def _copy_parts(
    attempt: _Attempt, source: dict[str, str], target: dict[str, str], size: int
) -> bool:
    if size > _PART * _MAX_PARTS:
        raise StorageError(
            f"copying {source['Key']}: the server says that it has {size} bytes, which is more "
            "than an object of S3 can have"
        )
    request = dict(target)
    request["UploadId"] = attempt(lambda fs: begin_upload(fs, target)) or ""

    def copy(number: int) -> dict[str, Any] | None:
        start = (number - 1) * _PART
        span = f"bytes={start}-{min(size, start + _PART) - 1}"

        def call(fs: Any) -> dict[str, Any]:
            answer = run(
                fs,
                fs._call_s3,
                "upload_part_copy",
                **request,
                CopySource=source,
                CopySourceRange=span,
                PartNumber=number,
            )
            return {"PartNumber": number, "ETag": str(answer["CopyPartResult"]["ETag"])}

        return attempt(call)

    def abort() -> None:
        # Without this request the server would keep the parts, and the user would pay for them.
        with suppress(PolicyStoreError), shielded():
            attempt(lambda fs: run(fs, fs._call_s3, "abort_multipart_upload", **request))

    try:
        numbers = range(1, -(-size // _PART) + 1)
        parts = in_parallel(copy, numbers, workers=_PARTS_AT_ONCE)
        if None in parts:
            abort()
            return False
        attempt(
            lambda fs: run(
                fs,
                fs._call_s3,
                "complete_multipart_upload",
                **request,
                MultipartUpload={"Parts": parts},
            )
        )
    except BaseException:
        abort()
        raise
    return True
