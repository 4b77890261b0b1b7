"""Hold the result of one check of ``policystore doctor``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from policystore.cli.common.exit_codes import one_line
from policystore.cli.common.messages import in_options
from policystore.errors import PolicyStoreError

__all__ = ["Check", "Status", "checked"]

Status: TypeAlias = Literal["ok", "bad", "note"]
"""``ok``: nothing is wrong. ``bad``: something has to be changed. ``note``: for information."""


@dataclass(frozen=True)
class Check:
    """Hold what one check has found.

    Attributes:
        check: what was looked at.
        status: whether what was found is as it should be.
        found: what was found and, if it is wrong, what to do.
    """

    check: str
    status: Status
    found: str


def checked(check: str, call: Callable[[], str | Check]) -> Check:
    """Make a check; an error of policystore or of the system makes the check ``bad``.

    Args:
        check: what is looked at.
        call: returns what was found if that is ``ok``, or else the check itself.
    """
    try:
        found = call()
    except (PolicyStoreError, OSError) as error:
        return Check(check, "bad", in_options(one_line(str(error))))
    return found if isinstance(found, Check) else Check(check, "ok", found)
