"""Check this machine: versions of packages, the cache, the home folder, the disk."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from policystore import NodeCache, __version__
from policystore._util.messages import counted
from policystore.cli.doctor.check import Check, checked
from policystore.cli.terminal import words

__all__ = ["disk_check", "machine_checks"]

_PACKAGES = ("numpy", "blake3", "ml_dtypes", "ray", "torch", "gymnasium", "s3fs", "gcsfs", "adlfs",
             "fsspec", "msgpack")  # fmt: skip
_LOW = 1 << 30  # bytes of free disk below which a check fails


def machine_checks() -> Iterator[Check]:
    """Yield the checks of this machine, without importing the packages."""
    yield Check("policystore", "ok", __version__)
    yield Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    yield from map(_package, _PACKAGES)
    yield checked("home", _home)
    yield checked("cache", _cache)


def _package(name: str) -> Check:
    try:
        return Check(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "note", "not installed")


def _home() -> str | Check:
    home = os.path.expanduser("~")  # noqa: PTH111 (Path.home raises an error if there is none)
    if home == "~" or not Path(home).is_dir():
        return Check("home", "note", f"this user has no home folder ({home}); the cache needs one, "
                     "or $POLICYSTORE_CACHE")  # fmt: skip
    writable = "" if os.access(home, os.W_OK) else ", to which this user may not write"
    return f"{home}{writable}"


def _cache() -> str | Check:
    cache = NodeCache()
    usage = cache.usage()
    place = _existing(cache.folder)
    text = (
        f"{cache.folder}: {counted(usage.objects, 'object')}, {words.size(usage.nbytes)} of "
        f"at most {words.size(cache.max_bytes)}, {_free(place)} free"
    )
    if not os.access(place, os.W_OK):
        return Check("cache", "bad", f"{text}; this user may not write to {place}: set "
                     "$POLICYSTORE_CACHE to another folder")  # fmt: skip
    return text


def disk_check(folder: Path) -> Check:
    """Return how much space is free on the disk of a folder that may not be there yet."""

    def look() -> str | Check:
        place = _existing(folder)
        free = shutil.disk_usage(place).free
        text = f"{words.size(free)} free at {place}"
        return text if free >= _LOW else Check("disk", "bad", f"only {text}")

    return checked("disk", look)


def _existing(path: Path) -> Path:
    """Return the path itself, or the nearest folder above it that exists."""
    return next((each for each in (path, *path.parents) if each.exists()), Path("/"))


def _free(place: Path) -> str:
    return words.size(shutil.disk_usage(place).free)
