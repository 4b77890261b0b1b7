"""The calls of a player, which are the same on both API stacks."""

from __future__ import annotations

import abc
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import gymnasium as gym
from ray.rllib.utils.typing import EnvActionType, EnvObsType

from policystore.errors import InvalidInputError
from policystore.rllib.common.player_args import PlayerArguments
from policystore.rllib.common.player_calls import (
    check_explore,
    check_rewards,
    check_row,
    check_rows,
)
from policystore.rllib.common.player_observations import (
    as_observation,
    is_batch,
    is_observation,
    rows_of,
)

__all__ = ["Player"]


class _NotPicklableError(InvalidInputError, TypeError):
    """A player is pickled or copied. Libraries that pickle expect a TypeError."""


class Player(abc.ABC):
    """Acts in environments with the policy of a snapshot.

    A player takes raw observations and returns actions in the form that the environment takes. If
    the policy or its connectors remember something of an episode, the memory is kept between calls,
    until :meth:`reset`.

    A player is for one thread at a time: a call during another call raises InvalidInputError. For
    several threads, make one player in each thread. A player cannot be pickled or copied: send the
    snapshot, or a ref of it, and call ``rebuild_player`` in the other process.

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
        self._in_use = _InUse()

    def __reduce__(self) -> NoReturn:
        raise _NotPicklableError(
            f"a {type(self).__name__} cannot be pickled, copied or sent to another process: send "
            "the snapshot, or a ref such as 'soccer/main@7', and call rebuild_player(snap) in the "
            "other process"
        )

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
            InvalidInputError: an argument is malformed or missing, the observation does not have
                the structure and shapes of the environment's space, or another thread uses the
                player.
        """
        with self._in_use:
            try:
                return self._act([obs], explore, None if reward is None else [reward])[0]
            except InvalidInputError as error:
                if not is_batch(obs, self.observation_space):
                    raise
                raise InvalidInputError(
                    f"{error}. act takes a single observation, and these are several: "
                    "act_batch(obs)"
                ) from None

    def act_batch(
        self, obs: Any, explore: bool = False, *, rewards: Sequence[float] | None = None
    ) -> list[EnvActionType]:
        """Return one action for each of several observations.

        Row ``i`` continues the episode of row ``i`` in the previous call, as in a vectorized
        environment: call ``reset(i)`` when that environment's episode ends, and :meth:`keep_rows`
        when environments leave. A policy that remembers nothing takes any number of rows at any
        time. A connector counts as one that remembers, unless policystore knows that the connector
        has no memory.

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
                rows than in the calls since the last ``reset()`` or ``keep_rows()``; or the
                previous call failed after it had begun to step, and ``reset()`` was not called
                since. A call with malformed arguments changes nothing.
        """
        with self._in_use:
            try:
                return self._act(rows_of(obs, self.observation_space), explore, rewards)
            except InvalidInputError:
                if not is_observation(obs, self.observation_space):
                    raise
                raise InvalidInputError(
                    "act_batch takes a list of observations, and this is a single observation: "
                    "act(obs), or act_batch([obs])"
                ) from None

    def _act(
        self, rows: list[Any], explore: bool, rewards: Sequence[float] | None
    ) -> list[EnvActionType]:
        """Check the arguments of :meth:`act` and :meth:`act_batch`, and take a step in each row."""
        explore = check_explore(explore)
        checked_rewards = check_rewards(rewards, len(rows))
        if not rows:
            return []
        if self._interrupted:
            raise InvalidInputError(
                "the previous call failed halfway, so the episodes are not whole; call reset()"
            )
        resized = bool(self._running) and len(rows) != len(self._running)
        if resized and self._remembers:
            raise self._wrong_number(len(rows))
        if checked_rewards is None and self._reads_rewards and any(self._running):
            raise InvalidInputError(
                "this policy looks at previous rewards, so each step but an episode's first takes "
                "the reward of the previous action: act(obs, reward=…), "
                "act_batch(obs, rewards=[…]); call reset() at the start of an episode"
            )
        observations = [self._observation(row, f"observation {i}") for i, row in enumerate(rows)]
        if resized:
            self._forget_all()
        self._interrupted = True
        actions = self._step(observations, explore, checked_rewards)
        self._interrupted = False
        self._running = [True] * len(rows)
        return actions

    def _wrong_number(self, count: int) -> InvalidInputError:
        """Return the error for another number of rows than there are episodes."""
        advice = (
            "If environments have left, call keep_rows([…]) first, with the rows of the others."
            if count < len(self._running)
            else "Further environments can join only when all episodes begin anew; or play them "
            "with a player of their own."
        )
        return InvalidInputError(
            f"{count} observations for {len(self._running)} environments: this policy remembers "
            f"each environment's episode. {advice} reset() forgets all episodes."
        )

    def reset(self, row: int | None = None) -> None:
        """Begin new episodes with the next observations.

        Args:
            row: a row of the last :meth:`act` or :meth:`act_batch` whose environment begins a new
                episode; None for all rows, and to play another number of environments.

        Raises:
            InvalidInputError: there is no such row, or another thread uses the player.
        """
        with self._in_use:
            if row is None:
                self._forget_all()
                return
            index = check_row(row, len(self._running), "reset")
            self._forget_row(index)
            self._running[index] = False

    def keep_rows(self, rows: Iterable[int]) -> None:
        """Keep only the episodes of some rows, in a new order; forget all others.

        The next call has one observation for each kept row: row ``i`` of the next call continues
        the episode of row ``rows[i]`` of the last call. Recurrent state, the memory of connectors,
        and whether an episode has begun, follow the episode. So agents can leave, and the others go
        on. ``keep_rows([])`` is the same as ``reset()``.

        A connector of the caller's own follows if it keeps its memory by episode, as RLlib's own
        connectors do: by ``episode.id_`` on the new API stack, by ``env_id`` on the old one. The
        memory of a connector that counts rows stays where it is, as it does in ``reset(row)``.

        Args:
            rows: rows of the last :meth:`act` or :meth:`act_batch`, each at most once.

        Raises:
            InvalidInputError: there is no such row, a row is named twice, the previous call failed
                after it had begun to step, or another thread uses the player. Nothing has changed.
        """
        with self._in_use:
            kept = check_rows(rows, len(self._running))
            if self._interrupted:
                raise InvalidInputError(
                    "the previous call failed halfway, so the episodes are not whole; call reset()"
                )
            if not kept:
                self._forget_all()
                return
            self._keep(kept)
            self._running = [self._running[row] for row in kept]

    def _forget_all(self) -> None:
        self._forget()
        self._running = []
        self._interrupted = False

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

    @abc.abstractmethod
    def _keep(self, rows: list[int]) -> None:
        """Forget the episodes of all rows but these, and put these into this order."""


class _InUse:
    """A context that one thread at a time can be in; it never waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise InvalidInputError(
                "a player is for one thread at a time, and another call of this player has not "
                "returned: make one player for each thread, rebuild_player(snap) in each"
            )

    def __exit__(self, *_: object) -> None:
        self._lock.release()
