"""A folder of somebody's checkpoint, on a local disk or behind any URL that fsspec knows."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from policystore._util.messages import brief
from policystore.backends.base import Backend
from policystore.backends.factory import open_backend
from policystore.backends.options import StorageOptions
from policystore.checkpoints.files.graph_limits import limit_graph
from policystore.checkpoints.files.msgpack_reader import read_msgpack
from policystore.checkpoints.files.torch_reader import read_torch
from policystore.errors import FormatError, InvalidInputError, NotFoundError

__all__ = ["Folder", "open_folder"]

_MAX_JSON = 16 << 20
_MAX_FILE = 1 << 36
_SUFFIXES = ("pkl", "msgpck", "msgpack", "pt")


class Folder:
    """Files by their path inside of a folder; listed once, read when asked for.

    Args:
        backend: where they are.
        prefix: the folder's own path in there, with a slash behind it; empty for all of it.
        keys: the files in the folder, by their paths in the backend, in order.
    """

    def __init__(self, backend: Backend, prefix: str, keys: Sequence[str]) -> None:
        self._backend = backend
        self._prefix = prefix
        self._keys = keys

    def __str__(self) -> str:
        return self.where("").rstrip("/")

    def where(self, key: str) -> str:
        """Where a person finds a file."""
        return self._backend.location(self._prefix + key)

    def inside(self, name: str) -> Folder:
        """A folder in this one."""
        prefix = f"{self._prefix}{name}/"
        start = bisect_left(self._keys, prefix)
        end = bisect_left(self._keys, f"{self._prefix}{name}0", start)  # 0 comes behind /
        return Folder(self._backend, prefix, self._keys[start:end])

    def paths(self) -> list[str]:
        """Paths of all files, in order."""
        return [key[len(self._prefix) :] for key in self._keys]

    def files(self) -> list[str]:
        """Names of the files right in here, in order."""
        return [key for key in self.paths() if "/" not in key]

    def folders(self) -> list[str]:
        """Names of the folders right in here, in order."""
        return sorted({key.partition("/")[0] for key in self.paths() if "/" in key})

    def has(self, key: str) -> bool:
        """Whether a file is there."""
        wanted = self._prefix + key
        at = bisect_left(self._keys, wanted)
        return at < len(self._keys) and self._keys[at] == wanted

    def state_file(self, stem: str) -> str | None:
        """The file of a stem, in whichever form its writer gave it; None where there is none."""
        return next((f"{stem}.{end}" for end in _SUFFIXES if self.has(f"{stem}.{end}")), None)

    def size(self, key: str) -> int:
        """Bytes of a file."""
        return self._backend.size(self._prefix + key) or 0

    def bytes_of(self, key: str, limit: int = _MAX_FILE) -> bytes:
        """A file.

        Raises:
            NotFoundError: it is not there.
            StorageError: it cannot be read.
            FormatError: more bytes than belong there.
        """
        try:
            return bytes(self._backend.get(self._prefix + key, limit=limit))
        except NotFoundError:
            raise NotFoundError(f"{self.where(key)} is missing: half of a checkpoint") from None

    def json(self, key: str) -> Mapping[str, Any]:
        """A JSON file that holds an object.

        Raises:
            FormatError: it holds something else.
        """
        try:
            found = json.loads(self.bytes_of(key, _MAX_JSON))
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{self.where(key)} is no JSON: {str(error)[:200]}") from None
        if not isinstance(found, dict):
            raise FormatError(f"{self.where(key)}: expected an object, found {brief(found)}")
        return found

    def data(self, key: str) -> tuple[Any, int]:
        """What a pickle, torch file or msgpack says, and its number of bytes.

        Raises:
            FormatError: none of them, or a damaged one.
        """
        data, where = self.bytes_of(key), self.where(key)
        read = read_msgpack if key.rpartition(".")[2].startswith("msgp") else read_torch
        return limit_graph(read(data, where), len(data)), len(data)


def open_folder(
    path: str | PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> Folder:
    """The folder at a path or URL; lists it.

    Raises:
        InvalidInputError: no path or URL, or the path of a file.
        NotFoundError: nothing is there.
        StorageError: it cannot be listed.
    """
    options = StorageOptions(storage_options)
    backend = open_backend(path, options)
    keys = sorted(backend.keys(""))
    if not keys:
        if Path(path).is_file():
            raise InvalidInputError(f"{path} is a file; a checkpoint is the folder that it is in")
        raise NotFoundError(f"{path}: there is no such folder, or it is empty")
    return Folder(backend, "", keys)
