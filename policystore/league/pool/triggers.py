"""When a learner becomes a member of its pool: triggers of snapshots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from policystore.errors import InvalidInputError

__all__ = ["Progress", "Trigger", "check_trigger", "every", "when_better"]


@dataclass(frozen=True)
class Progress:
    """What a trigger knows of a learner after a training iteration.

    Attributes:
        learner: the policy id of the learner.
        iteration: the training iteration.
        since: iterations since the learner's latest snapshot.
        episodes: episodes against candidates since the latest snapshot.
        win_rate: mean over all candidates that the learner has played since the latest snapshot of
            its win rate against each, a draw as half a win; 0.5 without episodes.
        win_rates: ref of a candidate -> win rate against it since the latest snapshot; only
            candidates that were played.
        result: the training result.
    """

    learner: str
    iteration: int
    since: int
    episodes: float
    win_rate: float
    win_rates: Mapping[str, float] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict, repr=False)


Trigger: TypeAlias = Callable[[Progress], "bool | str"]
"""Takes a :class:`Progress`; returns whether to take a snapshot, or why, for the message."""


@dataclass(frozen=True)
class _Every:
    iterations: int

    def __call__(self, progress: Progress) -> str:
        if progress.since < self.iterations:
            return ""
        return f"every {self.iterations} iterations"

    def __repr__(self) -> str:
        return f"every({self.iterations})"


def every(iterations: int) -> Trigger:
    """Take a snapshot every so many training iterations.

    Raises:
        InvalidInputError: not a whole number of at least 1.
    """
    _check_count("every", "iterations", iterations)
    return _Every(iterations)


@dataclass(frozen=True)
class _WhenBetter:
    win_rate: float
    episodes: int
    worst: bool
    at_most: int | None

    def __call__(self, progress: Progress) -> str:
        if self.at_most is not None and progress.since >= self.at_most:
            return f"{self.at_most} iterations after the last snapshot"
        if progress.episodes < self.episodes or not progress.win_rates:
            return ""
        found = min(progress.win_rates.values()) if self.worst else progress.win_rate
        if found < self.win_rate:
            return ""
        against = "each opponent" if self.worst else "the pool"
        return f"win rate {found:.3f} against {against} in {progress.episodes:g} episodes"

    def __repr__(self) -> str:
        more = f", worst={self.worst}, at_most={self.at_most}" if self.worst or self.at_most else ""
        return f"when_better({self.win_rate:g}, episodes={self.episodes}{more})"


def when_better(
    win_rate: float = 0.7,
    *,
    episodes: int = 30,
    worst: bool = False,
    at_most: int | None = None,
) -> Trigger:
    """Take a snapshot when the learner beats the pool.

    Only episodes since the latest snapshot count, so each snapshot has to earn its place anew. The
    main agents of AlphaStar become members at a win rate of 0.7 against all opponents, or after a
    longest time (Vinyals et al. 2019).

    Args:
        win_rate: the win rate that is needed, a draw as half a win.
        episodes: episodes since the latest snapshot that are needed. With 30 episodes, a learner of
            the same strength reaches 0.7 by chance about once in 50 looks.
        worst: whether the lowest win rate against a candidate has to reach ``win_rate``, and not
            the mean over the candidates.
        at_most: iterations after which a snapshot is taken in any case; None for never.

    Raises:
        InvalidInputError: an argument of the wrong form.
    """
    number = isinstance(win_rate, (int, float)) and not isinstance(win_rate, bool)
    if not number or not 0 < win_rate <= 1:
        raise InvalidInputError(
            f"when_better takes a win rate above 0 and at most 1, such as 0.7, not {win_rate!r}"
        )
    _check_count("when_better", "episodes", episodes)
    if at_most is not None:
        _check_count("when_better", "at_most", at_most)
    return _WhenBetter(float(win_rate), episodes, bool(worst), at_most)


def check_trigger(trigger: object) -> None:
    """Check that a value is a trigger.

    Raises:
        InvalidInputError: it cannot be called, or is the function that makes a trigger.
    """
    if trigger is every or trigger is when_better:
        name = getattr(trigger, "__name__", "")
        raise InvalidInputError(f"snapshot={name} makes a trigger when it is called: {name}(…)")
    if not callable(trigger):
        raise InvalidInputError(
            "snapshot is a function of a Progress, such as every(10) or when_better(0.7), not "
            f"{trigger!r}"
        )


def _check_count(call: str, argument: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInputError(
            f"{call}: {argument} is a whole number of at least 1, not {value!r}"
        )
