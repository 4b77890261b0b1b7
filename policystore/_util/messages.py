"""Text for messages and tables: short, on one line and printable, whatever the values are."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence

__all__ = ["brief", "columns_of", "counted", "printable", "shorten", "text_table"]

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


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun: ``1 version``, ``1,024 versions``.

    Args:
        number: how many.
        one: the noun for one.
        many: the noun for more; by default ``one`` with an s.
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int]) -> str:
    """Return a table of text: one line for the header and one for each row, without frames.

    Columns without any text are left out. The texts are escaped as by :func:`printable`.

    Args:
        header: the titles of the columns.
        rows: the cells, as many in each row as there are titles.
        right: the columns whose cells stand at the right edge, counted from 0.
    """
    used = [index for index in range(len(header)) if any(row[index] for row in rows)]
    cells = [[printable(row[index]) for index in used] for row in (header, *rows)]
    widths = [max(map(columns_of, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = []
        for index, cell, width in zip(used, row, widths, strict=True):
            blanks = " " * (width - columns_of(cell))
            padded.append(blanks + cell if index in right else cell + blanks)
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def columns_of(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "FW")
        for char in text
    )
