"""Find and prepare the folder of the cache on this machine."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from policystore._util.files import read_start
from policystore._util.foreign import is_foreign
from policystore.errors import InvalidInputError

__all__ = [
    "FOLDER_VARIABLE",
    "absolute_folder",
    "default_folder",
    "default_max_bytes",
    "make_private",
    "mark_as_cache",
]

FOLDER_VARIABLE = "$POLICYSTORE_CACHE"
_LIMIT = "$POLICYSTORE_CACHE_BYTES"
_DEFAULT_BYTES = 10 << 30
_MAX_DIGITS = 18  # of a number of bytes
# A folder with this file is a cache (https://bford.info/cachedir/), and backups leave it out.
_TAG = "CACHEDIR.TAG"
_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55\n# A cache of policystore's.\n"


def default_folder() -> Path:
    """Return the folder of the user's own cache, from the environment."""
    folder = os.environ.get(FOLDER_VARIABLE[1:])
    if folder:
        return Path(folder)
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path("~/.cache")) / "policystore"


def absolute_folder(path: Path) -> Path:
    """Return the absolute path of a folder, with the user's home in the place of ``~``.

    Raises:
        InvalidInputError: the user has no home, or the working directory was removed.
    """
    try:
        return path.expanduser().absolute()
    except (RuntimeError, OSError) as error:
        raise InvalidInputError(
            f"{path}: {error}; choose a folder for the cache by cache=… or {FOLDER_VARIABLE}, or "
            "cache=False for none"
        ) from None


def default_max_bytes() -> int:
    """Return the limit from the environment, or 10 GiB.

    Raises:
        InvalidInputError: the variable is not a number of bytes.
    """
    text = os.environ.get(_LIMIT[1:])
    if not text:
        return _DEFAULT_BYTES
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise InvalidInputError(f"{_LIMIT} is a number of bytes, not {text[:40]!r}")
    return int(text)


def mark_as_cache(folder: Path) -> None:
    """Mark an empty folder as a cache, by a file in it.

    A folder with other files never becomes a cache: a cache deletes files to make room, and the
    objects of a store have names of the same form.

    Raises:
        OSError: the folder holds other files, or cannot be written.
    """
    tag = folder / _TAG
    if _is_marked(tag):
        return
    with os.scandir(folder) as entries:
        names = [each.name for each in entries if not is_foreign(each.name, each.is_dir())]
    others = sorted(name for name in names if name != _TAG)
    if not others:
        _write_tag(tag)
    elif not _is_marked(tag):  # checked again: another process may have just made the cache
        raise FileExistsError(
            f"{folder} is no cache of policystore: it holds {', '.join(others[:3])} and no {_TAG}"
        )


def _is_marked(tag: Path) -> bool:
    try:
        return read_start(tag, len(_SIGNATURE)) == _SIGNATURE
    except FileNotFoundError:
        return False


def _write_tag(tag: Path) -> None:
    # The tag is written in place and is not emptied first: several processes may make one cache at
    # once, and none of them may find an empty tag where another process has written one.
    descriptor = os.open(tag, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    try:
        os.write(descriptor, _SIGNATURE)
    finally:
        os.close(descriptor)


def make_private(folder: Path) -> None:
    """Make a folder, or refuse an existing folder that another user owns or may write to.

    Raises:
        OSError: the folder is refused, or cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not hasattr(os, "geteuid"):  # pragma: no cover - Windows keeps profiles apart itself
        return
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(
            f"{folder} belongs to user {status.st_uid} with mode {stat.S_IMODE(status.st_mode):o}: "
            "other users could write to it"
        )
