"""Draw who plays an episode, on the env runner itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from policystore.league.pool.messages import Candidate, Draws, DrawTable

__all__ = ["Drawer", "Drawn", "Place"]


class Place(NamedTuple):
    """Where an episode is played.

    Attributes:
        evaluation: whether the env runner is an evaluation worker.
        runner: RLlib's number of the env runner.
        env_index: number of the sub-environment.
        number: how many episodes the sub-environment began before, in this life of the env runner.
    """

    evaluation: bool
    runner: int
    env_index: int
    number: int


class Drawn(NamedTuple):
    """Who plays an episode.

    Attributes:
        learner: id of the learner.
        side: number of the side that the learner plays.
        opponents: one for each other side, in the order of the sides.
    """

    learner: str
    side: int
    opponents: tuple[Candidate, ...]


class Drawer:
    """Draws from the tables of one round. The same place and tables give the same choice.

    Args:
        draws: the tables.
    """

    def __init__(self, draws: Draws) -> None:
        self.draws = draws
        shares = {learner: share for learner, share in draws.shares.items() if share > 0}
        self._learners = sorted(shares)
        self._shares = _cumulated([shares[learner] for learner in self._learners])
        self._weights = {
            learner: _cumulated(table.weights or (1.0,) * len(table.candidates))
            for learner, table in draws.tables.items()
            if table.candidates and not table.sequence
        }

    def draw(self, place: Place, allowed: dict[str, Sequence[int]], sides: int) -> Drawn | None:
        """Draw the learner, its side and its opponents; None if there are no opponents.

        Args:
            place: where the episode is played.
            allowed: id of a learner -> numbers of the sides that it may play; a learner without one
                is not drawn.
            sides: number of sides.
        """
        draws = self.draws
        own = _rng(draws.seed, draws.round, *place)
        common = _rng(draws.seed, draws.round) if draws.same_for_all else own
        learner = self._learner(common, allowed)
        if learner is None:
            return None
        side = allowed[learner][int(own.integers(len(allowed[learner])))]
        table = draws.tables.get(learner)
        if table is None or not table.candidates:
            return None
        if table.sequence:
            opponents = _walk(draws, table, place, sides - 1)
        else:
            weights = self._weights[learner]
            opponents = [table.candidates[_pick(common, weights)] for _ in range(sides - 1)]
        return Drawn(learner, side, tuple(opponents))

    def _learner(self, rng: np.random.Generator, allowed: dict[str, Sequence[int]]) -> str | None:
        drawn = None
        if self._learners:
            drawn = self._learners[_pick(rng, self._shares)]
        if drawn is None or not allowed.get(drawn):
            # The environment has no agent that this learner may play.
            possible = [learner for learner in self._learners if allowed.get(learner)]
            drawn = possible[0] if possible else None
        return drawn


def _cumulated(weights: Sequence[float]) -> Any:
    return np.cumsum(np.asarray(weights, np.float64))


def _pick(rng: np.random.Generator, cumulated: Any) -> int:
    """Draw a number by cumulated weights, which need not add up to exactly 1."""
    drawn = int(np.searchsorted(cumulated, rng.random() * cumulated[-1], side="right"))
    return min(drawn, len(cumulated) - 1)


def _rng(*seeds: int) -> np.random.Generator:
    return np.random.default_rng([int(seed) & (2**63 - 1) for seed in seeds])


def _walk(draws: Draws, table: DrawTable, place: Place, count: int) -> list[Candidate]:
    """Return the next candidates of a sequence, from a start of the sub-environment's own."""
    first = 0
    if not draws.same_for_all:
        start = _rng(draws.seed, draws.round, *place[:3]).integers(len(table.sequence))
        first = int(start) + place.number * count
    positions = range(first, first + count)
    return [table.candidates[table.sequence[at % len(table.sequence)]] for at in positions]
