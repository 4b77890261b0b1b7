"""Who plays whom, in which roles, with which seeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from policystore._util.messages import brief
from policystore.errors import InvalidInputError
from policystore.league.tournament.playing.groups import Group
from policystore.league.tournament.playing.seeds import derive_seed

__all__ = ["Lineup", "Pairing", "Plan", "Sides", "group_episodes", "make_sides"]

Pairing: TypeAlias = "tuple[str, ...]"
"""The players that meet, sorted; each once."""

Lineup: TypeAlias = "dict[str, str]"
"""Role -> player."""

Sides: TypeAlias = "tuple[tuple[str, ...], ...]"
"""The roles that one player plays together, for each side of the game."""

_MOST_PERMUTATIONS = 3  # players that are seated in all orders; more are seated in turn


def make_sides(roles: Sequence[str], teams: Mapping[str, str]) -> Sides:
    """Return the sides of a game: the teams, and the roles that are in no team.

    Args:
        roles: all roles of the environment, in its order.
        teams: role -> team.

    Raises:
        InvalidInputError: a team names a role that the environment does not have.
    """
    unknown = [role for role in teams if role not in roles]
    if unknown:
        raise InvalidInputError(
            f"teams: the environment has no role {unknown[0]!r}; it has {brief(list(roles))}"
        )
    sides: dict[tuple[str, str], list[str]] = {}
    for role in roles:
        side = ("team", teams[role]) if role in teams else ("role", role)
        sides.setdefault(side, []).append(role)
    return tuple(tuple(side) for side in sides.values())


@dataclass(frozen=True)
class Plan:
    """The rules from which all episodes of a tournament follow.

    Attributes:
        seed: the tournament's.
        sides: the sides of the game.
        allowed: player -> the sides that it may play; a player that is missing may play all.
        salt: what else makes episodes different ones, such as exploring.
    """

    seed: int
    sides: Sides
    allowed: Mapping[str, frozenset[int]] = field(default_factory=dict)
    salt: tuple[object, ...] = ()

    def lineups(self, pairing: Pairing) -> list[Lineup]:
        """Return in which roles the players of a pairing meet, each way once.

        Two or three players are seated in all orders, more are seated in turn, so that each one
        plays each side equally often. If there are fewer players than sides, they take the sides
        in turn, too.
        """
        count = len(pairing)
        if count <= _MOST_PERMUTATIONS:
            orders: Iterable[tuple[str, ...]] = itertools.permutations(pairing)
        else:
            orders = (pairing[shift:] + pairing[:shift] for shift in range(count))
        lineups = []
        for order in orders:
            seated = [order[side % count] for side in range(len(self.sides))]
            if all(self._may_play(player, side) for side, player in enumerate(seated)):
                lineup = {
                    role: player
                    for player, side in zip(seated, self.sides, strict=True)
                    for role in side
                }
                lineups.append(dict(sorted(lineup.items())))
        return lineups

    def _may_play(self, player: str, side: int) -> bool:
        return player not in self.allowed or side in self.allowed[player]

    def seed_of(self, pairing: Pairing, number: int) -> int:
        """Return the seed of an episode, which follows from seed, players and number alone."""
        return derive_seed("match", self.seed, *self.salt, list(pairing), number)

    def episodes(self, pairing: Pairing, numbers: Iterable[int]) -> list[tuple[int, Lineup, int]]:
        """Return number, lineup and seed of episodes: the lineups take turns."""
        lineups = self.lineups(pairing)
        return [
            (number, lineups[number % len(lineups)], self.seed_of(pairing, number))
            for number in numbers
        ]


def group_episodes(episodes: Iterable[tuple[int, Lineup, int]], batch_size: int) -> list[Group]:
    """Return groups of at most ``batch_size`` episodes of equal lineups, as equal as possible.

    Args:
        episodes: number, lineup and seed of each episode.
        batch_size: how many episodes are played at the same time.
    """
    by_lineup: dict[tuple[tuple[str, str], ...], list[tuple[int, int]]] = {}
    for number, lineup, seed in episodes:
        by_lineup.setdefault(tuple(lineup.items()), []).append((number, seed))
    groups = []
    for lineup_items, listed in by_lineup.items():
        parts = -(-len(listed) // batch_size)
        for part in range(parts):
            chosen = listed[part * len(listed) // parts : (part + 1) * len(listed) // parts]
            groups.append(
                Group(
                    dict(lineup_items),
                    tuple(number for number, _ in chosen),
                    tuple(seed for _, seed in chosen),
                )
            )
    return groups
