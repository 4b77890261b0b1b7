"""A folder of a checkpoint, on a local disk or behind any URL that fsspec knows."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from policystore.backends.base import Backend
from policystore.backends.factory import open_backend
from policystore.backends.options import StorageOptions
from policystore.checkpoints.files.foreign import describe_foreign
from policystore.checkpoints.files.graph_limits import limit_graph
from policystore.checkpoints.files.msgpack_reader import read_msgpack
from policystore.checkpoints.files.pickle_reader import read_pickle
from policystore.checkpoints.files.placeholders import kind_of
from policystore.checkpoints.files.torch_reader import ZIP_START, read_torch
from policystore.errors import (
    FormatError,
    InvalidInputError,
    NotFoundError,
    PolicyStoreError,
    StorageError,
)

__all__ = ["FileData", "FileRef", "Folder", "decode_file", "open_folder", "open_path"]

_MAX_JSON = 16 << 20
_MAX_FILE = 1 << 36
_NO_FILE = "no file: a folder, a pipe, a socket or a device stands in its place"
_START = 512  # bytes that show whether something else stands in place of a file
# Files by which users name a checkpoint: save() returned the first kind before Ray 2.1.
_CHECKPOINT_FILE = re.compile(
    r"(checkpoint-\d+|(algorithm|policy|module|learner)_state\.\w+|rllib_checkpoint\.json"
    r"|class_and_ctor_args\.pkl|rl_module_metadata\.json)\Z"
)
_SUFFIXES = ("pkl", "msgpck", "msgpack", "pt")


class FileData(NamedTuple):
    """The content of a file.

    Attributes:
        value: plain values, arrays and placeholders.
        nbytes: the size of the file.
    """

    value: object
    nbytes: int


class Opened(NamedTuple):
    """How a folder was opened: its absolute path or URL, and the options of its filesystem."""

    path: str
    options: StorageOptions


class Folder:
    """A folder of files. The list of its files is fixed; each file is read on request.

    Args:
        backend: the backend that holds the files.
        prefix: the path of this folder in the backend, with a slash at the end; empty for all
            files.
        keys: paths of the folder's files in the backend, sorted.
        root: the folder that the caller named; None for that folder itself.
        opened: for the folder that the caller named, how to open the folder around it.
    """

    def __init__(
        self,
        backend: Backend,
        prefix: str,
        keys: Sequence[str],
        root: Folder | None = None,
        opened: Opened | None = None,
    ) -> None:
        self._backend = backend
        self._prefix = prefix
        self._keys = keys
        self._root = root or self
        self._opened = opened

    def __str__(self) -> str:
        return self.location("").rstrip("/")

    @property
    def name(self) -> str:
        """The name of this folder."""
        path = self._prefix
        if not path and self._root._opened is not None:
            path = self._root._opened.path
        return path.rstrip("/").rpartition("/")[2]

    def location(self, name: str) -> str:
        """Return the path or URL of a file, for messages."""
        return self._backend.location(self._prefix + name)

    def subfolder(self, name: str) -> Folder:
        """Return the subfolder of this name; a folder without files if there is none."""
        prefix = f"{self._prefix}{name}/"
        start = bisect_left(self._keys, prefix)
        # "0" is the character after "/".
        end = bisect_left(self._keys, f"{self._prefix}{name}0", start)
        return Folder(self._backend, prefix, self._keys[start:end], self._root)

    def outer(
        self, *names: re.Pattern[str], called: re.Pattern[str] | None = None
    ) -> Folder | None:
        """Return a folder around this one; it may lie outside of the folder that the caller named.

        Args:
            names: what the name of this folder and of those around it must match, from inside to
                outside. The returned folder is the one around the last of them.
            called: what the name of the returned folder must match; None: any name.

        Returns:
            The folder; None if a name does not match, or if the folder cannot be listed. A folder
            around a checkpoint may belong to others, and is not needed for the weights.
        """
        inside = self._prefix.rstrip("/").split("/") if self._prefix else []
        opened = self._root._opened
        outside = [] if opened is None else opened.path.rstrip("/").split("/")
        for name in names:
            parts = inside or outside
            if not parts or not name.match(parts.pop()):
                return None
        around = inside or outside
        if called is not None and not (around and called.match(around[-1])):
            return None
        # A name that was taken from outside leads out of the folder that the caller named.
        if len(names) > (self._prefix.count("/") if self._prefix else 0):
            if opened is None or not any(outside) or outside[-1].endswith(":"):
                return None
            try:
                return open_folder("/".join(outside) or "/", opened.options)
            except PolicyStoreError:
                return None
        found = self._root
        for part in inside:
            found = found.subfolder(part)
        return found

    def paths(self) -> list[str]:
        """Return the paths of all files in this folder and its subfolders, sorted."""
        return [key[len(self._prefix) :] for key in self._keys]

    def file_names(self) -> list[str]:
        """Return the names of the files in this folder itself, sorted."""
        return [path for path in self.paths() if "/" not in path]

    def folder_names(self) -> list[str]:
        """Return the names of the folders in this folder itself, sorted."""
        return sorted({path.partition("/")[0] for path in self.paths() if "/" in path})

    def has(self, name: str) -> bool:
        """Return whether there is a file of this name or path."""
        key = self._prefix + name
        index = bisect_left(self._keys, key)
        return index < len(self._keys) and self._keys[index] == key

    def state_file(self, stem: str) -> str | None:
        """Return the full name of the state file with this stem; None if there is none.

        The suffixes are those that RLlib gives to pickle, msgpack and torch files.
        """
        names = (f"{stem}.{suffix}" for suffix in _SUFFIXES)
        return next((name for name in names if self.has(name)), None)

    def size(self, name: str) -> int:
        """Return the size of a file in bytes; 0 where there is none."""
        return self._backend.size(self._prefix + name) or 0

    def foreign(self, name: str) -> str | None:
        """Describe what stands in place of a file's own data, as :func:`describe_foreign` does.

        Only the first bytes of the file are read.

        Raises:
            StorageError: the file cannot be read.
        """
        try:
            return describe_foreign(self._backend.head(self._prefix + name, _START))
        except NotFoundError:
            return None
        except StorageError:
            if self._is_file(name):
                raise
            return _NO_FILE

    def _is_file(self, name: str) -> bool:
        """Return whether a path that was listed is that of a file."""
        return self._backend.is_remote or self._backend.size(self._prefix + name) is not None

    def read_bytes(self, name: str, limit: int = _MAX_FILE) -> bytes:
        """Read a file.

        Raises:
            NotFoundError: there is no such file.
            StorageError: the file cannot be read.
            FormatError: the file has more than ``limit`` bytes, or is no file.
        """
        key = self._prefix + name
        try:
            return bytes(self._backend.get(key, limit=limit))
        except NotFoundError:
            raise NotFoundError(
                f"{self.location(name)} is missing: the checkpoint is not complete"
            ) from None
        except StorageError:
            # Another try would not help, so the file counts as damaged. Perhaps no caller needs it.
            if self._is_file(name):
                raise
            raise FormatError(f"{self.location(name)} is {_NO_FILE}") from None

    def read_json(self, name: str) -> Mapping[str, Any]:
        """Read a JSON file that holds an object.

        Raises:
            FormatError: the file does not hold a JSON object.
            NotFoundError, StorageError: as :meth:`read_bytes`.
        """
        data = self.read_bytes(name, _MAX_JSON)
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            foreign = describe_foreign(data)
            reason = f"not JSON: {str(error)[:200]}" if foreign is None else foreign
            raise FormatError(f"{self.location(name)} is {reason}") from None
        if not isinstance(value, dict):
            raise FormatError(
                f"{self.location(name)}: expected a JSON object, found {kind_of(value)}"
            )
        return value

    def read_data(self, name: str) -> FileData:
        """Read a pickle, msgpack or torch file.

        A walk through the returned value takes time in proportion to the file's size.

        Raises:
            FormatError: the file is of another kind, or damaged.
            InvalidInputError: a msgpack file, and the package msgpack is not installed.
            NotFoundError, StorageError: as :meth:`read_bytes`.
        """
        data = self.read_bytes(name)
        return FileData(decode_file(data, name, self.location(name)), len(data))


@dataclass(frozen=True)
class FileRef:
    """A file in a folder, which is not read yet."""

    folder: Folder
    name: str

    @property
    def location(self) -> str:
        """The path or URL of the file, for messages."""
        return self.folder.location(self.name)

    def read_data(self) -> FileData:
        """Read the file as :meth:`Folder.read_data` does."""
        return self.folder.read_data(self.name)


def decode_file(data: bytes, name: str, label: str) -> object:
    """Decode a file as plain values, arrays and placeholders that can be walked.

    Files named ``.msgpck`` or ``.msgpack`` are read as msgpack. Of all other files, those that
    start like a zip are read as files of ``torch.save``, and the rest as pickles, whatever the
    suffix.

    Args:
        data: the file.
        name: the file's name, for the suffix.
        label: names the file in error messages.

    Raises:
        FormatError: the file is of another kind, or damaged.
        InvalidInputError: a msgpack file, and the package msgpack is not installed.
    """
    foreign = describe_foreign(data)
    if foreign is not None:
        raise FormatError(f"{label} is {foreign}")
    if name.rpartition(".")[2].startswith("msgp"):
        value = read_msgpack(data, label)
    elif data.startswith(ZIP_START):
        value = read_torch(data, label)
    else:
        value = read_pickle(data, label)
    return limit_graph(value, len(data))


def open_folder(
    path: str | PathLike[str],
    storage_options: StorageOptions | Mapping[str, Any] | None = None,
) -> Folder:
    """Open the folder at a path or URL, and list it.

    Args:
        path: a folder, or a URL that fsspec knows.
        storage_options: options for the filesystem of a URL.

    Raises:
        InvalidInputError: not a path or URL, or the path of a file.
        NotFoundError: there is no such folder, or it is empty.
        StorageError: the folder cannot be listed.
    """
    if not isinstance(storage_options, StorageOptions):
        storage_options = StorageOptions(storage_options)
    backend = open_backend(path, storage_options)
    keys = sorted(backend.keys(""))
    if not keys:
        raise NotFoundError(f"{path}: there is no such folder, or it is empty")
    text = str(path)
    absolute = text if "://" in text else str(Path(text).expanduser().absolute())
    return Folder(backend, "", keys, opened=Opened(absolute, storage_options))


def open_path(
    path: str | PathLike[str],
    storage_options: StorageOptions | Mapping[str, Any] | None = None,
) -> tuple[Folder, str | None]:
    """Open a folder, or the folder that a file is in.

    Args:
        path, storage_options: as in :func:`open_folder`; the path may be that of a file.

    Returns:
        The folder, and the name of the file; None for the path of a folder.

    Raises:
        InvalidInputError, NotFoundError, StorageError: as :func:`open_folder`.
    """
    try:
        return open_folder(path, storage_options), None
    except NotFoundError:
        outside, slash, name = str(path).rpartition("/")
        is_local = "://" not in str(path)
        if not _CHECKPOINT_FILE.match(name):
            if is_local and Path(path).is_file():
                raise InvalidInputError(
                    f"{path} is a file that RLlib does not write into a checkpoint under this "
                    "name; give the folder of the checkpoint"
                ) from None
            raise
        around = outside or slash or "."
        options = storage_options
        if not isinstance(options, StorageOptions):
            options = StorageOptions(options)
        # Asked for first: the folder around it may be a whole disk.
        if open_backend(around, options).size(name) is None:
            raise
        return open_folder(around, options), name
