"""Give a finished file its name without overwriting another file, and link or copy files."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from policystore._util.deadlines import raise_if_late
from policystore._util.files import open_file
from policystore.errors import StorageError

__all__ = ["link_or_copy", "publish"]

_BLOCK = 1 << 20
# Errors of a filesystem or a system that does not make a hard link to this file.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def publish(temporary: Path, path: Path) -> bool:
    """Link a finished file to its path, and return False if the path exists; never overwrite.

    Raises:
        LateError: the deadline of the call has passed: the flush of the file may have taken long.
    """
    raise_if_late()
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _rename_exclusive(temporary, path, error)
    return True


def link_or_copy(
    source: Path, write: Callable[[Iterable[bytes], Path], None], temporary: Path
) -> None:
    """Make a temporary file with the bytes of another file: a hard link, or a copy.

    Args:
        source: the other file.
        write: writes bytes into a new file.
        temporary: the temporary file.

    Raises:
        OSError: as the operating system raises it.
        StorageError: the source is not a regular file; a link to a pipe would block its reader.
    """
    with os.fdopen(open_file(source)[0], "rb") as file:
        try:
            os.link(source, temporary)
        except OSError as error:
            # The system may forbid links to files of other users, or between two disks.
            if error.errno not in (*_NO_LINKS, errno.EACCES, errno.EXDEV):
                raise
            write(iter(lambda: file.read(_BLOCK), b""), temporary)


def _rename_exclusive(temporary: Path, path: Path, link_error: OSError) -> bool:
    """Rename a file unless the path exists, by ``renameat2(RENAME_NOREPLACE)`` of Linux.

    This is for filesystems without hard links.

    Args:
        temporary: the finished file.
        path: its path.
        link_error: why no hard link could be made, for the message.

    Raises:
        StorageError: the filesystem has neither hard links nor exclusive renames.
    """
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
        "name and pull by digest, or keep the store on another filesystem."
    )
