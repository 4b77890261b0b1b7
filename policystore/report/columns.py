"""Turn metrics and other mappings of versions into columns of numbers and texts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from policystore._util.messages import shorten
from policystore.display.metrics import choose_metrics, rank_metrics
from policystore.format.canonical_json import Json
from policystore.format.records import Version

__all__ = ["Strings", "clean", "encode_number", "order_metrics", "pick_columns", "split_values"]

_FIRST = 3  # metrics that the table of versions shows at first

_MAX_KEY = 80  # characters of the name of a column
_MAX_DEPTH = 4  # of nested mappings
_EXACT = 2**53  # the largest integer up to which a browser counts exactly


def clean(text: str, limit: int) -> str:
    """Return a text of at most ``limit`` characters, with escapes for what cannot be printed.

    Line ends stay. Because of the escapes, a hostile text can neither hide the text behind it nor
    change its direction.
    """
    text = shorten(text, limit) if limit > 3 else ""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


class Strings:
    """Number the different texts of a page, so that each text is on the page once.

    Attributes:
        texts: the texts; number 0 is the empty text.
    """

    def __init__(self) -> None:
        self.texts = [""]
        self._numbers = {"": 0}

    def number(self, text: str) -> int:
        """Return the number of a text."""
        number = self._numbers.setdefault(text, len(self.texts))
        if number == len(self.texts):
            self.texts.append(text)
        return number


def encode_number(value: float | None) -> float | int | str | None:
    """Return a number with 7 digits, for JSON; NaN and infinities, which JSON lacks, as texts."""
    if value is None or (isinstance(value, int) and abs(value) < _EXACT):
        return value
    try:
        value = float(value)
    except OverflowError:
        return "Infinity" if value > 0 else "-Infinity"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    rounded = float(f"{value:.7g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < _EXACT else rounded


def _leaves(
    mapping: Mapping[Any, Any], path: str = "", depth: int = 0
) -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings, each with its keys joined by ``/``."""
    for key, value in mapping.items():
        place = f"{path}/{key}" if path else str(key)
        if isinstance(value, Mapping) and depth < _MAX_DEPTH:
            yield from _leaves(value, place, depth + 1)
        else:
            yield clean(place, _MAX_KEY), value


def split_values(
    mapping: Mapping[Any, Any], strings: Strings, *, most: int, limit: int
) -> tuple[list[Json], list[Json]]:
    """Return the numbers and the texts of a mapping, each with the number of its key.

    Args:
        mapping: the metrics of an annotation.
        strings: numbers the keys and texts.
        most: how many numbers and how many texts to return at most.
        limit: how many characters of a text to keep.
    """
    leaves = list(_leaves(mapping))
    numbers: list[Json] = [
        [strings.number(key), encode_number(value)] for key, value in leaves if _is_number(value)
    ]
    texts: list[Json] = [
        [strings.number(key), strings.number(clean(_as_text(value), limit))]
        for key, value in leaves
        if not _is_number(value)
    ]
    return numbers[:most], texts[:most]


def order_metrics(versions: Sequence[Version]) -> list[str]:
    """Return all metrics of versions that are numbers, the most telling ones first.

    The first three are those for the columns of a table of all versions.
    """
    rows = [
        {key: value for key, value in _leaves(version.all_metrics) if _is_number(value)}
        for version in versions
    ]
    noted = {
        key
        for version in versions
        for annotation in version.annotations or ()
        for key, _ in _leaves(annotation.metrics)
    }
    first = choose_metrics(rows, _FIRST, noted=noted)
    return rank_metrics(rows, first=first, noted=noted)


def pick_columns(
    mappings: list[Mapping[Any, Any]],
    strings: Strings,
    *,
    numbers: int,
    texts: int,
    limit: int,
    order: Sequence[str] = (),
) -> tuple[list[Json], list[Json]]:
    """Return values of some mappings as columns: a key, and a value per mapping.

    The columns are those of the keys in ``order``, and then those of the most frequent keys.

    Args:
        mappings: the metrics or sources of versions.
        strings: numbers the texts.
        numbers: how many columns of numbers to return at most.
        texts: how many columns of texts to return at most.
        limit: how many characters of a text to keep.
        order: keys, the most important ones first.

    Returns:
        The columns of numbers and the columns of texts. A mapping without the value has None, or 0
        in a column of texts.
    """
    rows = [dict(_leaves(mapping)) for mapping in mappings]
    kinds: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for row in rows:
        for key, value in row.items():
            kinds[0 if _is_number(value) else 1][key] += 1
    place = {key: at for at, key in enumerate(order)}
    number_keys, text_keys = (
        sorted(counter, key=lambda key: (place.get(key, len(place)), -counter[key]))[:most]
        for counter, most in zip(kinds, (numbers, texts), strict=True)
    )
    number_columns: list[Json] = []
    for key in number_keys:
        values = (row.get(key) for row in rows)
        number_columns.append(
            [key, [encode_number(value) if _is_number(value) else None for value in values]]
        )
    text_columns: list[Json] = []
    for key in text_keys:
        cells = [
            strings.number(clean(_as_text(row[key]), limit))
            if key in row and not _is_number(row[key])
            else 0
            for row in rows
        ]
        text_columns.append([key, list(cells)])
    return number_columns, text_columns


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else str(value)
