"""A store in a bucket of S3, or of a server that speaks its protocol, through s3fs.

Each call of the seam is one request, except listings of more than a page and writes of large
objects, which ask first. Names rest on ``If-None-Match: *`` alone: servers differ on ``If-Match``.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np

from policystore._util.concurrency import in_parallel, shielded
from policystore._util.progress import BytesCallback
from policystore.backends.base import Chunks, Problems
from policystore.backends.fsspec import FsspecBackend, large_body_slots, multipart_slots
from policystore.errors import FormatError, PolicyStoreError, StorageError

__all__ = ["S3Backend"]

_POOL = 96  # connections; s3fs's own 10 keep a hundred small reads waiting for one another
_PART = 16 << 20  # bytes; larger objects move in parts
_PARTS_AT_ONCE = 8
_MAX_PARTS = 10_000  # that S3 takes of one object
_ASK_FIRST = 1 << 20  # bytes; below this sending them costs no more than asking
_BLOCK = 1 << 20
_PATIENCE = 30.0  # seconds, after which an answer has to come at
_SLOWEST = 8 << 10  # bytes per second
_CONFIG: dict[str, Any] = {
    "max_pool_connections": _POOL,
    # Retries are counted in one place, ours; those of botocore and s3fs would multiply them.
    "retries": {"total_max_attempts": 1, "mode": "standard"},
    # Every byte is checked against its digest, and older servers refuse the newer checksums.
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}


class S3Backend(FsspecBackend):
    """Keys below ``s3://bucket/prefix``; safe between threads, processes and machines.

    A write that is answered is durable and seen by every later read (S3 is strongly consistent).
    One whose answer is lost is tried again, and what a second try of :meth:`create` finds there
    may be the caller's own first: records carry a nonce for that.
    """

    _bucket = _root = ""  # until it is opened

    # Reading

    def get(
        self,
        key: str,
        *,
        limit: int | None = None,
        share: bool = False,
        size: int | None = None,
        moved: BytesCallback | None = None,
    ) -> bytes | memoryview:
        if size is not None and size >= 2 * _PART:
            with multipart_slots():
                return self._get_parts(key, size, moved)
        ranged = {} if limit is None else {"Range": f"bytes=0-{limit}"}

        def call(fs: Any) -> bytes:
            return bytes(_sync(fs, self._fetch, key, limit, ranged))

        return self._attempt("reading", key, call, answers={"empty": b""})

    def _get_parts(self, key: str, size: int, moved: BytesCallback | None) -> memoryview:
        """A large object, several parts at a time, each straight to its place."""
        # The first alone: it shows that there is so much, before memory is taken for it.
        first = self._part(key, 0, _PART, size)
        whole = np.empty(size, np.uint8)

        def put(start: int, part: bytes) -> None:
            whole[start : start + len(part)] = np.frombuffer(part, np.uint8)
            if moved is not None:
                moved(len(part))

        def fetch(start: int) -> None:
            put(start, self._part(key, start, min(_PART, size - start), size))

        put(0, first)
        del first
        in_parallel(fetch, range(_PART, size, _PART), workers=_PARTS_AT_ONCE)
        # On the owner of the bytes: numpy lets nobody make arrays over them writeable again.
        whole.flags.writeable = False
        return whole.data

    def _part(self, key: str, start: int, count: int, size: int) -> bytes:
        with large_body_slots():
            part = self._range(key, start, count, size)
        if len(part) != count:
            raise FormatError(f"{self.location(key)} is cut short: {size} bytes belong there")
        return part

    def head(self, key: str, count: int) -> bytes:
        return self._range(key, 0, count)

    def _range(self, key: str, start: int, count: int, size: int | None = None) -> bytes:
        """``count`` bytes from ``start`` on, of an object that has ``size`` if that is given."""
        span = f"{start}-{start + count - 1}"
        expected = None if size is None else f"bytes {span}/{size}"

        def call(fs: Any) -> bytes:
            ranged = {"Range": f"bytes={span}"}
            return bytes(_sync(fs, self._fetch, key, None, ranged, count, expected))

        return self._attempt("reading", key, call, answers={"empty": b""})

    async def _fetch(
        self,
        fs: Any,
        key: str,
        limit: int | None,
        ranged: dict[str, str],
        count: int | None = None,
        expected: str | None = None,
    ) -> bytes:
        """The body of one GET; more bytes than ``limit`` are refused, than ``count`` left alone.

        ``expected`` is the range that the server has to say it sends, of an object of that length.
        """
        answer = await fs._call_s3("get_object", **self._at(key), **ranged)
        body = answer["Body"]
        try:
            sent = str(answer.get("ContentRange") or "")
            if expected is not None and sent != expected:
                raise FormatError(
                    f"{self.location(key)}: asked for {expected}, the server sends "
                    f"{sent or 'everything'}: another object stands there, or it ignores ranges"
                )
            whole = sent.rpartition("/")[2]
            size = int(whole) if whole.isdigit() else answer.get("ContentLength")
            if limit is not None and size is not None and size > limit:
                raise self._too_long(key, limit, size)
            # Joined to bytes at the end: an array over a bytearray could be made writeable.
            blocks, got, began = [], 0, time.monotonic()
            while (count is None or got < count) and (block := await body.read(_BLOCK)):
                blocks.append(block)
                got += len(block)
                # Each read has a limit of its own, which a drip never reaches.
                if time.monotonic() - began > _PATIENCE + got / _SLOWEST:
                    raise ConnectionError(
                        f"{got} bytes in {time.monotonic() - began:.0f} s: too slow to go on"
                    )
                if limit is not None and got > limit:
                    raise self._too_long(key, limit)
            return b"".join(blocks)[:count]
        finally:
            body.close()

    def size(self, key: str) -> int | None:
        found = self._head_object(key)
        return None if found is None else int(found.get("ContentLength") or 0)

    def _head_object(self, key: str) -> dict[str, Any] | None:
        def call(fs: Any) -> dict[str, Any] | None:
            return dict(fs.call_s3("head_object", **self._at(key)))

        return self._attempt("looking at", key, call, answers={"missing": None})

    def keys(self, prefix: str, *, problems: Problems | None = None) -> Iterator[str]:
        try:
            for page in self._pages(prefix):
                for entry in page.get("Contents") or ():
                    key = str(entry.get("Key", ""))
                    # What ends with a slash was made by a console, as a folder.
                    if key.startswith(self._root + prefix) and not key.endswith("/"):
                        yield key[len(self._root) :]
        except StorageError as error:
            if problems is None:
                raise
            problems.append((prefix, str(error)))

    def prefixes(self, prefix: str, delimiter: str) -> Iterator[str]:
        for page in self._pages(prefix, Delimiter=delimiter):
            for entry in page.get("CommonPrefixes") or ():
                found = str(entry.get("Prefix", ""))
                if found.startswith(self._root + prefix):
                    yield found[len(self._root) :]

    def _pages(self, prefix: str, **request: str) -> Iterator[dict[str, Any]]:
        def call(fs: Any) -> dict[str, Any]:
            at = {"Bucket": self._bucket, "Prefix": self._root + prefix}
            return dict(fs.call_s3("list_objects_v2", **at, **request))

        while True:
            page = self._attempt("listing", prefix, call)
            yield page
            if not page.get("IsTruncated"):
                return
            following = page.get("NextContinuationToken")
            if not following or following == request.get("ContinuationToken"):
                raise StorageError(
                    f"listing {self.location(prefix)}: the server says that there is more and not "
                    "how to go on; it does not list as S3 does"
                )
            request["ContinuationToken"] = following

    # Writing

    def put(self, key: str, chunks: Chunks, *, moved: BytesCallback | None = None) -> None:
        size = sum(memoryview(chunk).nbytes for chunk in chunks)
        part = max(_PART, -(-size // _MAX_PARTS))
        if size >= _ASK_FIRST and self._holds(key, chunks, size, part):
            return
        if size < 2 * part:
            with large_body_slots() if size >= _ASK_FIRST else nullcontext():
                self.replace(key, b"".join(chunks))
        else:
            with multipart_slots():
                self._put_parts(key, chunks, size, part, moved)

    def _holds(self, key: str, chunks: Chunks, size: int, part: int) -> bool:
        """Whether these very bytes are there, as far as the server says; if in doubt, no."""
        found = self._head_object(key)
        if found is None or found.get("ContentLength") != size:
            return False
        # The MD5 of an object written in one request; of one that came in parts, the MD5 of their
        # MD5s. Where the server keeps it encrypted with a key of its key service it is no MD5 of
        # anything, and the bytes are sent again.
        said = str(found.get("ETag", "")).strip('"')
        starts = range(0, size, part)
        if size < 2 * part:
            return said == str(_md5(_pieces(chunks, 0, size)).hexdigest())
        if not said.endswith(f"-{len(starts)}"):
            return False
        digests = (_md5(_pieces(chunks, start, part)).digest() for start in starts)
        return said == f"{_md5(digests).hexdigest()}-{len(starts)}"

    def _put_parts(
        self, key: str, chunks: Chunks, size: int, part: int, moved: BytesCallback | None
    ) -> None:
        """A large object in parts, several at a time; it appears whole, when all have come."""
        request = self._at(key)

        def begin(fs: Any) -> str:
            return str(fs.call_s3("create_multipart_upload", **request)["UploadId"])

        request["UploadId"] = self._attempt("writing", key, begin, writing=True)

        def send(number: int) -> dict[str, Any]:
            start = (number - 1) * part
            with large_body_slots():
                data = b"".join(_pieces(chunks, start, part))

                def call(fs: Any) -> str:
                    return str(
                        fs.call_s3("upload_part", **request, PartNumber=number, Body=data)["ETag"]
                    )

                etag = self._attempt("writing", key, call, writing=True)
            if moved is not None:
                moved(len(data))
            return {"PartNumber": number, "ETag": etag}

        try:
            numbers = range(1, -(-size // part) + 1)
            parts = in_parallel(send, numbers, workers=_PARTS_AT_ONCE)
            self._complete(key, request, {"Parts": parts}, chunks, size, part)
        except BaseException:
            # What was sent would be kept, and paid for, until somebody looked for it.
            with suppress(PolicyStoreError), shielded():
                self._attempt(
                    "writing", key, lambda fs: fs.call_s3("abort_multipart_upload", **request)
                )
            raise

    def _complete(
        self,
        key: str,
        request: dict[str, str],
        parts: dict[str, Any],
        chunks: Chunks,
        size: int,
        part: int,
    ) -> None:
        def call(fs: Any) -> None:
            fs.call_s3("complete_multipart_upload", **request, MultipartUpload=parts)

        try:
            self._attempt("writing", key, call, writing=True)
        except StorageError:
            # The answer to a first try that was applied may have been lost: the upload is unknown
            # then, and the object is there.
            if not self._holds(key, chunks, size, part):
                raise

    def replace(self, key: str, data: bytes) -> None:
        def call(fs: Any) -> None:
            fs.call_s3("put_object", **self._at(key), Body=data)

        self._attempt("writing", key, call, writing=True)

    def create(self, key: str, data: bytes) -> bool:
        def call(fs: Any) -> bool:
            fs.call_s3("put_object", **self._at(key), Body=data, IfNoneMatch="*")
            return True

        return self._attempt("writing", key, call, writing=True, answers={"taken": False})

    # Requests

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._root + key}

    def _open(self) -> Any:
        import s3fs  # late: it takes most of a second

        options = self._options.copy()
        config = {**_CONFIG, **(options.pop("config_kwargs", None) or {})}
        options |= {"use_listings_cache": False, "skip_instance_cache": True}
        fs = s3fs.S3FileSystem(config_kwargs=config, **options)
        fs.retries = 1
        fs.connect()
        self._bucket, root, _ = fs.split_path(self.url)  # which knows access points, too
        self._root = f"{root}/" if root else ""
        return fs


def _md5(blocks: Iterable[bytes | memoryview]) -> Any:
    found = hashlib.md5(usedforsecurity=False)
    for block in blocks:
        found.update(block)
    return found


def _pieces(chunks: Chunks, start: int, count: int) -> Iterator[memoryview]:
    """``count`` bytes from ``start`` on of what the chunks are together, or what there is of it."""
    for chunk in chunks:
        view = memoryview(chunk)
        if start >= view.nbytes:
            start -= view.nbytes
        elif count > 0:
            piece = view[start : start + count]
            yield piece
            count -= piece.nbytes
            start = 0


def _sync(fs: Any, call: Any, *args: Any) -> Any:
    """Run a coroutine of ours on the event loop of the filesystem's own thread."""
    from fsspec.asyn import sync

    return sync(fs.loop, call, fs, *args)
