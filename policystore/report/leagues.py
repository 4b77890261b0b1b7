"""Read the leagues of a store for a report, and work out ratings, payoffs and coverage."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, partial
from typing import Any

import numpy as np

from policystore._util.messages import brief, counted
from policystore.digest import Digest
from policystore.errors import InvalidInputError, PolicyStoreError
from policystore.format.records import Version
from policystore.format.records.matches import MatchTotal
from policystore.format.refs import check_name
from policystore.league.analysis import Payoffs, payoffs, ratings
from policystore.report.reading import ContentReader
from policystore.repository.matches.epochs import league_names, unknown_league
from policystore.repository.matches.ledger import Ledger

__all__ = [
    "LeagueContent",
    "LeagueData",
    "LeaguePlayer",
    "analyse_league",
    "names_of_players",
    "read_leagues",
]

_MOST_PLAYERS = 2000  # that are rated; the time grows with the third power of their number
_REF = re.compile(r"(.+)@([1-9][0-9]{0,9})\Z")


@dataclass(frozen=True)
class LeagueContent:
    """Hold what a report has read of one league.

    Attributes:
        name: the name of the league.
        totals: all episodes, by players, roles and environment.
        refs: player -> what its matches call it.
        matches: how many matches were recorded.
        episodes: how many episodes these matches have.
        unknown: reason -> how many episodes were played and not recorded.
        writers: how many writers have recorded matches.
    """

    name: str
    totals: tuple[MatchTotal, ...]
    refs: Mapping[str, str] = field(default_factory=dict)
    matches: int = 0
    episodes: int = 0
    unknown: Mapping[str, int] = field(default_factory=dict)
    writers: int = 0


@dataclass(frozen=True)
class LeaguePlayer:
    """Describe a player of a league as a page shows it.

    Attributes:
        player: ``blake3:…`` or ``heuristic:NAME``.
        label: the ref of its version, or what its matches call it, or its short digest.
        version: the index of its version on the page; None if the page has no such version.
        name: the name before the ``@`` of the label; empty for a label of another form.
        number: the number behind the ``@``.
        rating: on Elo's scale; None if there is no rating.
        error: standard error of the rating.
        episodes: how many episodes the player has played.
        mean_return: mean of the known returns of these episodes; None if none is known.
    """

    player: str
    label: str
    version: int | None
    name: str
    number: int | None
    rating: float | None
    error: float | None
    episodes: int
    mean_return: float | None


@dataclass
class LeagueData:
    """Hold a league with its numbers.

    Attributes:
        content: what was read.
        players: the players with the best ratings first, and those without a rating at the end.
        payoffs: who won how often against whom, over all environments.
        order: the index in ``payoffs`` of each player.
        player_count: how many players the league has; more than ``players`` if some were left out.
        problem: why there are no ratings; empty if there are some.
        notes: sentences on what ratings and payoffs do not show.
    """

    content: LeagueContent
    players: list[LeaguePlayer]
    payoffs: Payoffs
    order: list[int]
    player_count: int
    problem: str = ""
    notes: tuple[str, ...] = ()

    def _sorted(self, matrix: Any) -> np.ndarray[Any, np.dtype[Any]]:
        return np.asarray(matrix)[np.ix_(self.order, self.order)]

    @cached_property
    def episodes(self) -> np.ndarray[Any, np.dtype[Any]]:
        """Episodes of each pair, shape (players, players)."""
        return self._sorted(self.payoffs.episodes)

    @cached_property
    def rates(self) -> np.ndarray[Any, np.dtype[Any]]:
        """Win rate of each row's player against each column's player; NaN if they never met."""
        return self._sorted(self.payoffs.win_rates)

    @cached_property
    def low(self) -> np.ndarray[Any, np.dtype[Any]]:
        """Lower ends of the intervals of :attr:`rates`."""
        return self._sorted(self.payoffs.low)

    @cached_property
    def high(self) -> np.ndarray[Any, np.dtype[Any]]:
        """Upper ends of the intervals of :attr:`rates`."""
        return self._sorted(self.payoffs.high)


def read_leagues(
    records: ContentReader, names: object, wanted: str | Iterable[str] | None
) -> list[LeagueContent]:
    """Read the leagues that a report is about, in order.

    Args:
        records: reads the store, and collects what cannot be read.
        names: the names that the report is about; None for all.
        wanted: a league, or several; None for all leagues, or for none if ``names`` are given.

    Raises:
        InvalidInputError: ``wanted`` has another form.
        NotFoundError: there is no such league; the message names those that are close.
    """
    if wanted is None:
        every = (
            None
            if names is not None
            else records.attempt("leagues", partial(league_names, records.backend))
        )
        chosen = every or []
    else:
        chosen = _named(records, wanted)
    read = (records.attempt(f"league {name}", partial(_read, records, name)) for name in chosen)
    return [content for content in read if content is not None]


def _named(records: ContentReader, wanted: str | Iterable[str]) -> list[str]:
    items = [wanted] if isinstance(wanted, str) else wanted
    items = list(items) if isinstance(items, Iterable) else items
    if not isinstance(items, Iterable) or not all(isinstance(each, str) for each in items):
        raise InvalidInputError(f"leagues is a name, or a list of names, not {brief(wanted)}")
    chosen = sorted({check_name(each) for each in items})
    known = league_names(records.backend)
    for name in chosen:
        if name not in known:
            raise unknown_league(records.backend, name)
    return chosen


def _read(records: ContentReader, name: str) -> LeagueContent:
    totals = Ledger(records.backend, name).totals()
    return LeagueContent(
        name=name,
        totals=totals.matchups,
        refs=totals.refs,
        matches=totals.matches,
        episodes=totals.episodes,
        unknown=totals.unknown,
        writers=totals.writers,
    )


def names_of_players(refs: Iterable[str]) -> set[str]:
    """Return the names in refs such as ``soccer/main@17``; other refs are left out."""
    return {match[1] for match in map(_REF.match, refs) if match}


def analyse_league(content: LeagueContent, versions: list[Version]) -> LeagueData:
    """Work out what a page shows of a league.

    If the league has more than 2,000 players, the numbers are about the 2,000 with the most
    episodes, and their matches with each other.

    Args:
        content: the league.
        versions: all versions of the page.
    """
    played, returns = _count(content.totals)
    chosen = sorted(played, key=lambda player: (-played[player], player))[:_MOST_PLAYERS]
    kept = set(chosen)
    totals = [total for total in content.totals if kept.issuperset(total.players.values())]
    table = payoffs(totals, refs=content.refs)
    rated, groups, problem = _rate(totals, content.refs) if table.first.size else ({}, 0, "")
    places = _places(versions)
    players = []
    for player in table.players:
        label, version = _label(player, content.refs, places, versions)
        match = _REF.match(label)
        rating, error = rated.get(player, (None, None))
        episodes, total = returns.get(player, (0, Fraction(0)))
        players.append(
            LeaguePlayer(
                player=player,
                label=label,
                version=version,
                name=match[1] if match else "",
                number=int(match[2]) if match else None,
                rating=rating,
                error=error,
                episodes=played[player],
                mean_return=_as_float(total / episodes) if episodes else None,
            )
        )
    order = sorted(range(len(players)), key=lambda at: _by_rating(players[at]))
    return LeagueData(
        content=content,
        players=[players[at] for at in order],
        payoffs=table,
        order=order,
        player_count=len(played),
        problem=problem,
        notes=_notes(table, groups),
    )


def _by_rating(player: LeaguePlayer) -> tuple[Any, ...]:
    rating = player.rating
    return (rating is None, 0.0 if rating is None else -rating, player.label, player.player)


def _count(
    totals: Iterable[MatchTotal],
) -> tuple[dict[str, int], dict[str, tuple[int, Fraction]]]:
    """Return the episodes of each player, and how many returns are known with their sum.

    A player that has several roles in an episode has played one episode.
    """
    played: dict[str, int] = {}
    returns: dict[str, tuple[int, Fraction]] = {}
    for total in totals:
        for player in set(total.players.values()):
            played[player] = played.get(player, 0) + total.episodes
        for role, known in total.returns.items():
            player = total.players[role]
            count, so_far = returns.get(player, (0, Fraction(0)))
            returns[player] = (count + known.episodes, so_far + known.sum)
    return played, returns


def _as_float(number: Fraction) -> float:
    try:
        return float(number)
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")


def _rate(
    totals: list[MatchTotal], refs: Mapping[str, str]
) -> tuple[dict[str, tuple[float | None, float | None]], int, str]:
    """Return rating and error of each player, the number of groups, or why there are no ratings."""
    try:
        rated = ratings(totals, refs=refs)
        records = rated.to_records()
    except PolicyStoreError as error:
        return {}, 0, str(error)
    known = {each["player"]: (each["rating"], each["error"]) for each in records}
    return known, len(rated.groups), ""


def _notes(table: Payoffs, groups: int) -> tuple[str, ...]:
    """Return sentences on what the numbers of a league do not show."""
    notes = []
    if groups > 1:
        notes.append(
            f"There are {groups:,} groups of players that never met each other. Compare ratings "
            "within a group only."
        )
    if len(table.envs) > 1:
        notes.append(f"Ratings and payoffs are of all {len(table.envs)} environments together.")
    if table.sides > 2:
        notes.append("In an episode with more than two sides, each two sides count as one game.")
    if table.with_itself:
        number = sum(table.with_itself.values())
        notes.append(f"{counted(number, 'result')} of players against themselves left out.")
    if table.unranked:
        notes.append(f"{counted(table.unranked, 'episode')} without a known outcome.")
    return tuple(notes)


def _places(versions: list[Version]) -> dict[Digest, list[int]]:
    places: dict[Digest, list[int]] = {}
    for index, version in enumerate(versions):
        places.setdefault(version.digest, []).append(index)
    return places


def _label(
    player: str,
    refs: Mapping[str, str],
    places: Mapping[Digest, list[int]],
    versions: list[Version],
) -> tuple[str, int | None]:
    """Return what to call a player, and the index of its version.

    A ref in a match is only a label that its writer chose. So the digest decides which version a
    player is; the ref chooses among several versions with this digest.
    """
    label = refs.get(player, "")
    if not player.startswith("blake3:"):
        return label or player.partition(":")[2] or player, None
    digest = Digest.parse(player)
    found = places.get(digest, [])
    if not found:
        return label or digest.short, None
    named = [at for at in found if versions[at].ref == label]
    index = named[0] if named else found[-1]
    return versions[index].ref, index
