"""Compute confidence intervals of win rates with draws, and of mean returns.

The arithmetic is elementwise: additions, multiplications, divisions and square roots, which IEEE
754 rounds correctly. So the same counts give the same bits on every machine.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from policystore._util.messages import brief
from policystore.errors import InvalidInputError

__all__ = [
    "as_float",
    "check_confidence",
    "mean_interval",
    "mean_of",
    "normal_quantile",
    "win_rate_interval",
]

_HALVINGS = 60  # an interval of length 2 has then the width of rounding errors
_MOST_FREEDOM = 200  # degrees of freedom up to which Student's distribution is summed


def check_confidence(confidence: float) -> None:
    """Check a confidence level.

    Raises:
        InvalidInputError: the level is not between 0 and 1.
    """
    if not isinstance(confidence, (int, float)) or not 0 < confidence < 1:
        raise InvalidInputError(
            f"confidence={brief(confidence)}: expected a number between 0 and 1, such as 0.95"
        )


def normal_quantile(confidence: float) -> float:
    """Return how many standard errors an interval reaches to each side: 1.96 for 0.95.

    The number has 12 digits, which all mathematical libraries agree on.
    """
    check_confidence(confidence)
    return float(f"{NormalDist().inv_cdf(0.5 + confidence / 2):.12g}")


def win_rate_interval(
    wins: ArrayLike, draws: ArrayLike, losses: ArrayLike, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lower and the upper end of score intervals of win rates, draws counted half.

    The win rate is ``(1 + d) / 2``, where d is the difference between the probabilities of a win
    and of a loss. The interval has each d that a score test does not reject, where the probability
    of a draw is the most likely one for this d (Tango, "Equivalence test and confidence interval
    for the difference in proportions for the paired-sample design", Statistics in Medicine 17,
    1998, equation 14 and the appendix). Without draws it is Wilson's interval. Many draws make it
    narrower, as they should. The ends stay between 0 and 1, also for pairs with a few episodes,
    and an interval is never empty: 10 draws of 10 give 0.36 to 0.64.

    The episodes are taken for independent.

    Args:
        wins, draws, losses: numbers of episodes, of any shape.
        confidence: the confidence level.

    Returns:
        Two arrays, float64; 0 and 1 where there are no episodes.
    """
    z = normal_quantile(confidence)
    won, drawn, lost = np.broadcast_arrays(
        *(np.asarray(each, dtype=np.float64) for each in (wins, draws, losses))
    )
    number = won + drawn + lost
    played = number > 0
    count = np.where(played, number, 1.0)
    high = _upper_difference(won / count, lost / count, count, z)
    low = -_upper_difference(lost / count, won / count, count, z)
    return (
        np.where(played, (1.0 + low) / 2.0, 0.0),
        np.where(played, (1.0 + high) / 2.0, 1.0),
    )


def _upper_difference(
    won: NDArray[np.float64], lost: NDArray[np.float64], count: NDArray[np.float64], z: float
) -> NDArray[np.float64]:
    """Return the largest difference of probabilities that the score test does not reject."""
    observed = won - lost
    inside, outside = observed, np.ones_like(observed)
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2.0
        # The most likely probability of a loss, given the difference: Tango's equation 12.
        half = (2.0 - observed) * middle - (won + lost)
        root = np.sqrt(np.maximum(half * half + 8.0 * lost * middle * (1.0 - middle), 0.0))
        loss = np.maximum((root - half) / 4.0, np.maximum(0.0, -middle))
        variance = np.maximum(2.0 * loss + middle * (1.0 - middle), 0.0)
        distance = middle - observed
        kept = count * distance * distance <= z * z * variance
        inside = np.where(kept, middle, inside)
        outside = np.where(kept, outside, middle)
    return np.where(outside == 1.0, outside, inside)


def as_float(number: Fraction) -> float:
    """Return the nearest float; infinity for a number that is larger than every float."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def mean_of(amount: Fraction, number: int) -> float:
    """Return ``as_float(amount / number)``, without the time that it takes to reduce a fraction."""
    try:
        return amount.numerator / (amount.denominator * number)  # correctly rounded
    except OverflowError:
        return math.inf if amount > 0 else -math.inf


def mean_interval(
    episodes: int, total: Fraction | float, squares: Fraction | float, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return the mean return, and Student's interval of it.

    Args:
        episodes: number of the returns.
        total: sum of the returns.
        squares: sum of the squares of the returns.
        confidence: the confidence level.

    Returns:
        The mean, the lower and the upper end. The ends are minus and plus infinity for one return,
        and all three are NaN without any.
    """
    check_confidence(confidence)
    if episodes < 1:
        return math.nan, math.nan, math.nan
    mean = as_float(Fraction(total) / episodes)
    if episodes == 1 or math.isinf(mean):
        return mean, -math.inf, math.inf
    error = standard_error(episodes, total, squares)
    reach = student_quantile(confidence, episodes - 1) * error
    return mean, mean - reach, mean + reach


def standard_error(episodes: int, total: Fraction | float, squares: Fraction | float) -> float:
    """Return the standard error of a mean, from exact sums of at least two values."""
    spread = Fraction(squares) - Fraction(total) ** 2 / episodes
    return math.sqrt(as_float(max(Fraction(0), spread / (episodes * (episodes - 1)))))


@lru_cache(maxsize=1024)
def student_quantile(confidence: float, freedom: int) -> float:
    """Return how many standard errors an interval of Student's distribution reaches to each side.

    Args:
        confidence: the confidence level.
        freedom: the degrees of freedom, at least 1.
    """
    z = normal_quantile(confidence)
    if freedom > _MOST_FREEDOM:  # Abramowitz and Stegun, Handbook, 26.7.5
        return (
            z
            + (z**3 + z) / (4 * freedom)
            + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
            + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
        )
    low, high = 0.0, 1.0
    while _student_share(high, freedom) < confidence and high < 1e300:
        high *= 2.0
    for _ in range(100):
        middle = (low + high) / 2.0
        is_below = _student_share(middle, freedom) < confidence
        low, high = (middle, high) if is_below else (low, middle)
    return float(f"{high:.12g}")


def _student_share(t: float, freedom: int) -> float:
    """Return the probability that Student's variable is between -t and t: Handbook, 26.7.3, 4."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(angle)
    term = total = cosine if freedom % 2 else 1.0
    for power in range(3 if freedom % 2 else 2, freedom - 1, 2):
        term *= cosine * cosine * (power - 1) / power
        total += term
    if freedom % 2 == 0:
        return math.sin(angle) * total
    return 2.0 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))
