"""Which backend a URL means."""

from __future__ import annotations

import importlib.util
import os
import re
from urllib.parse import unquote

from policystore._util.files import as_path
from policystore.backends.base import Backend
from policystore.backends.fsspec import FsspecBackend
from policystore.backends.gcs_azure import CREATING, CloudBackend
from policystore.backends.local import LocalBackend
from policystore.backends.memory import MemoryBackend
from policystore.backends.options import StorageOptions
from policystore.backends.s3 import S3Backend
from policystore.errors import InvalidInputError

__all__ = ["open_backend"]

_WHAT = "a store is opened by a folder or URL"


def open_backend(url: str | os.PathLike[str], options: StorageOptions | None = None) -> Backend:
    """The backend for a folder, ``file:///folder``, ``memory://name``, ``s3://bucket/prefix``, the
    like of it on ``gs://`` and ``az://``, or any other URL that fsspec knows, which is then for
    reading only; touches nothing.

    Raises:
        InvalidInputError: no such URL, a path that no system has, options where there are none,
            or a package that is not installed.
    """
    options = options or StorageOptions()
    text = url if isinstance(url, str) else str(as_path(url, _WHAT))
    scheme, separator, rest = text.partition("://")
    if separator and not scheme:
        raise InvalidInputError(f"{text!r}: such a URL begins with a scheme, as in s3://bucket")
    if separator and scheme not in ("memory", "file"):
        return _open_remote(text, scheme, rest, options)
    if options.given:
        raise InvalidInputError(
            f"{text!r}: storage_options are for s3:// and other remote stores; a folder and "
            "memory:// take none"
        )
    if not separator:
        path = as_path(text, _WHAT)
    elif scheme == "memory":
        return MemoryBackend(rest)
    else:
        host, slash, inner = rest.partition("/")
        if host not in ("", "localhost") or not inner:
            raise InvalidInputError(f"{text!r}: a file URL has the form file:///folder")
        path = as_path(unquote(slash + inner), _WHAT)
    try:
        return LocalBackend(path.expanduser() if not separator else path)
    except RuntimeError as error:
        raise InvalidInputError(f"{text!r}: {error}") from None


def _has_user(scheme: str, rest: str) -> bool:
    """Whether there is a user or a password in a URL; keys of AWS often have slashes in them."""
    host = rest.partition("/")[0]
    if ":" in host and "@" in rest and not host.startswith("arn:"):
        return not re.match(r"[^:@]*:\d+\Z", host)  # a port, and a path with an @
    # abfs://container@account.dfs.core.windows.net/prefix is how Azure itself writes them.
    return "@" in host and CREATING.get(scheme) != "adlfs"


def _open_remote(text: str, scheme: str, rest: str, options: StorageOptions) -> Backend:
    if _has_user(scheme, rest):
        # Not shown: there may be a password in it.
        raise InvalidInputError(
            f"a {scheme}:// URL with a user or a password in it would be printed and pickled with "
            "them; give credentials by storage_options, a profile or the environment"
        )
    is_s3 = scheme in ("s3", "s3a")
    parts = rest.rstrip("/").split("/")
    if any(part in ("", ".", "..") for part in parts) or re.search("[?#]", rest):
        form = "s3://bucket or s3://bucket/prefix" if is_s3 else f"{scheme}://host/path"
        # What may be a signature is not shown.
        shown = re.split("[?#]", text)[0]
        raise InvalidInputError(
            f"{shown!r}: such a URL has the form {form}, with nothing behind it after ? or #"
        )
    package = "s3fs" if is_s3 else CREATING.get(scheme, "fsspec")
    if importlib.util.find_spec(package) is None:
        wanted = package if scheme in CREATING else "'policystore[s3]'"
        raise InvalidInputError(
            f"{text!r}: {scheme}:// stores need the package {package}, which is not installed: "
            f"pip install {wanted}"
        )
    if is_s3:
        return S3Backend(text, options)
    from fsspec import get_filesystem_class  # late: a local store needs none of it

    try:
        get_filesystem_class(scheme)
    except (ValueError, ImportError) as error:
        raise InvalidInputError(
            f"{text!r}: policystore opens a folder, file:///folder, memory://name, "
            f"s3://bucket/prefix, gs://, az://, and for reading what else fsspec knows: {error}"
        ) from None
    return CloudBackend(text, options) if scheme in CREATING else FsspecBackend(text, options)
