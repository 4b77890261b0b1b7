"""Rate the players of a league by one number each, on the Elo scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

import numpy as np

from policystore._util.messages import brief, counted, text_table
from policystore.display.html import Cell, Html, block, line, table
from policystore.display.pretty import print_text
from policystore.errors import InvalidInputError
from policystore.format.records.matches import MatchTotal
from policystore.league.analysis.bradley_terry import (
    Games,
    components,
    fit_strengths,
    rating_errors,
    ratings_of,
    strength_of,
)
from policystore.league.analysis.counting import check_env, is_wanted, list_totals
from policystore.league.analysis.labels import find_players, name_some, player_labels
from policystore.league.analysis.payoff_table import results_of
from policystore.league.analysis.payoff_values import Floats, Integers, Payoffs, fixed
from policystore.league.analysis.skill import fit_skills

__all__ = ["Rating", "Ratings", "ratings"]

_MAX_SHOWN, _MAX_SHOWN_HTML = 20, 50
_MODELS = ("bradley-terry", "openskill")


@dataclass(frozen=True)
class Rating:
    """The rating of one player.

    Attributes:
        player: the player.
        ref: its ref; None if it has none.
        rating: points of the Elo scale.
        error: the standard error of the rating, in points.
        episodes: number of results of the player against others.
    """

    player: str
    ref: str | None
    rating: float
    error: float
    episodes: int


@dataclass(frozen=True, eq=False, repr=False)
class Ratings:
    """Hold the ratings of all players of a league.

    Attributes:
        players: the players, sorted by id.
        refs: player -> ref, for players that have one.
        ratings: points of the Elo scale, float64, one for each player.
        episodes: number of results of each player against others, int64.
        model: the model.
        anchor: player -> the rating that the caller has given it.
        groups: the players in groups: no player of one group ever met a player of another. The
            difference between the ratings of players of two groups means nothing, except where both
            groups have anchors.
        notes: sentences on what the numbers do not show.
    """

    players: tuple[str, ...]
    refs: Mapping[str, str]
    ratings: Floats
    episodes: Integers
    model: str
    anchor: Mapping[str, float]
    groups: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    _compute_errors: Callable[[], Floats]

    @cached_property
    def errors(self) -> Floats:
        """The standard errors of the ratings, in points, float64; computed when first asked for.

        With anchors they are the errors of the differences to the anchors. Without, they are those
        of the differences to the mean of the group. An interval of 95 % reaches 1.96 errors to each
        side. The error is infinite for a player that met nobody.
        """
        return fixed(self._compute_errors())

    def __len__(self) -> int:
        return len(self.players)

    def __getitem__(self, player: str) -> Rating:
        """Return the rating of a player.

        Args:
            player: the id of the player, or its ref.

        Raises:
            NotFoundError: there is no such player.
            AmbiguousError: several players have this ref.
        """
        (found,) = find_players([player], self._places, self.refs, what="the ratings")
        return self._rating(self._places[found])

    def to_records(self) -> list[dict[str, Any]]:
        """Return a dict for each player, the best first, for ``pandas.DataFrame(records)``.

        The keys are ``player``, ``ref`` (None if there is none), ``rating``, ``error``,
        ``episodes``. Players of equal ratings stand in the order of their ids.
        """
        return [vars(self._rating(place)).copy() for place in self._order]

    def _rating(self, place: int) -> Rating:
        player = self.players[place]
        return Rating(
            player,
            self.refs.get(player),
            float(self.ratings[place]),
            float(self.errors[place]),
            int(self.episodes[place]),
        )

    @cached_property
    def _places(self) -> dict[str, int]:
        return {player: place for place, player in enumerate(self.players)}

    @cached_property
    def _order(self) -> list[int]:
        return [int(place) for place in np.argsort(-self.ratings, kind="stable")]

    def __repr__(self) -> str:
        return f"<Ratings: {counted(len(self.players), 'player')}, {self.model}>"

    _repr_pretty_ = print_text

    def _rows(self, most: int) -> list[list[str]]:
        labels = player_labels(self.players, self.refs)
        return [
            [
                labels[self.players[place]],
                f"{self.ratings[place]:.0f}",
                "given" if self.players[place] in self.anchor else f"± {self.errors[place]:.0f}",
                f"{self.episodes[place]:,}",
            ]
            for place in self._order[:most]
        ]

    def __str__(self) -> str:
        head = ["player", "rating", "error", "episodes"]
        lines = [text_table(head, self._rows(_MAX_SHOWN), {1, 2, 3})] if self.players else []
        return "\n".join([*lines, *self._facts(_MAX_SHOWN)])

    def _repr_html_(self) -> str:
        rows: list[list[str | Html | Cell]] = [
            [name, *(Cell(text, number=True) for text in numbers)]
            for name, *numbers in self._rows(_MAX_SHOWN_HTML)
        ]
        parts = [table(["player", "rating", "error", "episodes"], rows)] if rows else []
        facts = [line(fact, faint=True) for fact in self._facts(_MAX_SHOWN_HTML)]
        return block([*parts, *facts]).source

    def _facts(self, shown: int) -> list[str]:
        facts = [] if self.players else ["no players"]
        if len(self.players) > shown:
            facts.append(f"and {counted(len(self.players) - shown, 'player')} more")
        if len(self.groups) > 1:
            labels = player_labels(self.players, self.refs)
            names = " | ".join(name_some(group, labels) for group in self.groups[:3])
            facts.append(
                f"{len(self.groups)} groups of players that never met ({names}"
                f"{' | …' if len(self.groups) > 3 else ''}): compare ratings within a group only"
            )
        return [*facts, *self.notes]


def ratings(
    totals: Iterable[MatchTotal],
    *,
    model: str = "bradley-terry",
    anchor: Mapping[str, float] | None = None,
    env: str | None = None,
    refs: Mapping[str, str] = MappingProxyType({}),
    prior: float = 1.0,
) -> Ratings:
    """Rate all players of a league.

    A difference of 400 points means that the better player wins ten times as often as it loses; a
    draw is half a win. ``"bradley-terry"`` fits all results at once, so that neither their order
    nor the learning of players has an effect. The ratings and errors are the same, bit for bit, for
    each order of the totals, on each machine and with each number of threads. 2,000 players of
    100,000 pairs take a few seconds, and their errors a few more.

    ``"openskill"`` is for matches of more than two sides and for teams. It updates the ratings
    episode by episode, in a fixed order: the k-th of n episodes with the same players and the same
    outcome has the time (k - 1/2) / n, and those of one time are in the order of their players. Of
    more than 20,000 episodes, a sample in proportion counts. Roles without a rank count as tied. A
    rating is ``400 / ln 10 * mu / (sqrt(2) * beta)``, shifted, and its error is sigma in the same
    unit. An anchor shifts all ratings. The package's exponentials may differ in the last bit
    between machines, so all numbers are rounded to six digits after the point.

    Each result of :func:`~policystore.league.analysis.payoffs` is a game: in an episode with more
    than two sides, those of each pair of sides. The errors take games for independent. Draws make
    them smaller, by one factor for all players.

    Args:
        totals: the totals of a league.
        model: ``"bradley-terry"``, or ``"openskill"``, which the package of this name computes.
        anchor: player (id or ref) -> the rating that it has. The other ratings follow. Without
            anchors, the mean rating of all players is 0. A group of players that never met a
            player with an anchor has the mean rating of the players that did.
        env: id or digest of the environment whose episodes count; None for all environments.
        refs: player -> ref, a label for reports.
        prior: number of draws that are added for each player, so that a player without a loss has
            a finite rating: half of them come from the player, who gives them to its opponents in
            proportion to the numbers of games, and half from the opponents. 0 adds none.

    Raises:
        InvalidInputError: an argument has the wrong form; or ``prior`` is 0, and no finite ratings
            explain the results, because some players never lost to the others; the message names
            players.
        NotFoundError: an anchor is neither an id nor a ref of a player with a result.
        AmbiguousError: several players have the ref of an anchor.
        MissingPackageError: the model is ``"openskill"``, and the package is not installed.
    """
    if model not in _MODELS:
        raise InvalidInputError(f"model={brief(model)}: expected {' or '.join(map(repr, _MODELS))}")
    if isinstance(prior, bool) or not isinstance(prior, (int, float)) or not 0 <= prior < 1e15:
        raise InvalidInputError(f"prior={brief(prior)}: expected a number of draws, 0 or more")
    env = check_env(env)
    totals = list_totals(totals)
    results = results_of(totals, env=env, refs=refs)
    anchors = _anchors({} if anchor is None else anchor, results)
    if model == "openskill":
        return _openskill([each for each in totals if is_wanted(each, env)], results, anchors)
    return _bradley_terry(results, anchors, float(prior))


def _anchors(anchor: Mapping[str, float], results: Payoffs) -> dict[str, float]:
    if not isinstance(anchor, Mapping):
        raise InvalidInputError(
            f"anchor={brief(anchor)}: expected a dict of players and their ratings, such as "
            '{"heuristic:random": 0}'
        )
    players = find_players(anchor, set(results.players), results.refs, what="anchor")
    for rating in anchor.values():
        is_number = isinstance(rating, (int, float, np.integer, np.floating))
        if isinstance(rating, bool) or not is_number or not abs(rating) <= 1e5:
            raise InvalidInputError(
                f"anchor: the rating {brief(rating)}: expected a number from -100,000 to 100,000"
            )
    return dict(zip(players, map(float, anchor.values()), strict=True))


def _openskill(totals: list[MatchTotal], results: Payoffs, anchor: Mapping[str, float]) -> Ratings:
    if len(anchor) > 1:
        raise InvalidInputError(
            'model="openskill" takes one anchor, because it moves all ratings by the same amount; '
            f"{len(anchor)} were given"
        )
    rated, errors, used = fit_skills(totals, results.players)
    shift = -math.fsum(rated) / max(1, len(rated))
    for player, rating in anchor.items():
        shift = rating - float(rated[results.players.index(player)])
    known = sum(outcome.episodes for total in totals for outcome in total.outcomes)
    notes = results.notes
    if used < known:
        notes = (*notes, f"from a sample of {used:,} of {known:,} episodes")
    groups = _groups(results)
    return Ratings(
        players=results.players,
        refs=results.refs,
        ratings=fixed(np.asarray(np.round(rated + shift, 6) + 0.0, dtype=np.float64)),
        episodes=results.played,
        model="openskill",
        anchor=dict(anchor),
        groups=tuple(tuple(results.players[place] for place in members) for members in groups),
        notes=notes,
        _compute_errors=errors.copy,
    )


def _bradley_terry(results: Payoffs, anchor: Mapping[str, float], prior: float) -> Ratings:
    halves = results.pair_draws / 2.0
    won, lost = results.pair_wins + halves, results.pair_losses + halves
    count = len(results.players)
    games = Games(count, results.first, results.second, won, lost)
    groups = _groups(results)
    group = np.zeros(count, dtype=np.int64)
    for index, members in enumerate(groups):
        group[members] = index
    given = np.array([anchor.get(player, np.nan) for player in results.players])
    if prior:
        games = games.with_draws(prior)
    else:
        _check_finite(results, given)
    strengths, rated = _fit(games, given, groups)
    return Ratings(
        players=results.players,
        refs=results.refs,
        ratings=fixed(rated),
        episodes=results.played,
        model="bradley-terry",
        anchor=dict(sorted(anchor.items())),
        groups=tuple(tuple(results.players[place] for place in members) for members in groups),
        notes=results.notes,
        _compute_errors=partial(
            rating_errors, games, strengths, ~np.isnan(given), group, results.pair_draws
        ),
    )


def _fit(games: Games, given: Floats, groups: list[list[int]]) -> tuple[Floats, Floats]:
    """Return the strengths and the ratings of all players."""
    anchored = ~np.isnan(given)
    middle = (given[anchored].max() + given[anchored].min()) / 2.0 if anchored.any() else 0.0
    known = np.full(games.size, np.nan)
    known[anchored] = [strength_of(rating - middle) for rating in given[anchored].tolist()]
    floating = [members for members in groups if not anchored[members].any()]
    for members in floating:
        known[members[0]] = 1.0  # any one player: only differences are known
    strengths = fit_strengths(games, known)
    rated = ratings_of(strengths) + middle
    tied = [place for members in groups if anchored[members].any() for place in members]
    centre = math.fsum(rated[tied]) / len(tied) if tied else 0.0
    for members in floating:
        rated[members] += centre - math.fsum(rated[members]) / len(members)
    rated = np.asarray(np.round(rated, 6) + 0.0, dtype=np.float64)  # + 0.0: no -0.0
    rated[anchored] = given[anchored]
    return strengths, rated


def _groups(results: Payoffs) -> list[list[int]]:
    pairs = list(zip(results.first.tolist(), results.second.tolist(), strict=True))
    both = [*pairs, *((second, first) for first, second in pairs)]
    return components(len(results.players), both)


def _check_finite(results: Payoffs, given: Floats) -> None:
    """Check that finite ratings are the most likely ones (Ford, American Math. Monthly 64, 1957).

    They are, if in each group of players that meet, however it is split into two parts, a player of
    the one part has beaten one of the other, and the reverse. Players with given ratings are
    connected anyway.
    """
    arcs = []
    numbers = (results.pair_wins, results.pair_draws, results.pair_losses)
    rows = (results.first, results.second, *numbers)
    for first, second, wins, draws, losses in zip(*(row.tolist() for row in rows), strict=True):
        if wins or draws:
            arcs.append((second, first))
        if losses or draws:
            arcs.append((first, second))
    anchored = np.flatnonzero(~np.isnan(given)).tolist()
    arcs += [(anchored[0], place) for place in anchored[1:]]
    arcs += [(place, anchored[0]) for place in anchored[1:]]
    groups = components(len(results.players), arcs)
    home = {place: number for number, group in enumerate(groups) for place in group}
    won = {home[end] for start, end in arcs if home[start] != home[end]}
    lost = {home[start] for start, end in arcs if home[start] != home[end]}
    labels = player_labels(results.players, results.refs)
    sentences = [
        f"{name_some([results.players[place] for place in group], labels)} never "
        f"{'lost to' if number not in lost else 'won against'} the others"
        for number, group in enumerate(groups)
        if (number in won) != (number in lost)
    ]
    if sentences:
        shown = [*sentences[:5], *(["…"] if len(sentences) > 5 else [])]
        raise InvalidInputError(
            "prior=0: no finite ratings explain these results:\n  "
            + "\n  ".join(shown)
            + "\nLeave prior at 1, or play more episodes between these players"
        )
