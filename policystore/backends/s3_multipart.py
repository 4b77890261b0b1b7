"""Move large objects of S3 in parts, several at once, in bounded memory."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np

from policystore._util.concurrency import in_parallel, shielded
from policystore._util.progress import BytesCallback
from policystore.backends.base import Chunks, UnfinishedUpload
from policystore.backends.bodies.receiving import Memory, memory_for
from policystore.backends.bodies.sending import BodyReader
from policystore.backends.filesystems import large_body_slots, run, run_briefly, time_of
from policystore.backends.fsspec_errors import Kind
from policystore.errors import PolicyStoreError, StorageError
from policystore.format.keys import digest_of_key, digest_of_trash

__all__ = [
    "PartedBody",
    "Upload",
    "begin_upload",
    "list_uploads",
    "read_parts",
    "reads_in_parts",
]

_PART = 16 << 20  # bytes; objects of two parts or more move in parts
_PARTS_AT_ONCE = 8
_MAX_PARTS = 10_000  # the most parts of one object, a limit of S3
_ABORT_SECONDS = 0.3  # how long to wait for the end of an upload that the user has interrupted

_Out = TypeVar("_Out")


class _Attempt(Protocol):
    """Make a request, a function of the filesystem, and try again if another try may succeed."""

    def __call__(
        self, call: Callable[[Any], _Out], answers: Mapping[Kind, _Out] | None = None
    ) -> _Out: ...


class _UploadGoneError(Exception):
    """The server does not know the upload any more."""


def reads_in_parts(size: int) -> bool:
    """Return whether an object of ``size`` bytes is read in parts."""
    return size >= 2 * _PART


def read_parts(
    get_part: Callable[[int, int, Memory | None], bytes | memoryview],
    size: int,
    on_bytes: BytesCallback | None,
    label: str,
) -> memoryview:
    """Read a large object in parts, several at once, into one buffer.

    Args:
        get_part: called with a start, a count and memory for the bytes, or None for new memory;
            reads ``count`` bytes from the start on. It raises an error if the object does not have
            ``size`` bytes.
        size: how many bytes the object has.
        on_bytes: called with the bytes of each part.
        label: how messages name the read.

    Raises:
        StorageError: there is not enough memory.
    """
    # The first part is read alone. It shows that the object has this size, before memory for
    # the whole object is allocated.
    first = get_part(0, _PART, None)
    whole = memory_for(size, label)

    def moved(count: int) -> None:
        if on_bytes is not None:
            on_bytes(count)

    def fetch(start: int) -> None:
        count = min(_PART, size - start)
        get_part(start, count, whole[start : start + count])
        moved(count)

    whole[:_PART] = np.frombuffer(first, np.uint8)
    del first
    moved(_PART)
    in_parallel(fetch, range(_PART, size, _PART), workers=_PARTS_AT_ONCE)
    # Set on the array that owns the bytes, so that no view of it can be made writeable again.
    whole.flags.writeable = False
    return whole.data


class PartedBody:
    """The bytes of an object, and the parts in which a large object is written.

    Args:
        chunks: the bytes, in pieces.

    Attributes:
        size: how many bytes the object has.
        in_parts: whether the object is written in parts.
        count: how many parts the object has if it is written in parts.
    """

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self.size = sum(memoryview(chunk).nbytes for chunk in chunks)
        self._part = max(_PART, -(-self.size // _MAX_PARTS))
        self.in_parts = self.size >= 2 * self._part
        self.count = -(-self.size // self._part)

    def open(self) -> BodyReader:
        """Return all bytes as a file."""
        return BodyReader(self._pieces, self.size)

    def open_part(self, number: int) -> BodyReader:
        """Return the bytes of a part as a file; the first part has the number 1."""
        start = (number - 1) * self._part
        size = min(self._part, self.size - start)
        return BodyReader(lambda at, count: self._pieces(start + at, count), size)

    def matches(self, size: object, etag: str) -> bool:
        """Return whether an object of the server has these bytes; False if in doubt.

        Args:
            size: the size of the object.
            etag: the ETag of the object.
        """
        if size != self.size:
            return False
        # The ETag is the MD5 of an object that was written in one request, and the MD5 of the MD5s
        # of the parts otherwise. If the server encrypts the object with a key of its key service,
        # the ETag is no MD5 at all, and the bytes are sent again.
        etag = etag.strip('"')
        if not self.in_parts:
            return etag == str(_md5(self._pieces(0, self.size)).hexdigest())
        if not etag.endswith(f"-{self.count}"):
            return False
        part = self._part
        digests = (_md5(self._pieces(at, part)).digest() for at in range(0, self.size, part))
        return etag == f"{_md5(digests).hexdigest()}-{self.count}"

    def _pieces(self, start: int, count: int) -> Iterator[memoryview]:
        """Yield up to ``count`` bytes from ``start`` on, of the chunks joined together."""
        for chunk in self._chunks:
            view = memoryview(chunk)
            if start >= view.nbytes:
                start -= view.nbytes
            elif count > 0:
                piece = view[start : start + count]
                yield piece
                count -= piece.nbytes
                start = 0


class Upload:
    """One upload of a large object in parts.

    Args:
        attempt: makes a request that writes the object.
        holds: returns whether the server has the object with the bytes of ``body``.
        at: the parameters of a request that name the bucket and the key.
        body: the bytes of the object.
    """

    def __init__(
        self, attempt: _Attempt, holds: Callable[[], bool], at: dict[str, str], body: PartedBody
    ) -> None:
        self._attempt = attempt
        self._holds = holds
        self._request = dict(at)
        self._body = body
        self._begins: list[float] = []  # when each try to begin was made

    def send(self, on_bytes: BytesCallback | None) -> None:
        """Write the object, several parts at once; readers see it when all have arrived.

        Args:
            on_bytes: called with the bytes of each part.
        """
        self._request["UploadId"] = self._attempt(self._begin)

        def send(number: int) -> dict[str, Any]:
            return self._send_part(number, on_bytes)

        try:
            parts = in_parallel(send, range(1, self._body.count + 1), workers=_PARTS_AT_ONCE)
            # Found before the end of this upload, because its own entry in the list tells the time.
            lost = self._lost_uploads() if len(self._begins) > 1 else []
            self._complete(parts)
        except _UploadGoneError:
            # Another writer of the same object has finished, and has ended this upload.
            if not self._holds():
                raise StorageError(
                    f"writing {self._request['Key']}: another program, or a rule of the bucket for "
                    "unfinished uploads, has ended the upload in parts. Push again."
                ) from None
        except BaseException as error:
            # Without this request the server would keep the parts, and the user would pay for them.
            with suppress(PolicyStoreError), shielded():
                self._attempt(partial(self._abort, waits=isinstance(error, Exception)))
            raise
        else:
            self._end(lost)

    def _begin(self, fs: Any) -> str:
        self._begins.append(time.monotonic())
        return begin_upload(fs, self._request)

    def _lost_uploads(self) -> list[str]:
        """Return the ids of uploads that earlier tries of :meth:`_begin` may have begun.

        The answers to these tries were lost. An upload of another writer can be in the result.
        """

        def call(fs: Any) -> list[dict[str, Any]]:
            at = {"Bucket": self._request["Bucket"], "Prefix": self._request["Key"]}
            answer = run(fs, fs._call_s3, "list_multipart_uploads", **at)
            return [each for each in answer.get("Uploads") or () if each["Key"] == at["Prefix"]]

        try:
            found = self._attempt(call)
        except PolicyStoreError:
            return []  # such as credentials that may not list uploads: the parts are small or none
        own = next((each for each in found if each["UploadId"] == self._request["UploadId"]), None)
        if own is None:
            return []
        # A second more, because servers cut the time.
        trying = timedelta(seconds=self._begins[-1] - self._begins[0] + 1)
        return [
            str(each["UploadId"])
            for each in found
            if each is not own
            and own["Initiated"] - trying <= each["Initiated"] <= own["Initiated"]
            and (each.get("Initiator") or {}).get("ID") == (own.get("Initiator") or {}).get("ID")
        ]

    def _end(self, lost: list[str]) -> None:
        """End uploads that this writer began without knowing it: those that still have no part.

        Another writer that began at the same time, with the same credentials, has sent parts
        meanwhile. If that writer was held up for as long as this whole upload took, it loses
        nothing: the object is complete, and :meth:`send` of the other writer finds it.
        """

        def call(fs: Any, upload: str) -> None:
            request = {**self._request, "UploadId": upload}
            if not run(fs, fs._call_s3, "list_parts", **request).get("Parts"):
                run(fs, fs._call_s3, "abort_multipart_upload", **request)

        for upload in lost:
            with suppress(PolicyStoreError):  # the object is written, whatever becomes of this
                self._attempt(partial(call, upload=upload))

    def _abort(self, fs: Any, *, waits: bool) -> None:
        request = {"method": "abort_multipart_upload", **self._request}
        if waits:
            run(fs, fs._call_s3, **request)
        else:  # an interrupt ends the call soon, also if the server does not answer
            run_briefly(fs, _ABORT_SECONDS, fs._call_s3, **request)

    def _send_part(self, number: int, on_bytes: BytesCallback | None) -> dict[str, Any]:
        size = len(self._body.open_part(number))

        def call(fs: Any) -> str:
            request = {**self._request, "PartNumber": number, "Body": self._body.open_part(number)}
            return str(run(fs, fs._call_s3, "upload_part", **request)["ETag"])

        with large_body_slots():
            etag = self._attempt(call, {"missing": ""})
        if not etag:
            raise _UploadGoneError
        if on_bytes is not None:
            on_bytes(size)
        return {"PartNumber": number, "ETag": etag}

    def _complete(self, parts: list[dict[str, Any]]) -> None:
        """Finish the upload; also succeed if a try with a lost answer has finished it."""

        def call(fs: Any) -> None:
            run(fs, fs._call_s3, "complete_multipart_upload", **self._request,
                       MultipartUpload={"Parts": parts})  # fmt: skip

        try:
            self._attempt(call)
        except StorageError:
            # An earlier try may have succeeded although its answer was lost. The server then does
            # not know the upload any more, and the object exists.
            if not self._holds():
                raise


def begin_upload(fs: Any, at: Mapping[str, str]) -> str:
    """Begin an upload in parts, and return its id.

    If the user interrupts the call of this thread meanwhile, the server may still begin the upload,
    whose id no thread then waits for. The event loop of the filesystem aborts this upload as soon
    as the answer with the id arrives.

    Args:
        fs: the filesystem.
        at: the parameters of a request that name the bucket and the key.
    """

    async def begin() -> str:
        import asyncio  # late: a local store needs none of it

        begun = asyncio.ensure_future(fs._call_s3("create_multipart_upload", **at))
        try:
            answer = await asyncio.shield(begun)
        except asyncio.CancelledError:
            with suppress(Exception):  # nobody waits for this any more
                upload = str((await begun)["UploadId"])
                await fs._call_s3("abort_multipart_upload", **at, UploadId=upload)
            raise
        return str(answer["UploadId"])

    return str(run(fs, begin))


def _md5(blocks: Iterable[bytes | memoryview]) -> hashlib._Hash:
    checksum = hashlib.md5(usedforsecurity=False)
    for block in blocks:
        checksum.update(block)
    return checksum


def list_uploads(attempt: _Attempt, bucket: str, root: str) -> Iterator[UnfinishedUpload]:
    """List the unfinished uploads of objects and of copies in the trash.

    Args:
        attempt: makes a request.
        bucket: the bucket.
        root: the start of the keys of the store in the bucket. Uploads to other keys are left out:
            other programs may use the same bucket.

    Raises:
        StorageError: the server does not list as S3 does.
    """
    request = {"Bucket": bucket, "Prefix": root}

    def call(fs: Any) -> dict[str, Any]:
        return dict(run(fs, fs._call_s3, "list_multipart_uploads", **request))

    while True:
        page = attempt(call)
        for item in page.get("Uploads") or ():
            path = str(item.get("Key", ""))
            key = path.removeprefix(root)
            if path == root + key and (digest_of_key(key) or digest_of_trash(key)):
                time = time_of({"LastModified": item.get("Initiated")})
                yield UnfinishedUpload(key, str(item.get("UploadId", "")), time)
        if not page.get("IsTruncated"):
            return
        markers = {
            "KeyMarker": str(page.get("NextKeyMarker") or ""),
            "UploadIdMarker": str(page.get("NextUploadIdMarker") or ""),
        }
        if markers.items() <= request.items():
            raise StorageError(
                f"listing unfinished uploads of the bucket {bucket}: the server says that there is "
                "a next page, but not how to get the next page"
            )
        request |= markers
