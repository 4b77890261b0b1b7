"""What a remote filesystem is opened with, and the secrets in it, which are never shown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from policystore.errors import InvalidInputError

__all__ = ["StorageOptions"]

# ``key`` is s3fs's name for the access key's id.
_SECRET = re.compile(
    r"key\Z|auth\Z|.*(secret|token|passw|credential|connection_string|\bsas|access_key"
    r"|account_key|api[-_]?key|customer_?key|user_?name|authori[sz]ation|cookie|headers)",
    re.IGNORECASE,
)
# A user and a password, in which there may be a slash; what follows the colon of a port is none.
_USER_IN_URL = re.compile(
    r"[a-z][a-z0-9+.-]*://(?:[^/\s@]*|[^/\s@:]*:(?!\d+/)[^\s@]*)@", re.IGNORECASE
)
_SHORTEST = 3  # what is shorter would star out ordinary words


class StorageOptions:
    """Options as the user gave them; their secrets neither print nor pickle.

    Args:
        given: names and values, such as s3fs takes them. None: the backend may have none.
        absent: names of options that did not travel with a pickle.

    Raises:
        InvalidInputError: not a dict with names as its keys.
    """

    def __init__(self, given: Mapping[str, Any] | None = None, absent: tuple[str, ...] = ()):
        if given is not None and (
            not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given)
        ):
            # What was given is not shown: it may be a secret.
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
        """Refuse what would hang or fail in words of somebody else's.

        Raises:
            InvalidInputError: names the option.
        """
        for name in ("asynchronous", "loop"):
            if self._options.get(name):
                raise InvalidInputError(
                    f"storage_options: {name!r} is not for a store, whose calls wait; leave it out"
                )
        config = self._options.get("config_kwargs")
        pool = config.get("max_pool_connections", 1) if isinstance(config, Mapping) else 1
        if type(pool) is not int or pool < 1:
            raise InvalidInputError(
                f"storage_options: max_pool_connections is a number from 1 on, not {pool!r}"
            )

    def copy(self) -> dict[str, Any]:
        """All of them, secrets included, to be handed to the filesystem and nowhere else."""
        return _copied(self._options)

    def scrub(self, text: str) -> str:
        """A text of somebody else's without the secrets that it may repeat."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return _USER_IN_URL.sub("***@", text)


def _copied(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _copied(value) if isinstance(value, Mapping) else value
        for name, value in options.items()
    }


def _is_secret(name: object, value: object) -> bool:
    if isinstance(value, str) and _USER_IN_URL.match(value):
        return True
    return (
        isinstance(name, str)
        and bool(_SECRET.match(name))
        and value is not None
        and not isinstance(value, (bool, int, float))
    )


def _secret_texts(options: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    for name, value in options.items():
        if _is_secret(name, value):
            found |= {text for text in _texts(value) if len(text) >= _SHORTEST}
        elif isinstance(value, Mapping):
            found |= _secret_texts(value)
    return found


def _texts(value: object) -> Iterator[str]:
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
    """What may travel in a pickle; the names of the rest are added to ``absent``."""
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
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return all(_is_plain(item) and not _is_secret("", item) for item in value)
    return value is None or isinstance(value, (str, bytes, bool, int, float, Mapping))
