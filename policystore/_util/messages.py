"""Text for messages and tables: short, on one line and printable, whatever the values are."""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["brief", "printable", "shorten"]

_LONGEST = 80  # characters of a value in a message
_MOST_ITEMS = 8  # of a list or tuple that is written out
_INT_MAX = 2**64
_CONTAINERS = (dict, list, tuple, set, frozenset)


def brief(value: object) -> str:
    """Return the repr of a value for an error message, on one line of at most 80 characters.

    The value may come from a hostile file: the text is printable; a container is named by its type
    and length (a list or tuple of a few plain items is written out); an integer of more than 64
    bits is not converted to digits.
    """
    if isinstance(value, _CONTAINERS):
        return _brief_container(value)
    if isinstance(value, int) and abs(value) > _INT_MAX:
        return "an integer of more than 64 bits"
    if isinstance(value, str) and len(value) > _LONGEST - 20:
        return f"{_quote(value[:40])[:50]}... ({len(value)} characters)"
    return shorten(" ".join(_quote(value).splitlines()), _LONGEST)


def _brief_container(value: Collection[object]) -> str:
    is_short = isinstance(value, (list, tuple)) and len(value) <= _MOST_ITEMS
    if not is_short or any(isinstance(item, _CONTAINERS) for item in value):
        items = "item" if len(value) == 1 else "items"
        return f"a {type(value).__name__} of {len(value)} {items}"
    written = ", ".join(map(brief, value))
    if isinstance(value, list):
        return shorten(f"[{written}]", _LONGEST)
    return shorten(f"({written},)" if len(value) == 1 else f"({written})", _LONGEST)


def _quote(value: object) -> str:
    if isinstance(value, str) and value.isprintable():
        return repr(value)
    return ascii(value)


def shorten(text: str, limit: int) -> str:
    """Return ``text`` with at most ``limit`` characters; ``...`` ends a text that was cut."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def printable(text: str) -> str:
    """Return ``text`` with an escape for each character that a terminal does not print.

    So a text from a stranger cannot move the cursor of a terminal or start a new line.
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
