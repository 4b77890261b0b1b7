"""The calls of a player, the same on both API stacks: ``act``, ``act_batch``, ``reset``."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from ray.rllib.utils.typing import EnvActionType, EnvObsType

from policystore.errors import InvalidInputError
from policystore.rllib.common.player_args import PlayerArguments
from policystore.rllib.common.player_calls import check_explore, check_rewards, check_row
from policystore.rllib.common.player_observations import as_observation, rows_of

__all__ = ["Player"]


class Player(abc.ABC):
    """Acts in environments with the policy of a snapshot.

    A player takes raw observations and returns actions in the form that the environment takes. If
    the policy or its connectors remember something of an episode, the memory is kept between calls,
    until :meth:`reset`. Not for use from several threads at once.

    Attributes:
        observation_space, action_space: the environment's (one agent's).
    """

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    # Set by the constructors of both players: whether the policy or a connector remembers anything
    # from one step of an episode to the next, and whether one of them reads previous rewards.
    _remembers: bool
    _reads_rewards: bool

    def __init__(self, arguments: PlayerArguments) -> None:
        self.observation_space = arguments.observation_space
        self.action_space = arguments.action_space
        # For each row of the last call, whether its episode goes on with the next call.
        self._running: list[bool] = []
        self._interrupted = False

    def act(
        self, obs: EnvObsType, explore: bool = False, *, reward: float | None = None
    ) -> EnvActionType:
        """Return one action for one observation of one environment.

        Args:
            obs: an observation, as the environment returns it.
            explore: sample an action as in training, instead of taking the deterministic one.
            reward: the reward of the previous action. Needed by policies that look at previous
                rewards, at each step but an episode's first; ignored by all others.

        Returns:
            An action of the environment's action space: a numpy scalar or array, or a dict or
            tuple of these. Arrays may be read-only.

        Raises:
            InvalidInputError: an argument is malformed or missing, or the observation does not
                have the structure and shapes of the environment's space.
        """
        return self.act_batch([obs], explore, rewards=None if reward is None else [reward])[0]

    def act_batch(
        self, obs: Any, explore: bool = False, *, rewards: Sequence[float] | None = None
    ) -> list[EnvActionType]:
        """Return one action for each of several observations.

        Row ``i`` continues the episode of row ``i`` in the previous call, as in a vectorized
        environment: call ``reset(i)`` when that environment's episode ends. A policy that
        remembers nothing takes any number of rows at any time. A connector counts as one that
        remembers, unless policystore knows that the connector has no memory.

        Args:
            obs: a list of observations; or arrays (in dicts and tuples, if the observation space
                has some) whose first axis is the rows, as vectorized environments return them.
            explore: as for :meth:`act`, for all rows.
            rewards: rewards of the previous actions, one for each row. Those of rows that begin an
                episode are ignored.

        Returns:
            One action for each row, as from :meth:`act`. No rows give no actions and change
            nothing.

        Raises:
            InvalidInputError: as for :meth:`act`; or a policy that remembers got another number of
                rows than in the calls since the last ``reset()``; or the previous call failed after
                it had begun to step, and ``reset()`` was not called since. A call with malformed
                arguments changes nothing.
        """
        explore = check_explore(explore)
        rows = rows_of(obs, self.observation_space)
        checked_rewards = check_rewards(rewards, len(rows))
        if not rows:
            return []
        if self._interrupted:
            raise InvalidInputError(
                "the previous call failed halfway, so the episodes are not whole; call reset()"
            )
        resized = bool(self._running) and len(rows) != len(self._running)
        if resized and self._remembers:
            raise InvalidInputError(
                f"{len(rows)} observations for {len(self._running)} environments: this policy "
                "remembers each environment's episode; call reset() before playing another number "
                "of them"
            )
        if checked_rewards is None and self._reads_rewards and any(self._running):
            raise InvalidInputError(
                "this policy looks at previous rewards, so each step but an episode's first takes "
                "the reward of the previous action: act(obs, reward=…), "
                "act_batch(obs, rewards=[…]); call reset() at the start of an episode"
            )
        observations = [self._observation(row, f"observation {i}") for i, row in enumerate(rows)]
        if resized:
            self.reset()
        self._interrupted = True
        actions = self._step(observations, explore, checked_rewards)
        self._interrupted = False
        self._running = [True] * len(rows)
        return actions

    def reset(self, row: int | None = None) -> None:
        """Begin new episodes with the next observations.

        Args:
            row: a row of the last :meth:`act` or :meth:`act_batch` whose environment begins a new
                episode; None for all rows, and to play another number of environments.

        Raises:
            InvalidInputError: there is no such row.
        """
        if row is None:
            self._forget()
            self._running = []
            self._interrupted = False
            return
        index = check_row(row, len(self._running))
        self._forget_row(index)
        self._running[index] = False

    def _observation(self, obs: Any, label: str) -> EnvObsType:
        """Return an observation in the form that the API stack's pipelines take.

        Raises:
            InvalidInputError: the observation is not of the environment's space.
        """
        return as_observation(obs, self.observation_space, label)

    @abc.abstractmethod
    def _step(
        self, observations: list[EnvObsType], explore: bool, rewards: list[float] | None
    ) -> list[EnvActionType]:
        """Take one step in each of several environments; return the actions."""

    @abc.abstractmethod
    def _forget(self) -> None:
        """Forget all episodes."""

    @abc.abstractmethod
    def _forget_row(self, row: int) -> None:
        """Forget the episode of one row."""
