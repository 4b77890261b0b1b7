"""Translate the callbacks of an env runner of the new API stack for a :class:`RunnerPool`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from policystore.league.pool.runner import reasons
from policystore.league.pool.runner.pool import RunnerPool
from policystore.league.pool.runner.settings import EndedEpisode
from policystore.rllib.compat import rewards_before_observations
from policystore.rllib.worker_code.compat import single_env

if TYPE_CHECKING:
    from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
    from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

__all__ = ["begin", "end", "start", "step"]


class _EarlyRewards:
    """Rewards that agents got before their first observation, as the second player of a board game.

    RLlib adds them to no agent's return (``env/multi_agent_episode.py:530``), and forgets them when
    the agent or the episode ends. At a cut, RLlib puts other rewards in the same place: those that
    agents got since their last observation, which RLlib does add to the return later.
    """

    def __init__(self) -> None:
        self._appeared: set[Any] = set()
        self._rewards: dict[tuple[int, Any], float] = {}

    def look(self, episode: MultiAgentEpisode) -> None:
        """Note the rewards of agents that had not appeared before this step."""
        for agent, reward in rewards_before_observations(episode).items():
            if agent not in self._appeared:
                # Each chunk of the episode begins with 0.
                self._rewards[episode.env_t_started, agent] = float(reward)
        if len(self._appeared) != len(episode.agent_episodes):
            self._appeared.update(episode.agent_episodes)

    def of(self, agent: Any) -> list[float]:
        """Return the rewards of an agent, of which the sum counts."""
        return [reward for (_, each), reward in self._rewards.items() if each == agent]


def begin(
    pool: RunnerPool, runner: MultiAgentEnvRunner, episode: MultiAgentEpisode, env_index: int
) -> None:
    """Choose the opponents of an episode that was made and has no data yet."""
    agents = pool.settings.agents or tuple(single_env(runner).possible_agents)
    pool.begin(runner, env_index, episode.id_, agents, runner.num_envs)


def start(
    pool: RunnerPool, runner: MultiAgentEnvRunner, episode: MultiAgentEpisode, env_index: int
) -> None:
    """Count an episode that got its first observations."""
    pool.start(env_index)
    if env_index in pool.under_way:
        pool.under_way[env_index].notes = _EarlyRewards()


def step(
    pool: RunnerPool, runner: MultiAgentEnvRunner, episode: MultiAgentEpisode, env_index: int
) -> None:
    """Note the weights of the first step, and rewards that RLlib's returns lack."""
    pool.step(runner, env_index)
    under_way = pool.under_way.get(env_index)
    if under_way is not None and under_way.notes is not None:
        under_way.notes.look(episode)


def end(
    pool: RunnerPool,
    runner: MultiAgentEnvRunner,
    episode: MultiAgentEpisode,
    env_index: int,
    chunks: Sequence[MultiAgentEpisode],
) -> None:
    """Record an episode that ended.

    Args:
        pool: the pool of the env runner.
        runner: the env runner.
        episode: the last chunk of the episode.
        env_index: number of the sub-environment.
        chunks: the earlier chunks, in order; RLlib cuts an episode at the end of each sample.
    """
    every = [*chunks, episode]
    if every[0].env_t_started != 0:
        pool.fail(env_index, reasons.INCOMPLETE)
        return
    parts: dict[Any, list[float]] = {}
    policies: dict[Any, str] = {}
    for chunk in every:
        for agent, part in chunk.agent_episodes.items():
            parts.setdefault(agent, []).append(float(part.get_return()))
            policies[agent] = chunk.module_for(agent)
    under_way = pool.under_way.get(env_index)
    if under_way is not None and under_way.notes is not None:
        for agent, each in parts.items():
            each += under_way.notes.of(agent)
    ended = EndedEpisode(
        episode_id=episode.id_,
        returns={agent: math.fsum(each) for agent, each in parts.items()},
        policies=policies,
        length=episode.env_t,
        terminated=bool(episode.is_terminated),
        truncated=bool(episode.is_truncated),
        episode=episode,
        chunks=tuple(chunks),
    )
    pool.end(runner, env_index, ended)
