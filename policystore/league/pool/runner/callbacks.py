"""RLlib callbacks that let env runners play against the opponents of a pool."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from ray.rllib.algorithms.callbacks import DefaultCallbacks

from policystore.league.pool.runner import new_stack, old_stack
from policystore.league.pool.runner.mapping import announce
from policystore.league.pool.runner.pool import RunnerPool
from policystore.league.pool.runner.registry import register
from policystore.league.pool.runner.settings import PoolSettings, check_env, check_learner_agents
from policystore.rllib.worker_code.compat import (
    agents_of_env,
    is_multi_agent,
    is_old_worker,
    single_env,
)

__all__ = ["PoolCallbacks"]


class PoolCallbacks(DefaultCallbacks):  # type: ignore[misc]
    """The callbacks of an opponent pool that run in env runners, for both API stacks.

    RLlib makes one object in each env runner, and one in the Algorithm. The object of an env runner
    holds its :class:`RunnerPool`. A subclass adds the callbacks of the driver, and calls
    ``super()`` in those of an env runner, which this class has. Other callbacks of the same config
    may stand before or after. If one of them loads weights into a slot, the episode is not
    recorded.

    Args:
        settings: the settings of the pool.
    """

    def __init__(self, settings: PoolSettings) -> None:
        super().__init__()
        self._settings = settings
        self._pool = RunnerPool(settings)
        announce(settings)

    def on_environment_created(self, *, env_runner: Any, **kwargs: Any) -> None:
        """Let the driver find the pool of this env runner, before its first episode.

        Raises:
            InvalidInputError: a learner may play only agents that the environment does not have.
        """
        if self._register(env_runner):
            check_learner_agents(self._settings, single_env(env_runner).possible_agents)

    def on_sub_environment_created(
        self, *, worker: Any, sub_environment: Any = None, **kwargs: Any
    ) -> None:
        """Let the driver find the pool of this worker of the old API stack.

        Raises:
            InvalidInputError: as :meth:`on_environment_created`; or the environment is for a
                single agent.
        """
        if self._register(worker):
            check_env(sub_environment)
            check_learner_agents(self._settings, agents_of_env(sub_environment))

    def on_episode_created(
        self, *, episode: Any, env_runner: Any = None, worker: Any = None, env_index: int, **kw: Any
    ) -> None:
        """Choose and load the opponents of an episode."""
        runner = _runner(env_runner, worker)
        _stack(runner).begin(self._pool, runner, episode, env_index)

    def on_episode_start(
        self, *, episode: Any, env_runner: Any = None, worker: Any = None, env_index: int, **kw: Any
    ) -> None:
        """Count an episode."""
        runner = _runner(env_runner, worker)
        _stack(runner).start(self._pool, runner, episode, env_index)

    def on_episode_step(
        self, *, episode: Any, env_runner: Any = None, worker: Any = None, env_index: int, **kw: Any
    ) -> None:
        """Note the weights of the first step."""
        runner = _runner(env_runner, worker)
        _stack(runner).step(self._pool, runner, episode, env_index)

    def on_episode_end(
        self,
        *,
        episode: Any,
        env_runner: Any = None,
        worker: Any = None,
        env_index: int,
        prev_episode_chunks: Any = (),
        **kw: Any,
    ) -> None:
        """Record an episode."""
        runner = _runner(env_runner, worker)
        _stack(runner).end(self._pool, runner, episode, env_index, prev_episode_chunks or ())

    def _register(self, runner: Any) -> bool:
        """Register a runner; return False for one of a single agent, which the driver refuses."""
        if is_multi_agent(runner.config):
            register(runner, self._pool)
            return True
        return False


def _runner(env_runner: Any, worker: Any) -> Any:
    return worker if env_runner is None else env_runner


def _stack(runner: Any) -> ModuleType:
    return old_stack if is_old_worker(runner) else new_stack
