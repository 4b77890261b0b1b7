"""Give a finished file its name, in a way that never overwrites another file."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from policystore._util.deadlines import raise_if_late
from policystore.errors import StorageError

__all__ = ["NO_LINKS", "publish"]

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""Errors of a filesystem or a system that does not make a hard link to this file."""


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
        if error.errno not in NO_LINKS:
            raise
        return _rename_exclusive(temporary, path, error)
    return True


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
