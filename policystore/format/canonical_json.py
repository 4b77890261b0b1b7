"""Canonical JSON: one value, one text, in every process and on every machine.

UTF-8, keys in code-point order, no spaces, no escapes but the necessary ones, integers within 64
signed bits, finite floats in Python's shortest form (``-0.0`` kept), no surrogates, no
normalisation, at most 64 levels. ``docs/format.md`` section 2 is the normative text.

A reader accepts only this form: it parses, writes again and compares, so two different texts never
stand for one value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeAlias, cast

from policystore.errors import FormatError, InvalidInputError

__all__ = [
    "MAX_DEPTH",
    "Json",
    "JsonObject",
    "Unfit",
    "brief",
    "canonical_json",
    "parse_canonical",
    "parse_strict",
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
    except Unfit as unfit:
        raise unfit.at("$") from None
    text = json.dumps(
        value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True
    )
    return text.encode("utf-8")


def parse_canonical(data: bytes | memoryview, what: str) -> Json:
    """Read canonical JSON; ``what`` names the bytes in messages.

    Raises:
        FormatError: the bytes are not JSON, or not its canonical form.
    """
    raw = bytes(data)
    value = parse_strict(raw, what)
    try:
        again = canonical_json(value)
    except InvalidInputError as error:
        raise FormatError(f"{what} is not canonical JSON: {error}") from None
    if again != raw:
        raise FormatError(
            f"{what} is JSON but not in canonical form (key order, spaces, escapes or repeated "
            "keys differ). It was not written by policystore, or was changed since."
        )
    return value


def parse_strict(raw: bytes, what: str) -> Json:
    """Parse JSON text without the liberties of :func:`json.loads`: no NaN, no repeated keys."""
    try:
        return json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=_bounded_int,
        )
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not JSON as policystore writes it: {error}") from None


def _unique(pairs: list[tuple[str, Json]]) -> JsonObject:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is not a JSON number")


def _bounded_int(digits: str) -> int:
    # int() of a long text takes quadratic time; nothing valid is longer than this.
    if len(digits) > 20:
        raise ValueError(f"an integer of {len(digits)} digits is outside 64 signed bits")
    return int(digits)


class Unfit(Exception):  # noqa: N818 - never leaves this package
    """A value without a form; its place is put together on the way up, where it is an error.

    Building it on the way down would cost a path for every element of a hostile document.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str] = []

    def at(self, root: str) -> InvalidInputError:
        """The error to raise, for a value that ``root`` names."""
        return InvalidInputError(f"{root}{''.join(reversed(self.path))}: {self.reason}")


def brief(text: object) -> str:
    """The repr of something that a stranger may have made long or unprintable."""
    shown = ascii(text) if not isinstance(text, str) or not text.isprintable() else repr(text)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def _check(value: Json, depth: int) -> None:
    if value is None or value is True or value is False:
        return
    kind = type(value)
    if kind is str:
        _check_text(value)
    elif kind is int:
        if not _INT_MIN <= value <= _INT_MAX:
            raise Unfit("an integer outside 64 signed bits")
    elif kind is float:
        if not math.isfinite(value):
            raise Unfit(f"{value} has no JSON form")
    elif kind is list or kind is dict:
        if depth >= MAX_DEPTH:
            raise Unfit(f"nested deeper than {MAX_DEPTH} levels")
        _check_inside(value, depth + 1)
    else:
        raise Unfit(f"a {kind.__name__} has no JSON form")


def _check_inside(value: Json, depth: int) -> None:
    key: object = None
    try:
        if isinstance(value, list):
            for key, item in enumerate(value):  # noqa: B007 - the place of an error
                _check(item, depth)
        else:
            for key, item in cast("Mapping[object, Json]", value).items():
                if type(key) is not str:
                    raise Unfit(f"the key {brief(key)} is not a string")
                _check_text(key)
                _check(item, depth)
    except Unfit as unfit:
        unfit.path.append(f"[{brief(key)}]")
        raise


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise Unfit(f"the text {brief(text)} holds a lone surrogate") from None
