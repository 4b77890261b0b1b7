"""What the driver of an opponent pool gets from the arguments of the pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policystore.league.pool.candidates import Keep
from policystore.league.pool.driving.gather import Exchange
from policystore.league.pool.samplers import Sampler
from policystore.league.pool.triggers import Trigger

if TYPE_CHECKING:
    from policystore.league.league import League

__all__ = ["DriverSettings", "Learner"]


@dataclass(frozen=True)
class Learner:
    """A policy in training, as the driver needs it.

    Attributes:
        id: policy id.
        name: name of its snapshots in the store; may have ``{trial}``.
        sampler: chooses its opponents.
        snapshot: says when it becomes a member of the pool.
        candidates: which stored snapshots stay candidates.
        against: learners whose snapshots are candidates; None for all, with fixed opponents and
            heuristics.
        live: learners that are candidates as they are now, in training.
        reset: probability that the learner begins anew after a snapshot.
        reset_to: ref of the policy it then begins with; "" for its own first snapshot.
        share: share of the episodes, relative to the other learners.
    """

    id: str
    name: str
    sampler: Sampler
    snapshot: Trigger
    candidates: Keep
    against: tuple[str, ...] | None = None
    live: tuple[str, ...] = ()
    reset: float = 0.0
    reset_to: str = ""
    share: float = 1.0


@dataclass(frozen=True)
class DriverSettings:
    """What the driver of a pool needs; it pickles.

    Attributes:
        league: the league.
        learners: the policies in training.
        slots: kind -> ids of the slots.
        heuristics: name -> id of a policy that plays as it is.
        opponents: refs of policies that are always candidates.
        seed: seed of all draws.
        decay: weight of the episodes of a snapshot, relative to those of the next.
        same_for_all: whether all env runners draw one choice per round.
        refresh: iterations from one look for snapshots and matches of others to the next.
        filters: ``"refuse"`` or ``"ignore"``.
        timeout: seconds that the end of the training waits for pushes.
        opponents_each: how many opponents an episode has; 0 if unknown.
        mapping: class of the pool's mapping function.
        exchange: called with each env runner.
        env_of: returns id and digest of the environment of a config.
    """

    league: League
    learners: tuple[Learner, ...]
    slots: Mapping[str, tuple[str, ...]]
    heuristics: Mapping[str, str]
    opponents: tuple[str, ...]
    seed: int
    decay: float
    same_for_all: bool
    refresh: int
    filters: str
    timeout: float
    opponents_each: int
    mapping: type
    exchange: Exchange
    env_of: Callable[[Any], tuple[str, str]]
