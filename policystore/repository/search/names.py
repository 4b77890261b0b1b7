"""Match names with patterns: ``*`` and ``?`` within a segment, ``**`` for several segments."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from policystore._util.messages import brief
from policystore.errors import InvalidInputError
from policystore.format.refs import check_name

__all__ = ["NamePattern", "parse_pattern"]

_MAX_PATTERN = 400  # characters, as many as a name has at most
_PATTERN = re.compile(r"[A-Za-z0-9._*?/-]+\Z")
_WILD = re.compile(r"[*?]")

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class NamePattern:
    """Hold a parsed pattern.

    Attributes:
        text: the pattern as it was given.
        segments: its segments; ``**`` for any number of segments, also none.
        prefix: what all names that fit the pattern begin with.
    """

    text: str
    segments: tuple[str, ...]
    prefix: str

    @property
    def is_name(self) -> bool:
        """Whether the pattern is a single name."""
        return not _WILD.search("".join(self.segments))

    def matches(self, name: str) -> bool:
        """Return whether a name fits the pattern."""
        return _matches(self.segments, name.split("/"), "**", _segment_matches)


def parse_pattern(text: str | None) -> NamePattern:
    """Parse a pattern.

    Args:
        text: the pattern: a name, ``soccer/*`` for the names directly in the folder ``soccer``,
            ``soccer/**`` or ``soccer/`` for all names below it, ``**/main``, or None for all names.

    Raises:
        InvalidInputError: not text, or not a pattern.
    """
    if text is None:
        text = "**"
    if not isinstance(text, str) or not text:
        raise InvalidInputError(
            f"a name or pattern is a string such as 'soccer/main' or 'soccer/*', not {brief(text)}"
        )
    if not _WILD.search(text) and not text.endswith("/"):
        check_name(text)
    segments = text.split("/")
    if segments[-1] == "":
        segments[-1] = "**"
    if len(text) > _MAX_PATTERN or not _PATTERN.match(text) or "" in segments:
        raise InvalidInputError(
            f"{brief(text)} is no pattern of names: it has at most {_MAX_PATTERN} ASCII letters, "
            "digits, '.', '_', '-', '/', '*' and '?', and no empty segment. 'soccer/*' are the "
            "names directly in soccer, and 'soccer/**' are all names below it"
        )
    mixed = [each for each in segments if "**" in each and each != "**"]
    if mixed:
        raise InvalidInputError(
            f"{text!r}: '**' stands alone between two '/', for any number of segments; "
            f"{mixed[0]!r} has other characters. '*' is for any characters of one segment"
        )
    wild = _WILD.search(text)
    prefix = text if wild is None else text[: wild.start()]
    if segments[-1] == "**":
        segments.append("*")  # names below a folder, and not a name like the folder
    return NamePattern(text, tuple(segments), prefix)


def _segment_matches(pattern: str, segment: str) -> bool:
    return _matches(pattern, segment, "*", lambda sign, char: sign in ("?", char))


def _matches(
    pattern: Sequence[_Item],
    items: Sequence[_Item],
    star: _Item,
    fits: Callable[[_Item, _Item], bool],
) -> bool:
    """Return whether a sequence fits a pattern in which ``star`` stands for any number of items.

    Only the last star is tried with more items, which is enough. So the time grows with the product
    of both lengths at most.
    """
    at = index = 0
    last_star, resume = -1, 0
    while index < len(items):
        if at < len(pattern) and pattern[at] == star:
            last_star, resume = at, index
            at += 1
        elif at < len(pattern) and fits(pattern[at], items[index]):
            at, index = at + 1, index + 1
        elif last_star >= 0:
            resume += 1
            at, index = last_star + 1, resume
        else:
            return False
    return all(each == star for each in pattern[at:])
