"""Convert the values of an expression to the type of their field, and check that they fit."""

from __future__ import annotations

import datetime
import re
from typing import Any

from policystore.digest import PREFIX
from policystore.repository.search.conditions import DigestStart
from policystore.repository.search.fields import Field, Type
from policystore.repository.search.messages import error_at
from policystore.repository.search.tokens import Token

__all__ = ["check_pair", "check_sign", "convert"]

_DIGITS = re.compile(r"[0-9a-f]{8,64}\Z")
_ORDERS = ("<", "<=", ">", ">=")
_EQUALITY = ("==", "!=", "in", "not")
_ALLOWED = {
    Type.FLAG: _EQUALITY,
    Type.DIGEST: (*_EQUALITY, "contains"),
    Type.TEXT: (*_EQUALITY, *_ORDERS, "contains"),
    Type.ANY: (*_EQUALITY, *_ORDERS, "contains"),
}
_FULL_TIME = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(:\d\d(?:\.\d{1,6})?)?)?(.*)\Z", re.A)
_ZONE = re.compile(r"(?:Z|[+-]\d\d:\d\d)?\Z", re.A)


def check_sign(text: str, field: Field, sign: Token) -> None:
    """Check that a field can be compared in this way.

    Raises:
        InvalidInputError: ``deleted > true``, ``number contains 3``.
    """
    allowed = _ALLOWED.get(field.type, (*_EQUALITY, *_ORDERS))
    if sign.text not in allowed:
        raise error_at(
            text,
            sign.place,
            f"{field.name!r} is {field.type.value}, and is compared with "
            f"{', '.join(repr(each) for each in allowed if each != 'not')}, not with {sign}",
        )


def check_pair(text: str, field: Field, other: Field) -> None:
    """Check that two fields have values that can be compared with each other.

    Raises:
        InvalidInputError: ``author == number``.
    """
    if Type.ANY in (field.type, other.type) or field.type is other.type:
        return
    if {field.type, other.type} <= {Type.NUMBER, Type.SIZE}:
        return
    raise error_at(
        text,
        other.place,
        f"{field.name!r} is {field.type.value}, and {other.name!r} is {other.type.value}: they "
        "cannot be compared. A text stands in quotes",
    )


def convert(text: str, field: Field, sign: str, literal: Token) -> Any:
    """Return the value of a literal in the type of the field with which it is compared.

    Raises:
        InvalidInputError: a value of another type, or ``null`` or ``nan`` where these have no
            meaning.
    """
    value = literal.value
    is_nan = isinstance(value, float) and value != value
    if value is None or is_nan:
        if sign in ("==", "!=", "in"):
            return value
        raise error_at(
            text, literal.place, f"only '==' and '!=' compare with {literal.text}, not {sign!r}"
        )
    converted = _converted(text, field, literal)
    if converted is None:
        hint = ""
        if field.type is Type.AGE and isinstance(value, (int, float)):
            hint = f". Give the number a unit: {literal.text}d"
        elif field.type in (Type.TEXT, Type.TIME, Type.DIGEST):
            hint = ". A text stands in quotes"
        raise error_at(
            text,
            literal.place,
            f"{field.name!r} is {field.type.value}, and is compared with such a value, not with "
            f"{literal}{hint}",
        )
    if sign == "contains" and field.type in (Type.TEXT, Type.ANY) and isinstance(value, bool):
        raise error_at(text, literal.place, "expected a text in quotes or a number after contains")
    return converted


def _converted(text: str, field: Field, literal: Token) -> Any:
    """Return a literal in the type of a field; None if it has another type."""
    value = literal.value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if field.type is Type.ANY:
        return value.total_seconds() if isinstance(value, datetime.timedelta) else value
    if field.type in (Type.NUMBER, Type.SIZE):
        return value if is_number else None
    if field.type is Type.FLAG:
        return value if isinstance(value, bool) else None
    if field.type is Type.AGE:
        return value if isinstance(value, datetime.timedelta) else None
    if not isinstance(value, str):
        return None
    if field.type is Type.TIME:
        return _time(text, literal, value)
    if field.type is Type.DIGEST:
        return _digest(text, literal, value)
    return value


def _time(text: str, literal: Token, value: str) -> datetime.datetime:
    """Read a day or a time; without a zone, it is in UTC."""
    match = _FULL_TIME.match(value.strip())
    if match and _ZONE.match(match[4]) and (match[2] or not match[4]):
        day, clock, seconds, zone = match.groups()
        fraction = (seconds or ":00").ljust(3, "0")
        whole, _, micros = fraction.partition(".")
        zone = "+00:00" if zone in ("", "Z") else zone
        try:
            return datetime.datetime.fromisoformat(
                f"{day}T{clock or '00:00'}{whole}.{micros.ljust(6, '0')}{zone}"
            )
        except ValueError:
            pass  # such as the 31st of June
    raise error_at(text, literal.place, f"expected {Type.TIME.value}, found {literal}")


def _digest(text: str, literal: Token, value: str) -> DigestStart:
    digits = value.removeprefix(PREFIX)
    if not _DIGITS.match(digits):
        raise error_at(text, literal.place, f"expected {Type.DIGEST.value}, found {literal}")
    return DigestStart(digits)
