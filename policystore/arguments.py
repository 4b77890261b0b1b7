"""What calls of the store take: checked, and what stands where nothing was given."""

from __future__ import annotations

import datetime
import getpass
import os
from collections.abc import Iterable, Mapping
from typing import Any

from policystore.digest import Digest
from policystore.errors import InvalidInputError
from policystore.finding import RefLike
from policystore.records import Version

__all__ = ["as_list", "as_mapping", "default_author", "now"]


def as_mapping(value: Mapping[Any, Any] | None, what: str) -> dict[Any, Any]:
    """A dict of what may be left out; InvalidInputError for what is no mapping."""
    if value is not None and not isinstance(value, Mapping):
        raise InvalidInputError(f"{what} is a dict of plain values, not {type(value).__qualname__}")
    return dict(value or {})


def as_list(refs: Iterable[RefLike], what: str) -> list[RefLike]:
    """Several refs; InvalidInputError for a single one."""
    if isinstance(refs, (str, Digest, Version)) or not isinstance(refs, Iterable):
        raise InvalidInputError(f"{what} is a list of refs, not {refs!r}")
    return list(refs)


def now() -> datetime.datetime:
    """The time by this machine's clock, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc)


def default_author() -> str:
    """``$POLICYSTORE_AUTHOR``, or the user's name."""
    named = os.environ.get("POLICYSTORE_AUTHOR")
    if named:
        return named
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        # A container's user without an entry in the password file.
        return "unknown"
