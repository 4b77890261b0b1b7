"""Which backend a URL means."""

from __future__ import annotations

import os
from urllib.parse import unquote

from policystore.backends.base import Backend
from policystore.backends.local import LocalBackend
from policystore.backends.memory import MemoryBackend
from policystore.errors import InvalidInputError
from policystore.files import as_path

__all__ = ["open_backend"]

_WHAT = "a store is opened by a folder or URL"


def open_backend(url: str | os.PathLike[str]) -> Backend:
    """The backend for a folder, ``file:///folder`` or ``memory://name``; touches nothing.

    Raises:
        InvalidInputError: any other URL, or a path that no system has.
    """
    text = url if isinstance(url, str) else str(as_path(url, _WHAT))
    scheme, separator, rest = text.partition("://")
    if not separator:
        path = as_path(text, _WHAT)
    elif scheme == "memory":
        return MemoryBackend(rest)
    elif scheme == "file":
        host, slash, inner = rest.partition("/")
        if host not in ("", "localhost") or not inner:
            raise InvalidInputError(f"{text!r}: a file URL has the form file:///folder")
        path = as_path(unquote(slash + inner), _WHAT)
    else:
        raise InvalidInputError(
            f"{text!r}: policystore opens a folder, file:///folder or memory://name, "
            f"not {scheme}://"
        )
    try:
        return LocalBackend(path.expanduser() if not separator else path)
    except RuntimeError as error:
        raise InvalidInputError(f"{text!r}: {error}") from None
