"""Translate the callbacks of a rollout worker of the old API stack for a :class:`RunnerPool`.

RLlib computes an action right after it has called ``on_episode_start`` or ``on_episode_step``, and
steps the environment with it at once. The next callback of the episode may come in the next sample,
after RLlib has sent other weights (``evaluation/env_runner_v2.py:357``). So the weights of an
action are those of the callback before it, and the last callback of an episode sees weights that
may not have played.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from policystore.league.pool.runner.pool import RunnerPool
from policystore.league.pool.runner.settings import EndedEpisode
from policystore.rllib.worker_code.compat import active_episodes, agents_of_env

if TYPE_CHECKING:
    from ray.rllib.evaluation.episode_v2 import EpisodeV2
    from ray.rllib.evaluation.rollout_worker import RolloutWorker

__all__ = ["begin", "end", "start", "step"]


def begin(pool: RunnerPool, worker: RolloutWorker, episode: EpisodeV2, env_index: int) -> None:
    """Choose the opponents of an episode that was made and has no data yet.

    Episodes that RLlib no longer plays are given up: policystore starts some anew after a removed
    policy, and RLlib makes an episode twice if an environment takes its time for a reset.
    """
    agents = pool.settings.agents or tuple(agents_of_env(worker.env))
    going_on = {str(each.episode_id) for each in active_episodes(worker)}
    gone = [at for at, each in pool.under_way.items() if each.episode_id not in going_on]
    pool.give_up(worker, gone)
    num_envs = worker.config.num_envs_per_env_runner
    pool.begin(worker, env_index, str(episode.episode_id), agents, num_envs)


def start(pool: RunnerPool, worker: RolloutWorker, episode: EpisodeV2, env_index: int) -> None:
    """Count an episode, and note the weights of its first action."""
    pool.start(env_index)
    pool.step(worker, env_index)
    pool.note_weights(worker, env_index)


def step(pool: RunnerPool, worker: RolloutWorker, episode: EpisodeV2, env_index: int) -> None:
    """Note the weights of the next action."""
    pool.note_weights(worker, env_index)


def end(
    pool: RunnerPool,
    worker: RolloutWorker,
    episode: EpisodeV2 | Exception,
    env_index: int,
    chunks: Sequence[Any],
) -> None:
    """Record an episode that ended.

    Args:
        pool: the pool of the worker.
        worker: the worker.
        episode: the episode; or the error of its environment, where RLlib goes on after errors
            (``restart_failed_sub_environments``).
        env_index: number of the sub-environment.
        chunks: empty; RLlib of this stack does not cut episodes.
    """
    if isinstance(episode, Exception):
        pool.fail(env_index)
        return
    agents = episode.get_agents()
    returns = dict.fromkeys(agents, 0.0)
    for (agent, _), value in episode.agent_rewards.items():
        returns[agent] += float(value)
    ended = EndedEpisode(
        episode_id=str(episode.episode_id),
        returns=returns,
        policies={agent: episode.policy_for(agent) for agent in agents},
        length=episode.length,
        terminated=all(episode.is_terminated(agent) for agent in agents),
        truncated=any(episode.is_truncated(agent) for agent in agents),
        episode=episode,
    )
    pool.end(worker, env_index, ended)
