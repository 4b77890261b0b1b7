"""The episodes behind a player: one per environment, as RLlib's env runners keep them."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import gymnasium as gym
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.spaces.space_utils import unbatch
from ray.rllib.utils.typing import AgentID, EnvActionType, EnvObsType

from policystore.errors import InvalidInputError

__all__ = [
    "EpisodeMemory",
    "Episodes",
    "MultiAgentEpisodes",
    "SingleAgentEpisodes",
    "as_vectorized",
]

# Steps that stay visible to connectors when an episode grows long. RLlib itself cuts its
# episodes down to `episode_lookback_horizon` (default 1) whenever a rollout fragment ends.
_MIN_LOOKBACK = 64
_MAX_LOOKBACK = 1 << 12

_Episode = TypeVar("_Episode", SingleAgentEpisode, MultiAgentEpisode)


def as_vectorized(observation: EnvObsType, space: gym.Space[Any], label: str) -> EnvObsType:
    """Return an observation in the dtypes of its space, as a vectorized environment returns it.

    Args:
        observation: of the structure and shapes of ``space``.
        space: the environment's observation space.
        label: how messages name the observation.

    Raises:
        InvalidInputError: numpy does not cast it safely, such as a float for an integer space.
    """
    try:
        batch = concatenate(space, [observation], create_empty_array(space, n=1))
        return unbatch(batch)[0]
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise InvalidInputError(f"{label}: {observation!r} is not of {space}: {error}") from None


@contextlib.contextmanager
def _assertions_as_refusals() -> Iterator[None]:
    """Turn RLlib's assertions about observations into InvalidInputError.

    In some places of some versions of Ray, RLlib's episodes assert that an observation is in its
    space.
    """
    try:
        yield
    except AssertionError as error:
        raise InvalidInputError(
            f"RLlib's episode does not take this observation: {error}"
        ) from None


class EpisodeMemory(Generic[_Episode]):
    """One environment's episode, and what the module decided on in its last step.

    Attributes:
        episode: RLlib's episode.
        last: the last action, and the module's other outputs of that step.
    """

    __slots__ = ("episode", "last")

    def __init__(self, episode: _Episode) -> None:
        self.episode = episode
        self.last: tuple[Any, dict[str, Any]] | None = None


class Episodes(abc.ABC, Generic[_Episode]):
    """Keeps episodes of environments as RLlib's env runners do.

    Args:
        observation_space, action_space: the environment's; by agent (``Dict``) if multi-agent.
        agent: the agent that is played; None if single-agent.
        module_id: the module that acts for the agent.
        lookback: how many past steps connectors may look at. At least 64 and at most 4096 steps are
            kept. An episode that becomes longer than four times this number is cut back to this
            number.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        agent: AgentID | None,
        module_id: str,
        lookback: int,
    ) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
        self.agent = agent
        self.module_id = module_id
        self._lookback = min(max(lookback, _MIN_LOOKBACK), _MAX_LOOKBACK)

    def observe(
        self, memory: EpisodeMemory[_Episode] | None, observation: EnvObsType, reward: float
    ) -> EpisodeMemory[_Episode]:
        """Add what an environment returned to its episode; return the episode.

        Args:
            memory: what this method returned for the last step; None to begin an episode.
            observation: the environment's.
            reward: of the previous action.

        Raises:
            InvalidInputError: RLlib's episode refuses an observation.
        """
        if memory is None:
            memory = EpisodeMemory(self._new())
            with _assertions_as_refusals():
                self._reset(memory.episode, observation)
        elif memory.last is not None:
            action, module_outputs = memory.last
            with _assertions_as_refusals():
                self._step(memory.episode, observation, action, reward, module_outputs)
            if len(memory.episode) > 4 * self._lookback:
                memory.episode = memory.episode.cut(len_lookback_buffer=self._lookback)
        return memory

    @abc.abstractmethod
    def take(
        self,
        memories: Sequence[EpisodeMemory[_Episode]],
        actions: Any,
        env_actions: Any,
        module_outputs: Mapping[str, Any],
    ) -> list[EnvActionType]:
        """Keep what the module decided; return one environment action for each episode.

        Args:
            memories: the episodes, in the order in which they went through the pipelines.
            actions: the module's own actions, as the module-to-env pipeline leaves them.
            env_actions: the same actions, as the environment takes them.
            module_outputs: what else the pipeline left, by column.
        """

    @abc.abstractmethod
    def _new(self) -> _Episode: ...

    @abc.abstractmethod
    def _reset(self, episode: _Episode, observation: EnvObsType) -> None: ...

    @abc.abstractmethod
    def _step(
        self,
        episode: _Episode,
        observation: EnvObsType,
        action: Any,
        reward: float,
        module_outputs: dict[str, Any],
    ) -> None: ...


class SingleAgentEpisodes(Episodes[SingleAgentEpisode]):
    """Episodes as ``env/single_agent_env_runner.py`` keeps them."""

    def _new(self) -> SingleAgentEpisode:
        return SingleAgentEpisode(
            observation_space=self.observation_space, action_space=self.action_space
        )

    def _reset(self, episode: SingleAgentEpisode, observation: EnvObsType) -> None:
        episode.add_env_reset(observation=observation, infos={})

    def _step(
        self,
        episode: SingleAgentEpisode,
        observation: EnvObsType,
        action: Any,
        reward: float,
        module_outputs: dict[str, Any],
    ) -> None:
        episode.add_env_step(
            observation=observation,
            action=action,
            reward=reward,
            infos={},
            extra_model_outputs=module_outputs,
        )

    def take(
        self,
        memories: Sequence[EpisodeMemory[SingleAgentEpisode]],
        actions: Any,
        env_actions: Any,
        module_outputs: Mapping[str, Any],
    ) -> list[EnvActionType]:
        """Keep what the module decided, in batches; return one action for each episode."""
        for row, (memory, action) in enumerate(zip(memories, unbatch(actions), strict=True)):
            memory.last = (
                action,
                {column: value[row] for column, value in module_outputs.items()},
            )
        return list(iterate(batch_space(self.action_space, len(memories)), env_actions))


class MultiAgentEpisodes(Episodes[MultiAgentEpisode]):
    """Episodes as ``env/multi_agent_env_runner.py`` keeps them, of the one agent that is played."""

    def _new(self) -> MultiAgentEpisode:
        return MultiAgentEpisode(
            observation_space=self.observation_space,
            action_space=self.action_space,
            agent_to_module_mapping_fn=lambda *_args, **_kwargs: self.module_id,
        )

    def _reset(self, episode: MultiAgentEpisode, observation: EnvObsType) -> None:
        episode.add_env_reset(observations={self.agent: observation}, infos={})

    def _step(
        self,
        episode: MultiAgentEpisode,
        observation: EnvObsType,
        action: Any,
        reward: float,
        module_outputs: dict[str, Any],
    ) -> None:
        episode.add_env_step(
            observations={self.agent: observation},
            actions={self.agent: action},
            rewards={self.agent: reward},
            infos={},
            extra_model_outputs={self.agent: module_outputs},
        )

    def take(
        self,
        memories: Sequence[EpisodeMemory[MultiAgentEpisode]],
        actions: Any,
        env_actions: Any,
        module_outputs: Mapping[str, Any],
    ) -> list[EnvActionType]:
        """Keep what the module decided, by row and agent; return one action for each episode."""
        for row, memory in enumerate(memories):
            memory.last = (
                actions[row][self.agent],
                {column: value[row][self.agent] for column, value in module_outputs.items()},
            )
        return [env_actions[row][self.agent] for row in range(len(memories))]
