"""Share the filesystems of fsspec within a process, wait for requests, and read listings.

A filesystem of a cloud has a client with a pool of connections, and takes up to a second to make.
All stores of a process that were opened with the same options use one filesystem, also stores that
come out of a pickle. A forked process makes filesystems of its own.
"""

from __future__ import annotations

import datetime
import os
import re
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from policystore._util.concurrency import wait_for
from policystore.format.keys import TEMPORARY

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = [
    "CREDENTIAL_FILES",
    "VARIABLES",
    "Recent",
    "environment",
    "is_listed",
    "large_body_slots",
    "last_key",
    "multipart_slots",
    "run",
    "run_briefly",
    "shared",
    "time_of",
]

_MOST_KEPT = 8  # filesystems that stay open although no store may use them
_RECENT = 5_000  # keys of a listing

# Held while a filesystem is made. Another thread may have held it when this process was forked.
_LOCK: threading.Lock
# Held while a body of a megabyte or more is sent or received. So however many objects move at once,
# only a few of them are in memory twice.
_LARGE_BODIES: threading.BoundedSemaphore
# Held while an object moves in parts. Because few such objects move at once, a push that is
# interrupted leaves some objects complete, and the next push does not send these again.
_MULTIPARTS: threading.BoundedSemaphore
# All filesystems of this process that are in use.
_USED: WeakValueDictionary[Hashable, Any]
# The filesystems that were used last. They stay open although no store may use them now: a task
# that unpickles a store, uses the store and ends would otherwise connect each time.
_KEPT: OrderedDict[Hashable, Any]
# Filesystems of the parent process. If this process deleted such a filesystem, the filesystem would
# write to sockets that the parent still uses.
_INHERITED: list[Any] = []

# The variables that filesystems of clouds read when they are made. Other variables, such as the
# ones that name the GPUs of a task, make no difference.
VARIABLES = re.compile(
    r"AWS_|AZURE_|BOTO_|CLOUDSDK_|CURL_CA|FSSPEC_|GCE_|GCLOUD_|GCSFS_|GOOGLE_|REQUESTS_CA|SSL_CERT"
    r"|STORAGE_EMULATOR|(APPDATA|HOME|USERPROFILE)\Z|.*_PROXY\Z",
    re.IGNORECASE,
)
# The files that hold credentials: the variable that names a file, and where the file is otherwise.
CREDENTIAL_FILES = (
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
    ("AWS_CONFIG_FILE", "~/.aws/config"),
    ("GOOGLE_APPLICATION_CREDENTIALS", "~/.config/gcloud/application_default_credentials.json"),
)


def _renew() -> None:
    global _LOCK, _LARGE_BODIES, _MULTIPARTS, _USED, _KEPT
    _LOCK = threading.Lock()
    _LARGE_BODIES = threading.BoundedSemaphore(8)
    _MULTIPARTS = threading.BoundedSemaphore(2)
    _USED = WeakValueDictionary()
    _KEPT = OrderedDict()


_renew()


def _reset_after_fork() -> None:
    _INHERITED.extend(ref() for ref in _USED.valuerefs())
    _renew()
    # Newer versions of fsspec reset the lock themselves (2026.9 does, 2025.2 does not). Without
    # the reset, calls would wait for the event loop of the parent, which no thread of this process
    # runs.
    if (asyn := sys.modules.get("fsspec.asyn")) is not None:
        asyn.reset_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


def large_body_slots() -> threading.BoundedSemaphore:
    """Return the semaphore to hold while the bytes of a large request are copied and sent."""
    return _LARGE_BODIES


def multipart_slots() -> threading.BoundedSemaphore:
    """Return the semaphore to hold while an object moves in parts."""
    return _MULTIPARTS


def shared(key: Hashable, make: Callable[[], Any], *, keep: bool) -> Any:
    """Return the filesystem of this process for a key, made by the first call with the key.

    A filesystem stays open as long as a store refers to it.

    Args:
        key: what the filesystem depends on.
        make: makes the filesystem.
        keep: whether the filesystem stays open when no store refers to it any more. At most eight
            filesystems do, the ones that were asked for last.

    Raises:
        Exception: what ``make`` raises.
    """
    dropped = []  # deleted without the lock, because a filesystem then closes its connections
    with _LOCK:
        found = _USED.get(key)
        if found is None:
            found = _USED[key] = make()
        if keep:
            _KEPT[key] = found
            _KEPT.move_to_end(key)
            while len(_KEPT) > _MOST_KEPT:
                dropped.append(_KEPT.popitem(last=False))
        return found


def environment(*, all_variables: bool) -> Iterator[str]:
    """Yield what a filesystem reads from its surroundings when it is made, with the secrets.

    Args:
        all_variables: False for the filesystems of AWS, Google and Azure, whose variables are
            known; True for any other.
    """
    for name, value in sorted(os.environ.items()):
        if all_variables or VARIABLES.match(name):
            yield f"{name}={value}"
    for variable, usual in CREDENTIAL_FILES:
        with suppress(OSError, RuntimeError):  # no such file, or no home
            path = Path(os.environ.get(variable) or usual).expanduser()
            found = path.stat()
            yield f"{path}: {found.st_mtime_ns} {found.st_size} {found.st_ino}"


def run(fs: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a coroutine on the event loop of a filesystem, and return its result.

    If the user interrupts the call of this thread, or the call around it, the request is cancelled:
    a read has no effect, and a write may or may not have been applied, as if its answer was lost.

    Args:
        fs: an asynchronous filesystem.
        call: the function that makes the coroutine.
        args: its arguments.
        kwargs: its named arguments.
    """
    future, done = _begun(fs, call(*args, **kwargs))
    try:
        wait_for(future.done, done)
    except BaseException:
        future.cancel()
        raise
    return future.result()


def run_briefly(fs: Any, seconds: float, call: Callable[..., Any], **kwargs: Any) -> None:
    """Run a coroutine as :func:`run` does, and return after ``seconds`` even if it still runs.

    Its result, and its error, are dropped. This is for cleaning up after an interrupt.
    """
    _, done = _begun(fs, call(**kwargs))
    done.wait(seconds)


def _begun(fs: Any, coroutine: Any) -> tuple[Future[Any], threading.Event]:
    """Start a coroutine on the event loop of a filesystem; the event is set when it has ended."""
    import asyncio  # late: a local store needs none of it

    done = threading.Event()
    future = asyncio.run_coroutine_threadsafe(coroutine, fs.loop)
    future.add_done_callback(lambda _: done.set())
    return future, done


class Recent:
    """The last keys of a listing, by which a key that is listed twice is left out the second time.

    A server may list a key twice while keys change, or repeat a page. A listing of a million keys
    is not held in memory.
    """

    def __init__(self) -> None:
        self._keys: dict[str, None] = {}

    def is_new(self, key: str) -> bool:
        """Note a key, and return whether it is none of the last ones."""
        if key in self._keys:
            return False
        self._keys[key] = None
        if len(self._keys) > _RECENT:
            del self._keys[next(iter(self._keys))]
        return True


def last_key(page: Mapping[str, Any]) -> str:
    """Return the last key of a page of S3, or its last common prefix; "" for neither."""
    entries = [*(page.get("Contents") or ()), *(page.get("CommonPrefixes") or ())]
    return str(entries[-1].get("Key") or entries[-1].get("Prefix") or "") if entries else ""


def is_listed(key: str, prefix: str) -> bool:
    """Return whether a listing of ``prefix`` holds a key: unfinished writes only if asked for."""
    return key.startswith(prefix) and (
        prefix.startswith(TEMPORARY) or not key.startswith(TEMPORARY)
    )


def time_of(info: Mapping[str, Any]) -> float | None:
    """Return the time in a description of a key by fsspec, in seconds since 1970; None if absent.

    Each filesystem has names and types of its own: s3fs, gcsfs and adlfs, and fsspec's own.
    """
    for name in ("LastModified", "updated", "last_modified", "mtime", "modified", "created"):
        value = info.get(name)
        if isinstance(value, str):
            with suppress(ValueError):
                value = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
        if isinstance(value, datetime.datetime):
            aware = value if value.tzinfo else value.replace(tzinfo=datetime.timezone.utc)
            return aware.timestamp()
        if type(value) in (int, float):
            return float(value)  # type: ignore[arg-type]
    return None
