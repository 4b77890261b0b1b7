"""Act in environments with an exported file: numpy and onnxruntime, without torch and Ray."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from os import register_at_fork
from typing import TYPE_CHECKING, Any

import numpy as np

from policystore.digest import Digest
from policystore.display.html import block, fields, line
from policystore.display.pretty import print_text
from policystore.display.words import named, with_facts
from policystore.errors import FormatError, InvalidInputError
from policystore.format.arrays import Array
from policystore.format.canonical_json import JsonObject
from policystore.play.calls import (
    check_explore,
    check_row,
    check_rows,
    check_sessions,
    computed_nan,
    wrong_number,
)
from policystore.play.graph import Graph
from policystore.play.metadata import Metadata, StateInfo, TensorInfo
from policystore.play.observations import Nan, batch_of, is_batch, is_observation
from policystore.play.session import Session
from policystore.play.spaces import LeafSpace, leaves_of, read_space, unflatten
from policystore.spaces import space_from_json

if TYPE_CHECKING:
    from gymnasium.spaces import Space

__all__ = ["OnnxPlayer"]


class OnnxPlayer:
    """Acts in environments with the policy of an exported file.

    A player takes raw observations and returns the deterministic action, in the form that the
    environment takes. If the policy is recurrent, its state is kept between calls, until
    :meth:`reset`. The calls are those of the player that
    :func:`policystore.rllib.rebuild_player` makes, and return the same actions.

    Any number of threads may call a player. If the policy has no recurrent state, the calls run at
    the same time. If the policy has a recurrent state, the calls wait for each other, and run one
    at a time. :meth:`act` and :meth:`act_batch` play the player's rows, which all threads share. So
    each thread with an environment of its own takes a :meth:`session`. A player can be pickled and
    copied. The copy is a new player of the same file, without the episodes. After a fork, the
    player in the child process works and goes on with the episodes.

    Attributes:
        metadata: the metadata of the file: spaces, inputs, outputs and state.
        digest: the digest of the snapshot that was exported.
        contents: ``"player"``.
        observation_space_json, action_space_json: the environment's spaces in the form of
            ``docs/spaces.md``.
    """

    def __init__(
        self,
        data: bytes,
        metadata: Metadata,
        label: str,
        *,
        threads: int,
        providers: Sequence[Any],
        nan: Nan,
    ) -> None:
        """Open the graph of a file; :func:`policystore.play.load_player` checks the arguments."""
        self.metadata = metadata
        self.digest: Digest = metadata.digest
        self.contents = metadata.contents
        self.observation_space_json: JsonObject = metadata.observation_space
        self.action_space_json: JsonObject = metadata.action_space
        self._data, self._label = data, label
        self._options = {"threads": threads, "providers": tuple(providers), "nan": nan}
        self._nan = nan
        self._graph = Graph(data, metadata, label, threads=threads, providers=providers)
        self._lock = threading.Lock()
        _PLAYERS.add(self)
        self._observations = read_space(metadata.observation_space)
        self._actions = read_space(metadata.action_space)
        self._action_leaves = [leaf for _, leaf in leaves_of(self._actions)]
        # For each row of the last call, whether its episode goes on with the next call; and the
        # recurrent state of the rows, an array of shape (rows, …) for each part.
        self._running: list[bool] = []
        self._memory: list[Array] = []

    @property
    def observation_space(self) -> Space[Any]:
        """The environment's observation space, as an object of gymnasium.

        Raises:
            MissingPackageError: gymnasium is not installed.
        """
        return space_from_json(self.observation_space_json)

    @property
    def action_space(self) -> Space[Any]:
        """The environment's action space, as an object of gymnasium.

        Raises:
            MissingPackageError: gymnasium is not installed.
        """
        return space_from_json(self.action_space_json)

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (self._data, self.metadata, self._label, self._options)

    def __deepcopy__(self, memo: object) -> OnnxPlayer:
        return _remade(self._data, self.metadata, self._label, self._options)

    def __repr__(self) -> str:
        return f"<{named('OnnxPlayer', self.digest.short, self.metadata.algorithm)}>"

    def __str__(self) -> str:
        return with_facts(f"OnnxPlayer of {self.digest}", self._described())

    _repr_pretty_ = print_text

    def _repr_html_(self) -> str:
        title = line(f"OnnxPlayer of {self.digest.short}", heading=True)
        return block([title, fields(self._described())]).source

    def _described(self) -> dict[str, str]:
        """Return what a table shows of a player, in words."""
        remembers = bool(self.metadata.state)
        return {
            "observations": self._observations.words,
            "actions": self._actions.words,
            "algorithm": self.metadata.algorithm or "",
            "exported by": f"policystore {self.metadata.policystore}",
            "remembers of an episode": "until reset(), for each row" if remembers else "nothing",
            "episodes that go on": str(sum(self._running)) if remembers else "",
        }

    def act(self, obs: Any, explore: bool = False, *, reward: float | None = None) -> Any:
        """Return one action for one observation of one environment.

        Args:
            obs: an observation, as the environment returns it.
            explore: False. An exported file holds the deterministic action alone.
            reward: ignored. The players of policystore.rllib have this argument for policies that
                look at previous rewards; such policies are not exported.

        Returns:
            An action of the environment's action space: an int for a Discrete space, an array for
            Box, MultiDiscrete and MultiBinary; a dict or tuple of these. Arrays may be read-only.

        Raises:
            InvalidInputError: an argument is malformed, or the observation does not have the
                structure and shapes of the environment's space; or the observation or what the
                policy computes has NaN, and the player was not made with ``nan="allow"``. Nothing
                has changed.
        """
        del reward
        try:
            return self._act([obs], explore)[0]
        except InvalidInputError as error:
            if not is_batch(obs, self._observations):
                raise
            raise InvalidInputError(
                f"{error}. act takes a single observation, and these are several: act_batch(obs)"
            ) from None

    def act_batch(
        self, obs: Any, explore: bool = False, *, rewards: Sequence[float] | None = None
    ) -> list[Any]:
        """Return one action for each of several observations.

        Row ``i`` continues the episode of row ``i`` in the previous call, as in a vectorized
        environment: call ``reset(i)`` when that environment's episode ends, and :meth:`keep_rows`
        when environments leave. A policy without recurrent state takes any number of rows at any
        time.

        Args:
            obs: a list of observations; or arrays (in dicts and tuples, if the observation space
                has some) whose first axis is the rows, as vectorized environments return them.
            explore: as for :meth:`act`.
            rewards: ignored, as for :meth:`act`.

        Returns:
            One action for each row, as from :meth:`act`. No rows give no actions and change
            nothing.

        Raises:
            InvalidInputError: as for :meth:`act`; or a policy with a recurrent state got another
                number of rows than in the calls since the last ``reset()`` or ``keep_rows()``.
                Nothing has changed.
        """
        del rewards
        try:
            return self._act(obs, explore)
        except InvalidInputError:
            if not is_observation(obs, self._observations):
                raise
            raise InvalidInputError(
                "act_batch takes a list of observations, and this is a single observation: "
                "act(obs), or act_batch([obs])"
            ) from None

    def act_many(
        self,
        observations: Mapping[Session, Any],
        explore: bool = False,
        *,
        rewards: Mapping[Session, float] | None = None,
    ) -> dict[Session, Any]:
        """Return one action for each of several sessions, in one run of the graph.

        Args:
            observations: an observation for each session of this player that is to act.
            explore: as for :meth:`act`.
            rewards: ignored, as for :meth:`act`.

        Returns:
            An action for each session, as from :meth:`act`.

        Raises:
            InvalidInputError: as for :meth:`act`; or a session is closed or of another player.
                Nothing has changed.
        """
        del rewards
        check_explore(explore)
        sessions = check_sessions(observations, Session)
        arrays, count = batch_of(list(observations.values()), self._observations, self._nan)
        with self._turn():
            memories = [session._memory_of(self) for session in sessions]
            if not count:
                return {}
            memory = [np.stack(parts) for parts in zip(*memories, strict=True)]
            actions, memory = self._run(arrays, memory, count)
            for row, session in enumerate(sessions):
                # A copy, because a view would keep the state of all sessions of this call.
                session._memory = [part[row].copy() for part in memory]
        return dict(zip(sessions, actions, strict=True))

    def session(self) -> Session:
        """Return a new session: a client with an episode of its own.

        A session takes little memory and time, and may be made and used in any thread.
        :meth:`act_many` acts for many sessions in one call.
        """
        return Session(self, self._blank())

    def _restart(self, session: Session) -> None:
        """Let the next observation of a session begin an episode."""
        with self._lock:
            session._memory = self._blank()

    def reset(self, row: int | None = None) -> None:
        """Begin new episodes with the next observations.

        Args:
            row: a row of the last :meth:`act` or :meth:`act_batch` whose environment begins a new
                episode; None for all rows, and to play another number of environments.

        Raises:
            InvalidInputError: there is no such row.
        """
        with self._lock:
            if row is None:
                self._running, self._memory = [], []
                return
            index = check_row(row, len(self._running), "reset")
            self._running[index] = False
            for part, blank in zip(self._memory, self._blank(), strict=True):
                part[index] = blank

    def keep_rows(self, rows: Iterable[int]) -> None:
        """Keep only the episodes of some rows, in a new order; forget all others.

        The next call has one observation for each kept row: row ``i`` of the next call continues
        the episode of row ``rows[i]`` of the last call. ``keep_rows([])`` is the same as
        ``reset()``.

        Args:
            rows: rows of the last :meth:`act` or :meth:`act_batch`, each at most once.

        Raises:
            InvalidInputError: there is no such row, or a row is named twice. Nothing has changed.
        """
        with self._lock:
            kept = check_rows(rows, len(self._running))
            self._running = [self._running[row] for row in kept]
            self._memory = [part[kept] for part in self._memory] if kept else []

    def _act(self, batch: Any, explore: bool) -> list[Any]:
        check_explore(explore)
        arrays, count = batch_of(batch, self._observations, self._nan)
        if not count:
            return []
        with self._turn():
            if self.metadata.state and self._running and count != len(self._running):
                raise wrong_number(count, len(self._running))
            memory = self._memory or [
                np.repeat(blank[None], count, axis=0) for blank in self._blank()
            ]
            actions, self._memory = self._run(arrays, memory, count)
            self._running = [True] * count
            return actions

    def _turn(self) -> contextlib.AbstractContextManager[object]:
        """Return a context in which the state belongs to this thread; none without a state."""
        return self._lock if self.metadata.state else contextlib.nullcontext()

    def _blank(self) -> list[Array]:
        """Return the state at the first step of one episode."""
        return [np.zeros(part.shape, part.dtype) for part in self.metadata.state]

    def _run(
        self, arrays: list[Array], memory: list[Array], count: int
    ) -> tuple[list[Any], list[Array]]:
        """Return the actions of all rows, and their next state.

        Raises:
            FormatError: the graph gives outputs of another shape than its metadata say.
            InvalidInputError: the graph computes NaN, as it does if numbers overflow, and the
                player was not made with ``nan="allow"``.
        """
        outputs = self._graph.run([*arrays, *memory])
        expected: list[TensorInfo | StateInfo] = [*self.metadata.outputs, *self.metadata.state]
        shapes = [(count, *tensor.shape) for tensor in expected]
        if [output.shape for output in outputs] != shapes:
            raise FormatError(
                f"{self._label} contradicts its metadata: expected outputs of the shapes "
                f"{shapes}, found {[output.shape for output in outputs]}. Export the policy again"
            )
        if self._nan == "error":
            for output in outputs:
                if output.dtype.kind == "f" and np.isnan(output).any():
                    raise computed_nan(output)
        split = len(self.metadata.outputs)
        columns = [
            _column(output, leaf)
            for output, leaf in zip(outputs[:split], self._action_leaves, strict=True)
        ]
        if isinstance(self._actions, LeafSpace):
            return columns[0], outputs[split:]
        actions = [unflatten(self._actions, row) for row in zip(*columns, strict=True)]
        return actions, outputs[split:]


# A forked process has no other threads, so nobody would release a lock that one of them held.
_PLAYERS: weakref.WeakSet[OnnxPlayer] = weakref.WeakSet()


def _renew_locks() -> None:
    for player in _PLAYERS:
        player._lock = threading.Lock()


register_at_fork(after_in_child=_renew_locks)


def _remade(data: bytes, metadata: Metadata, label: str, options: Mapping[str, Any]) -> OnnxPlayer:
    return OnnxPlayer(data, metadata, label, **options)


def _column(output: Array, leaf: LeafSpace) -> list[Any]:
    """Return one part of the actions of all rows."""
    if leaf.kind == "Discrete":
        numbers: list[Any] = output.tolist()
        return numbers
    # list() would make numpy scalars of rows without axes, which gymnasium warns of.
    return [np.asarray(action) for action in output]
