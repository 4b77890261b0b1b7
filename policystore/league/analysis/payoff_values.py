"""Hold how often each player of a league beat each other player, and show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from policystore._util.messages import brief, counted, printable, text_table
from policystore.display.html import Cell, Html, block, line, table
from policystore.display.pretty import print_text
from policystore.errors import NotFoundError
from policystore.league.analysis.counting import Entry
from policystore.league.analysis.intervals import win_rate_interval
from policystore.league.analysis.labels import find_players, player_labels

__all__ = ["Floats", "Integers", "Payoffs", "fixed"]

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

_MAX_SHOWN = 10  # players of a printed matrix
_MAX_SHOWN_HTML = 30


def fixed(array: NDArray[Any]) -> NDArray[Any]:
    """Make an array unwritable, and return it."""
    array.flags.writeable = False
    return array


@dataclass(frozen=True, eq=False, repr=False)
class Payoffs:
    """Hold the results of all pairs of players: numbers of episodes, win rates and intervals.

    The matrices have a row for each player and a column for each opponent, in the order of
    ``players``, and cannot be written. They are computed when they are first asked for.

    Attributes:
        players: the players. With ``by_role``, a player stands here once for each of its roles.
        roles: the role of each of ``players``; empty texts without ``by_role``.
        refs: player -> ref, for players that have one.
        first, second: of each pair that played, the places of its two players in ``players``;
            int64, one value for each pair, ``first < second``, in ascending order.
        pair_wins, pair_draws, pair_losses: results of each pair, as the first player sees them;
            int64.
        returns: places of a player and an opponent -> number of known returns of the player against
            the opponent, and their mean.
        with_itself: player -> number of results of the player against itself, which no matrix has.
        unranked: number of episodes without a known outcome, as those of cooperative environments.
        in_other_environments: number of episodes in environments that were not asked for.
        envs: id and digest of each environment that the results are from, sorted.
        sides: the largest number of sides of an episode: 2 where two players or two teams meet.
        confidence: the confidence level of the intervals.
        by_role: whether the roles of a player are kept apart.
    """

    players: tuple[str, ...]
    roles: tuple[str, ...]
    refs: Mapping[str, str]
    first: Integers
    second: Integers
    pair_wins: Integers
    pair_draws: Integers
    pair_losses: Integers
    returns: Mapping[tuple[int, int], tuple[int, float]] = field(default_factory=dict)
    with_itself: Mapping[str, int] = field(default_factory=dict)
    unranked: int = 0
    in_other_environments: int = 0
    envs: tuple[tuple[str, str], ...] = ()
    sides: int = 2
    confidence: float = 0.95
    by_role: bool = False

    @cached_property
    def wins(self) -> Integers:
        """How many episodes each player won against each opponent."""
        return self._matrix(self.pair_wins, self.pair_losses)

    @cached_property
    def draws(self) -> Integers:
        """How many episodes of each pair were draws."""
        return self._matrix(self.pair_draws, self.pair_draws)

    @property
    def losses(self) -> Integers:
        """How many episodes each player lost against each opponent."""
        return fixed(self.wins.T)

    @cached_property
    def episodes(self) -> Integers:
        """How many results each pair has: wins, draws and losses together."""
        return fixed(self.wins + self.draws + self.losses)

    @cached_property
    def win_rates(self) -> Floats:
        """The share of wins, draws counted half; NaN for pairs that never played."""
        number = self.episodes
        rates = np.full(number.shape, np.nan)
        halves = 2 * self.wins + self.draws
        np.divide(halves, 2 * number, out=rates, where=number > 0)
        return fixed(rates)

    @property
    def low(self) -> Floats:
        """The lower ends of the intervals of the win rates; NaN for pairs that never played."""
        return self._ends[0]

    @property
    def high(self) -> Floats:
        """The upper ends of the intervals of the win rates; NaN for pairs that never played."""
        return self._ends[1]

    @cached_property
    def mean_returns(self) -> Floats:
        """The mean return of each player against each opponent; NaN where none is known."""
        means = np.full((len(self.players), len(self.players)), np.nan)
        for (place, opponent), (_, mean) in self.returns.items():
            means[place, opponent] = mean
        return fixed(means)

    def place(self, player: str, role: str = "") -> int:
        """Return the place of a player in ``players``.

        Args:
            player: the id of the player, or its ref.
            role: the role, with ``by_role``.

        Raises:
            NotFoundError: there is no such player, or it never had this role.
            AmbiguousError: several players have this ref.
        """
        place = self._places.get((player, role))
        if place is None:
            (found,) = find_players([player], set(self.players), self.refs, what="the payoffs")
            place = self._places.get((found, role))
        if place is None:
            has = [each for other, each in self._places if other == found]
            raise NotFoundError(
                f"the payoffs have {self.labels[self.players.index(found)]} in the roles "
                f"{', '.join(map(brief, has))}, and not in the role {brief(role)}"
            )
        return place

    def to_records(self) -> list[dict[str, Any]]:
        """Return a dict for each player and opponent that met, for ``pandas.DataFrame(records)``.

        The keys are ``player``, ``ref``, ``opponent``, ``opponent_ref``, ``episodes``, ``wins``,
        ``draws``, ``losses``, ``win_rate``, ``low``, ``high``, ``mean_return``, ``returns`` (how
        many returns are known). With ``by_role`` there are ``role`` and ``opponent_role``, too.
        A ref or mean return that is not known is None. Each pair has two dicts, one for each
        player; the order is that of ``players``.
        """
        mirrored = (self.pair_losses, self.pair_draws, self.pair_wins)
        rows = (
            (self.first, self.second, self.pair_wins, self.pair_draws, self.pair_losses),
            (self.second, self.first, *mirrored),
        )
        place, opponent, wins, draws, losses = map(np.concatenate, zip(*rows, strict=True))
        low, high = win_rate_interval(wins, draws, losses, self.confidence)
        order = np.lexsort((opponent, place))
        columns = (place, opponent, wins, draws, losses, low, high)
        values = (each[order].tolist() for each in columns)
        return [self._record(*row) for row in zip(*values, strict=True)]

    def _record(
        self, place: int, opponent: int, wins: int, draws: int, losses: int, low: float, high: float
    ) -> dict[str, Any]:
        player, other = self.players[place], self.players[opponent]
        number, mean = self.returns.get((place, opponent), (0, None))
        roles = {"role": self.roles[place], "opponent_role": self.roles[opponent]}
        return {
            "player": player,
            "ref": self.refs.get(player),
            "opponent": other,
            "opponent_ref": self.refs.get(other),
            **(roles if self.by_role else {}),
            "episodes": wins + draws + losses,
            "wins": wins,
            "draws": draws,
            "losses": losses,
            "win_rate": (2 * wins + draws) / (2 * (wins + draws + losses)),
            "low": low,
            "high": high,
            "mean_return": mean,
            "returns": number,
        }

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """A short text for each of ``players``: its ref, or the beginning of its digest."""
        texts = player_labels(self.players, self.refs)
        return tuple(
            f"{texts[player]} ({role})" if role else texts[player]
            for player, role in zip(self.players, self.roles, strict=True)
        )

    @cached_property
    def _places(self) -> dict[Entry, int]:
        entries = zip(self.players, self.roles, strict=True)
        return {entry: place for place, entry in enumerate(entries)}

    @cached_property
    def _ends(self) -> tuple[Floats, Floats]:
        low, high = win_rate_interval(
            self.pair_wins, self.pair_draws, self.pair_losses, self.confidence
        )
        other_low, other_high = win_rate_interval(
            self.pair_losses, self.pair_draws, self.pair_wins, self.confidence
        )
        return self._matrix(low, other_low), self._matrix(high, other_high)

    def _matrix(self, values: NDArray[Any], mirrored: NDArray[Any]) -> NDArray[Any]:
        shape = (len(self.players), len(self.players))
        empty = np.nan if values.dtype == np.float64 else 0
        matrix = np.full(shape, empty, dtype=values.dtype)
        matrix[self.first, self.second] = values
        matrix[self.second, self.first] = mirrored
        return fixed(matrix)

    def __repr__(self) -> str:
        return (
            f"<Payoffs: {counted(len(self.players), 'player')}, "
            f"{counted(len(self.first), 'pair')}, {counted(self._results(), 'result')}>"
        )

    _repr_pretty_ = print_text

    def __str__(self) -> str:
        places = self._shown(_MAX_SHOWN)
        if len(places) == 0:
            return "\n".join(self.notes)
        labels = [self.labels[place] for place in places]
        rows = [
            [label, *(self._percent(place, other) for other in places), f"{self.played[place]:,}"]
            for label, place in zip(labels, places, strict=True)
        ]
        head = ["win rate in %", *labels, "episodes"]
        return "\n".join(
            [text_table(head, rows, range(1, len(head))), *self._rest(places), *self.notes]
        )

    def _repr_html_(self) -> str:
        places = self._shown(_MAX_SHOWN_HTML)
        parts: list[Html] = []
        if len(places):
            rows: list[list[str | Html | Cell]] = [
                [self.labels[place], *(self._cell(place, other) for other in places)]
                for place in places
            ]
            parts.append(table(["win rate in %", *(self.labels[each] for each in places)], rows))
        facts = [*self._rest(places), *self.notes]
        return block([*parts, *(line(fact, faint=True) for fact in facts)]).source

    def _percent(self, place: int, other: int) -> str:
        rate = self.win_rates[place, other]
        return "" if np.isnan(rate) else f"{100 * rate:.0f}"

    def _cell(self, place: int, other: int) -> Cell:
        text = self._percent(place, other)
        if not text:
            return Cell("", number=True)
        wins, draws = int(self.wins[place, other]), int(self.draws[place, other])
        losses = int(self.losses[place, other])
        title = (
            f"{self.labels[place]} against {self.labels[other]}: {wins:,} won, {draws:,} drawn, "
            f"{losses:,} lost; {100 * self.low[place, other]:.1f} to "
            f"{100 * self.high[place, other]:.1f} %"
        )
        return Cell(text, number=True, title=title, marked=bool(self.low[place, other] > 0.5))

    @cached_property
    def played(self) -> Integers:
        """How many results each player has against all others together; int64."""
        pairs = self.pair_wins + self.pair_draws + self.pair_losses
        played = np.zeros(len(self.players), dtype=np.int64)
        np.add.at(played, self.first, pairs)
        np.add.at(played, self.second, pairs)
        return fixed(played)

    def _results(self) -> int:
        return int(self.pair_wins.sum() + self.pair_draws.sum() + self.pair_losses.sum())

    def _shown(self, most: int) -> Integers:
        """Return the places of the players with the most episodes, in ascending order."""
        return np.sort(np.argsort(-self.played, kind="stable")[:most])

    def _rest(self, shown: Integers) -> list[str]:
        number = len(self.players) - len(shown)
        more = f"and {counted(number, 'player')} more, with fewer episodes: see to_records()"
        return [more] if number else []

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Sentences on episodes that the matrices do not show."""
        facts = []
        if not len(self.first):
            facts.append("no results between two players")
        if self.with_itself:
            number = sum(self.with_itself.values())
            facts.append(f"{counted(number, 'result')} of players against themselves left out")
        if self.unranked:
            facts.append(f"{counted(self.unranked, 'episode')} without a known outcome")
        if self.in_other_environments:
            facts.append(f"{counted(self.in_other_environments, 'episode')} in other environments")
        if len(self.envs) > 1:
            names = ", ".join(sorted({printable(env) or "unknown" for env, _ in self.envs}))
            facts.append(f"{len(self.envs)} environments together ({names}): env=… chooses one")
        return tuple(facts)
