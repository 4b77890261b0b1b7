"""A store in a folder of a filesystem, safe between processes, threads and power cuts.

Objects: a temporary file, flushed, then renamed onto its address; whoever comes second renames the
same bytes. Records: a temporary file, flushed, then hard-linked to its number, which fails if the
number is taken (zarr-python publishes the same way). A crash leaves a file in ``tmp/``, nothing
else; old ones are swept.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from policystore._util.files import fsync_folder, mapped_errors, read_file, read_start, write_new
from policystore._util.progress import BytesCallback
from policystore.backends.base import Chunks, Problems
from policystore.errors import NotFoundError, StorageError
from policystore.format.keys import NAMES, OBJECTS, TEMPORARY

__all__ = ["LocalBackend"]

_SWEEP_AFTER = 24 * 3600.0  # seconds; no write takes this long
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_BLOCK = 1 << 20
_FILES = (".json", ".safetensors", "/@hint")


class LocalBackend:
    """Keys as files below one folder, which is made by the first write.

    Args:
        root: the folder; a relative path is taken from the working directory of now.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = Path(os.path.abspath(root))
        self._lock = threading.Lock()
        self._durable: set[Path] = set()
        self._swept = False

    @property
    def url(self) -> str:
        return str(self._root)

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
        moved: BytesCallback | None = None,
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

    def put(self, key: str, chunks: Chunks, *, moved: BytesCallback | None = None) -> None:
        path = self._path(key)
        with self._writing(path):
            if self._holds(path, chunks):
                # Whoever wrote it may not have flushed it yet: a record that names it must not
                # survive a power cut that it does not survive.
                _flush(path)
            else:
                temporary = self._write_temporary(chunks)
                with _removed(temporary):
                    os.replace(temporary, path)
            fsync_folder(path.parent)

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        with self._writing(path):
            temporary = self._write_temporary([data])
            with _removed(temporary):
                created = _publish(temporary, path)
            fsync_folder(path.parent)
            return created

    def verify_exclusive_create(self, key: str, data: bytes) -> None:
        return  # links refuse to overwrite, and where there are none, create says so

    def replace(self, key: str, data: bytes) -> None:
        path = self._path(key)
        with self._writing(path):
            temporary = self._write_temporary([data])
            with _removed(temporary):
                os.replace(temporary, path)

    def keys(self, prefix: str, *, problems: Problems | None = None) -> Iterator[str]:
        for key in self._walk(prefix.rpartition("/")[0], problems):
            if key.startswith(prefix):
                yield key

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

    def _walk(self, folder: str, problems: Problems | None) -> Iterator[str]:
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
                yield folder  # an empty folder where a file should be
            for entry in entries:
                key = f"{folder}/{entry.name}" if folder else entry.name
                # Someone may keep objects/ on another disk; other links could lead in circles.
                linked = key + "/" in (OBJECTS, NAMES)
                if not _is_folder(entry, linked):
                    yield key
                elif key + "/" != TEMPORARY:
                    pending.append(key)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        path = self._path(folder)
        try:
            with mapped_errors(f"listing {path}"), os.scandir(path) as entries:
                return list(entries)
        except NotFoundError:
            return []

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """Around every write: folders are there and durable, errors are ours."""
        with mapped_errors(f"writing {path}", writing=True):
            try:
                self._ensure_folder(path.parent)
                self._sweep()
                yield
            except OSError:
                # The folder may have been taken away under us: believe nothing next time.
                with self._lock:
                    self._durable.clear()
                raise

    def _ensure_folder(self, folder: Path) -> None:
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
        # Also where another process made it: it may not have come to its own flush yet. What is
        # above the store may be a folder that this user cannot open.
        with contextlib.suppress(*(() if folder != self._root else (PermissionError,))):
            fsync_folder(folder.parent)
        with self._lock:
            self._durable.add(folder)

    def _write_temporary(self, chunks: Chunks) -> Path:
        folder = self._root / TEMPORARY
        self._ensure_folder(folder)
        path = folder / secrets.token_hex(16)
        write_new(path, chunks)
        return path

    def _holds(self, path: Path, chunks: Chunks) -> bool:
        """Whether the file is there and holds exactly these bytes."""
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
                f"{path} is there already, and this user may not read it ({error.strerror}), so it "
                "cannot be vouched for. Its owner can open it and its folder to others, and a "
                "umask such as 002 lets a group share a store."
            ) from None
        return True

    def _sweep(self) -> None:
        """Once per process: remove what writers that died long ago have left."""
        with self._lock:
            if self._swept:
                return
            self._swept = True
        folder = self._root / TEMPORARY
        self._ensure_folder(folder)
        probe = folder / secrets.token_hex(16)
        write_new(probe, [b""])
        with _removed(probe):
            # The filesystem's clock, not this machine's: on a share they differ.
            now = probe.stat().st_mtime
            for entry in os.scandir(folder):
                # Gone already, or another user's: whoever may sweep it will.
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    if entry.is_file() and now - entry.stat().st_mtime > _SWEEP_AFTER:
                        os.unlink(entry)


@contextlib.contextmanager
def _removed(temporary: Path) -> Iterator[None]:
    """The temporary file is gone afterwards, whatever happens."""
    try:
        yield
    finally:
        temporary.unlink(missing_ok=True)


def _is_folder(entry: os.DirEntry[str], linked: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=linked)
    except OSError:
        return False  # a link that leads nowhere, or in a circle


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(temporary: Path, path: Path) -> bool:
    """Give a finished file its name unless the name is taken; never overwrites."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _rename_exclusive(temporary, path, error)
    return True


def _rename_exclusive(temporary: Path, path: Path, link_error: OSError) -> bool:
    """``renameat2(RENAME_NOREPLACE)``, for filesystems without hard links (Linux only)."""
    at_fdcwd, noreplace = -100, 1
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        rename = None
    code = errno.ENOSYS
    if rename is not None:
        source, target = os.fsencode(temporary), os.fsencode(path)
        if rename(at_fdcwd, source, at_fdcwd, target, noreplace) == 0:
            return True
        code = ctypes.get_errno()
    if code == errno.EEXIST:
        return False
    if code not in (errno.ENOSYS, errno.EINVAL):
        raise OSError(code, os.strerror(code), str(path))
    raise StorageError(
        f"{path.parent}: this filesystem offers neither hard links ({link_error}) nor renames that "
        "refuse to overwrite, so two writers of one name could lose a version. Push without a "
        "name and pull by digest there, or keep the store on another filesystem."
    )
