"""Read what the listings of remote filesystems say of a key."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from policystore.format.keys import TEMPORARY

__all__ = ["is_listed", "time_of"]


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
