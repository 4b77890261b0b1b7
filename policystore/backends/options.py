"""Hold the options that a remote filesystem is opened with, and never show the secrets in them."""

from __future__ import annotations

import hashlib
import inspect
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from policystore._util.near import close_names, did_you_mean
from policystore.errors import InvalidInputError

__all__ = ["StorageOptions"]

# Names of options with secrets. s3fs calls the id of an access key ``key``.
_SECRET = re.compile(
    r"key\Z|auth\Z|.*(secret|token|passw|credential|connection_string|\bsas|access_key"
    r"|account_key|api[-_]?key|customer_?key|user_?name|authori[sz]ation|cookie|headers)",
    re.IGNORECASE,
)
# A user and a password; the password may hold a slash. A number after a colon is a port and not a
# password.
_USER_IN_URL = re.compile(
    r"[a-z][a-z0-9+.-]*://(?:[^/\s@]*|[^/\s@:]*:(?!\d+/)[^\s@]*)@", re.IGNORECASE
)
_UNKNOWN = re.compile(r"unexpected keyword argument '(\w+)'")  # as Python and botocore write it
_MIN_SECRET = 3  # characters; if shorter secrets were scrubbed, ordinary words would change


_DIGEST_KEY = secrets.token_bytes(32)


class StorageOptions:
    """Options as the user gave them, whose secrets are neither printed nor pickled.

    Args:
        given: names and values, as s3fs takes them. None: the user gave no options. A local store
            takes no options.
        absent: names of the options that were left out of a pickle.

    Attributes:
        given: whether the user gave options, even an empty dict.
        absent: as the argument.

    Raises:
        InvalidInputError: ``given`` is not a dict with text as its keys.
    """

    def __init__(self, given: Mapping[str, Any] | None = None, absent: tuple[str, ...] = ()):
        if given is not None and (
            not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given)
        ):
            # The value is not shown: it may be a secret.
            raise InvalidInputError(
                "storage_options is a dict such as {'endpoint_url': 'https://…'}, "
                f"not {type(given).__qualname__}"
            )
        self.given = given is not None
        self.absent = absent
        self._options = _copied(given or {})
        self._secrets = sorted(_secret_texts(self._options), key=len, reverse=True)

    def __repr__(self) -> str:
        return f"<StorageOptions {', '.join(self._options)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        absent = list(self.absent)
        kept = _without_secrets(self._options, "", absent) if self.given else None
        return (StorageOptions, (kept, tuple(dict.fromkeys(absent))))

    def check(self) -> None:
        """Refuse options with which a request would hang, or fail with an unclear message.

        Raises:
            InvalidInputError: the message names the option.
        """
        for name in ("asynchronous", "loop"):
            if self._options.get(name):
                raise InvalidInputError(
                    f"storage_options: {name!r} is for asynchronous programs, and the calls of a "
                    "store are not asynchronous; leave it out"
                )
        config = self._options.get("config_kwargs")
        pool = config.get("max_pool_connections", 1) if isinstance(config, Mapping) else 1
        if type(pool) is not int or pool < 1:
            raise InvalidInputError(
                f"storage_options: max_pool_connections is a whole number of 1 or more, "
                f"not {pool!r}"
            )

    def secret_names(self) -> list[str]:
        """Return the names of the options with secrets, such as ``client_kwargs.password``."""
        names: list[str] = []
        _without_secrets(self._options, "", names)
        return names

    def copy(self) -> dict[str, Any]:
        """Return all options with their secrets, for the filesystem and for nothing else."""
        return _copied(self._options)

    def identity(self, surroundings: object) -> bytes | None:
        """Return a digest of all options; None if an option is an object that cannot be compared.

        Equal digests mean equal options. The digest is of use within this process and its forked
        processes only, and does not reveal the secrets.

        Args:
            surroundings: plain values that are part of the digest too.
        """
        try:
            text = _exact_text([self._options, surroundings])
        except TypeError:
            return None
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=_DIGEST_KEY).digest()

    def unknown(self, error: Exception, filesystem: type) -> str:
        """Return a sentence about the option that a filesystem has refused, with near names.

        Args:
            error: what the filesystem, or a library that it uses, has raised.
            filesystem: the class of the filesystem.

        Returns:
            The sentence; empty if the error is about something else.
        """
        found = _UNKNOWN.search(str(error)) if isinstance(error, TypeError) else None
        for outer in ("", "client_kwargs", "config_kwargs"):
            given = self._options.get(outer, {}) if outer else self._options
            if found is not None and isinstance(given, Mapping) and found[1] in given:
                start = f"{outer}." if outer else ""
                close = close_names(found[1], _known_options(outer, filesystem))
                name = self.scrub(found[1])  # a secret in the place of a name
                return (
                    f"{filesystem.__name__} has no option {start + name!r}."
                    f"{did_you_mean([start + each for each in close])} The documentation of "
                    f"{filesystem.__name__} lists the options, and docs/s3.md has the usual ones"
                )
        return ""

    def scrub(self, text: str) -> str:
        """Replace the secrets in a text of a server or a library by ``***``."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return _USER_IN_URL.sub("***@", text)


def _known_options(outer: str, filesystem: type) -> list[str]:
    """Return the options that a filesystem takes at the top level, or in a dict of options."""
    names = _parameters(filesystem.__init__)  # type: ignore[misc]
    if "config_kwargs" not in names:  # not that of s3fs
        return [] if outer else names
    from botocore.config import Config  # late: only S3 needs it
    from botocore.session import Session

    if outer == "config_kwargs":
        return list(Config.OPTION_DEFAULTS)
    if outer == "client_kwargs":
        return _parameters(Session.create_client)
    return [*names, "profile"]  # which s3fs passes on to the session


def _parameters(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters
    # s3fs itself names the service.
    return [each for each in parameters if each not in ("self", "args", "kwargs", "service_name")]


def _copied(options: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the dicts of the options, to any depth."""
    return {
        name: _copied(value) if isinstance(value, Mapping) else value
        for name, value in options.items()
    }


def _is_secret(name: object, value: object) -> bool:
    """Return whether an option is a secret: by its name, or because it is a URL with a password."""
    if isinstance(value, str) and _USER_IN_URL.match(value):
        return True
    return (
        isinstance(name, str)
        and bool(_SECRET.match(name))
        and value is not None
        and not isinstance(value, (bool, int, float))
    )


def _secret_texts(options: Mapping[str, Any]) -> set[str]:
    """Collect the texts of all secrets, for :meth:`StorageOptions.scrub`."""
    secrets: set[str] = set()
    for name, value in options.items():
        if _is_secret(name, value):
            secrets |= {text for text in _texts(value) if len(text) >= _MIN_SECRET}
        elif isinstance(value, Mapping):
            secrets |= _secret_texts(value)
    return secrets


def _texts(value: object) -> Iterator[str]:
    """Yield all texts in a value, to any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        yield value.decode("latin-1")
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _without_secrets(options: Mapping[str, Any], where: str, absent: list[str]) -> dict[str, Any]:
    """Return the options that may be pickled, and add the names of the others to ``absent``.

    Args:
        options: options, of one level.
        where: the names around this level, such as ``"client_kwargs."``.
        absent: the list to which the names are added.
    """
    kept: dict[str, Any] = {}
    for name, value in options.items():
        if _is_secret(name, value) or not _is_plain(value):
            absent.append(f"{where}{name}")
        elif isinstance(value, Mapping):
            kept[name] = _without_secrets(value, f"{where}{name}.", absent)
        else:
            kept[name] = value
    return kept


def _is_plain(value: object) -> bool:
    """Return whether a value is plain; an object of another class could hide a secret."""
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return all(_is_plain(item) and not _is_secret("", item) for item in value)
    return value is None or isinstance(value, (str, bytes, bool, int, float, Mapping))


def _exact_text(value: object) -> str:
    """Write a plain value as text that differs if the value or a type in it differs.

    Raises:
        TypeError: the value holds an object of another class.
    """
    if isinstance(value, Mapping):
        items = sorted(f"{_exact_text(name)}: {_exact_text(item)}" for name, item in value.items())
        return f"{{{', '.join(items)}}}"
    if type(value) in (list, tuple):
        items = [_exact_text(item) for item in value]  # type: ignore[attr-defined]
        return f"{type(value).__name__}({', '.join(items)})"
    if value is None or type(value) in (str, bytes, bool, int, float):
        return repr(value)
    raise TypeError(type(value).__qualname__)
