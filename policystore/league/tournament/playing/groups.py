"""Play a group of episodes at the same time, one call per player and step.

The episodes of a group begin together and go on until the last one ends; none is added meanwhile.
So the batches that a network gets depend on the group alone, and with them the last bits of what it
computes: the results of a group are the same on one worker or on many, in any order.
"""

from __future__ import annotations

import contextlib
import math
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from policystore._util.log import logger
from policystore._util.messages import brief
from policystore.errors import InvalidInputError, MatchError, PolicyStoreError
from policystore.format.records.matches import check_whole
from policystore.format.refs import MAX_NUMBER
from policystore.league.tournament.playing.env_source import EnvSource
from policystore.league.tournament.playing.environments import GameEnv, Turn
from policystore.league.tournament.playing.outcomes import Judge, Ranks
from policystore.league.tournament.playing.seats import SEATS, Contender, Seat, SeatCache
from policystore.league.tournament.playing.seeds import derive_seed

__all__ = ["Group", "GroupResult", "Rules", "Table"]

Frame: TypeAlias = Any
"""A picture of an environment: an array of height, width and color."""


@dataclass(frozen=True)
class Group:
    """Episodes that are played together, by the same players in the same roles.

    Attributes:
        lineup: role -> player.
        numbers: the numbers of the episodes among those of these players.
        seeds: the seed of each episode.
    """

    lineup: Mapping[str, str]
    numbers: tuple[int, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class GroupResult:
    """How the episodes of a group ended.

    Attributes:
        returns: role -> the return of each episode.
        lengths: the number of steps of each episode.
        ranks: how each episode ended, by role; None where nobody won or lost.
        frames: the pictures of the first episodes, if they were asked for.
    """

    returns: Mapping[str, tuple[float, ...]]
    lengths: tuple[int, ...]
    ranks: tuple[Ranks | None, ...]
    frames: tuple[tuple[Frame, ...], ...] = ()


@dataclass(frozen=True)
class Rules:
    """What is the same for all groups of a tournament; it can be sent to other processes.

    Attributes:
        env: the environment.
        contenders: player -> what plays.
        judge: who won an episode.
        explore: whether policies sample their actions.
        max_steps: the steps after which an episode is cut off; None for no limit.
        film: of how many episodes of each group pictures are kept.
    """

    env: EnvSource
    contenders: Mapping[str, Contender]
    judge: Judge
    explore: bool = False
    max_steps: int | None = None
    film: int = 0

    def __post_init__(self) -> None:
        if self.max_steps is not None:
            whole = check_whole(self.max_steps, "max_steps", 1, MAX_NUMBER)
            object.__setattr__(self, "max_steps", whole)


class _Episode:
    """An episode that is being played."""

    def __init__(self, env: GameEnv, seats: Mapping[str, Seat], seed: int) -> None:
        self.env = env
        self.seed = seed
        self.seats = seats
        self.tickets: dict[str, Any] = {}
        self.returns = dict.fromkeys(seats, 0.0)
        self.unseen: dict[str, float] = {}  # rewards since the role's last action
        self.length = 0
        self.frames: list[Frame] = []
        self.infos: dict[str, Any] = {}
        self.actions: dict[str, Any] = {}

    def take(self, turn: Turn) -> None:
        """Add up what the environment gave back."""
        self.turn = turn
        self.infos.update(turn.infos)
        for role, reward in turn.rewards.items():
            self.returns[role] += reward
            self.unseen[role] = self.unseen.get(role, 0.0) + reward

    def ticket(self, role: str) -> tuple[Any, bool]:
        """Return the ticket of a role, and whether it begins with the present step."""
        begins = role not in self.tickets
        if begins:
            # Each role draws other numbers; adding a role changes none of the others.
            seed = derive_seed("player", self.seed, role)
            self.tickets[role] = self.seats[role].begin(seed)
        return self.tickets[role], begins


class Table:
    """Environments and players that a process keeps from group to group.

    Args:
        rules: what is the same for all groups.
        seats: the rebuilt players; by default those of the whole process.

    Attributes:
        rules: as given; another value applies from the next group on, with the same environment.
    """

    def __init__(self, rules: Rules, seats: SeatCache | None = None) -> None:
        self.rules = rules
        self._seats = SEATS if seats is None else seats
        self._envs: list[GameEnv] = []

    def close(self) -> None:
        """Close the environments. What was played counts, also if one cannot be closed."""
        envs, self._envs = self._envs, []
        for env in envs:
            _close(env, self.rules.env.identity.id)

    def first_env(self) -> GameEnv:
        """Return one of the environments, such as to read its roles.

        Raises:
            InvalidInputError, NotFoundError: as ``EnvSource.open``.
            MatchError: the environment could not be made.
        """
        self._make_envs(1)
        return self._envs[0]

    def _make_envs(self, count: int) -> None:
        while len(self._envs) < count:
            self._envs.append(_open_env(self.rules.env))

    def play(self, group: Group) -> GroupResult:
        """Play a group.

        Raises:
            MatchError: a player or the environment raised; the message names the players and the
                seed. Nothing of the group is kept.
        """
        try:
            with _one_thread():
                # Before the seeds are set: a player that is rebuilt here may draw random numbers.
                seats = self._take_seats(group)
                with _own_numbers(group):
                    return self._play(group, seats)
        except MatchError:
            self._envs.clear()  # an environment that raised may be in any state
            raise

    def _take_seats(self, group: Group) -> dict[str, Seat]:
        """Return the players of a group by role, and make its environments."""
        self._make_envs(len(group.seeds))
        env = self._envs[0]
        seats: dict[str, Seat] = {}
        for role, player in group.lineup.items():
            action = (
                f"{self._name(player)} cannot be rebuilt (if rebuild_player needs arguments for "
                "this policy, give the player that rebuild_player returns, in place of the ref)"
            )
            with _failing(group, action, group.seeds[:1]):
                seats[role] = self._seats.get(
                    self.rules.contenders[player], env.agents[role], env.spaces(role)
                )
        return seats

    def _play(self, group: Group, seats: Mapping[str, Seat]) -> GroupResult:
        episodes = [
            _Episode(env, seats, seed) for env, seed in zip(self._envs, group.seeds, strict=False)
        ]
        for episode in episodes:
            with _failing(group, "the environment raised an error in reset()", (episode.seed,)):
                episode.take(episode.env.reset(episode.seed))
        filmed = episodes[: self.rules.film]
        for episode in filmed:
            self._film(group, episode)
        running = list(episodes)
        while running:
            self._act(group, running)
            for episode in running:
                with _failing(group, "the environment raised an error in step()", (episode.seed,)):
                    episode.take(episode.env.step(episode.actions))
                episode.length += 1
            for episode in filmed:
                if episode in running:
                    self._film(group, episode)
            running = [each for each in running if not self._is_over(each)]
        return self._result(group, episodes)

    def _is_over(self, episode: _Episode) -> bool:
        most = self.rules.max_steps
        return episode.turn.over or (most is not None and episode.length >= most)

    def _act(self, group: Group, running: Sequence[_Episode]) -> None:
        """Let each player act for all its roles of all episodes in one call."""
        asked: dict[int, tuple[Seat, dict[Any, Any], dict[Any, float], list[Any]]] = {}
        for episode in running:
            episode.actions = {}
            for role, observation in episode.turn.observations.items():
                seat = episode.seats.get(role)
                if seat is None:
                    raise InvalidInputError(f"no player plays the role {role!r}")
                ticket, begins = episode.ticket(role)
                _, observations, rewards, places = asked.setdefault(id(seat), (seat, {}, {}, []))
                observations[ticket] = observation
                reward = episode.unseen.pop(role, 0.0)
                if not begins:
                    rewards[ticket] = reward
                places.append((episode, role, ticket))
        for seat, observations, rewards, places in asked.values():
            episode, role, _ = places[0]
            seeds = tuple(dict.fromkeys(each.seed for each, _, _ in places))
            name = self._name(group.lineup[role])
            with _failing(group, f"the player {name} raised", seeds):
                actions = seat.act(observations, self.rules.explore, rewards)
            for episode, role, ticket in places:
                episode.actions[role] = actions[ticket]

    def _film(self, group: Group, episode: _Episode) -> None:
        with _failing(group, "the environment raised an error in render()", (episode.seed,)):
            frame = episode.env.render()
        # RLlib's environments and gymnasium's wrappers may return a list of pictures.
        frames = frame if isinstance(frame, list) else [frame]
        episode.frames.extend(np.array(each, copy=True) for each in frames)

    def _result(self, group: Group, episodes: Sequence[_Episode]) -> GroupResult:
        ranks = []
        for episode in episodes:
            if not all(map(math.isfinite, episode.returns.values())):
                raise _failure(group, f"a return is not finite: {episode.returns}", (episode.seed,))
            with _failing(group, "outcome= raised", (episode.seed,)):
                ranks.append(self.rules.judge.ranks(episode.returns, episode.infos))
        return GroupResult(
            {role: tuple(each.returns[role] for each in episodes) for role in group.lineup},
            tuple(each.length for each in episodes),
            tuple(ranks),
            tuple(tuple(each.frames) for each in episodes[: self.rules.film]),
        )

    def _name(self, player: str) -> str:
        contender = self.rules.contenders[player]
        return contender.ref or contender.player


def _open_env(source: EnvSource) -> GameEnv:
    try:
        return source.open()
    except PolicyStoreError:
        raise
    except Exception as error:
        raise MatchError(
            f"the environment {source.identity.id} cannot be made: {error!r}"
        ) from error


def _close(env: GameEnv, name: str) -> None:
    try:
        env.close()
    except Exception as error:
        logger.warning("the environment %s raised in close(): %r", name, error)


@contextlib.contextmanager
def _failing(group: Group, action: str, seeds: Sequence[int]) -> Iterator[None]:
    """Turn any error inside into a MatchError that names the players and the seeds."""
    try:
        yield
    except MatchError:
        raise
    except Exception as error:
        told = str(error) if isinstance(error, PolicyStoreError) else repr(error)
        raise _failure(group, f"{action}: {told}", seeds) from error


def _failure(group: Group, problem: str, seeds: Sequence[int]) -> MatchError:
    lineup = ", ".join(f"{role}: {player}" for role, player in group.lineup.items())
    if len(seeds) == 1:
        where = f"in the episode with the seed {seeds[0]}"
    else:
        where = f"in one of {len(seeds)} episodes, with the seeds {brief(list(seeds[:8]))}"
    return MatchError(f"{problem}; {where}, with the players {lineup}", seeds=seeds)


@contextlib.contextmanager
def _own_numbers(group: Group) -> Iterator[None]:
    """Seed the random numbers of Python, numpy and torch for a group, and put them back."""
    seed = derive_seed("group", *group.seeds)
    torch = sys.modules.get("torch")
    of_python, of_numpy = random.getstate(), np.random.get_bit_generator()  # type: ignore[attr-defined]
    of_torch = None if torch is None else torch.get_rng_state()
    np.random.set_bit_generator(np.random.MT19937(0))  # type: ignore[attr-defined]
    try:
        random.seed(seed)
        np.random.seed(seed)
        if torch is not None:
            torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(of_python)
        np.random.set_bit_generator(of_numpy)  # type: ignore[attr-defined]
        if torch is not None:
            torch.set_rng_state(of_torch)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute on one thread: another number of threads changes the order of sums."""
    if "torch" not in sys.modules:
        yield
        return
    from policystore.rllib.playing.one_thread import limit_threads, restore_threads

    before = limit_threads()
    try:
        yield
    finally:
        restore_threads(before)
