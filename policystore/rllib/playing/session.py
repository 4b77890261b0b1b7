"""A client of a player, with an episode of its own."""

from __future__ import annotations

from typing import Any, Protocol

from ray.rllib.utils.typing import EnvActionType, EnvObsType

from policystore.play.session import ClientSession
from policystore.rllib.playing.engine import Slot

__all__ = ["Session"]


class _SessionPlayer(Protocol):
    """What a session needs of its player."""

    def act_many(
        self, observations: Any, explore: bool = False, *, rewards: Any = None
    ) -> dict[Any, EnvActionType]: ...

    def _restart(self, slot: Slot) -> None: ...


class Session(ClientSession):
    """One client of a player: an environment with an episode of its own.

    :meth:`policystore.rllib.common.player.Player.session` makes sessions. A session may be used
    from any thread. If the policy has memory, the calls of all sessions of a player wait for each
    other. What the policy remembers of the episode is freed with the session.
    """

    __slots__ = ("_slot",)

    _player: _SessionPlayer

    def __init__(self, player: _SessionPlayer, slot: Slot) -> None:
        super().__init__(player)
        self._slot = slot

    def act(
        self, obs: EnvObsType, explore: bool = False, *, reward: float | None = None
    ) -> EnvActionType:
        """Return one action for one observation of this session's environment.

        The arguments, the result and the errors are those of
        :meth:`policystore.rllib.common.player.Player.act`.

        Raises:
            InvalidInputError: also if the session is closed.
        """
        rewards = None if reward is None else {self: reward}
        return self._player.act_many({self: obs}, explore, rewards=rewards)[self]

    def reset(self) -> None:
        """Begin a new episode with the next observation.

        Raises:
            InvalidInputError: the session is closed.
        """
        self._slot_of(self._player)
        self._player._restart(self._slot)

    def close(self) -> None:
        """Forget the episode; the session cannot be used any more. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._player._restart(self._slot)

    def _slot_of(self, player: object) -> Slot:
        """Return the memory of the session, for its player.

        Raises:
            InvalidInputError: the session is closed, or belongs to another player.
        """
        self._check(player)
        return self._slot
