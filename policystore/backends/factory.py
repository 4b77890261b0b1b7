"""Choose the backend for the URL of a store."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from policystore._util.files import as_path
from policystore.backends.base import Backend
from policystore.backends.local import LocalBackend
from policystore.backends.memory import MemoryBackend
from policystore.backends.options import StorageOptions
from policystore.errors import InvalidInputError, MissingPackageError

__all__ = ["folders_above", "open_backend"]

_LABEL = "the folder or URL of a store"


def open_backend(url: str | os.PathLike[str], options: StorageOptions | None = None) -> Backend:
    """Return the backend for a folder or URL, without touching the storage.

    Args:
        url: a folder, ``file:///folder``, ``memory://name``, ``s3://bucket/prefix``,
            ``gs://bucket/prefix``, ``az://container/prefix``, or any other URL that fsspec knows.
            From such another URL a store can only be read.
        options: the options for a remote filesystem.

    Raises:
        InvalidInputError: a URL of an unknown form, a path that no system can have, options for a
            local store.
        MissingPackageError: the package for such a URL is not installed.
    """
    options = options or StorageOptions()
    text = url if isinstance(url, str) else str(as_path(url, _LABEL))
    scheme, separator, rest = text.partition("://")
    if "/" in scheme:  # a path in which the name of a folder ends with a colon
        separator = ""
    if separator and not scheme:
        raise InvalidInputError(f"{text!r}: a URL begins with a scheme, as s3://bucket does")
    if separator and scheme not in ("memory", "file"):
        return _open_remote(text, scheme, rest, options)
    if options.given:
        raise InvalidInputError(
            f"{text!r}: storage_options are for s3:// and other remote stores; a folder and "
            "memory:// take none"
        )
    if not separator:
        path = as_path(text, _LABEL)
    elif scheme == "memory":
        return MemoryBackend(rest)
    else:
        host, slash, folder = rest.partition("/")
        if host not in ("", "localhost") or not folder:
            raise InvalidInputError(f"{text!r}: a file URL has the form file:///folder")
        path = as_path(unquote(slash + folder), _LABEL)
    try:
        return LocalBackend(path.expanduser() if not separator else path)
    except RuntimeError as error:
        raise InvalidInputError(f"{text!r}: {error}") from None
    except OSError as error:
        raise InvalidInputError(
            f"{text!r} is relative to the working directory, which was removed or cannot be found "
            f"({error}): give an absolute path"
        ) from None


def folders_above(backend: Backend) -> Iterator[tuple[Backend, str]]:
    """Yield backends for the folders above that of a backend, the nearest first.

    Each comes with the path from there to the folder of the backend. Only folders and URLs have
    folders above them; the bucket of a URL is the last.

    Args:
        backend: the backend.
    """
    if isinstance(backend, LocalBackend):
        path = Path(backend.url)
        for folder in path.parents:
            yield LocalBackend(folder), path.relative_to(folder).as_posix()
        return
    from policystore.backends.fsspec import FsspecBackend  # late: a local store needs none of it

    if isinstance(backend, FsspecBackend):
        scheme, _, place = backend.url.partition("://")
        parts = place.split("/")
        for count in range(len(parts) - 1, 0, -1):
            url = f"{scheme}://{'/'.join(parts[:count])}"
            yield open_backend(url, backend.options), "/".join(parts[count:])


def _has_user(scheme: str, rest: str) -> bool:
    """Return whether a URL holds a user or a password. Secret keys of AWS often hold slashes."""
    from policystore.backends.gcs_azure import CREATING  # late: a local store needs none of it

    host = rest.partition("/")[0]
    if ":" in host and "@" in rest and not host.startswith("arn:"):
        return not re.match(r"[^:@]*:\d+\Z", host)  # a port, and a path with an @
    # Azure itself writes its URLs as abfs://container@account.dfs.core.windows.net/prefix.
    return "@" in host and CREATING.get(scheme) != "adlfs"


def _open_remote(text: str, scheme: str, rest: str, options: StorageOptions) -> Backend:
    """Return the backend for a URL of a remote filesystem; errors as in :func:`open_backend`."""
    # Late: a local store needs none of these modules.
    from policystore.backends.fsspec import FsspecBackend
    from policystore.backends.gcs_azure import CREATING, CloudBackend
    from policystore.backends.s3 import S3Backend

    if _has_user(scheme, rest):
        # The URL is not shown: it may hold a password.
        raise InvalidInputError(
            f"a {scheme}:// URL must not hold a user or a password, because URLs are printed and "
            "pickled; give credentials by storage_options, a profile or the environment"
        )
    is_s3 = scheme in ("s3", "s3a")
    parts = rest.rstrip("/").split("/")
    if any(part in ("", ".", "..") for part in parts) or re.search("[?#]", rest):
        form = "s3://bucket or s3://bucket/prefix" if is_s3 else f"{scheme}://host/path"
        # The text after ? or # is not shown, because that text may be a signature.
        shown = re.split("[?#]", text)[0]
        raise InvalidInputError(
            f"{shown!r}: the URL of such a store has the form {form}, without ? or # after it"
        )
    package = "s3fs" if is_s3 else CREATING.get(scheme, "fsspec")
    if importlib.util.find_spec(package) is None:
        requirement = package if scheme in CREATING else "'policystore[s3]'"
        raise MissingPackageError.of(f"{text!r}: a {scheme}:// store", package, install=requirement)
    if is_s3:
        return S3Backend(text, options)
    from fsspec import get_filesystem_class

    try:
        get_filesystem_class(scheme)
    except (ValueError, ImportError) as error:
        raise InvalidInputError(
            f"{text!r}: policystore opens a folder, file:///folder, memory://name, "
            f"s3://bucket/prefix, gs:// and az://, and reads other URLs that fsspec knows: {error}"
        ) from None
    return CloudBackend(text, options) if scheme in CREATING else FsspecBackend(text, options)
