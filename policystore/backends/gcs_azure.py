"""Keep a store on Google Cloud Storage or Azure Blob Storage, through fsspec.

Both servers create an object exclusively if the request asks for that, and a reader sees a whole
object or no object. The ``pipe_file(mode="create")`` of fsspec sends such a request only if the
class of the filesystem overrides ``pipe_file``. fsspec's base class checks that the key is absent
and then writes the key, so that of two writers at the same time one is lost. That is why
policystore writes only through the filesystems that are listed here.
"""

from __future__ import annotations

from typing import Any

from policystore._util.progress import BytesCallback
from policystore.backends.base import Chunks
from policystore.backends.filesystems import large_body_slots
from policystore.backends.fsspec import FsspecBackend
from policystore.errors import NotFoundError

__all__ = ["CREATING", "CloudBackend"]

CREATING = {
    # gcsfs/core.py, simple_upload: ifGenerationMatch=0
    "gs": "gcsfs",
    "gcs": "gcsfs",
    # adlfs/spec.py, _pipe_file: upload_blob(overwrite=False), which sends If-None-Match: *
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}
"""URL scheme -> the package whose filesystem creates keys exclusively."""

_MIN_COMPARED = 1 << 20  # bytes; a smaller object is sent again without a check
_BLOCK = 16 << 20


class CloudBackend(FsspecBackend):
    """Keep keys below ``gs://bucket/prefix``, ``az://container/prefix`` and similar URLs."""

    _keeps_empty_folders = False
    _reads_all_variables = False

    def put(self, key: str, chunks: Chunks, *, on_bytes: BytesCallback | None = None) -> None:
        size = sum(memoryview(chunk).nbytes for chunk in chunks)
        if size < _MIN_COMPARED:
            self.replace(key, b"".join(chunks))
            return
        with large_body_slots():
            data = b"".join(chunks)
            if not self._holds(key, data):
                self.replace(key, data)

    def _holds(self, key: str, data: bytes) -> bool:
        """Read the key and compare its bytes with ``data``: each server has other checksums."""
        if self.size(key) != len(data):
            return False
        whole = memoryview(data)
        for start in range(0, len(data), _BLOCK):
            end = min(start + _BLOCK, len(data))
            if self._read_range(key, start, end) != whole[start:end]:
                return False
        return True

    def replace(self, key: str, data: bytes) -> None:
        def call(fs: Any) -> None:
            fs.pipe_file(self._path(fs, key), data)

        self._attempt("writing", key, call, writing=True)

    def create(self, key: str, data: bytes) -> bool:
        def call(fs: Any) -> bool:
            fs.pipe_file(self._path(fs, key), data, mode="create")
            return True

        return self._attempt("writing", key, call, writing=True, answers={"taken": False})

    def delete(self, key: str) -> None:
        def call(fs: Any) -> None:
            fs.rm_file(self._path(fs, key))

        self._attempt("deleting", key, call, writing=True, answers={"missing": None})

    def copy(self, key: str, target: str) -> None:
        def call(fs: Any) -> bool:
            fs.cp_file(self._path(fs, key), self._path(fs, target))
            return True

        if not self._attempt("copying", key, call, writing=True, answers={"missing": False}):
            raise NotFoundError(f"no key {self.location(key)}")
