"""Keep a store in a folder of a filesystem, safe between processes, threads and power cuts.

An object is written to a temporary file, flushed, and renamed to its address. A second writer of
the object renames a file with the same bytes. A record is written to a temporary file, flushed, and
hard-linked to the name with its number. The link fails if that number is taken (zarr-python works
in this way, too). A crash leaves at most a file in ``tmp/``; old files in ``tmp/`` are removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from policystore._util.files import fsync_folder, mapped_errors, read_file, read_start, write_new
from policystore._util.progress import BytesCallback
from policystore.backends.base import Chunks, Entry, Problems
from policystore.backends.exclusive_link import NO_LINKS, publish
from policystore.errors import NotFoundError, StorageError
from policystore.format.keys import NAMES, OBJECTS, TEMPORARY, TRASH

__all__ = ["LocalBackend"]

_MAX_AGE = 24 * 3600.0  # seconds; a temporary file that is older was left by a dead process
_BLOCK = 1 << 20
_COPY_TRIES = 10
_FILES = (".json", ".safetensors", "/@hint")  # the ends of keys that a store writes


class LocalBackend:
    """Keep keys as files below one folder, which the first write makes.

    Args:
        root: the folder. A relative path starts at the working directory of the process at the time
            of this call.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = Path(os.path.abspath(root))
        self._lock = threading.Lock()
        self._durable: set[Path] = set()  # folders that exist and whose entries are flushed
        self._swept = False

    @property
    def url(self) -> str:
        return str(self._root)

    @property
    def is_remote(self) -> bool:
        return False

    @property
    def parallel(self) -> int:
        return 1

    def location(self, key: str) -> str:
        return str(self._path(key))

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
        path = self._path(key)
        try:
            with mapped_errors(f"reading {path}"):
                return read_file(path, limit=limit, share=share)
        except NotFoundError:
            if self._root.is_file():
                raise StorageError(f"{self._root} is a file; a store is a folder") from None
            raise

    def head(self, key: str, count: int) -> bytes:
        path = self._path(key)
        with mapped_errors(f"reading {path}"):
            return read_start(path, count)

    def size(self, key: str) -> int | None:
        path = self._path(key)
        try:
            with mapped_errors(f"looking at {path}"):
                status = path.stat()
        except NotFoundError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def put(self, key: str, chunks: Chunks, *, on_bytes: BytesCallback | None = None) -> None:
        path = self._path(key)
        with self._writing(path):
            if not (self._holds(path, chunks) and _flush_if_there(path)):
                temporary = self._write_temporary(chunks)
                with _removing(temporary):
                    os.replace(temporary, path)
            fsync_folder(path.parent)

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        with self._writing(path):
            temporary = self._write_temporary([data])
            with _removing(temporary):
                created = publish(temporary, path)
            fsync_folder(path.parent)
            return created

    def verify_exclusive_create(self, key: str, data: bytes) -> None:
        return  # a hard link and an exclusive rename never overwrite; else create raises an error

    def replace(self, key: str, data: bytes) -> None:
        path = self._path(key)
        with self._writing(path):
            temporary = self._write_temporary([data])
            with _removing(temporary):
                os.replace(temporary, path)

    def keys(self, prefix: str, *, problems: Problems | None = None) -> Iterator[str]:
        for key, _ in self._walk(prefix.rpartition("/")[0], problems):
            if key.startswith(prefix):
                yield key

    def entries(self, prefix: str, *, problems: Problems | None = None) -> Iterator[Entry]:
        for key, entry in self._walk(prefix.rpartition("/")[0], problems):
            if not key.startswith(prefix):
                continue
            if entry is None:
                if problems is not None:
                    problems.append((key, "an empty folder in the place of a file"))
                continue
            try:
                with mapped_errors(f"looking at {entry.path}"):
                    status = entry.stat(follow_symlinks=False)
            except NotFoundError:
                continue  # removed since the folder was listed
            # A hard link, which a copy is, changes ctime alone.
            yield Entry(key, status.st_size, max(status.st_mtime, status.st_ctime))

    def prefixes(self, prefix: str, delimiter: str) -> Iterator[str]:
        pending = [prefix.rstrip("/")]
        while pending:
            folder = pending.pop()
            inner = [entry.name for entry in self._entries(folder) if _is_folder(entry, False)]
            for name in inner:
                if delimiter == "/" and self._has_files(f"{folder}/{name}"):
                    yield f"{folder}/{name}/"
            marked = [name for name in inner if name.startswith("@")]
            if delimiter == "/@":
                if any(self._has_files(f"{folder}/{name}") for name in marked):
                    yield f"{folder}/@"
                pending += [f"{folder}/{name}" for name in inner if name not in marked]

    def _has_files(self, folder: str) -> bool:
        return next(self._walk(folder, None), None) is not None

    def _walk(
        self, folder: str, problems: Problems | None
    ) -> Iterator[tuple[str, os.DirEntry[str] | None]]:
        """List the files below a folder, except temporary ones, as :meth:`keys` does.

        Yields:
            The key of each file, and its entry; None for a folder where a store expects a file.
        """
        pending = [folder]
        while pending:
            folder = pending.pop()
            try:
                entries = self._entries(folder)
            except StorageError as error:
                if problems is None:
                    raise
                problems.append((folder, str(error)))
                continue
            if not entries and folder.endswith(_FILES):
                yield folder, None  # an empty folder where a store expects a file
            for entry in entries:
                key = f"{folder}/{entry.name}" if folder else entry.name
                # A user may keep objects/ or names/ on another disk by a link. Other links are not
                # followed, because they could lead in circles.
                linked = key + "/" in (OBJECTS, NAMES)
                if not _is_folder(entry, linked):
                    yield key, entry
                elif key + "/" != TEMPORARY:
                    pending.append(key)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        """List what is directly inside a folder; nothing if the folder does not exist."""
        path = self._path(folder)
        try:
            with mapped_errors(f"listing {path}"), os.scandir(path) as entries:
                return list(entries)
        except NotFoundError:
            return []

    def server_time(self) -> float:
        path = self._root / TEMPORARY
        with self._writing(path):
            temporary = self._write_temporary([b""])
            with _removing(temporary):
                return temporary.stat().st_mtime

    def delete(self, key: str) -> None:
        path = self._path(key)
        with mapped_errors(f"deleting {path}", writing=True):
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
            raise StorageError(f"copying to {path}: the folder of the copy is removed each time")

    def _try_copy(self, key: str, path: Path) -> bool:
        """Copy a key to a path; False if the folder of the path was removed in between."""
        source = self._path(key)
        try:
            with self._writing(path):
                temporary = self._link_or_copy(source)
                with _removing(temporary):
                    os.replace(temporary, path)
                _flush(path)
                fsync_folder(path.parent)
        except StorageError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            if self.size(key) is None:
                raise NotFoundError(f"no such file: {source}") from None
            return False
        return True

    def _link_or_copy(self, source: Path) -> Path:
        """Make a temporary file with the bytes of another file, and return its path."""
        folder = self._root / TEMPORARY
        self._ensure_folder(folder)
        temporary = folder / secrets.token_hex(16)
        try:
            os.link(source, temporary)
        except OSError as error:
            # The system may forbid links to files of other users, or between two disks.
            if error.errno not in (*NO_LINKS, errno.EACCES, errno.EXDEV):
                raise
            with source.open("rb") as file:
                write_new(temporary, iter(lambda: file.read(_BLOCK), b""))
        return temporary

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """Prepare the folders for a write to ``path``, and map the errors of the write."""
        with mapped_errors(f"writing {path}", writing=True):
            try:
                self._ensure_folder(path.parent)
                self._sweep()
                yield
            except OSError:
                # Somebody may have removed the folders: check them again at the next write.
                with self._lock:
                    self._durable.clear()
                raise

    def _ensure_folder(self, folder: Path) -> None:
        """Make a folder of the store and those around it, and flush their entries."""
        if folder in self._durable:
            return
        inside = folder.is_relative_to(self._root)
        if not inside and folder.is_dir():
            return
        if folder.parent != folder:
            self._ensure_folder(folder.parent)
        try:
            os.mkdir(folder)
        except FileExistsError:
            if not folder.is_dir():
                raise
        # Flush also if another process made the folder, because that process may not have flushed
        # yet. This user may not be allowed to open the folder around the store.
        with contextlib.suppress(*(() if folder != self._root else (PermissionError,))):
            fsync_folder(folder.parent)
        with self._lock:
            self._durable.add(folder)

    def _write_temporary(self, chunks: Chunks) -> Path:
        """Write a new file in ``tmp/``, flush it, and return its path."""
        folder = self._root / TEMPORARY
        self._ensure_folder(folder)
        path = folder / secrets.token_hex(16)
        write_new(path, chunks)
        return path

    def _holds(self, path: Path, chunks: Chunks) -> bool:
        """Return whether the file exists and holds exactly these bytes.

        Raises:
            StorageError: the file exists, and this user may not read it.
        """
        try:
            if path.stat().st_size != sum(memoryview(chunk).nbytes for chunk in chunks):
                return False
            with path.open("rb") as file:
                for chunk in chunks:
                    view = memoryview(chunk)
                    for start in range(0, view.nbytes, _BLOCK):
                        block = bytes(view[start : start + _BLOCK])
                        if file.read(len(block)) != block:
                            return False
        except FileNotFoundError:
            return False
        except PermissionError as error:
            raise StorageError(
                f"{path} exists, and this user may not read it ({error.strerror}), so its bytes "
                "cannot be checked. Its owner can let others read the file and its folder; with a "
                "umask such as 002, a group can share a store."
            ) from None
        return True

    def _sweep(self) -> None:
        """Remove old temporary files of dead writers; each LocalBackend does this once."""
        with self._lock:
            if self._swept:
                return
            self._swept = True
        folder = self._root / TEMPORARY
        self._ensure_folder(folder)
        probe = folder / secrets.token_hex(16)
        write_new(probe, [b""])
        with _removing(probe):
            # The clock of the filesystem: on a network share it differs from this machine's.
            now = probe.stat().st_mtime
            for entry in os.scandir(folder):
                # A file may be gone already, or belong to another user, who will remove it.
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    if entry.is_file() and now - entry.stat().st_mtime > _MAX_AGE:
                        os.unlink(entry)


@contextlib.contextmanager
def _removing(temporary: Path) -> Iterator[None]:
    """Remove a temporary file after the ``with`` block, whether or not the block fails."""
    try:
        yield
    finally:
        temporary.unlink(missing_ok=True)


def _is_folder(entry: os.DirEntry[str], follow_links: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow_links)
    except OSError:
        return False  # a link that leads nowhere, or in a circle


def _flush_if_there(path: Path) -> bool:
    """Flush a file that exists already; False if a collector has removed the file.

    The process that wrote the file may not have flushed it yet. Without this flush, a power cut
    could leave a record whose object is gone.
    """
    try:
        _flush(path)
    except FileNotFoundError:
        return False
    return True


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
