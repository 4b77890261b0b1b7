"""A client of a player, with an episode of its own."""

from __future__ import annotations

import abc
from typing import Any, NoReturn, Protocol, TypeVar

from policystore.errors import InvalidInputError
from policystore.format.arrays import Array

__all__ = ["ClientSession", "NotPicklableError", "Session"]

_Session = TypeVar("_Session", bound="ClientSession")


class NotPicklableError(InvalidInputError, TypeError):
    """Something is pickled or copied that cannot be. Libraries that pickle expect a TypeError."""


class _SessionPlayer(Protocol):
    """What a session needs of its player."""

    def act_many(
        self, observations: Any, explore: bool = False, *, rewards: Any = None
    ) -> dict[Any, Any]: ...

    def _restart(self, session: Session) -> None: ...


class ClientSession(abc.ABC):
    """What the sessions of all players share: who made a session, and whether it is closed."""

    __slots__ = ("__weakref__", "_closed", "_player")

    def __init__(self, player: Any) -> None:
        self._player = player
        self._closed = False

    def __repr__(self) -> str:
        state = "closed session" if self._closed else "session"
        return f"<{state} of {self._player!r}>"

    def __enter__(self: _Session) -> _Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise NotPicklableError(
            "a session belongs to the player that made it, and cannot be pickled or copied: pickle "
            "the player, and call session() of the player in the other process"
        )

    @abc.abstractmethod
    def close(self) -> None:
        """Forget the episode; the session cannot be used any more. A second call does nothing."""

    def _check(self, player: object) -> None:
        """Check that the session is open, and was made by a player.

        Raises:
            InvalidInputError: the session is closed, or belongs to another player.
        """
        if self._player is not player:
            raise InvalidInputError(
                f"{self!r} belongs to another player than {player!r}: call session() of the player "
                "that acts"
            )
        if self._closed:
            raise InvalidInputError(f"{self!r} is used after close(): make another session")


class Session(ClientSession):
    """One client of a player: an environment with an episode of its own.

    :meth:`policystore.play.OnnxPlayer.session` makes sessions, in any number. A session holds the
    recurrent state of one episode, and nothing else. A session may be used from any thread. The
    calls are those of a session of :mod:`policystore.rllib`.
    """

    __slots__ = ("_memory",)

    _player: _SessionPlayer

    def __init__(self, player: _SessionPlayer, memory: list[Array]) -> None:
        super().__init__(player)
        self._memory = memory

    def act(self, obs: Any, explore: bool = False, *, reward: float | None = None) -> Any:
        """Return one action for one observation of this session's environment.

        The arguments, the result and the errors are those of
        :meth:`policystore.play.OnnxPlayer.act`.

        Raises:
            InvalidInputError: also if the session is closed.
        """
        del reward
        return self._player.act_many({self: obs}, explore)[self]

    def reset(self) -> None:
        """Begin a new episode with the next observation.

        Raises:
            InvalidInputError: the session is closed.
        """
        self._memory_of(self._player)
        self._player._restart(self)

    def close(self) -> None:
        """Forget the episode; the session cannot be used any more. A second call does nothing."""
        self._closed = True
        self._memory = []

    def _memory_of(self, player: object) -> list[Array]:
        """Return the state of the session, for its player.

        Raises:
            InvalidInputError: the session is closed, or belongs to another player.
        """
        self._check(player)
        return self._memory
