"""The part of an opponent pool that runs inside env runners.

``settings`` has what the driver gives each env runner at its start, ``callbacks`` what RLlib calls,
and ``registry`` what the driver calls. ``pool`` is the core for both API stacks: ``draws`` chooses,
``slots`` loads, ``weights`` knows what a policy holds, ``matches`` makes the records, and
``buffer`` keeps them for the driver. ``mapping`` is the mapping function.
"""

from policystore.league.pool.runner.callbacks import PoolCallbacks
from policystore.league.pool.runner.mapping import PoolMapping, assignment_of
from policystore.league.pool.runner.pool import RunnerPool
from policystore.league.pool.runner.registry import exchange, pool_of
from policystore.league.pool.runner.settings import EndedEpisode, PoolSettings

__all__ = [
    "EndedEpisode",
    "PoolCallbacks",
    "PoolMapping",
    "PoolSettings",
    "RunnerPool",
    "assignment_of",
    "exchange",
    "pool_of",
]
