"""A store on Google Cloud Storage or Azure Blob Storage, through fsspec.

Both servers create an object exclusively when asked to, and show an object whole or not at all.
fsspec's ``pipe_file(mode="create")`` asks them only where the filesystem's own class does: its
base class looks first and then writes, so that of two writers one loses. Hence the closed table.
"""

from __future__ import annotations

from typing import Any

from policystore._util.progress import BytesCallback
from policystore.backends.base import Chunks
from policystore.backends.fsspec import FsspecBackend, large_body_slots

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
"""The package whose filesystem creates exclusively, for each scheme that one does."""

_ASK_FIRST = 1 << 20  # bytes; below this sending them costs no more than asking
_BLOCK = 16 << 20


class CloudBackend(FsspecBackend):
    """Keys below ``gs://bucket/prefix``, ``az://container/prefix`` and the like."""

    def put(self, key: str, chunks: Chunks, *, moved: BytesCallback | None = None) -> None:
        size = sum(memoryview(chunk).nbytes for chunk in chunks)
        if size < _ASK_FIRST:
            self.replace(key, b"".join(chunks))
            return
        with large_body_slots():
            data = b"".join(chunks)
            if not self._holds(key, data):
                self.replace(key, data)

    def _holds(self, key: str, data: bytes) -> bool:
        """Whether these very bytes are there; read, as the servers' checksums all differ."""
        if self.size(key) != len(data):
            return False
        whole = memoryview(data)
        for start in range(0, len(data), _BLOCK):
            end = min(start + _BLOCK, len(data))
            if self._span(key, start, end) != whole[start:end]:
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
