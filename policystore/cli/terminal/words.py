"""Write numbers, sizes and times for people, and read spans of time that people write."""

from __future__ import annotations

import datetime
import math
import re

from policystore._util.messages import brief
from policystore.display.words import show_age, show_size
from policystore.errors import InvalidInputError

__all__ = ["age", "count", "moment", "share", "size", "span"]

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_SPAN = re.compile(r"(\d+(?:\.\d+)?) ?(s|m|min|h|d|w)\Z")


def size(nbytes: int | None) -> str:
    """Write a number of bytes with a unit; nothing for None."""
    return "" if nbytes is None else show_size(nbytes)


def age(time: datetime.datetime) -> str:
    """Write how long ago a time was, in its largest unit: ``3h``."""
    return show_age(datetime.datetime.now(datetime.timezone.utc) - time)


def count(value: int | None) -> str:
    """Write a whole number with commas; nothing for None."""
    return "" if value is None else f"{value:,}"


def share(text: str, option: str) -> float:
    """Read a share, as ``0.1`` or ``10%``.

    Raises:
        InvalidInputError: a text of another form, or a share below 0 or above 1; the message names
            the option.
    """
    number, percent, rest = text.strip().partition("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = math.nan
    if rest or not 0 <= value <= 1:
        raise InvalidInputError(
            f"{option} is a share from 0 to 1, such as 0.1 or 10%, not {brief(text)}"
        )
    return value


def span(text: str, option: str) -> datetime.timedelta:
    """Read a span of time: ``90s``, ``15m``, ``12h``, ``7d`` or ``2w``.

    Raises:
        InvalidInputError: a text of another form; the message names the option.
    """
    found = _SPAN.match(text)
    if found is None:
        raise InvalidInputError(
            f"{option} is a span of time such as 90s, 15m, 12h, 7d or 2w, not {brief(text)}"
        )
    try:
        return datetime.timedelta(seconds=float(found[1]) * _UNITS[found[2]])
    except OverflowError:
        raise InvalidInputError(f"{option}: {brief(text)} is longer than a million years") from None


def moment(text: str, option: str) -> datetime.datetime | datetime.timedelta:
    """Read a span of time, or a date or time as ISO 8601 writes it; without a zone it is UTC.

    Raises:
        InvalidInputError: a text of another form; the message names the option.
    """
    try:
        time = datetime.datetime.fromisoformat(re.sub("Z$", "+00:00", text))
    except ValueError:
        if not _SPAN.match(text):
            raise InvalidInputError(
                f"{option} is a span of time such as 12h or 7d, or a date such as 2026-11-21 or "
                f"2026-11-21T14:30+01:00, not {brief(text)}"
            ) from None
        return span(text, option)
    return time if time.tzinfo is not None else time.replace(tzinfo=datetime.timezone.utc)
