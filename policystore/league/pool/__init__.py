"""Opponents for policies in training, drawn from a league, on the env runners of RLlib."""

from policystore.errors import MissingPackageError

try:
    import ray.rllib  # noqa: F401
    import torch  # noqa: F401
except ImportError as error:
    missing = MissingPackageError.of(__name__, "ray", "torch", extra="rllib", error=error)
    raise MissingPackageError(
        f"{missing}. Without them, League records matches and computes ratings"
    ) from error

from policystore.league.pool.candidates import keep_all, keep_best, keep_diverse, keep_last
from policystore.league.pool.pool import OpponentPool, opponents_of
from policystore.league.pool.roles import Role, league_exploiter, main_agent, main_exploiter
from policystore.league.pool.runner import EndedEpisode, PoolSettings
from policystore.league.pool.samplers import (
    anchored,
    by_rating,
    from_strategy,
    in_training,
    latest,
    prioritised,
    uniform,
)
from policystore.league.pool.standings import PoolPayoffs
from policystore.league.pool.triggers import Progress, every, when_better

__all__ = [
    "EndedEpisode",
    "OpponentPool",
    "PoolPayoffs",
    "PoolSettings",
    "Progress",
    "Role",
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
    "main_agent",
    "main_exploiter",
    "opponents_of",
    "prioritised",
    "uniform",
    "when_better",
]
