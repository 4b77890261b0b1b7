"""Scenario 3: a league of a hundred thousand snapshots."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from scripts.benchmarks.scaling.assumptions import DOLLARS, Assumptions, Shape
from scripts.benchmarks.scaling.machine import Cache

__all__ = ["SAMPLERS", "SNAPSHOTS", "Draws", "draw"]

SNAPSHOTS = 100_000
EPISODE = 60.0  # seconds between two draws of one env runner
_DAYS = 2
_NEWEST = 1000.0  # the mean age, in snapshots, of what the sampler for the newest draws


def _uniform(rng: random.Random) -> int:
    return int(rng.random() * SNAPSHOTS)


def _newest(rng: random.Random) -> int:
    return min(SNAPSHOTS - 1, int(rng.expovariate(1.0 / _NEWEST)))


def _half(rng: random.Random) -> int:
    return _uniform(rng) if rng.random() < 0.5 else _newest(rng)


SAMPLERS: dict[str, Callable[[random.Random], int]] = {
    "all, equally often": _uniform,
    "half of all, half near the newest 1,000": _half,
    "near the newest 1,000": _newest,
    "`keep_last(100)`": lambda rng: int(rng.random() * 100),
}


@dataclass(frozen=True)
class Draws:
    """What a day of draws costs, for all machines.

    Attributes:
        first_hour, hits: the share of draws that the cache of the machine answers, in the first
            hour and on the second day.
        gets: requests a second on the second day.
        nbytes: bytes a second on the second day.
        dollars: the price of the second day's requests.
    """

    first_hour: float
    hits: float
    gets: float
    nbytes: float
    dollars: float


def draw(assumed: Assumptions, shape: Shape, sampler: str, seed: int = 3) -> Draws:
    """Simulate the draws of one machine for two days; all machines draw alike, and separately."""
    rng, cache = random.Random(seed), Cache()  # noqa: S311
    draw_one = SAMPLERS[sampler]
    a_day = int(86_400 / EPISODE * assumed.runners_per_node)
    first_hour = missed = 0
    for number in range(_DAYS * a_day):
        digest = str(draw_one(rng))
        if cache.has(digest):
            continue
        cache.add(digest, shape.nbytes)
        first_hour += number < a_day // 24
        missed += number >= (_DAYS - 1) * a_day
    gets = missed * assumed.nodes * (1 + len(shape.tensors))
    return Draws(
        1.0 - first_hour / (a_day // 24),
        1.0 - missed / a_day,
        gets / 86_400,
        missed * assumed.nodes * shape.nbytes / 86_400,
        gets * DOLLARS["GET"],
    )
