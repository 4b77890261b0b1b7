"""Canonical JSON: one value, one text, in every process and on every machine.

UTF-8, keys in code-point order, no spaces, only the escapes that JSON requires, integers within 64
signed bits, finite floats in Python's shortest form (``-0.0`` kept), no lone surrogates, no Unicode
normalisation, at most 64 levels. ``docs/format.md`` section 2 is the normative text.

A reader accepts only this form: it parses a text, writes the value again and compares. So two
different texts never mean the same value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, cast

from policystore._util.messages import brief
from policystore.errors import FormatError, InvalidInputError

__all__ = [
    "MAX_DEPTH",
    "Json",
    "JsonObject",
    "NotEncodableError",
    "canonical_json",
    "parse_canonical",
]

Json: TypeAlias = Any
"""None, bool, int, float, str, list of Json, or dict of str to Json."""

JsonObject: TypeAlias = dict[str, Json]

MAX_DEPTH = 64
_INT_MAX = 2**63 - 1
_INT_MIN = -(2**63)


def canonical_json(value: Json) -> bytes:
    """Write ``value`` as canonical JSON.

    Raises:
        InvalidInputError: the value has no canonical form; the message says where and why.
    """
    try:
        _check(value, 0)
    except NotEncodableError as error:
        raise error.to_input_error("$") from None
    return _WRITER.encode(value).encode("utf-8")


def parse_canonical(data: bytes | memoryview, label: str) -> Json:
    """Parse canonical JSON and refuse any other text for the same value.

    Args:
        data: the bytes.
        label: how messages name the bytes.

    Raises:
        FormatError: the bytes are not JSON, or not its canonical form.
    """
    raw = bytes(data)
    canonical = _read_canonical(raw)
    return _explain(raw, label) if canonical is _NOT_READ else canonical


def _read_canonical(raw: bytes) -> Json:
    """Parse canonical JSON by the fast code of Python's own reader and writer.

    The value is written again, and compared with ``raw``. This finds a repeated key, NaN, an
    infinite number and an escape of half a character: the writer writes each of them in another
    way, or refuses to write it.

    Returns:
        The value; _NOT_READ if the bytes may be wrong. Then :func:`_explain` decides, step by step.
    """
    try:
        text = raw.decode("utf-8")
        value, end = _READER.raw_decode(text)
        if end != len(text) or _WRITER.encode(value) != text:
            return _NOT_READ
    except (ValueError, RecursionError):
        return _NOT_READ
    # The levels have to be counted only in the few texts that have enough brackets.
    if text.count("{") + text.count("[") > MAX_DEPTH and not _is_shallow([value], MAX_DEPTH):
        return _NOT_READ
    return value


def _is_shallow(values: Iterable[Json], levels: int) -> bool:
    """Return whether no value has more than a number of levels of lists and objects."""
    for value in values:
        kind = type(value)
        if kind is dict or kind is list:
            inner = value.values() if kind is dict else value
            if not levels or not _is_shallow(inner, levels - 1):
                return False
    return True


def _explain(raw: bytes, label: str) -> Json:
    """Parse canonical JSON step by step; arguments and errors as in :func:`parse_canonical`."""
    value = _parse_strict(raw, label)
    try:
        rewritten = canonical_json(value)
    except InvalidInputError as error:
        raise FormatError(f"{label} is not canonical JSON: {error}") from None
    if rewritten != raw:
        raise FormatError(
            f"{label} is JSON but not in canonical form (key order, spaces, escapes or repeated "
            "keys differ). It was not written by policystore, or was changed since."
        )
    return value


def _parse_strict(raw: bytes, label: str) -> Json:
    """Parse JSON, and refuse NaN and repeated keys, which :func:`json.loads` accepts.

    Raises:
        FormatError: the bytes are not UTF-8 or not JSON, or hold an integer of more than 20 digits.
    """
    try:
        return json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object_of_unique_keys,
            parse_constant=_refuse_constant,
            parse_int=_bounded_int,
        )
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{label} is not JSON as policystore writes it: {error}") from None


def _object_of_unique_keys(pairs: list[tuple[str, Json]]) -> JsonObject:
    parsed = dict(pairs)
    if len(parsed) != len(pairs):
        raise ValueError("an object has the same key twice")
    return parsed


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not a JSON number")


def _bounded_int(digits: str) -> int:
    # int() of a long text takes quadratic time, and no valid integer has more than 20 characters.
    if len(digits) > 20:
        raise ValueError(f"an integer of {len(digits)} digits is outside 64 signed bits")
    return int(digits)


def _short_int(digits: str) -> int:
    if len(digits) > 18:
        raise ValueError("an integer that may be outside 64 signed bits")
    return int(digits)


_READER = json.JSONDecoder(parse_int=_short_int)
# A value that was checked or parsed has few levels, so no list or object contains itself.
_WRITER = json.JSONEncoder(
    ensure_ascii=False,
    allow_nan=False,
    check_circular=False,
    separators=(",", ":"),
    sort_keys=True,
)
_NOT_READ: Any = object()


class NotEncodableError(Exception):
    """Raised within ``policystore.format`` for a value that the format cannot hold.

    The path to the value is built while the exception passes through the levels, one key at each
    level. Building a path on the way down would build one for each element of a hostile document.

    Attributes:
        reason: why the value has no form.
        path: the keys on the way to the value, innermost first, each as ``[key]``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str] = []

    def to_input_error(self, root: str) -> InvalidInputError:
        """Return the error to raise to the caller; ``root`` names the outermost value."""
        return InvalidInputError(f"{root}{''.join(reversed(self.path))}: {self.reason}")


def _check(value: Json, depth: int) -> None:
    if value is None or value is True or value is False:
        return
    kind = type(value)
    if kind is str:
        _check_text(value)
    elif kind is int:
        if not _INT_MIN <= value <= _INT_MAX:
            raise NotEncodableError("an integer outside 64 signed bits")
    elif kind is float:
        if not math.isfinite(value):
            raise NotEncodableError(f"{value} has no JSON form")
    elif kind is list or kind is dict:
        if depth >= MAX_DEPTH:
            raise NotEncodableError(f"nested deeper than {MAX_DEPTH} levels")
        _check_items(value, depth + 1)
    else:
        raise NotEncodableError(f"a {kind.__name__} has no JSON form")


def _check_items(container: Json, depth: int) -> None:
    key: object = None
    try:
        if isinstance(container, list):
            for key, item in enumerate(container):  # noqa: B007 - the place of an error
                _check(item, depth)
        else:
            for key, item in cast("Mapping[object, Json]", container).items():
                if type(key) is not str:
                    raise NotEncodableError(f"the key {brief(key)} is not a string")
                _check_text(key)
                _check(item, depth)
    except NotEncodableError as error:
        error.path.append(f"[{brief(key)}]")
        raise


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise NotEncodableError(f"the text {brief(text)} holds a lone surrogate") from None
