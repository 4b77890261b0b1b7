"""What a player holds, shows and hands on: to a copy, to another process, to a newer policy."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import gymnasium as gym

from policystore._util.messages import brief, shorten
from policystore.digest import Digest
from policystore.display.html import block, fields, line
from policystore.display.pretty import print_text
from policystore.display.words import named, with_facts
from policystore.errors import InvalidInputError, MismatchError
from policystore.play.session import NotPicklableError
from policystore.rllib.common.player_args import PlayerArguments, spaces_mismatch
from policystore.rllib.playing.engine import Engine, Slot
from policystore.rllib.playing.followed import Followed
from policystore.rllib.playing.lock import CallLock
from policystore.snapshot import Snapshot

__all__ = ["PlayerBase"]

_Player = TypeVar("_Player", bound="PlayerBase")
# What stays when a player takes over the policy of another one. Rows and sessions are handed over
# by the engines.
_OWN = frozenset({"_lock", "_rows", "_count", "_era", "_gate", "_following"})


class PlayerBase(Followed):
    """Holds the policy that a player plays, and the episodes of its rows.

    Args:
        snap: the snapshot that plays.
        arguments: the checked arguments of the player.
        given: the arguments that make an equal player of another snapshot.

    Attributes:
        observation_space, action_space: the environment's (one agent's).
        digest: the digest of the snapshot that plays.
    """

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    digest: Digest
    # Set by the constructors of both players.
    _engine: Engine

    def __init__(
        self, snap: Snapshot, arguments: PlayerArguments, given: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self._snap = snap
        self._given = dict(given)
        self.observation_space = arguments.observation_space
        self.action_space = arguments.action_space
        self.digest = arguments.digest
        self._facts = {
            "algorithm": arguments.algorithm or "",
            "module": arguments.module_id or "",
            "agent": "" if arguments.agent is None else brief(arguments.agent),
            "actions are unsquashed": "yes" if arguments.normalize_actions else "no",
            "actions are clipped": "yes" if arguments.clip_actions else "no",
        }
        self._lock = CallLock(f"a {type(self).__name__}")
        self._era = object()
        # The environments of the last act or act_batch; of an engine without memory, their number.
        self._rows: list[Slot] = []
        self._count = 0

    def __repr__(self) -> str:
        return f"<{named(type(self).__name__, self.digest.short, self._facts['algorithm'])}>"

    def __str__(self) -> str:
        return with_facts(f"{type(self).__name__} of {self.digest}", self._described())

    _repr_pretty_ = print_text

    def _repr_html_(self) -> str:
        title = line(f"{type(self).__name__} of {self.digest.short}", heading=True)
        return block([title, fields(self._described())]).source

    def _described(self) -> dict[str, str]:
        """Return what a table shows of a player, in words."""
        remembers = self._engine.remembers
        return {
            "plays": self.ref or "",
            "follows": "" if self.following is None else repr(self.following),
            "observations": shorten(str(self.observation_space), 400),
            "actions": shorten(str(self.action_space), 400),
            **self._facts,
            "remembers of an episode": "until reset(), for each row" if remembers else "nothing",
            "episodes that go on": str(sum(row.running for row in self._rows)) if remembers else "",
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (type(self), self._snap, self._copied_arguments())

    def __copy__(self: _Player) -> _Player:
        return self._rebuild(self._snap)

    def __deepcopy__(self: _Player, memo: object) -> _Player:
        return self._rebuild(self._snap)

    def _rebuild(self: _Player, snap: Snapshot) -> _Player:
        """Return a fresh player of a snapshot, with the arguments of this player.

        This player goes on meanwhile. The caller's own connectors are copied.

        Raises:
            InvalidInputError: also if the caller's connectors cannot be copied.
        """
        return _remade(type(self), snap, self._copied_arguments())

    def _copied_arguments(self) -> dict[str, Any]:
        """Return the arguments of the constructor, with copies of the caller's connectors."""
        if self._given.get("connectors") is None:
            return self._given
        try:
            with self._lock:  # connectors change in each call
                connectors = copy.deepcopy(self._given["connectors"])
        except InvalidInputError:
            raise
        except Exception as error:
            raise NotPicklableError(
                f"the connectors= of {self!r} cannot be copied: {error!r}. Call rebuild_player "
                "with new connectors instead"
            ) from error
        return {**self._given, "connectors": connectors}

    def _adopt(self, other: PlayerBase, memory: Literal["keep", "reset"]) -> None:
        """Play the policy of another player from the next call on, instead of this player's own.

        The change is between two calls, for rows and sessions alike. Another thread's call plays
        either the old policy or the new one.

        Args:
            other: a fresh player, as :meth:`_rebuild` makes it. It must not be used afterwards.
            memory: whether episodes that are under way go on with the new policy, or begin anew.
                Without episodes under way and for policies without memory both are the same.

        Raises:
            InvalidInputError: another class of player. Nothing has changed.
            MismatchError: the new policy is for an environment of other spaces; or the episodes are
                to be kept, and the new policy cannot go on with what the old one remembers. Nothing
                has changed.
        """
        if memory not in ("keep", "reset"):
            raise InvalidInputError(f"memory is 'keep' or 'reset', not {memory!r}")
        if type(other) is not type(self):
            raise InvalidInputError(
                f"{self!r} cannot play the policy of {other!r}, which is of the other API stack: "
                "make a player of its own, rebuild_player(snap)"
            )
        if problem := spaces_mismatch(self, other):
            raise MismatchError(
                f"{other!r} is for another environment than {self!r}: {problem}. Nothing has "
                "changed"
            )
        taken = {name: value for name, value in vars(other).items() if name not in _OWN}
        replaced = dict(vars(self))  # freed after the lock is
        with self._lock:
            keeps = memory == "keep" and self._engine.remembers
            if keeps and not self._engine.hand_over(other._engine):
                raise MismatchError(
                    f"{other!r} cannot go on with what {self!r} remembers of its episodes, because "
                    "the recurrent state or the connectors differ: begin the episodes anew, with "
                    "memory='reset'. Nothing has changed"
                )
            # One step of the interpreter, so that calls without the lock see all of it or nothing.
            vars(self).update(taken)
            if not keeps:
                self._forget_all()
        del replaced

    def _forget_rows(self) -> None:
        self._rows = []
        self._count = 0

    def _forget_all(self) -> None:
        """Forget the episodes of all rows and sessions; the caller holds the lock."""
        self._forget_rows()
        self._era = object()


def _remade(cls: type[_Player], snap: Snapshot, given: Mapping[str, Any]) -> _Player:
    return cls(snap, **given)
