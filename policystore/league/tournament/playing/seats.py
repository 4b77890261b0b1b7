"""What acts for a role: a stored policy, a player, or a function without weights.

A *seat* is one player in one role of an environment. It begins *tickets*, one for each episode, and
acts for any number of them in one call.
"""

from __future__ import annotations

import abc
import copy
import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from policystore.league.tournament.playing.environments import Spaces
from policystore.snapshot import Snapshot
from policystore.store import PolicyStore

if TYPE_CHECKING:
    import gymnasium as gym

__all__ = ["SEATS", "Contender", "Seat", "SeatCache"]

_MOST_SEATS = 64
_MOST_BYTES = 2**30  # of the weights of all seats together
_MASK = "action_mask"
_Key: TypeAlias = "tuple[str, int, str]"


class Seat(abc.ABC):
    """One player in one role.

    Attributes:
        nbytes: about how much memory it takes.
    """

    nbytes = 0

    @abc.abstractmethod
    def begin(self, seed: int) -> Any:
        """Begin an episode; return its ticket, which only this seat understands.

        Args:
            seed: for a player that draws random numbers.
        """

    @abc.abstractmethod
    def act(
        self, observations: Mapping[Any, Any], explore: bool, rewards: Mapping[Any, float]
    ) -> Mapping[Any, Any]:
        """Return an action for each ticket.

        Args:
            observations: ticket -> observation.
            explore: whether policies sample their actions.
            rewards: ticket -> reward since the ticket's last action, except for tickets that begin.
        """


class _PolicySeat(Seat):
    """A policy of RLlib, or an exported one, which computes the actions of all tickets together."""

    def __init__(self, source: Any, player: Any, nbytes: int) -> None:
        self._source = source  # kept, so that no other object gets its id
        self._player = player
        self.nbytes = nbytes

    def begin(self, seed: int) -> Any:
        return self._player.session()

    def act(
        self, observations: Mapping[Any, Any], explore: bool, rewards: Mapping[Any, float]
    ) -> Mapping[Any, Any]:
        actions: Mapping[Any, Any] = self._player.act_many(observations, explore, rewards=rewards)
        return actions


class _Ticket:
    """An episode of a heuristic: its random numbers, and the object that plays if it is a class."""

    __slots__ = ("choose",)

    def __init__(self, choose: Callable[[Any], Any]) -> None:
        self.choose = choose


class _HeuristicSeat(Seat):
    """A function without weights."""

    def __init__(self, function: Any, action_space: gym.Space[Any]) -> None:
        self._function = function
        self._space = action_space

    def begin(self, seed: int) -> Any:
        numbers = np.random.default_rng(seed)
        if self._function == "random":
            return _Ticket(_random_player(self._space, numbers))
        function = self._function
        if isinstance(function, type):
            instance = function()
            return _Ticket(instance.act)
        if _positional(function) >= 3:
            return _Ticket(lambda observation: function(observation, self._space, numbers))
        return _Ticket(function)

    def act(
        self, observations: Mapping[Any, Any], explore: bool, rewards: Mapping[Any, float]
    ) -> Mapping[Any, Any]:
        return {ticket: ticket.choose(seen) for ticket, seen in observations.items()}


def _positional(function: Any) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in kinds for each in parameters)


def _random_player(space: gym.Space[Any], numbers: np.random.Generator) -> Callable[[Any], Any]:
    """Return a function that draws uniformly from the actions that are allowed.

    An observation may have the mask of allowed actions under ``action_mask``, as PettingZoo's do.
    """
    from gymnasium.spaces import Discrete  # only here: what has spaces has loaded it

    if isinstance(space, Discrete):
        count, start = int(space.n), int(space.start)

        def choose(observation: Any) -> Any:
            mask = observation.get(_MASK) if isinstance(observation, Mapping) else None
            if mask is None:
                return start + int(numbers.integers(count))
            allowed = np.flatnonzero(mask)
            return start + int(allowed[numbers.integers(len(allowed))])

        return choose
    own = copy.deepcopy(space)
    own.seed(int(numbers.integers(2**31)))
    return lambda observation: own.sample()


@dataclass(frozen=True)
class Contender:
    """A player of a tournament, in a form that can be sent to other processes.

    Attributes:
        player: ``blake3:…`` or ``heuristic:NAME``.
        ref: what the caller called the player.
        store: the store that the policy is pulled from; None for a player that is at hand.
        held: the player that is at hand: a Snapshot, a player of ``rebuild_player`` or of
            ``load_player``, a function, a class, or ``"random"``.
        trust: as for ``rebuild_player``.
    """

    player: str
    ref: str
    store: PolicyStore | None = None
    held: Any = None
    trust: Any = ()

    @property
    def is_heuristic(self) -> bool:
        """Whether the player has no weights."""
        return self.player.startswith("heuristic:")

    def load(self) -> Any:
        """Return the policy or the player, pulled from the store if it is not at hand.

        Raises:
            PolicyStoreError: as ``store.pull``.
        """
        return self.held if self.store is None else self.store.pull(self.player)


class SeatCache:
    """The players that a process has rebuilt: those used last, at most 64, and 1 GiB of weights.

    A policy that does not tell agents apart is rebuilt once, and plays all roles. Any thread may
    call the cache.
    """

    def __init__(self) -> None:
        self._seats: OrderedDict[_Key, Seat] = OrderedDict()
        self._keys: dict[_Key, _Key] = {}
        self._lock = threading.RLock()

    def get(self, contender: Contender, agent: Any, spaces: Spaces) -> Seat:
        """Return the seat of a player in a role.

        Args:
            contender: the player.
            agent: the agent of the role.
            spaces: the spaces of this agent in the environment.

        Raises:
            PolicyStoreError: as ``store.pull`` and ``rebuild_player``.
        """
        with self._lock:
            asked = _key(contender, type(agent).__name__, agent, spaces)
            known = self._keys.get(asked)
            if known is not None and known in self._seats:
                self._seats.move_to_end(known)
                return self._seats[known]
            source = contender.load()
            options = _options(contender, source, agent, spaces)
            key = self._keys[asked] = _key(contender, sorted(options.items()))
            if key not in self._seats:
                self._seats[key] = _seat(contender, source, options)
                self._shrink()
            return self._seats[key]

    def _shrink(self) -> None:
        while len(self._seats) > 1 and (
            len(self._seats) > _MOST_SEATS
            or sum(each.nbytes for each in self._seats.values()) > _MOST_BYTES
        ):
            self._seats.popitem(last=False)
        # Without its seat a player that was at hand may be freed, and another one get its id.
        self._keys = {asked: key for asked, key in self._keys.items() if key in self._seats}

    def __len__(self) -> int:
        return len(self._seats)


def _key(contender: Contender, *parts: object) -> _Key:
    """Return what tells a seat from others; a player that is at hand is told by its identity."""
    held = id(contender.held) if contender.store is None else 0
    return contender.player, held, repr((contender.trust, *parts))


SEATS = SeatCache()
"""The players of this process."""


def _options(contender: Contender, source: Any, agent: Any, spaces: Spaces) -> dict[str, Any]:
    """Return what makes the player of one role another one than that of another role."""
    if contender.is_heuristic:
        return {"space": spaces[1]}
    if not isinstance(source, Snapshot):
        return {}
    spec = source.spec
    options: dict[str, Any] = {}
    if spec.env_observation_space is None or spec.env_action_space is None:
        options["env_spaces"] = spaces
    if spec.modules is not None and agent in spec.modules:
        options["module_id"] = agent
    # A policy that was trained for one agent may play another one: only agents that the snapshot
    # knows are named.
    known = spec.connectors.get("agents") or ()
    if any(type(each) is type(agent) and each == agent for each in known):
        options["agent"] = agent
    return options


def _seat(contender: Contender, source: Any, options: Mapping[str, Any]) -> Seat:
    if contender.is_heuristic:
        return _HeuristicSeat(source, options["space"])
    if not isinstance(source, Snapshot):
        return _PolicySeat(source, source, 0)
    # Imported late: players of exported files need neither RLlib nor torch.
    from policystore.rllib import rebuild_player

    player = rebuild_player(source, trust=contender.trust, **options)
    return _PolicySeat(source, player, source.nbytes)
