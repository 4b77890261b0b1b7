"""What a learner of a pool does: :class:`Role`, and the three roles of AlphaStar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from policystore.errors import InvalidInputError
from policystore.league.pool.candidates import Keep, check_keep
from policystore.league.pool.samplers import Sampler, check_sampler, in_training, prioritised
from policystore.league.pool.triggers import Trigger, check_trigger, when_better

__all__ = ["Role", "league_exploiter", "main_agent", "main_exploiter"]


@dataclass(frozen=True)
class Role:
    """How one learner of a pool plays, if a pool has several: ``learner={"main": Role(…), …}``.

    Attributes:
        sampler: chooses its opponents; None for the sampler of the pool.
        snapshot: says when it becomes a member of the pool; None for the trigger of the pool.
        candidates: which stored snapshots stay candidates for it; None for those of the pool.
        against: ids of the learners whose snapshots are its candidates; None for the snapshots of
            all learners, the fixed opponents and the heuristics.
        live: ids of learners that are candidates as they are, in training. They need no slot. The
            learner itself may be among them: it then plays against itself.
        reset: probability, after each of its snapshots, that it begins anew. All learners and
            workers get the weights of ``reset_to``; the state of the optimizer stays.
        reset_to: ref of the policy with which it begins anew; "" for version 1 of its own name,
            which is its first snapshot.
        share: share of the episodes in which it plays, relative to the other learners.

    Raises:
        InvalidInputError: a value of the wrong form.
    """

    sampler: Sampler | None = None
    snapshot: Trigger | None = None
    candidates: Keep | None = None
    against: Sequence[str] | None = None
    live: Sequence[str] = ()
    reset: float = 0.0
    reset_to: str = ""
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.sampler is not None:
            check_sampler(self.sampler)
        if self.snapshot is not None:
            check_trigger(self.snapshot)
        if self.candidates is not None:
            check_keep(self.candidates)
        for argument in ("against", "live"):
            value = getattr(self, argument)
            if value is not None and not _are_ids(value):
                raise InvalidInputError(f"{argument} is a list of policy ids, not {value!r}")
        if not _is_number(self.reset) or not 0 <= self.reset <= 1:
            raise InvalidInputError(f"reset is a probability, from 0 to 1, not {self.reset!r}")
        if not _is_number(self.share) or not self.share > 0:
            raise InvalidInputError(f"share is a number above 0, not {self.share!r}")


def main_agent(
    learner: str = "main",
    *,
    self_play: float = 0.35,
    win_rate: float = 0.7,
    at_most: int | None = 50,
) -> Role:
    """Return the role of AlphaStar's main agent.

    It plays against itself in a share of the episodes, and in the others against all snapshots of
    the league, hard ones more often. It never begins anew. (AlphaStar's further 15 % against
    forgotten opponents need no rule of their own here: an opponent that wins again gets a higher
    weight.)

    Args:
        learner: its own policy id.
        self_play: share of the episodes against itself.
        win_rate: win rate against each opponent at which it becomes a member.
        at_most: iterations since its last snapshot after which it becomes a member in any case;
            None for no such limit.
    """
    return Role(
        sampler=in_training(self_play, prioritised(power=2.0)),
        snapshot=when_better(win_rate, worst=True, at_most=at_most),
        live=[learner],
    )


def main_exploiter(main: str = "main", *, win_rate: float = 0.7, at_most: int | None = 50) -> Role:
    """Return the role of AlphaStar's main exploiter: it looks for weaknesses of the main agent.

    It plays the main agent as it is in half of the episodes, and in the others snapshots of the
    main agent of about its own strength. After each of its snapshots it begins anew.

    Args:
        main: policy id of the main agent.
        win_rate: win rate at which it becomes a member.
        at_most: iterations since its last snapshot after which it becomes a member in any case;
            None for no such limit.
    """
    return Role(
        sampler=in_training(0.5, prioritised(weighting="var")),
        snapshot=when_better(win_rate, at_most=at_most),
        against=[main],
        live=[main],
        reset=1.0,
    )


def league_exploiter(
    *, win_rate: float = 0.7, reset: float = 0.25, at_most: int | None = 50
) -> Role:
    """Return the role of AlphaStar's league exploiter: it looks for weaknesses of the whole league.

    It plays all snapshots of the league, hard ones more often, and none in training.

    Args:
        win_rate: win rate against each opponent at which it becomes a member.
        reset: probability that it begins anew after a snapshot.
        at_most: iterations since its last snapshot after which it becomes a member in any case;
            None for no such limit.
    """
    return Role(
        sampler=prioritised(power=2.0),
        snapshot=when_better(win_rate, worst=True, at_most=at_most),
        reset=reset,
    )


def _are_ids(value: Any) -> bool:
    listed = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return listed and all(isinstance(each, str) for each in value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
