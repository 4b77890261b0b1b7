"""Find the pool of an env runner, and let the driver talk to it."""

from __future__ import annotations

import weakref
from typing import Any

from policystore.league.pool.messages import RunnerAnswer, RunnerRequest
from policystore.league.pool.runner.pool import RunnerPool

__all__ = ["exchange", "pool_of", "register"]

_POOLS: weakref.WeakKeyDictionary[Any, RunnerPool] = weakref.WeakKeyDictionary()


def register(env_runner: Any, pool: RunnerPool) -> None:
    """Let :func:`exchange` find the pool of an env runner."""
    _POOLS[env_runner] = pool


def pool_of(env_runner: Any) -> RunnerPool | None:
    """Return the pool of an env runner; None if its callbacks have none."""
    return _POOLS.get(env_runner)


def exchange(env_runner: Any, request: RunnerRequest) -> RunnerAnswer:
    """Exchange tables and records with one env runner, inside of its process.

    The driver runs this function by ``foreach_env_runner``, with ``functools.partial`` for the
    request. It raises no error, which would end the env runner (``utils/actor_manager.py:206``).

    Args:
        env_runner: an env runner of either API stack, for training or evaluation.
        request: new tables, and which records the driver has.

    Returns:
        The answer. Its ``life`` is "" if the env runner has no pool, such as a local env runner
        without an environment.
    """
    pool = pool_of(env_runner)
    if pool is None:
        return RunnerAnswer(life="", first=1, records=())
    return pool.exchange(env_runner, request)
