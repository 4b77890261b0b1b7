"""What plays a policy inside a player, and the memory of one environment's episode."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

from ray.rllib.utils.typing import EnvActionType

from policystore.rllib.playing.nets import without_distribution

__all__ = ["Engine", "Slot"]


class Engine(abc.ABC):
    """Takes steps with a policy in environments.

    What the policy remembers of an episode is an object of its own for each environment, which the
    caller keeps between two steps. Dropping the object forgets the episode.

    Attributes:
        remembers: whether the policy or a connector remembers anything from one step of an episode
            to the next.
        reads_rewards: whether the policy or a connector looks at the rewards of previous actions.
        concurrent: whether several threads may call the engine at once.
        memory_layout: two engines of the same class with equal values can go on with each other's
            memories. None if no other engine can.
    """

    remembers: bool
    reads_rewards: bool
    concurrent: bool
    memory_layout: object

    @abc.abstractmethod
    def read(self, rows: Sequence[Any]) -> Any:
        """Return observations, one for each environment, in the form that :meth:`step` takes.

        Raises:
            InvalidInputError: an observation is not of the environment's space. Nothing changed.
        """

    def read_arrays(self, batch: Any) -> tuple[int, Any] | None:
        """Return the number of rows of a batch of arrays, and what :meth:`read` returns for them.

        Returns:
            None to split the batch into rows first.

        Raises:
            InvalidInputError: as :meth:`read`.
        """
        return None

    def step(
        self,
        memories: Sequence[Any],
        observations: Any,
        explore: bool,
        rewards: Sequence[float] | None,
    ) -> tuple[list[EnvActionType], Sequence[Any]]:
        """Take one step in each of several environments.

        Args:
            memories: what the last step of each environment returned; None begins an episode. After
                an error, the episodes of these memories are not whole.
            observations: what :meth:`read` returned, of as many environments.
            explore: whether actions are sampled.
            rewards: of the previous actions; None for 0.0 each.

        Returns:
            The actions, and the new memories.

        Raises:
            InvalidInputError: the network computed something of which no action can be made.
        """
        try:
            return self._step(memories, observations, explore, rewards)
        except (ValueError, RuntimeError) as error:
            known = without_distribution(error)
            if known is None:
                raise
            raise known from error

    @abc.abstractmethod
    def _step(
        self,
        memories: Sequence[Any],
        observations: Any,
        explore: bool,
        rewards: Sequence[float] | None,
    ) -> tuple[list[EnvActionType], Sequence[Any]]:
        """Take one step; see :meth:`step`."""

    def tidy(self) -> None:  # noqa: B027
        """Free what belongs to memories that were dropped."""

    def hand_over(self, other: Engine) -> bool:
        """Let another engine go on with the memories of this one.

        Returns:
            Whether the other engine can; if not, nothing has changed.
        """
        return (
            type(other) is type(self)
            and self.memory_layout is not None
            and self.memory_layout == other.memory_layout
        )


class Slot:
    """One environment whose episode a player plays: a row of a batch, or a session.

    Attributes:
        memory: what the engine remembers of the episode; None before its first step.
        running: whether the episode goes on with the next step.
        interrupted: whether a step began and did not end, so that the memory is not whole.
    """

    __slots__ = ("_era", "interrupted", "memory", "running")

    def __init__(self, era: object) -> None:
        self._era = era
        self.restart()

    def restart(self) -> None:
        """Let the next observation begin an episode."""
        self.memory: Any = None
        self.running = False
        self.interrupted = False

    def enter(self, era: object) -> None:
        """Begin a new episode if the player has begun another era since the last step.

        Args:
            era: the player's present one. A player begins another era when it forgets all episodes.
        """
        if self._era is not era:
            self._era = era
            self.restart()
