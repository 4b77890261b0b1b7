"""Turn values, records and reports into plain values that ``json.dumps`` and tables take."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from policystore._util.late import is_array, np
from policystore.digest import Digest
from policystore.format.values import Tagged

__all__ = ["flatten", "iso_time", "plain_fields", "to_plain"]


def plain_fields(record: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name, each as :func:`to_plain` returns it."""
    return {field.name: to_plain(getattr(record, field.name)) for field in fields(record)}


def to_plain(value: object, *, finite: bool = True) -> Any:
    """Return a value in types that JSON has: None, bool, int, float, str, list and dict.

    A digest becomes its text, a time the text of :func:`iso_time`, a duration its seconds, bytes
    their hexadecimal digits, an array nested lists, a tuple or set a list. A key that is not a
    string becomes its text. A dataclass becomes what its ``to_dict`` returns, or a dict of its
    fields.

    Args:
        value: a plain value of a record (:mod:`policystore.format.values`), or a record or report.
        finite: True to replace numbers that JSON does not have by the texts ``"nan"``, ``"inf"``
            and ``"-inf"``, which ``float`` reads; False to leave them as they are.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) or not finite else str(value)
    if isinstance(value, Digest):
        return str(value)
    if isinstance(value, datetime.datetime):
        return iso_time(value)
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        items = zip(_texts(value), value.values(), strict=True)
        return {text: to_plain(item, finite=finite) for text, item in items}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain(item, finite=finite) for item in value]
    return _to_plain_object(value, finite)


def _to_plain_object(value: object, finite: bool) -> Any:
    """Return a value of a rarer type in types that JSON has, as :func:`to_plain` does."""
    if isinstance(value, bytes):
        return value.hex()
    if is_array(value):
        array = np.asarray(value)
        # The elements of dtypes of ml_dtypes, such as bfloat16, are not numbers of Python.
        numbers = array if array.dtype.kind in "biuf" else array.astype(np.float64)
        return to_plain(numbers.tolist(), finite=finite)
    if isinstance(value, Tagged):
        return {f"~{value.tag}": to_plain(value.value, finite=finite)}
    to_dict = getattr(value, "to_dict", None)
    if to_dict is not None:
        return to_dict()
    if is_dataclass(value):
        return plain_fields(value)
    raise TypeError(f"a {type(value).__qualname__} is not a plain value")


def _texts(keys: Mapping[Any, Any]) -> list[str]:
    """Return the keys of a mapping as different texts: ``1`` beside ``"1"`` becomes ``int 1``."""
    texts = [key if isinstance(key, str) else str(key) for key in keys]
    if len(set(texts)) == len(texts):
        return texts
    given = {key for key in keys if isinstance(key, str)}
    return [
        key if isinstance(key, str) else f"{type(key).__name__} {key}" if text in given else text
        for key, text in zip(keys, texts, strict=True)
    ]


def iso_time(time: datetime.datetime) -> str:
    """Write a time in UTC with microseconds and its zone: ``2026-11-21T01:25:37.000123+00:00``.

    All such texts have the same length, sort as the times do, and are read by
    ``datetime.fromisoformat``.
    """
    return time.astimezone(datetime.timezone.utc).isoformat(timespec="microseconds")


def flatten(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested dicts by one name each: the keys, joined by dots.

    Lists and other values that are not dicts stay as they are, and an empty dict has no name. Of
    two values with the same name, the one that is nested less deeply counts.

    Args:
        values: the dicts.
        prefix: what each name begins with, such as ``metrics.``.
    """
    flat: dict[str, Any] = {}
    nested: list[tuple[str, Mapping[Any, Any]]] = [(prefix, values)]
    while nested:
        deeper: list[tuple[str, Mapping[Any, Any]]] = []
        for start, mapping in nested:
            for text, value in zip(_texts(mapping), mapping.values(), strict=True):
                if isinstance(value, Mapping):
                    deeper.append((f"{start}{text}.", value))
                else:
                    flat.setdefault(start + text, value)
        nested = deeper
    return flat
