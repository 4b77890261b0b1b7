"""Measure contenders in turn, so that a slow moment of the machine meets all of them."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Prepared", "Times", "in_turn"]


@dataclass(frozen=True)
class Times:
    """Hold the seconds of all rounds of one contender."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median, in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """The distance between the quartiles, as a share of the median; 0 for one round."""
        if len(self.seconds) < 2 or not self.median:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / self.median


@dataclass(frozen=True)
class Prepared:
    """A contender whose call gets something that is made anew before each call, off the clock.

    Attributes:
        prepare: makes the argument.
        call: what is measured.
    """

    prepare: Callable[[], Any]
    call: Callable[[Any], object]


def in_turn(
    contenders: Mapping[str, Callable[[], object] | Prepared],
    rounds: int,
    *,
    warm_up: int = 1,
    repeat: int = 1,
) -> dict[str, Times]:
    """Measure each contender once in each round; each round begins with another contender.

    Args:
        contenders: what is measured, by a name.
        rounds: how many rounds count.
        warm_up: how many rounds before them do not count.
        repeat: how often a contender is called in a round. A time is that of one call.

    Returns:
        The times of each contender, in the order of ``contenders``.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for number in range(warm_up + rounds):
        for name in order:
            seconds = _measure(contenders[name], repeat)
            if number >= warm_up:
                taken[name].append(seconds)
        order.append(order.pop(0))
    return {name: Times(tuple(seconds)) for name, seconds in taken.items()}


def _measure(contender: Callable[[], object] | Prepared, repeat: int) -> float:
    """Return the seconds of a call. What the call returns is freed after the clock has stopped."""
    prepared = isinstance(contender, Prepared)
    given = [contender.prepare() for _ in range(repeat)] if isinstance(contender, Prepared) else []
    call: Any = contender.call if isinstance(contender, Prepared) else contender
    if not prepared and repeat > 1:
        began = time.perf_counter()
        for _ in range(repeat):
            call()
        return (time.perf_counter() - began) / repeat
    gc.disable()
    try:
        began = time.perf_counter()
        kept = [call(each) for each in given] if prepared else call()
        seconds = time.perf_counter() - began
    finally:
        gc.enable()
    del kept
    return seconds / repeat
