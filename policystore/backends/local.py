"""Keep a store in a folder of a filesystem, safe between processes, threads and power cuts.

An object is written to a temporary file, flushed, and renamed to its address. A second writer of
the object renames a file with the same bytes. A record is written to a temporary file, flushed, and
hard-linked to the name with its number. The link fails if that number is taken (zarr-python works
in this way, too). A crash leaves at most a file in ``tmp/``; old files in ``tmp/`` are removed. If
``objects/`` or ``names/`` is on another disk, its temporary files are in a folder ``.tmp`` there.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

from policystore._util.files import (
    OnData,
    fsync_folder,
    is_on_network,
    mapped_errors,
    read_file,
    read_start,
    write_new,
)
from policystore._util.folders import (
    Folders,
    flush,
    flush_if_there,
    holds_bytes,
    is_folder,
    refusal_hint,
    remove_old,
    removing,
    rights_of,
    skipping_refused,
)
from policystore._util.progress import BytesCallback
from policystore.backends.base import Chunks, Entry, Problems
from policystore.backends.exclusive_link import link_or_copy, publish
from policystore.digest import Digest, Hasher
from policystore.errors import NotFoundError, StorageError
from policystore.format.keys import MARKER, NAMES, OBJECTS, TEMPORARY, TRASH

__all__ = ["LocalBackend"]

_MAX_AGE = 24 * 3600.0  # seconds; a temporary file that is older was left by a dead process
_COPY_TRIES = 10
_NETWORK_PARALLEL = 8  # calls at once to a file server
_FILES = (".json", ".safetensors", "/@hint")  # the ends of keys that a store writes
_FILE_KINDS = (stat.S_IFREG, stat.S_IFLNK)
_TEMPORARY_THERE = ".tmp"  # the folder for temporary files on another disk

_Out = TypeVar("_Out")


class LocalBackend:
    """Keep keys as files below one folder, which the first write makes.

    Args:
        root: the folder. A relative path starts at the working directory of the process at the time
            of this call.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = Path(os.path.abspath(root))
        self._start = os.path.join(self._root, "")
        self._folders = Folders(self._root, MARKER)
        # Each change of these two is one step. A lock could stay held in a forked process.
        self._swept = False
        self._other_disks: set[Path] = set()  # folders below the root that are on another disk

    @property
    def url(self) -> str:
        return str(self._root)

    @property
    def is_remote(self) -> bool:
        return False

    @property
    def parallel(self) -> int:
        return _NETWORK_PARALLEL if is_on_network(self._root) else 1

    def location(self, key: str) -> str:
        return self._start + key if key[-1:] not in ("", "/") else str(self._path(key))

    def _path(self, key: str) -> Path:
        return self._root / key

    def get(
        self,
        key: str,
        *,
        limit: int | None = None,
        share: bool = False,
        size: int | None = None,
        on_bytes: BytesCallback | None = None,
    ) -> bytes | memoryview:
        return self._read(key, limit, share, None)

    def get_hashed(
        self,
        key: str,
        *,
        limit: int | None = None,
        share: bool = False,
        size: int | None = None,
        on_bytes: BytesCallback | None = None,
    ) -> tuple[bytes | memoryview, Digest]:
        hasher = Hasher()
        return self._read(key, limit, share, hasher.update), hasher.digest()

    def _read(
        self, key: str, limit: int | None, share: bool, on_data: OnData | None
    ) -> bytes | memoryview:
        try:  # to make a Path would take longer than to read a small file
            data = read_file(self._start + key, limit=limit, share=share, on_data=on_data)
        except (OSError, MemoryError) as error:
            self._raise_mapped(error, key)
        self._folders.note_use()
        return data

    def _raise_mapped(self, error: OSError | MemoryError, key: str) -> NoReturn:
        """Raise the error of a read as one of :mod:`policystore.errors`."""
        try:
            with self._mapped_errors("reading", self._path(key)):
                raise error
        except NotFoundError:
            with self._mapped_errors("looking at", self._root):
                self._folders.check_missing()
            raise

    def head(self, key: str, count: int) -> bytes:
        path = self._path(key)
        with self._mapped_errors("reading", path):
            return read_start(path, count)

    def size(self, key: str) -> int | None:
        path = self._path(key)
        try:
            with self._mapped_errors("looking at", path):
                status = path.stat()
        except NotFoundError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def put(self, key: str, chunks: Chunks, *, on_bytes: BytesCallback | None = None) -> None:
        path = self._path(key)
        with self._writing(path):
            if not (holds_bytes(self._root, path, chunks) and flush_if_there(path)):
                self._write(path, partial(self._write_new, chunks), os.replace)
            fsync_folder(path.parent)

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        with self._writing(path):
            created = self._write(path, partial(self._write_new, [data]), publish)
            fsync_folder(path.parent)
            return created

    def verify_exclusive_create(self, key: str, data: bytes) -> None:
        return  # a hard link and an exclusive rename never overwrite; else create raises an error

    def replace(self, key: str, data: bytes) -> None:
        path = self._path(key)
        with self._writing(path):
            self._write(path, partial(self._write_new, [data]), os.replace)

    def keys(self, prefix: str, *, problems: Problems | None = None) -> Iterator[str]:
        for key, _ in self._walk(prefix.rpartition("/")[0], problems):
            if key.startswith(prefix):
                yield key

    def entries(self, prefix: str, *, problems: Problems | None = None) -> Iterator[Entry]:
        folder = prefix.rpartition("/")[0]
        narrow = prefix.rstrip("/") != folder  # the prefix ends within a name
        with self._mapped_errors("looking at", self._path(prefix)):
            for key, entry in self._walk(folder, problems):
                if narrow and not key.startswith(prefix):
                    continue
                if entry is None:
                    if problems is not None:
                        problems.append((key, "an empty folder in the place of a file"))
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except (FileNotFoundError, NotADirectoryError):
                    continue  # removed since the folder was listed
                if problems is not None and stat.S_IFMT(status.st_mode) not in _FILE_KINDS:
                    problems.append((key, "a pipe, a socket or a device in the place of a file"))
                    continue
                # A hard link, which a copy is, changes ctime alone.
                written, changed = status.st_mtime, status.st_ctime
                yield Entry(key, status.st_size, written if written > changed else changed)

    def prefixes(
        self, prefix: str, delimiter: str, *, problems: Problems | None = None
    ) -> Iterator[str]:
        start, _, begin = prefix.rpartition("/")
        pending = [start]
        while pending:
            folder = pending.pop()
            inner: list[str] = []
            with skipping_refused(folder, problems if folder != start else None):
                pages = self._entries(folder, None)
                inner = [entry.name for page in pages for entry, inside in page if inside]
            if folder == start:
                inner = [name for name in inner if name.startswith(begin)]
            for below in (f"{folder}/{name}" if folder else name for name in inner):
                listed = delimiter == "/" and below + "/" != TEMPORARY
                if listed and self._has_files(below, problems):
                    yield f"{below}/"
            marked = [name for name in inner if name.startswith("@")]
            if delimiter == "/@":
                held = (self._has_files(f"{folder}/{name}", problems) for name in marked)
                # In the first folder, the delimiter is not after the prefix.
                if folder != start and any(held):
                    yield f"{folder}/@"
                pending += [f"{folder}/{name}" for name in inner if name not in marked]

    def _has_files(self, folder: str, problems: Problems | None) -> bool:
        found: list[object] = []
        with skipping_refused(folder, problems):
            found += itertools.islice(self._walk(folder, None), 1)
        return bool(found)

    def _walk(
        self, folder: str, problems: Problems | None
    ) -> Iterator[tuple[str, os.DirEntry[str] | None]]:
        """Yield the keys below a folder and their entries; None for a folder in a file's place."""
        pending = [folder]
        while pending:
            folder = pending.pop()
            count = 0 if problems is None else len(problems)
            start, is_empty = f"{folder}/" if folder else "", True
            for page in self._entries(folder, problems):
                is_empty = is_empty and not page
                for entry, inside in page:
                    key = start + entry.name
                    if not inside and (start or not _is_linked_part(entry)):
                        yield key, entry
                    elif key + "/" != TEMPORARY and entry.name != _TEMPORARY_THERE:
                        pending.append(key)
            if is_empty and folder.endswith(_FILES) and len(problems or ()) == count:
                yield folder, None  # an empty folder where a store expects a file

    def _entries(
        self, folder: str, problems: Problems | None
    ) -> Iterator[list[tuple[os.DirEntry[str], bool]]]:
        """List what is directly inside a folder, as :meth:`Folders.pages` does.

        Args:
            folder: the folder; if it does not exist, there is no page.
            problems: as for :meth:`keys`.
        """
        path = self._path(folder)
        try:
            with self._mapped_errors("listing", path):
                yield from self._folders.pages(path)
        except NotFoundError:
            return
        except StorageError as error:
            if problems is None:
                raise
            problems.append((folder, str(error)))

    def server_time(self) -> float:
        temporary = self._root / TEMPORARY / secrets.token_hex(16)
        with self._writing(temporary):
            write_new(temporary, [b""])
            with removing(temporary):
                return temporary.stat().st_mtime

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._mapped_errors("deleting", path, writing=True):
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return
            fsync_folder(path.parent)
            if key.startswith(TRASH):
                # Each object in the trash has a folder of its own, which another collector may use.
                with contextlib.suppress(OSError):
                    path.parent.rmdir()

    def copy(self, key: str, target: str) -> None:
        path = self._path(target)
        # Another collector may remove the folder of the target while it is empty.
        if not any(self._try_copy(key, path) for _ in range(_COPY_TRIES)):
            raise StorageError(f"copying to {path}: another process removes the folder each time")

    def _try_copy(self, key: str, path: Path) -> bool:
        """Copy a key to a path; False if the folder of the path was removed in between."""
        source = self._path(key)
        try:
            with self._writing(path):
                self._write(path, partial(link_or_copy, source, self._write_new), os.replace)
                flush(path)
                fsync_folder(path.parent)
        except StorageError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            if self.size(key) is None:
                raise NotFoundError(f"no such file: {source}") from None
            return False
        return True

    def _mapped_errors(
        self, action: str, path: Path, *, writing: bool = False
    ) -> contextlib.AbstractContextManager[None]:
        """Map the errors of a ``with`` block; one of permissions says what the umask did."""

        def hint(error: OSError) -> str:
            return refusal_hint(self._root, Path(os.fsdecode(error.filename or path)))

        return mapped_errors(f"{action} {path}", writing=writing, hint=hint)

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """Prepare the folders for a write to ``path``, and map the errors of the write."""
        with self._mapped_errors("writing", path, writing=True):
            try:
                self._folders.ensure(path.parent)
                self._sweep()
                yield
                self._folders.note_use()
            except OSError:
                # Somebody may have removed the folders: check them again at the next write.
                self._folders.forget()
                raise

    def _write_new(self, chunks: Iterable[bytes | memoryview], path: Path) -> None:
        """Write a new file with the rights that the root folder gives, and flush it."""
        rights = rights_of(self._root)
        write_new(path, chunks, mode=rights.file, group=rights.group)

    def _write(
        self, path: Path, make: Callable[[Path], None], give_name: Callable[[Path, Path], _Out]
    ) -> _Out:
        """Make a temporary file, give it its name, and return what ``give_name`` returns.

        Args:
            path: the name.
            make: makes a finished file at the path that it is given.
            give_name: links or renames a finished file to another path.
        """
        top = self._root / path.relative_to(self._root).parts[0]
        if top not in self._other_disks:
            try:
                return self._write_by_way_of(self._root / TEMPORARY, path, make, give_name)
            except OSError as error:
                if error.errno != errno.EXDEV or top == path:
                    raise
            self._other_disks.add(top)
        return self._write_by_way_of(top / _TEMPORARY_THERE, path, make, give_name)

    def _write_by_way_of(
        self,
        folder: Path,
        path: Path,
        make: Callable[[Path], None],
        give_name: Callable[[Path, Path], _Out],
    ) -> _Out:
        """Write a file as :meth:`_write` does, with the temporary file in this folder."""
        self._folders.ensure(folder)
        temporary = folder / secrets.token_hex(16)
        with removing(temporary):
            make(temporary)
            return give_name(temporary, path)

    def _sweep(self) -> None:
        """Remove old temporary files of dead writers, before the first write of a LocalBackend."""
        if self._swept:
            return
        self._swept = True
        folder = self._root / TEMPORARY
        self._folders.ensure(folder)
        remove_old((folder, *self._root.glob(f"*/{_TEMPORARY_THERE}")), _MAX_AGE)


def _is_linked_part(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a link to a part of the store; other links might be circles."""
    return entry.name + "/" in (OBJECTS, NAMES) and is_folder(entry, True)
