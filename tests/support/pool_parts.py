"""Matches, imagined opponents and small Algorithms for the tests of opponent pools.

This file is a module of its own, because Ray's workers import it by name.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import tests.support.new_stack_algorithms as new_parts
import tests.support.old_stack_algorithms as old_parts
from policystore.format.records.matches import Match, MatchTotal, Outcome, Returns
from policystore.league import League
from policystore.league.pool.messages import Candidate
from policystore.league.pool.standings import as_total

PARTS = {"new": new_parts, "old": old_parts}


def player(number: int) -> str:
    """Return the digest of an imagined policy."""
    return f"blake3:{number:064x}"


def candidate(number: int, **more: Any) -> Candidate:
    """Return an imagined stored opponent."""
    return Candidate(player(number), f"duo/main@{number}", **more)


def match(one: str, other: str, *, wins: int = 0, draws: int = 0, losses: int = 0) -> Match:
    """Return a match as ``one`` saw it."""
    ends = (((0, 1), wins), ((0, 0), draws), ((1, 0), losses))
    episodes = wins + draws + losses
    total = Fraction(wins)
    return Match(
        players={"a": one, "b": other},
        episodes=episodes,
        outcomes=tuple(Outcome(ranks, count) for ranks, count in ends if count),
        returns={"a": Returns(episodes, total, total)},
    )


def total(*given: Any, **more: Any) -> MatchTotal:
    """Return the total of one match."""
    return as_total(match(*given, **more))


def configured(stack: str, **more: Any) -> Any:
    """Return a tiny config of two agents, whose policies and callbacks a pool has to set."""
    config = PARTS[stack].configured(**more)
    fresh = type(config)()
    return config.callbacks(fresh.callbacks_class).multi_agent(policies=fresh.policies)


def shown(result: Any) -> Any:
    """Return what a training result says of the pool."""
    return result["policystore"]["opponent_pool"]


def open_lists(league: League) -> int:
    """Return how many lists of matches have no end."""
    keys = [key for key in league.store._backend.keys("leagues/") if "@matches/" in key]
    ends = [key for key in keys if b'"kind":"end"' in bytes(league.store._backend.get(key))]
    return len({key.rsplit("/", 1)[0] for key in keys}) - len(ends)
