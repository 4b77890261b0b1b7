"""Keep a store in a bucket of S3, or of a server with the same protocol, through s3fs.

Most calls of the backend are one request. A listing has one request for each page. A write of a
large object first asks whether the object exists, and very large objects are written and read in
parts. Names need ``If-None-Match: *`` and no other condition: servers differ on ``If-Match``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from policystore._util.progress import BytesCallback
from policystore.backends.base import Chunks, Entry, Problems, UnfinishedUpload
from policystore.backends.bodies.receiving import Memory, memory_for, receive
from policystore.backends.bodies.sending import send_at_once
from policystore.backends.filesystems import (
    Recent,
    is_listed,
    large_body_slots,
    last_key,
    multipart_slots,
    run,
    time_of,
)
from policystore.backends.fsspec import FsspecBackend
from policystore.backends.fsspec_errors import Kind
from policystore.backends.s3_copy import copy_object
from policystore.backends.s3_multipart import (
    PartedBody,
    Upload,
    list_uploads,
    read_parts,
    reads_in_parts,
)
from policystore.errors import FormatError, NotFoundError, StorageError

__all__ = ["S3Backend"]

_POOL = 96  # connections; with the default of s3fs, 10, small reads would wait for one another
_MIN_LARGE = 1 << 20  # bytes; a smaller body is copied, and sent again without a check
_MAX_IDLE_PAGES = 1_000  # pages of a listing without a new key
_CONFIG: dict[str, Any] = {
    "max_pool_connections": _POOL,
    # FsspecBackend tries again by itself. Retries of botocore and s3fs would multiply the tries.
    "retries": {"total_max_attempts": 1, "mode": "standard"},
    # Every byte is checked against a digest, and older servers refuse the newer checksums.
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}

_Out = TypeVar("_Out")


class S3Backend(FsspecBackend):
    """Keep keys below ``s3://bucket/prefix``, safe between threads, processes and machines.

    When the answer to a write arrives, the write is durable, and every later read sees it (S3 is
    strongly consistent). If the answer is lost, the write is tried again. :meth:`create` may then
    return False because the first try of the same call created the key. For this case each record
    has a nonce, by which a writer recognizes its own record.
    """

    _bucket = _root = ""  # set when the filesystem is opened
    _reads_all_variables = False

    # Reading

    def get(
        self,
        key: str,
        *,
        limit: int | None = None,
        share: bool = False,
        size: int | None = None,
        on_bytes: BytesCallback | None = None,
    ) -> bytes | memoryview:
        if size is not None and reads_in_parts(size):
            whole = size

            def get_part(start: int, count: int, into: Memory | None) -> bytes | memoryview:
                return self._get_part(key, start, count, whole, into)

            with multipart_slots():
                return read_parts(get_part, size, on_bytes, f"reading {self.location(key)}")
        header = {} if limit is None else {"Range": f"bytes=0-{limit}"}

        return self._read(key, partial(self._fetch, key=key, limit=limit, header=header))

    def _read(self, key: str, fetch: Callable[[Any], Any]) -> bytes | memoryview:
        """Make a GET request; return no bytes if the object has none, and so no range."""

        def call(fs: Any) -> bytes | memoryview:
            return run(fs, fetch, fs)  # type: ignore[no-any-return]

        empty: dict[Kind, bytes | memoryview] = {"empty": b""}
        return self._attempt("reading", key, call, answers=empty)

    def _get_part(
        self, key: str, start: int, count: int, size: int, into: Memory | None
    ) -> bytes | memoryview:
        """Read ``count`` bytes from ``start`` on, of an object of ``size`` bytes."""
        with large_body_slots():
            part = self._get_range(key, start, count, size, into)
        if len(part) != count:
            raise FormatError(f"{self.location(key)} is cut short; it should have {size} bytes")
        return part

    def head(self, key: str, count: int) -> bytes:
        return bytes(self._get_range(key, 0, count))

    def _get_range(
        self,
        key: str,
        start: int,
        count: int,
        size: int | None = None,
        into: Memory | None = None,
    ) -> bytes | memoryview:
        """Read ``count`` bytes from ``start`` on, or fewer where the object ends.

        If ``size`` is given, an object of another size is a FormatError.
        """
        span = f"{start}-{start + count - 1}"
        expected = None if size is None else f"bytes {span}/{size}"
        header = {"Range": f"bytes={span}"}
        fetch = partial(self._fetch, key=key, header=header, count=count, expected=expected)
        return self._read(key, partial(fetch, into=into))

    async def _fetch(
        self,
        fs: Any,
        key: str,
        header: dict[str, str],
        limit: int | None = None,
        count: int | None = None,
        expected: str | None = None,
        into: Memory | None = None,
    ) -> bytes | memoryview:
        """Read the body of one GET request.

        Args:
            fs: the filesystem of s3fs.
            key: the key.
            header: the range that is asked for, if any.
            limit: how many bytes the object may have at most.
            count: how many bytes to read at most; further bytes are not read.
            expected: the ``Content-Range`` that the server has to send, which holds the size of
                the object.
            into: memory for the bytes; None for new memory.

        Raises:
            FormatError: the object has more than ``limit`` bytes, or the server sends another
                range than ``expected``.
            ConnectionError: the body comes too slowly.
        """
        answer = await fs._call_s3("get_object", **self._at(key), **header)
        body = answer["Body"]
        try:
            sent = str(answer.get("ContentRange") or "")
            if expected is not None and sent != expected:
                raise FormatError(
                    f"{self.location(key)}: asked for {expected}, and the server sends "
                    f"{sent or 'everything'}: either the object has another size, or the server "
                    "ignores ranges"
                )
            total = sent.rpartition("/")[2]
            size = int(total) if total.isdigit() else answer.get("ContentLength")
            if limit is not None and size is not None and size > limit:
                raise self._too_long(key, limit, size)
            if limit is not None and size is not None and size >= _MIN_LARGE:
                into = memory_for(size, f"reading {self.location(key)}")
            found = await receive(body, count=count, limit=limit, into=into)
            if found is None:
                raise self._too_long(key, limit or 0)
            return found
        finally:
            body.close()

    def size(self, key: str) -> int | None:
        answer = self._head_object(key)
        return None if answer is None else int(answer.get("ContentLength") or 0)

    def _head_object(self, key: str) -> dict[str, Any] | None:
        """Return the answer to a HEAD request; None if the key does not exist."""

        def call(fs: Any) -> dict[str, Any] | None:
            return dict(run(fs, fs._call_s3, "head_object", **self._at(key)))

        return self._attempt("looking at", key, call, answers={"missing": None})

    def entries(self, prefix: str, *, problems: Problems | None = None) -> Iterator[Entry]:
        recent = Recent()
        try:
            for page in self._pages(prefix):
                for item in page.get("Contents") or ():
                    path = str(item.get("Key", ""))
                    key = path.removeprefix(self._root)
                    # A key that ends with a slash is a folder that a web console made.
                    if (
                        path == self._root + key
                        and is_listed(key, prefix)
                        and not path.endswith("/")
                        and recent.is_new(key)
                    ):
                        yield Entry(key, int(item.get("Size") or 0), time_of(item))
        except StorageError as error:
            if problems is None:
                raise
            problems.append((prefix, str(error)))

    def prefixes(
        self, prefix: str, delimiter: str, *, problems: Problems | None = None
    ) -> Iterator[str]:
        recent = Recent()
        for page in self._pages(prefix, Delimiter=delimiter):
            for entry in page.get("CommonPrefixes") or ():
                common = str(entry.get("Prefix", ""))
                if (
                    common.startswith(self._root + prefix)
                    and common.endswith(delimiter)
                    and recent.is_new(common)
                ):
                    yield common[len(self._root) :]

    def _pages(self, prefix: str, **request: str) -> Iterator[dict[str, Any]]:
        """Yield the pages of a listing."""

        def call(fs: Any) -> dict[str, Any]:
            at = {"Bucket": self._bucket, "Prefix": self._root + prefix}
            return dict(run(fs, fs._call_s3, "list_objects_v2", **at, **request))

        tokens: set[str] = set()
        lasts: set[str] = set()  # the last key of each page
        idle = 0
        while True:
            page = self._attempt("listing", prefix, call)
            yield page
            if not page.get("IsTruncated"):
                return
            last = last_key(page)
            idle += last in lasts or not last
            lasts.add(last)
            if idle > _MAX_IDLE_PAGES:
                raise StorageError(
                    f"listing {self.location(prefix)}: {idle} pages had no new key, and the server "
                    "says that the listing goes on; it does not list as S3 does"
                )
            following = page.get("NextContinuationToken")
            if not following or following in tokens:
                raise StorageError(
                    f"listing {self.location(prefix)}: the server says that the listing goes on, "
                    "and not how to get the next page; it does not list as S3 does"
                )
            tokens.add(following)
            request["ContinuationToken"] = following

    # Writing

    def put(self, key: str, chunks: Chunks, *, on_bytes: BytesCallback | None = None) -> None:
        body = PartedBody(chunks)
        if body.size >= _MIN_LARGE and self._holds(key, body):
            return
        if not body.in_parts:
            if body.size < _MIN_LARGE:
                self.replace(key, b"".join(chunks))
            else:
                with large_body_slots():
                    self._replace(key, body.open)
            return

        def attempt(
            call: Callable[[Any], _Out], answers: Mapping[Kind, _Out] | None = None
        ) -> _Out:
            return self._attempt("writing", key, call, writing=True, answers=answers)

        def holds() -> bool:
            return self._holds(key, body)

        with multipart_slots():
            Upload(attempt, holds, self._at(key), body).send(on_bytes)

    def _holds(self, key: str, body: PartedBody) -> bool:
        """Return whether the key has these bytes, by the server's checksum; False if in doubt."""
        answer = self._head_object(key)
        return answer is not None and body.matches(
            answer.get("ContentLength"), str(answer.get("ETag", ""))
        )

    def replace(self, key: str, data: bytes) -> None:
        self._replace(key, lambda: data)

    def _replace(self, key: str, body: Callable[[], Any]) -> None:
        def call(fs: Any) -> None:
            run(fs, fs._call_s3, "put_object", **self._at(key), Body=body())

        self._attempt("writing", key, call, writing=True)

    def create(self, key: str, data: bytes) -> bool:
        def call(fs: Any) -> bool:
            run(fs, fs._call_s3, "put_object", **self._at(key), Body=data, IfNoneMatch="*")
            return True

        return self._attempt("writing", key, call, writing=True, answers={"taken": False})

    def delete(self, key: str) -> None:
        def call(fs: Any) -> None:
            run(fs, fs._call_s3, "delete_object", **self._at(key))

        self._attempt("deleting", key, call, writing=True, answers={"missing": None})

    def copy(self, key: str, target: str) -> None:
        answer = self._head_object(key)
        if answer is None:
            raise NotFoundError(f"no key {self.location(key)}")

        def attempt(call: Callable[[Any], _Out]) -> _Out | None:
            return self._attempt("copying", key, call, writing=True, answers={"missing": None})

        size = int(answer.get("ContentLength") or 0)
        if not copy_object(attempt, self._at(key), self._at(target), size):
            raise NotFoundError(f"no key {self.location(key)}")

    def _time(self, key: str) -> float | None:
        # Listings tell fractions of a second, and the headers of an answer may not.
        return next((entry.time for entry in self.entries(key) if entry.key == key), None)

    # Unfinished uploads

    def unfinished_uploads(self) -> Iterator[UnfinishedUpload]:
        def attempt(
            call: Callable[[Any], _Out], answers: Mapping[Kind, _Out] | None = None
        ) -> _Out:
            return self._attempt("listing the uploads of", "", call, answers=answers)

        attempt(lambda fs: None)  # sets the bucket
        return list_uploads(attempt, self._bucket, self._root)

    def abort_upload(self, upload: UnfinishedUpload) -> None:
        request = {**self._at(upload.key), "UploadId": upload.upload_id}

        def call(fs: Any) -> None:
            run(fs, fs._call_s3, "abort_multipart_upload", **request)

        answers: dict[Kind, None] = {"missing": None}
        self._attempt("deleting", upload.key, call, writing=True, answers=answers)

    def deletion_limits(self) -> list[str]:
        def call(fs: Any) -> dict[str, Any]:
            return dict(run(fs, fs._call_s3, "get_bucket_versioning", Bucket=self._bucket))

        try:
            status = str(self._attempt("asking about", "", call).get("Status") or "")
        except StorageError as error:
            return [f"the server does not tell whether the bucket keeps old versions: {error}"]
        if status not in ("Enabled", "Suspended"):
            return []
        return [
            f"the bucket {self._bucket} keeps versions ({status.lower()}): what is deleted stays "
            "in the bucket as an old version, and costs money, until a lifecycle rule of the "
            "bucket removes old versions (NoncurrentVersionExpiration). Object locks keep them "
            "longer."
        ]

    # Requests

    def _at(self, key: str) -> dict[str, str]:
        """Return the parameters of a request that name the bucket and the key."""
        return {"Bucket": self._bucket, "Key": self._root + key}

    def _open(self) -> Any:
        fs = super()._open()
        self._bucket, root, _ = fs.split_path(self.url)  # also splits URLs of access points
        self._root = f"{root}/" if root else ""
        return fs

    def _filesystem_class(self) -> Any:
        import s3fs  # late: it takes most of a second

        return s3fs.S3FileSystem

    def _make(self, cls: Any) -> Any:
        options = self._options.copy()
        config = {**_CONFIG, **(options.pop("config_kwargs", None) or {})}
        options |= {"use_listings_cache": False, "skip_instance_cache": True}
        fs = cls(config_kwargs=config, **options)
        fs.retries = 1
        # Called when the filesystem is deleted, and at the end of the process.
        fs.close_session = partial(_close_in_own_process, os.getpid(), fs.close_session)
        fs.connect()
        fs.s3.meta.events.register("before-send.s3", send_at_once)
        return fs


def _close_in_own_process(process: int, close: Callable[..., None], *args: Any) -> None:
    """Close the connections of a client, but not those of the parent in a forked process."""
    if os.getpid() == process:
        close(*args)
