"""Say who writes a record, and when."""

from __future__ import annotations

import datetime
import getpass
import os

__all__ = ["default_author", "now"]


def now() -> datetime.datetime:
    """Return the time of this machine's clock, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc)


def default_author() -> str:
    """Return ``$POLICYSTORE_AUTHOR``, or the name of the user."""
    author = os.environ.get("POLICYSTORE_AUTHOR")
    if author:
        return author
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "unknown"  # the user of a container may have no entry in the password file
