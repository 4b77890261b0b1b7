"""Make and use the files and folders of a local store.

They get the group and the rights of the root folder. Otherwise the umask of one member of a group
would take what this member writes from the others. Git does the same with
``core.sharedRepository``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path
from typing import TypeAlias

from policystore._util.files import fsync_folder, open_file, without_group, write_new
from policystore._util.foreign import is_foreign
from policystore.errors import StorageError

__all__ = [
    "Folders",
    "Rights",
    "flush",
    "flush_if_there",
    "holds_bytes",
    "is_folder",
    "refusal_hint",
    "remove_old",
    "removing",
    "rights_of",
    "skipping_refused",
]

_BLOCK = 1 << 20
_FIRST_PAGE = 16
_PAGE = 1024  # entries of a folder that are in memory at once
_MOST_DURABLE = 10_000  # folders to remember

_Page: TypeAlias = "list[tuple[os.DirEntry[str], bool]]"

# A filesystem without groups or modes answers so. Its files have the rights that its mount gives.
_NO_MODES = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class Rights:
    """What new folders and files of a store get.

    Attributes:
        folder: the mode of folders.
        file: the mode of files, which nobody may write.
        group: the group of both.
    """

    folder: int
    file: int
    group: int


def rights_of(root: Path) -> Rights:
    """Return the rights that the root folder of a store gives to what is inside.

    Raises:
        OSError: as the operating system raises it.
    """
    status = root.stat()
    mode = status.st_mode
    folder = 0o700 | mode & 0o2077
    if mode & 0o1002 == 0o1002:
        folder |= 0o1000  # like /tmp: everybody may write, and remove only what is their own
    return Rights(folder, 0o400 | mode & 0o044, status.st_gid)


class Folders:
    """Make the folders of a store, with the rights of its root, and flush their entries.

    If the root is unmounted or moved away, the folders are not made again in its place.

    Args:
        root: the folder of the store. If it does not exist, it is made with the rights that the
            umask leaves.
        marker: the name of a file that shows that a folder is the root of a store.
    """

    def __init__(self, root: Path, marker: str) -> None:
        self._root = root
        self._marker = marker
        # The root folder that was used, as its device and its number. No lock guards these two: see
        # LocalBackend.
        self._used: tuple[int, int] | None = None
        self._durable: set[Path] = set()  # folders that exist and whose entries are flushed

    def note_use(self) -> None:
        """Remember the root folder, after something was read, found or written in it."""
        if self._used is None:
            self._used = self._present()

    def pages(self, folder: Path) -> Iterator[_Page]:
        """List what is directly inside a folder, as :func:`list_folder` does.

        What is in a folder below the root belongs to a store, so a page with entries of such a
        folder counts as a use of the store.
        """
        for page in list_folder(folder):
            if page and folder != self._root:
                self.note_use()
            yield page

    def check_root(self) -> None:
        """Check that the root is the folder that was used before, or another folder with a marker.

        A folder that is mounted again may have another number.

        Raises:
            StorageError: the root is gone, or another folder without a marker is in its place.
        """
        if self._used is None:
            return
        present = self._present()
        if present == self._used:
            return
        if not (self._root / self._marker).is_file():
            found = "is gone" if present is None else "is another folder now, without a store"
            raise StorageError(
                f"{self._root} {found}, though this process has used a store there: the folder was "
                "unmounted, moved or removed. Nothing was written. Mount the folder again, or move "
                "it back, and try again. To begin a new store there, make another PolicyStore with "
                f"this folder. If only {self._marker} is missing from the store, make another "
                "PolicyStore with this folder and call its repair()."
            )
        self._used = present
        self.forget()

    def check_missing(self) -> None:
        """Check that the root is a folder of a store, after a key was not found in it.

        Raises:
            StorageError: the root is a file; or as in :meth:`check_root`.
        """
        if self._root.is_file():
            raise StorageError(f"{self._root} is a file; a store is a folder") from None
        self.check_root()

    def _present(self) -> tuple[int, int] | None:
        try:
            status = self._root.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_dev, status.st_ino

    def ensure(self, folder: Path) -> None:
        """Make a folder and those around it, unless they exist.

        Raises:
            OSError: as the operating system raises it; FileExistsError if a file is in the way.
            StorageError: as in :meth:`check_root`.
        """
        self.check_root()
        missing = []
        for place in (folder, *folder.parents):
            inside = place.is_relative_to(self._root)
            if place in self._durable or (not inside and place.is_dir()):
                break
            missing.append(place)
        for place in reversed(missing):
            is_new = _make(place)
            if place != self._root and place.is_relative_to(self._root):
                _give_rights(place, rights_of(self._root), is_new)
            # Flush also if another process made the folder, because that process may not have
            # flushed yet. This user may not be allowed to open the folder around the store.
            with contextlib.suppress(*(() if place != self._root else (PermissionError,))):
                fsync_folder(place.parent)
            if len(self._durable) >= _MOST_DURABLE:
                self._durable.clear()  # a collection makes a folder for each object in the trash
            self._durable.add(place)

    def forget(self) -> None:
        """Look at all folders again at the next call of :meth:`ensure`."""
        self._durable.clear()


def _make(folder: Path) -> bool:
    """Make a folder, and return whether it is new."""
    try:
        os.mkdir(folder)
    except FileExistsError:
        if not folder.is_dir():
            raise
        return False
    return True


def _give_rights(folder: Path, rights: Rights, is_new: bool) -> None:
    """Give a folder its rights, if it is new or was left by a process that was killed."""
    status = folder.stat()
    if not is_new and not _is_unfinished(folder, status, rights):
        return
    mode = rights.folder
    if status.st_gid != rights.group:
        try:
            os.chown(folder, -1, rights.group)
        except OSError as error:
            if error.errno not in _NO_MODES:
                raise
            mode = without_group(mode)
    if stat.S_IMODE(folder.stat().st_mode) != mode:
        try:
            os.chmod(folder, mode)
        except OSError as error:
            if error.errno not in _NO_MODES:
                raise


def _is_unfinished(folder: Path, status: os.stat_result, rights: Rights) -> bool:
    """Return whether this user made the folder and was killed before it got its rights.

    A folder that holds something keeps its mode, which its owner may have chosen.
    """
    if status.st_uid != os.geteuid() or not rights.folder & ~status.st_mode & 0o077:
        return False
    with os.scandir(folder) as entries:
        return next(entries, None) is None


def refusal_hint(root: Path, path: Path) -> str:
    """Return sentences that say why this user may not use a path; "" where the umask is not why.

    Args:
        root: the folder of the store.
        path: a path inside the store that the system has refused.
    """
    with contextlib.suppress(OSError):
        rights = rights_of(root)
        for place in (path, *path.parents):
            if place == root or not place.is_relative_to(root):
                break
            with contextlib.suppress(OSError):  # the folder around it may be the closed one
                status = place.stat()
                wanted = rights.folder if stat.S_ISDIR(status.st_mode) else rights.file
                if wanted & ~status.st_mode & 0o077:
                    return _umask_hint(root, place, status, rights)
    return ""


def _umask_hint(root: Path, place: Path, status: os.stat_result, rights: Rights) -> str:
    owner = status.st_uid
    return (
        f" {place} belongs to user {owner} and has the mode {stat.S_IMODE(status.st_mode):04o}, "
        f"which gives less than {root} does: it was made with a umask that takes rights from "
        f"others. Let user {owner} run: find {root} -user {owner} -type d -exec chmod "
        f"{rights.folder:o} {{}} + , and for files: find {root} -user {owner} -type f -exec "
        f"chmod {rights.file:o} {{}} +"
    )


@contextlib.contextmanager
def removing(temporary: Path) -> Iterator[None]:
    """Remove a temporary file after the ``with`` block, whether or not the block fails."""
    try:
        yield
    finally:
        temporary.unlink(missing_ok=True)


def remove_old(folders: Sequence[Path], age: float) -> None:
    """Remove the files that are older than ``age`` seconds, and that this user may remove.

    Args:
        folders: the folders to look into; this user may write to the first one.
        age: seconds, by the clock of the filesystem.

    Raises:
        OSError: as the operating system raises it.
    """
    probe = folders[0] / secrets.token_hex(16)
    write_new(probe, [b""])
    with removing(probe):
        # The clock of the filesystem: on a network share it differs from this machine's.
        now = probe.stat().st_mtime
        for folder in folders:
            for entry in os.scandir(folder):
                # A file may be gone already, or belong to another user, who will remove it.
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    if entry.is_file() and now - entry.stat().st_mtime > age:
                        os.unlink(entry)


def list_folder(folder: Path) -> Iterator[_Page]:
    """List what is directly inside a folder, without what systems and tools leave in folders.

    A folder may have a file for each version of a name, so the entries come page by page.

    Yields:
        The next entries, each with whether it is a folder and not a link.

    Raises:
        OSError: as the operating system raises it.
    """
    with os.scandir(folder) as entries:
        # A caller that looks for one entry needs only the first page, which is therefore short.
        sizes = chain([_FIRST_PAGE], repeat(_PAGE))
        while page := list(islice(entries, next(sizes))):
            yield [
                (each, inside)
                for each in page
                if not is_foreign(each.name, inside := is_folder(each, False))
            ]


def is_folder(entry: os.DirEntry[str], follow_links: bool) -> bool:
    """Return whether an entry is a folder, or with ``follow_links`` a link to a folder."""
    try:
        return entry.is_dir(follow_symlinks=follow_links)
    except OSError:
        return False  # a link that leads nowhere, or in a circle


def flush(path: Path) -> None:
    """Return when the bytes of a file are on the disk."""
    descriptor, _ = open_file(path)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_if_there(path: Path) -> bool:
    """Flush a file that exists already; False if a collector has removed the file.

    The process that wrote the file may not have flushed it yet. Without this flush, a power cut
    could leave a record whose object is gone.
    """
    try:
        flush(path)
    except FileNotFoundError:
        return False
    return True


def holds_bytes(root: Path, path: Path, chunks: Sequence[bytes | memoryview]) -> bool:
    """Return whether a file of a store exists and holds exactly these bytes.

    Args:
        root: the folder of the store.
        path: the file.
        chunks: the bytes, in pieces.

    Raises:
        OSError: as the operating system raises it.
        StorageError: the file exists, and this user may not read it.
    """
    try:
        return _same_bytes(path, chunks)
    except PermissionError as error:
        hint = refusal_hint(root, path) or " Its owner can let others read it."
        raise StorageError(
            f"{path} exists, and this user may not read it ({error.strerror}), so its bytes "
            f"cannot be checked.{hint}"
        ) from None


def _same_bytes(path: Path, chunks: Sequence[bytes | memoryview]) -> bool:
    """Return whether a file exists and holds exactly these bytes.

    Raises:
        OSError: as the operating system raises it.
    """
    try:
        if path.stat().st_size != sum(memoryview(chunk).nbytes for chunk in chunks):
            return False
        with os.fdopen(open_file(path)[0], "rb") as file:
            for chunk in chunks:
                view = memoryview(chunk)
                for start in range(0, view.nbytes, _BLOCK):
                    block = bytes(view[start : start + _BLOCK])
                    if file.read(len(block)) != block:
                        return False
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def skipping_refused(folder: str, problems: list[tuple[str, str]] | None) -> Iterator[None]:
    """Add a folder that this user may not list to ``problems``, unless ``problems`` is None."""
    try:
        yield
    except StorageError as error:
        if problems is None or not isinstance(error.__cause__, PermissionError):
            raise
        problems.append((folder, str(error)))
