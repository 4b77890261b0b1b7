"""Read what a caller trusts: prefixes of import paths, and classes and functions themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from policystore._util.messages import brief
from policystore.errors import InvalidInputError

__all__ = ["Trust", "covers", "listed"]

Trust: TypeAlias = Iterable[str | Callable[..., object]]
"""Prefixes of import paths (``"mypkg."``), or classes and functions themselves."""


def listed(trust: Trust) -> tuple[str | Callable[..., object], ...]:
    """Return ``trust`` as a tuple, so that it can be read several times.

    Raises:
        InvalidInputError: ``trust`` is one prefix or class, not a list of them.
    """
    if isinstance(trust, (str, type)) or not isinstance(trust, Iterable):
        shown = brief(trust) if isinstance(trust, str) else getattr(trust, "__name__", brief(trust))
        raise InvalidInputError(
            f"trust is a list of prefixes and classes, not one of them: trust=[{shown}]"
        )
    return tuple(trust)


def covers(prefix: str, dotted: str) -> bool:
    """Return whether a prefix covers a path: ``mypkg`` covers ``mypkg.x`` but not ``mypkg2.x``."""
    return dotted == prefix or dotted.startswith(prefix if prefix.endswith(".") else prefix + ".")
