"""Exact sums of floats: whole numbers times powers of two, as text and as Fractions.

Each float is such a number, and so is each sum and each product of floats. Their exact sum does not
depend on the order of adding, so it is the same on every machine.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable
from fractions import Fraction
from typing import TypeAlias

from policystore._util.late import is_array, np
from policystore._util.messages import brief
from policystore.errors import InvalidInputError
from policystore.format.canonical_json import Json

__all__ = [
    "MAX_BITS",
    "Scaled",
    "add_scaled",
    "can_be_sums",
    "exact",
    "exact_sums",
    "exact_text",
    "parse_exact",
    "to_fraction",
    "to_scaled",
]

MAX_BITS = 2200
"""An exact number is a multiple of 2^-MAX_BITS and smaller than 2^MAX_BITS. The squares of all
floats, and sums of 10^15 such squares, are within these bounds."""

Scaled: TypeAlias = tuple[int, int]
"""A number ``m * 2**e`` as ``(m, e)``. Adding such numbers needs no greatest common divisor."""

_LARGEST = int(sys.float_info.max)
_TEXT = re.compile(r"(-?[1-9a-f][0-9a-f]*)(?:p(-?[1-9][0-9]{0,3}))?\Z")
_LONGEST = 2 * MAX_BITS // 4 + 10


def exact(value: object) -> Fraction:
    """Return a number as a Fraction, without rounding.

    Args:
        value: an int, a finite float, a numpy number, or a Fraction that is a sum of floats.

    Raises:
        InvalidInputError: not a number, NaN or infinite, or a number that no sum of floats is.
    """
    if isinstance(value, Fraction):
        _check(value)
        return value
    if is_array(value) and isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidInputError(f"expected a number, found {brief(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInputError(f"expected a finite number, found {value}")
    number = Fraction(value)
    _check(number)
    return number


def exact_sums(values: Iterable[object]) -> tuple[Fraction, Fraction]:
    """Return the exact sum of numbers, and the exact sum of their squares.

    Raises:
        InvalidInputError: as in :func:`exact`.
    """
    total = squares = (0, 0)
    for value in values:
        scaled = to_scaled(exact(value))
        total = add_scaled(total, scaled)
        squares = add_scaled(squares, (scaled[0] * scaled[0], 2 * scaled[1]))
    return to_fraction(total), to_fraction(squares)


def can_be_sums(count: int, total: Fraction, squares: Fraction) -> bool:
    """Return whether ``count`` floats can have a sum and a sum of squares."""
    if abs(total) > count * _LARGEST:
        return False
    # total**2 <= count * squares, without the greatest common divisors of Fractions
    numerator, denominator = total.numerator, total.denominator
    left = numerator * numerator * squares.denominator
    return left <= count * squares.numerator * denominator * denominator


def _check(number: Fraction) -> None:
    denominator = number.denominator
    if denominator & (denominator - 1):
        raise InvalidInputError(
            f"expected a float, an int, or a sum of such numbers; found {brief(number)}, which is "
            "none. Give the floats themselves."
        )
    if max(denominator.bit_length(), number.numerator.bit_length()) > MAX_BITS:
        raise InvalidInputError(f"expected a number below 2^{MAX_BITS}, found a larger one")


def to_scaled(number: Fraction) -> Scaled:
    """Return a Fraction whose denominator is a power of two as ``(m, e)``."""
    numerator, denominator = number.as_integer_ratio()
    return numerator, 1 - denominator.bit_length()


def to_fraction(number: Scaled) -> Fraction:
    """Return ``m * 2**e`` as a Fraction."""
    mantissa, exponent = number
    return Fraction(mantissa << exponent) if exponent >= 0 else Fraction(mantissa, 1 << -exponent)


def add_scaled(one: Scaled, other: Scaled) -> Scaled:
    """Add two numbers exactly."""
    (mantissa, exponent), (other_mantissa, other_exponent) = one, other
    if exponent == other_exponent:
        return mantissa + other_mantissa, exponent
    if exponent > other_exponent:
        return (mantissa << (exponent - other_exponent)) + other_mantissa, other_exponent
    return mantissa + (other_mantissa << (other_exponent - exponent)), exponent


def exact_text(number: Fraction | Scaled) -> str:
    """Write a number as text, such as ``3p-1`` for 1.5: an odd hexadecimal number times 2^-1.

    Raises:
        InvalidInputError: a number outside of :data:`MAX_BITS`.
    """
    mantissa, exponent = to_scaled(number) if isinstance(number, Fraction) else number
    if mantissa == 0:
        return "0"
    zeros = (mantissa & -mantissa).bit_length() - 1
    mantissa, exponent = mantissa >> zeros, exponent + zeros
    if exponent < -MAX_BITS or mantissa.bit_length() + exponent > MAX_BITS:
        raise InvalidInputError(f"a sum is too large: records hold numbers below 2^{MAX_BITS}")
    return f"{mantissa:x}" if exponent == 0 else f"{mantissa:x}p{exponent}"


def parse_exact(value: Json) -> Scaled:
    """Read what :func:`exact_text` wrote.

    Raises:
        ValueError: another text, or another form of the same number.
    """
    if value == "0":
        return 0, 0
    match = _TEXT.match(value) if isinstance(value, str) and len(value) <= _LONGEST else None
    if match is None:
        raise ValueError(f"{brief(value)} is not an exact number in the form of format 1")
    mantissa, exponent = int(match.group(1), 16), int(match.group(2) or 0)
    if exponent < -MAX_BITS or mantissa.bit_length() + exponent > MAX_BITS or not mantissa & 1:
        raise ValueError(f"{brief(value)} is not an exact number in the form of format 1")
    return mantissa, exponent
