"""Write ages, sizes, times and metrics as short texts for tables."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from policystore._util.messages import printable, shorten

__all__ = [
    "named",
    "show_age",
    "show_metrics",
    "show_size",
    "show_time",
    "show_value",
    "with_facts",
]

_MAX_VALUE = 20  # characters of a value that is a text


def named(kind: str, digest: str, algorithm: str | None) -> str:
    """Return the short name of a thing that plays a policy: ``OnnxPlayer of blake3:ab12: PPO``.

    Args:
        kind: the class of the thing.
        digest: the digest of the policy, as it is shown.
        algorithm: RLlib's name of the algorithm; empty or None if it is not known.
    """
    name = f"{kind} of {digest}"
    return f"{name}: {printable(algorithm)}" if algorithm else name


def with_facts(title: str, facts: Mapping[str, str]) -> str:
    """Return a title, and below it a line for each fact that is not empty.

    Args:
        title: the first line.
        facts: name -> what is known.
    """
    known = {name: fact for name, fact in facts.items() if fact}
    width = max(map(len, known), default=0)
    return "\n".join(
        [title, *(f"{name:<{width}}  {printable(fact)}" for name, fact in known.items())]
    )


def show_age(age: datetime.timedelta) -> str:
    """Return an age in its largest unit: ``5s``, ``12m``, ``3h``, ``40d``.

    If the age is below 0, because a clock is ahead, the result is ``0s``.
    """
    seconds = max(0, int(age.total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def show_time(time: datetime.datetime) -> str:
    """Return a time in UTC, with the zone: ``2026-11-21 01:25:37 UTC``."""
    return f"{time.astimezone(datetime.timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def show_size(nbytes: int, *, smallest: str = "B") -> str:
    """Return a number of bytes in a unit that is easy to read: powers of 1000.

    Args:
        nbytes: how many bytes.
        smallest: how the unit of less than 1000 bytes is written.
    """
    value, unit = float(nbytes), smallest
    for larger in ("KB", "MB", "GB", "TB", "PB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{nbytes} {unit}" if unit == smallest else f"{value:.1f} {unit}"


def show_value(value: object) -> str:
    """Return a value of a metric: a float with four digits, and other values as a short text."""
    return f"{value:.4g}" if isinstance(value, float) else shorten(str(value), _MAX_VALUE)


def show_metrics(metrics: Mapping[Any, Any]) -> str:
    """Return metrics as ``return=21.5 loss=0.1``, printable; containers are left out."""
    return " ".join(
        printable(f"{shorten(str(key), 60)}={show_value(value)}")
        for key, value in metrics.items()
        if isinstance(value, (bool, int, float, str))
    )
