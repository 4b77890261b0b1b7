"""Which snapshots of a pool stay candidates. The store keeps all of them, until somebody prunes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from policystore.errors import InvalidInputError
from policystore.league.pool.messages import Candidate
from policystore.league.pool.standings import PoolPayoffs

__all__ = ["Keep", "check_keep", "keep_all", "keep_best", "keep_diverse", "keep_last", "kept"]

Keep: TypeAlias = Callable[[PoolPayoffs, Sequence[Candidate]], Sequence[Candidate]]
"""Takes payoffs and the stored candidates, oldest first; returns those that stay candidates."""


@dataclass(frozen=True)
class _All:
    def __call__(
        self, payoffs: PoolPayoffs, candidates: Sequence[Candidate]
    ) -> Sequence[Candidate]:
        return candidates

    def __repr__(self) -> str:
        return "keep_all()"


def keep_all() -> Keep:
    """Keep all snapshots as candidates."""
    return _All()


@dataclass(frozen=True)
class _Last:
    count: int

    def __call__(
        self, payoffs: PoolPayoffs, candidates: Sequence[Candidate]
    ) -> Sequence[Candidate]:
        return candidates[-self.count :]

    def __repr__(self) -> str:
        return f"keep_last({self.count})"


def keep_last(count: int) -> Keep:
    """Keep the newest snapshots as candidates."""
    _check_count("keep_last", count)
    return _Last(count)


@dataclass(frozen=True)
class _Best:
    count: int
    model: str

    def __call__(
        self, payoffs: PoolPayoffs, candidates: Sequence[Candidate]
    ) -> Sequence[Candidate]:
        if len(candidates) <= self.count:
            return candidates
        known = payoffs.ratings(self.model)
        # A snapshot without episodes goes first: otherwise it would never get any.
        rated = [known.get(each.player, float("inf")) for each in candidates]
        order = sorted(range(len(candidates)), key=lambda n: (rated[n], n), reverse=True)
        return [candidates[n] for n in sorted(order[: self.count])]

    def __repr__(self) -> str:
        return f"keep_best({self.count}, model={self.model!r})"


def keep_best(count: int, model: str = "bradley-terry") -> Keep:
    """Keep the snapshots with the highest ratings as candidates, and those without episodes.

    Args:
        count: how many to keep.
        model: as for ``League.ratings``.
    """
    _check_count("keep_best", count)
    return _Best(count, model)


@dataclass(frozen=True)
class _Diverse:
    count: int

    def __call__(
        self, payoffs: PoolPayoffs, candidates: Sequence[Candidate]
    ) -> Sequence[Candidate]:
        if len(candidates) <= self.count:
            return candidates
        known = payoffs.league()
        places = {player: n for n, player in enumerate(known.players)}
        rates = np.nan_to_num(np.asarray(known.win_rates, dtype=np.float64), nan=0.5)
        flat = np.full(rates.shape[1], 0.5)
        rows = np.stack(
            [rates[places[e.player]] if e.player in places else flat for e in candidates]
        )
        chosen = [len(candidates) - 1]
        nearest = np.linalg.norm(rows - rows[-1], axis=1)
        while len(chosen) < self.count:
            nearest[chosen] = -1.0
            # Of several equally distant ones the newest.
            farthest = len(candidates) - 1 - int(np.argmax(nearest[::-1]))
            chosen.append(farthest)
            nearest = np.minimum(nearest, np.linalg.norm(rows - rows[farthest], axis=1))
        return [candidates[n] for n in sorted(chosen)]

    def __repr__(self) -> str:
        return f"keep_diverse({self.count})"


def keep_diverse(count: int) -> Keep:
    """Keep snapshots that win and lose against different opponents.

    Two snapshots are as far apart as their rows of win rates against all players of the league; a
    pair without episodes counts as 0.5. The newest snapshot is kept first, and then, one by one,
    the snapshot that is farthest from all that are kept (Gonzalez 1985).

    Args:
        count: how many to keep.
    """
    _check_count("keep_diverse", count)
    return _Diverse(count)


def kept(
    keep: Keep, payoffs: PoolPayoffs, candidates: Sequence[Candidate]
) -> tuple[Candidate, ...]:
    """Call a function that keeps candidates, and check what it returns.

    Raises:
        InvalidInputError: it returned something else than some of the candidates.
    """
    chosen = keep(payoffs, candidates)
    if chosen is candidates:
        return tuple(candidates)
    known = set(candidates)
    listed = list(chosen) if isinstance(chosen, Sequence) else [None]
    if any(each not in known for each in listed):
        raise InvalidInputError(
            f"{keep!r} has to return some of the candidates, not {chosen!r:.200}"
        )
    wanted = set(listed)
    return tuple(each for each in candidates if each in wanted)


def check_keep(keep: object) -> None:
    """Check that a value can choose candidates.

    Raises:
        InvalidInputError: it cannot be called, or is the function that makes such a function.
    """
    if keep in (keep_all, keep_last, keep_best, keep_diverse):
        name = getattr(keep, "__name__", "")
        raise InvalidInputError(f"candidates={name} has to be called: {name}(…)")
    if not callable(keep):
        raise InvalidInputError(
            "candidates is a function of (payoffs, candidates), such as keep_last(20), not "
            f"{keep!r}"
        )


def _check_count(call: str, count: object) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InvalidInputError(f"{call} takes a whole number of at least 1, not {count!r}")
