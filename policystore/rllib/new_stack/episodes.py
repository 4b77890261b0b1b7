"""The episodes behind a player: one per environment, as RLlib's env runners keep them."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.spaces.space_utils import unbatch

from policystore.errors import InvalidInputError

__all__ = ["EpisodeRows", "MultiAgentRows", "SingleAgentRows"]

# Steps that stay visible to connectors when an episode grows long. RLlib itself cuts its
# episodes down to `episode_lookback_horizon` (default 1) whenever a rollout fragment ends.
_LOOKBACK = 64
_LONGEST = 1 << 12


@contextlib.contextmanager
def _typed_refusals() -> Iterator[None]:
    """RLlib's episodes assert, in some versions and places, that what they get is in the spaces."""
    try:
        yield
    except AssertionError as error:
        raise InvalidInputError(
            f"RLlib's episode does not take this observation: {error}"
        ) from None


class EpisodeRows(abc.ABC):
    """Episodes of ``n`` environments; ``n`` is fixed by the first observations after a clear."""

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        agent: Any,
        module_id: str,
        lookback: int,
    ) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
        self.agent = agent
        self.module_id = module_id
        self._lookback = min(max(lookback, _LOOKBACK), _LONGEST)
        self._episodes: list[Any] = []
        # The last action of each and what the module put out with it; None for one that starts an
        # episode next, and for all of them while actions are awaited.
        self._last: list[tuple[Any, dict[str, Any]] | None] | None = []

    @property
    def started(self) -> bool:
        """Whether actions were taken since the last clear."""
        return any(item is not None for item in self._last or ())

    @property
    def count(self) -> int:
        """How many environments there are; 0 before the first observations."""
        return len(self._episodes)

    def restart(self, row: int) -> None:
        """The next observation of one environment starts an episode."""
        if self._last:
            self._last[row] = None

    def clear(self) -> None:
        """Forget all episodes."""
        self._episodes, self._last = [], []

    def observe(self, observations: Sequence[Any], rewards: Sequence[float] | None) -> list[Any]:
        """Add what the environments returned; gives the episodes to run pipelines on."""
        count = len(observations)
        last = self._last
        if last is None:
            raise InvalidInputError(
                "the call before failed half-way, so the episode is not whole; call reset()"
            )
        if count == 0 or (self._episodes and len(self._episodes) != count):
            raise InvalidInputError(
                f"{count} observations for {len(self._episodes) or 'no'} environments; call "
                "reset() before playing another number of them"
            )
        if rewards is not None and len(rewards) != count:
            raise InvalidInputError(f"{len(rewards)} rewards for {count} observations")
        plain = [self._observation(item) for item in observations]
        self._last = None
        if not last:
            self._episodes = [self._new() for _ in range(count)]
            for episode, observation in zip(self._episodes, plain, strict=True):
                with _typed_refusals():
                    self._reset(episode, observation)
            return self._episodes
        for index, item in enumerate(last):
            if item is None:
                self._episodes[index] = self._new()
                with _typed_refusals():
                    self._reset(self._episodes[index], plain[index])
                continue
            action, extra = item
            episode = self._episodes[index]
            reward = 0.0 if rewards is None else float(rewards[index])
            with _typed_refusals():
                self._step(episode, plain[index], action, reward, extra)
            if len(episode) > 4 * self._lookback:
                self._episodes[index] = episode.cut(len_lookback_buffer=self._lookback)
        return self._episodes

    def _observation(self, observation: Any) -> Any:
        return observation

    @abc.abstractmethod
    def take(self, actions: Any, for_env: Any, extra: Mapping[str, Any]) -> list[Any]:
        """Keep what the module decided; gives one environment action per episode."""

    @abc.abstractmethod
    def _new(self) -> Any: ...

    @abc.abstractmethod
    def _reset(self, episode: Any, observation: Any) -> None: ...

    @abc.abstractmethod
    def _step(
        self, episode: Any, observation: Any, action: Any, reward: float, extra: dict[str, Any]
    ) -> None: ...


class SingleAgentRows(EpisodeRows):
    """As ``env/single_agent_env_runner.py``: observations pass through a vector environment."""

    def _observation(self, observation: Any) -> Any:
        # A vector environment copies observations into arrays of the space's dtype.
        try:
            out = create_empty_array(self.observation_space, n=1)
            batch = concatenate(self.observation_space, [observation], out)
            return unbatch(batch)[0]
        except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise InvalidInputError(
                f"the observation {observation!r} is not of {self.observation_space}: {error}"
            ) from None

    def _new(self) -> SingleAgentEpisode:
        return SingleAgentEpisode(
            observation_space=self.observation_space, action_space=self.action_space
        )

    def _reset(self, episode: SingleAgentEpisode, observation: Any) -> None:
        episode.add_env_reset(observation=observation, infos={})

    def _step(
        self,
        episode: SingleAgentEpisode,
        observation: Any,
        action: Any,
        reward: float,
        extra: dict[str, Any],
    ) -> None:
        episode.add_env_step(
            observation=observation,
            action=action,
            reward=reward,
            infos={},
            extra_model_outputs=extra,
        )

    def take(self, actions: Any, for_env: Any, extra: Mapping[str, Any]) -> list[Any]:
        """Keep what the module decided; gives one environment action per episode."""
        count = len(self._episodes)
        taken = unbatch(actions)
        self._last = [
            (taken[index], {key: value[index] for key, value in extra.items()})
            for index in range(count)
        ]
        return list(iterate(batch_space(self.action_space, count), for_env))


class MultiAgentRows(EpisodeRows):
    """As ``env/multi_agent_env_runner.py``, with the one agent that is played."""

    def _new(self) -> MultiAgentEpisode:
        return MultiAgentEpisode(
            observation_space=self.observation_space,
            action_space=self.action_space,
            agent_to_module_mapping_fn=lambda *_args, **_kwargs: self.module_id,
        )

    def _reset(self, episode: MultiAgentEpisode, observation: Any) -> None:
        episode.add_env_reset(observations={self.agent: observation}, infos={})

    def _step(
        self,
        episode: MultiAgentEpisode,
        observation: Any,
        action: Any,
        reward: float,
        extra: dict[str, Any],
    ) -> None:
        episode.add_env_step(
            observations={self.agent: observation},
            actions={self.agent: action},
            rewards={self.agent: reward},
            infos={},
            extra_model_outputs={self.agent: extra},
        )

    def take(self, actions: Any, for_env: Any, extra: Mapping[str, Any]) -> list[Any]:
        """Keep what the module decided; gives one environment action per episode."""
        self._last = [
            (
                actions[index][self.agent],
                {key: value[index][self.agent] for key, value in extra.items()},
            )
            for index in range(len(self._episodes))
        ]
        return [for_env[index][self.agent] for index in range(len(self._episodes))]
