"""Places in a tree of spaces: their names in messages, and the limits of the whole tree.

``docs/spaces.md`` names the limits and their reasons.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NoReturn

from policystore.errors import FormatError, InvalidInputError

__all__ = ["MAX_NESTING", "MAX_SPACES", "Limits", "Place"]

MAX_NESTING = 24
"""How many levels of spaces may be nested. The JSON then has at most 52 levels. Canonical JSON has
at most 64 levels, so the JSON of a space also fits into a spec."""

MAX_SPACES = 2**14
"""How many spaces one tree may have, including the copies that gymnasium makes for stacking."""


@dataclass
class Limits:
    """Counters for one tree of spaces, and the error to raise.

    Attributes:
        error: InvalidInputError when a space is written, FormatError when one is read.
        spaces, elements: how many spaces and array elements were counted so far.
    """

    error: type[FormatError] | type[InvalidInputError]
    spaces: int = 0
    elements: int = 0


@dataclass(frozen=True)
class Place:
    """A place in a tree of spaces.

    Attributes:
        where: how messages name the place, such as ``space.spaces['camera'].low``.
        limits: the counters, which the whole tree shares.
        level: how many spaces contain this place.
        copies: how many copies gymnasium makes of the value at this place.
    """

    where: str
    limits: Limits = field(repr=False)
    level: int = 0
    copies: int = 1

    def at(self, name: str) -> Place:
        """Return the place of the field ``name`` of this space."""
        return replace(self, where=f"{self.where}.{name}")

    def inner(self, name: str, *, copies: int = 1) -> Place:
        """Return the place of a space within this one.

        Args:
            name: the field that holds the inner space.
            copies: how many copies of the inner space gymnasium makes for each copy of this one.
        """
        return replace(self.at(name), copies=self.copies * copies)

    def enter(self) -> Place:
        """Count the space at this place and return the place one level deeper.

        Raises:
            InvalidInputError, FormatError: the spaces are nested too deeply, or there are too many.
        """
        if self.level >= MAX_NESTING:
            self.fail(f"spaces nested more than {MAX_NESTING} deep, or within themselves")
        self.limits.spaces += self.copies
        if self.limits.spaces > MAX_SPACES:
            self.fail(f"more than {MAX_SPACES} spaces in one space")
        return replace(self, level=self.level + 1)

    def fail(self, message: str) -> NoReturn:
        """Raise the error of :attr:`limits` with a message that names this place."""
        raise self.limits.error(f"{self.where}: {message}")
