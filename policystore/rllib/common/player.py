"""The calls of a player, which are the same on both API stacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ray.rllib.utils.typing import EnvActionType, EnvObsType

from policystore.errors import InvalidInputError
from policystore.play.calls import check_row, check_rows, wrong_number
from policystore.rllib.common.player_base import PlayerBase
from policystore.rllib.common.player_calls import (
    check_explore,
    check_rewards,
    check_sessions,
    session_rewards,
)
from policystore.rllib.playing.engine import Engine, Slot
from policystore.rllib.playing.observations import is_batch, is_observation, rows_of
from policystore.rllib.playing.session import Session

__all__ = ["Player"]


class Player(PlayerBase):
    """Acts in environments with the policy of a snapshot.

    A player takes raw observations and returns actions in the form that the environment takes. If
    the policy or its connectors remember something of an episode, the memory is kept between calls,
    until :meth:`reset`.

    Any number of threads may call a player. The calls of a player with memory wait for each other,
    and run one at a time. :meth:`act` and :meth:`act_batch` play the player's rows, which all
    threads share: two threads that play two environments with these calls would mix two episodes,
    so each thread takes a :meth:`session`. After a fork, the player in the child process works,
    also if a thread of the parent process was in a call. The episodes of that call are then not
    whole, and need a reset.

    A player can be pickled and copied. The copy is a new player of the same snapshot and arguments,
    without the episodes. The caller's own ``connectors=`` are pickled or copied, too. Changes that
    the caller made to the rebuilt module or policy are not in the copy.

    Attributes:
        observation_space, action_space: the environment's (one agent's).
        digest: the digest of the snapshot that plays.
    """

    def session(self) -> Session:
        """Return a new session: a client with an episode of its own.

        A session takes little memory and time, and may be made and used in any thread. The memory
        of its episode is freed with the session, or by ``close()`` of the session.
        :meth:`act_many` acts for many sessions in one call.
        """
        return Session(self, Slot(self._era))

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
            An action of the environment's action space: an int for a Discrete space, an array for
            Box, MultiDiscrete and MultiBinary; a dict or tuple of these. Arrays may be read-only.

        Raises:
            InvalidInputError: an argument is malformed or missing, or the observation does not have
                the structure and shapes of the environment's space, or has NaN; or the policy's
                network computed NaN or an infinite action.
        """
        try:
            return self._act([obs], None, explore, None if reward is None else [reward])[0]
        except InvalidInputError as error:
            if not is_batch(obs, self.observation_space):
                raise
            raise InvalidInputError(
                f"{error}. act takes a single observation, and these are several: act_batch(obs)"
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
            rewards: rewards of the previous actions, one for each row. The rewards of rows that
                begin an episode are ignored.

        Returns:
            One action for each row, as from :meth:`act`. No rows give no actions and change
            nothing.

        Raises:
            InvalidInputError: as for :meth:`act`; or a policy that remembers got another number of
                rows than in the calls since the last ``reset()`` or ``keep_rows()``; or the
                previous call of such a policy failed after it had begun to step, and ``reset()``
                was not called since. A call with malformed arguments changes nothing.
        """
        try:
            return self._act(None, obs, explore, rewards)
        except InvalidInputError:
            if not is_observation(obs, self.observation_space):
                raise
            raise InvalidInputError(
                "act_batch takes a list of observations, and this is a single observation: "
                "act(obs), or act_batch([obs])"
            ) from None

    def act_many(
        self,
        observations: Mapping[Session, EnvObsType],
        explore: bool = False,
        *,
        rewards: Mapping[Session, float] | None = None,
    ) -> dict[Session, EnvActionType]:
        """Return one action for each of several sessions, computed together.

        Args:
            observations: an observation for each session of this player that is to act. Messages
                count the observations in the order of this dict.
            explore: as for :meth:`act`, for all sessions.
            rewards: rewards of the previous actions, by session. Needed by policies that look at
                previous rewards, for each session but those that begin an episode.

        Returns:
            An action for each session, as from :meth:`act`.

        Raises:
            InvalidInputError: as for :meth:`act`; or a session is closed or of another player, or
                an earlier call with the session failed after it had begun to step, and ``reset()``
                of the session was not called since. A call with malformed arguments changes
                nothing.
        """
        explore = check_explore(explore)
        slots = check_sessions(observations, self)
        checked_rewards = session_rewards(rewards, observations)
        if not slots:
            return {}
        engine = self._engine  # read once: another thread may replace it
        if engine.concurrent:
            read = engine.read(list(observations.values()))
            actions, _ = engine.step([None] * len(slots), read, explore, None)
            return dict(zip(observations, actions, strict=True))
        with self._lock:
            engine = self._engine
            for slot in slots:
                slot.enter(self._era)
            _check_whole(engine, slots, "the episode of a session is")
            listed: list[float] | None = None
            if engine.reads_rewards:
                listed = [0.0 if reward is None else reward for reward in checked_rewards]
                if any(
                    slot.running and reward is None
                    for slot, reward in zip(slots, checked_rewards, strict=True)
                ):
                    raise InvalidInputError(_reward_advice("act_many(…, rewards={session: …})"))
            read = engine.read(list(observations.values()))
            actions = _take_step(engine, slots, read, explore, listed)
            return dict(zip(observations, actions, strict=True))

    def _act(
        self,
        rows: list[Any] | None,
        batch: Any,
        explore: bool,
        rewards: Sequence[float] | None,
    ) -> list[EnvActionType]:
        """Check the arguments of :meth:`act` and :meth:`act_batch`, and take a step in each row.

        Args:
            rows: the observations; None to find them in ``batch``.
            batch: the observations as the caller of :meth:`act_batch` gave them.
            explore, rewards: as for :meth:`act_batch`.
        """
        explore = check_explore(explore)
        engine = self._engine  # read once: another thread may replace it
        if engine.concurrent:
            return self._act_at_once(engine, rows, batch, explore, rewards)
        if rows is None and not isinstance(batch, (np.ndarray, Mapping)):
            rows = rows_of(batch, self.observation_space)  # may call code of the caller's
        with self._lock:
            engine, slots = self._engine, self._rows
            read = None if rows is not None else engine.read_arrays(batch)
            if rows is None and read is None:
                rows = rows_of(batch, self.observation_space)
            count = read[0] if read is not None else len(rows or [])
            checked_rewards = check_rewards(rewards, count)
            if not count:
                return []
            _check_whole(engine, slots, "the episodes are")
            resized = bool(slots) and count != len(slots)
            if resized and engine.remembers:
                raise wrong_number(count, len(slots))
            if (
                checked_rewards is None
                and engine.reads_rewards
                and any(slot.running for slot in slots)
            ):
                raise InvalidInputError(
                    _reward_advice("act(obs, reward=…), act_batch(obs, rewards=[…])")
                )
            observations = read[1] if read is not None else engine.read(rows or [])
            if not slots or resized:
                slots = self._rows = [Slot(self._era) for _ in range(count)]
            self._count = count
            return _take_step(engine, slots, observations, explore, checked_rewards)

    def _act_at_once(
        self,
        engine: Engine,
        rows: list[Any] | None,
        batch: Any,
        explore: bool,
        rewards: Sequence[float] | None,
    ) -> list[EnvActionType]:
        """Act with a policy without memory, beside other threads; see :meth:`_act`."""
        observations = None
        if rows is None:
            arrays = engine.read_arrays(batch)
            if arrays is None:
                rows = rows_of(batch, self.observation_space)
                count = len(rows)
            else:
                count, observations = arrays
        else:
            count = len(rows)
        if rewards is not None:
            check_rewards(rewards, count)
        if not count:
            return []
        if observations is None:
            observations = engine.read(rows or [])
        actions, _ = engine.step([None] * count, observations, explore, None)
        self._count = count
        return actions

    def reset(self, row: int | None = None) -> None:
        """Begin new episodes with the next observations. Sessions go on.

        Args:
            row: a row of the last :meth:`act` or :meth:`act_batch` whose environment begins a new
                episode; None for all rows, and to play another number of environments.

        Raises:
            InvalidInputError: there is no such row.
        """
        with self._lock:
            if row is None:
                self._forget_rows()
            else:
                index = check_row(row, self._count, "reset")
                if self._rows:
                    self._rows[index].restart()
            self._engine.tidy()

    def keep_rows(self, rows: Iterable[int]) -> None:
        """Keep only the episodes of some rows, in a new order; forget all others.

        The next call has one observation for each kept row: row ``i`` of the next call continues
        the episode of row ``rows[i]`` of the last call. Recurrent state, the memory of connectors,
        and whether an episode has begun, go with the episode. So agents can leave, and the others
        go on. ``keep_rows([])`` is the same as ``reset()``.

        The memory of a connector of the caller's own goes with the episode if the connector stores
        its memory by episode, as RLlib's own connectors do: by ``episode.id_`` on the new API
        stack, by ``env_id`` on the old one. A connector that counts rows keeps its memory as it is,
        also after ``reset(row)``.

        Args:
            rows: rows of the last :meth:`act` or :meth:`act_batch`, each at most once.

        Raises:
            InvalidInputError: there is no such row, a row is named twice, or the previous call
                failed after it had begun to step. Nothing has changed.
        """
        with self._lock:
            kept = check_rows(rows, self._count)
            _check_whole(self._engine, self._rows, "the episodes are")
            if self._rows:
                self._rows = [self._rows[row] for row in kept]
            self._count = len(kept)
            self._engine.tidy()

    def _restart(self, slot: Slot) -> None:
        """Let the next observation of a session begin an episode."""
        with self._lock:
            slot.restart()
            self._engine.tidy()


def _check_whole(engine: Engine, slots: Sequence[Slot], subject: str) -> None:
    """Refuse to go on with episodes in which a step began and did not end.

    A policy without memory needs no whole episode, and begins anew.
    """
    for slot in slots:
        if slot.interrupted and engine.remembers:
            raise InvalidInputError(
                f"the previous call failed halfway, so {subject} not whole; call reset()"
            )
        if slot.interrupted:
            slot.restart()


def _take_step(
    engine: Engine,
    slots: Sequence[Slot],
    observations: Any,
    explore: bool,
    rewards: list[float] | None,
) -> list[EnvActionType]:
    """Take one step in each environment; if the step fails, their episodes are not whole."""
    before = [slot.memory for slot in slots]
    for slot in slots:
        slot.interrupted = True
    actions, after = engine.step(before, observations, explore, rewards)
    for slot, memory in zip(slots, after, strict=True):
        slot.memory, slot.running, slot.interrupted = memory, True, False
    return actions


def _reward_advice(calls: str) -> str:
    return (
        "this policy looks at previous rewards, so each step but an episode's first takes the "
        f"reward of the previous action: {calls}; call reset() at the start of an episode"
    )
