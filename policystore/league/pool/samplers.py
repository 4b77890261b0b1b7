"""Which opponent a learner plays next: samplers of opponent pools.

A sampler is a function of ``(payoffs, candidates, rng)``. It returns one probability for each
candidate, or one of the candidates. The classes here pickle and print as the calls that make them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from policystore.errors import InvalidInputError
from policystore.league.analysis import meta_strategy
from policystore.league.pool.messages import Candidate
from policystore.league.pool.standings import PoolPayoffs

__all__ = [
    "Sampler",
    "anchored",
    "anchors_of",
    "by_rating",
    "from_strategy",
    "in_training",
    "latest",
    "prioritised",
    "uniform",
]

Sampler: TypeAlias = Callable[
    [PoolPayoffs, Sequence[Candidate], np.random.Generator], "Candidate | Sequence[float]"
]
"""Takes payoffs, candidates and a random generator; returns one candidate, or probabilities."""


@dataclass(frozen=True)
class _Latest:
    count: int

    def __call__(
        self, payoffs: PoolPayoffs, candidates: Sequence[Candidate], rng: np.random.Generator
    ) -> Sequence[float]:
        stored = [n for n, each in enumerate(candidates) if not each.policy_id]
        chosen = set(stored[-self.count :] or range(len(candidates)))
        return [float(n in chosen) for n in range(len(candidates))]

    def __repr__(self) -> str:
        return f"latest({self.count if self.count > 1 else ''})"


def latest(count: int = 1) -> Sampler:
    """Play the newest snapshots: self-play with a delay.

    Args:
        count: among how many of the newest stored candidates to choose, all alike. Without stored
            candidates, all candidates count.
    """
    _check_positive("latest", "count", count, whole=True)
    return _Latest(count)


@dataclass(frozen=True)
class _Uniform:
    def __call__(
        self, payoffs: PoolPayoffs, candidates: Sequence[Candidate], rng: np.random.Generator
    ) -> Sequence[float]:
        return [1.0] * len(candidates)

    def __repr__(self) -> str:
        return "uniform()"


def uniform() -> Sampler:
    """Play all candidates equally often: fictitious self-play (Heinrich et al. 2015)."""
    return _Uniform()


@dataclass(frozen=True)
class _Prioritised:
    power: float
    weighting: str

    def __call__(
        self, payoffs: PoolPayoffs, candidates: Sequence[Candidate], rng: np.random.Generator
    ) -> Sequence[float]:
        x = payoffs.win_rates
        weights = (1.0 - x) ** self.power if self.weighting == "hard" else x * (1.0 - x)
        return [float(each) for each in weights]

    def __repr__(self) -> str:
        return f"prioritised(power={self.power:g}, weighting={self.weighting!r})"


def prioritised(power: float = 2.0, weighting: str = "hard") -> Sampler:
    """Play hard opponents more often: prioritised fictitious self-play (Vinyals et al. 2019).

    The probability of a candidate that the learner beats with probability x is proportional to
    ``f_hard(x) = (1 - x) ** power``, or to ``f_var(x) = x * (1 - x)``, which prefers opponents of
    about the same strength. A candidate without episodes counts as x = 0.5, because each win rate
    includes one won and one lost game (:class:`PoolPayoffs`). So x is never 0 or 1, and no
    candidate ends at probability 0.

    Args:
        power: the exponent of ``f_hard``.
        weighting: ``"hard"`` or ``"var"``.

    Raises:
        InvalidInputError: an argument of the wrong form.
    """
    _check_positive("prioritised", "power", power)
    if weighting not in ("hard", "var"):
        raise InvalidInputError(f"weighting is 'hard' or 'var', not {weighting!r}")
    return _Prioritised(float(power), weighting)


@dataclass(frozen=True)
class _ByRating:
    width: float
    model: str

    def __call__(
        self, payoffs: PoolPayoffs, candidates: Sequence[Candidate], rng: np.random.Generator
    ) -> Sequence[float]:
        known = payoffs.ratings(self.model)
        own = known.get(payoffs.player)
        if own is None:
            return [1.0] * len(candidates)
        distances = np.array([known.get(each.player, own) - own for each in candidates])
        exponents = -0.5 * (distances / self.width) ** 2
        return [float(each) for each in np.exp(exponents - exponents.max())]

    def __repr__(self) -> str:
        return f"by_rating(width={self.width:g}, model={self.model!r})"


def by_rating(width: float = 200.0, model: str = "bradley-terry") -> Sampler:
    """Play opponents whose rating is near the rating of the learner's latest snapshot.

    The probability of a candidate falls with the square of the distance, as a normal distribution.
    A candidate without episodes counts as equally strong. Before the learner's latest snapshot has
    played, all candidates are equally likely.

    Args:
        width: standard deviation, in points of the Elo scale.
        model: as for ``League.ratings``.
    """
    _check_positive("by_rating", "width", width)
    return _ByRating(float(width), model)


@dataclass(frozen=True)
class _FromStrategy:
    kind: str
    explore: float

    def __call__(
        self, payoffs: PoolPayoffs, candidates: Sequence[Candidate], rng: np.random.Generator
    ) -> Sequence[float]:
        players = [each.player for each in candidates]
        among = payoffs.league(players)
        strategy = meta_strategy(among, kind=self.kind, missing=0.5, pairwise=True).weights
        # A snapshot may be a candidate, and the label of a policy in training, at the same time.
        times = Counter(players)
        weights = [strategy[player] / times[player] for player in players]
        even = 1.0 / len(candidates)
        return [float(self.explore * even + (1 - self.explore) * each) for each in weights]

    def __repr__(self) -> str:
        return f"from_strategy({self.kind!r}, explore={self.explore:g})"


def from_strategy(kind: str = "nash", explore: float = 0.1) -> Sampler:
    """Play opponents with the probabilities of a meta-strategy over the candidates (PSRO).

    The strategy is that of the games among the candidates themselves (Lanctot et al. 2017). Two
    candidates that never met count as equal, so before they have played, all are equally likely.

    Args:
        kind: as for ``League.meta_strategy``: ``"nash"``, ``"alpharank"``, ``"uniform"``.
        explore: share of the episodes in which all candidates are equally likely.
    """
    _check_share("from_strategy", "explore", explore)
    return _FromStrategy(kind, float(explore))


@dataclass(frozen=True)
class _Anchored:
    sampler: Sampler
    anchors: tuple[tuple[str, float], ...]

    def __call__(
        self, payoffs: PoolPayoffs, candidates: Sequence[Candidate], rng: np.random.Generator
    ) -> Sequence[float]:
        weights = probabilities(self.sampler, payoffs, candidates, rng)
        fixed = np.zeros(len(candidates))
        for ref, share in self.anchors:
            for n, each in enumerate(candidates):
                if ref in (each.ref, each.player):
                    fixed[n] += share
                    break
        return [float(each) for each in fixed + (1.0 - fixed.sum()) * weights]

    def __repr__(self) -> str:
        return f"anchored({self.sampler!r}, {dict(self.anchors)})"


def anchored(sampler: Sampler, anchors: Mapping[str, float]) -> Sampler:
    """Play fixed opponents in a share of the episodes, and the sampler's choice in the others.

    Anchors keep a yardstick in the training. They are always candidates, whatever ``candidates=``
    of the pool keeps.

    Args:
        sampler: chooses in the other episodes, among all candidates.
        anchors: ref or digest of a stored policy, or ``heuristic:NAME`` -> share of the episodes.
            The shares add up to at most 1.

    Raises:
        InvalidInputError: shares that are no shares, or that add up to more than 1.
    """
    check_sampler(sampler)
    if not isinstance(anchors, Mapping) or not anchors:
        raise InvalidInputError(
            f"anchors are refs with shares: {{'soccer/main@7': 0.2}}, not {anchors!r}"
        )
    for ref, share in anchors.items():
        _check_share("anchored", f"the share of {ref!r}", share)
    if sum(anchors.values()) > 1.0 + 1e-9:
        raise InvalidInputError(f"the shares of the anchors add up to more than 1: {dict(anchors)}")
    return _Anchored(sampler, tuple((str(ref), float(share)) for ref, share in anchors.items()))


@dataclass(frozen=True)
class _InTraining:
    share: float
    sampler: Sampler

    def __call__(
        self, payoffs: PoolPayoffs, candidates: Sequence[Candidate], rng: np.random.Generator
    ) -> Sequence[float]:
        live = np.array([_is_live(each) for each in candidates])
        if not live.any():
            return [float(each) for each in probabilities(self.sampler, payoffs, candidates, rng)]
        weights = self.share * live / live.sum()
        if live.all():
            return [float(each) for each in live / live.sum()]
        stored = np.where(live, 0.0, probabilities(self.sampler, payoffs, candidates, rng))
        total = stored.sum()
        rest = stored / total if total > 0 else ~live / (~live).sum()
        return [float(each) for each in weights + (1.0 - self.share) * rest]

    def __repr__(self) -> str:
        return f"in_training({self.share:g}, {self.sampler!r})"


def in_training(share: float, sampler: Sampler) -> Sampler:
    """Play policies in training in a share of the episodes, and stored ones in the others.

    ``Role(live=…)`` says which policies in training are candidates. Two of the roles of AlphaStar
    play so (Vinyals et al. 2019): the main agent plays itself in 35 % of its episodes, and a main
    exploiter plays the main agent.

    Args:
        share: share of the episodes against policies in training, all alike.
        sampler: chooses among the other candidates.
    """
    _check_share("in_training", "share", share)
    check_sampler(sampler)
    return _InTraining(float(share), sampler)


def _is_live(candidate: Candidate) -> bool:
    return bool(candidate.policy_id) and not candidate.player.startswith("heuristic:")


# For the pool ------------------------------------------------------------------------------------


def anchors_of(sampler: Any) -> list[str]:
    """Return the refs of the anchors of a sampler, also of one inside another."""
    inner = getattr(sampler, "sampler", None)
    own = [ref for ref, _ in sampler.anchors] if isinstance(sampler, _Anchored) else []
    return own + ([] if inner is None else anchors_of(inner))


def choose(
    sampler: Sampler,
    payoffs: PoolPayoffs,
    candidates: Sequence[Candidate],
    rng: np.random.Generator,
) -> int | np.ndarray[Any, np.dtype[np.float64]]:
    """Call a sampler, and check what it returns.

    Returns:
        The index of a candidate, or one probability for each candidate, which add up to 1.

    Raises:
        InvalidInputError: the sampler returned something else.
    """
    chosen = sampler(payoffs, candidates, rng)
    if isinstance(chosen, Candidate):
        if chosen not in candidates:
            raise InvalidInputError(f"{sampler!r} returned {chosen}, which is no candidate")
        return list(candidates).index(chosen)
    try:
        weights = np.asarray(chosen, dtype=np.float64)
    except (TypeError, ValueError):
        weights = np.full((0,), np.nan)
    fits = weights.shape == (len(candidates),) and bool(np.isfinite(weights).all())
    if not fits or (weights < 0).any() or not weights.sum() > 0:
        raise InvalidInputError(
            f"the sampler {sampler!r} has to return one of the candidates, or one probability for "
            f"each of the {len(candidates)} candidates, not negative and not all 0; it returned "
            f"{chosen!r:.200}"
        )
    normed: np.ndarray[Any, np.dtype[np.float64]] = weights / weights.sum()
    return normed


def probabilities(
    sampler: Sampler,
    payoffs: PoolPayoffs,
    candidates: Sequence[Candidate],
    rng: np.random.Generator,
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return one probability for each candidate, also of a sampler that returns one choice."""
    chosen = choose(sampler, payoffs, candidates, rng)
    return np.eye(len(candidates))[chosen] if isinstance(chosen, int) else chosen


def check_sampler(sampler: object) -> None:
    """Check that a value is a sampler.

    Raises:
        InvalidInputError: it cannot be called, or is the function that makes a sampler.
    """
    makers: list[object] = [
        latest, uniform, prioritised, by_rating, from_strategy, anchored, in_training
    ]  # fmt: skip
    if any(sampler is each for each in makers):
        name = getattr(sampler, "__name__", "")
        raise InvalidInputError(f"sampler={name} makes a sampler when it is called: {name}(…)")
    if not callable(sampler):
        raise InvalidInputError(
            "a sampler is a function of (payoffs, candidates, rng), such as "
            f"prioritised(power=2), not {sampler!r}"
        )


def _check_positive(call: str, argument: str, value: object, *, whole: bool = False) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < math.inf:
        number = "whole number of at least 1" if whole else "number above 0"
        raise InvalidInputError(f"{call}: {argument} is a {number}, not {value!r}")


def _check_share(call: str, argument: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InvalidInputError(f"{call}: {argument} is a number from 0 to 1, not {value!r}")
