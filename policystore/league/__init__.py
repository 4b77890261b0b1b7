"""Leagues: matches, ratings, opponent pools and tournaments of stored policies.

A public name loads its module when it is first used; ``import policystore.league`` loads neither
torch nor ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policystore.format.records.matches import Match, MatchTotal, Outcome, Returns
    from policystore.league.analysis import MetaStrategy, Payoffs, Rating, Ratings
    from policystore.league.league import League, leagues
    from policystore.league.pool import (
        EndedEpisode,
        OpponentPool,
        PoolPayoffs,
        PoolSettings,
        Progress,
        Role,
        anchored,
        by_rating,
        every,
        from_strategy,
        in_training,
        keep_all,
        keep_best,
        keep_diverse,
        keep_last,
        latest,
        league_exploiter,
        main_agent,
        main_exploiter,
        opponents_of,
        prioritised,
        uniform,
        when_better,
    )
    from policystore.repository.matches.totals import RecordedBatch, Totals

__all__ = [
    "EndedEpisode",
    "League",
    "Match",
    "MatchTotal",
    "MetaStrategy",
    "OpponentPool",
    "Outcome",
    "Payoffs",
    "PoolPayoffs",
    "PoolSettings",
    "Progress",
    "Rating",
    "Ratings",
    "RecordedBatch",
    "Returns",
    "Role",
    "Totals",
    "anchored",
    "by_rating",
    "every",
    "from_strategy",
    "in_training",
    "keep_all",
    "keep_best",
    "keep_diverse",
    "keep_last",
    "latest",
    "league_exploiter",
    "leagues",
    "main_agent",
    "main_exploiter",
    "opponents_of",
    "prioritised",
    "uniform",
    "when_better",
]

# Each public name, and the module below policystore that has it.
_MODULES = {
    "EndedEpisode": "league.pool",
    "League": "league.league",
    "Match": "format.records.matches",
    "MatchTotal": "format.records.matches",
    "MetaStrategy": "league.analysis",
    "OpponentPool": "league.pool",
    "Outcome": "format.records.matches",
    "Payoffs": "league.analysis",
    "PoolPayoffs": "league.pool",
    "PoolSettings": "league.pool",
    "Progress": "league.pool",
    "Rating": "league.analysis",
    "Ratings": "league.analysis",
    "RecordedBatch": "repository.matches.totals",
    "Returns": "format.records.matches",
    "Role": "league.pool",
    "Totals": "repository.matches.totals",
    "anchored": "league.pool",
    "by_rating": "league.pool",
    "every": "league.pool",
    "from_strategy": "league.pool",
    "in_training": "league.pool",
    "keep_all": "league.pool",
    "keep_best": "league.pool",
    "keep_diverse": "league.pool",
    "keep_last": "league.pool",
    "latest": "league.pool",
    "league_exploiter": "league.pool",
    "leagues": "league.league",
    "main_agent": "league.pool",
    "main_exploiter": "league.pool",
    "opponents_of": "league.pool",
    "prioritised": "league.pool",
    "uniform": "league.pool",
    "when_better": "league.pool",
}


def __getattr__(name: str) -> Any:
    """Load the module of a public name, and keep the name for the next use (PEP 562)."""
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'policystore.league' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"policystore.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
