"""How a learner has done against its opponents: the numbers that samplers and triggers see."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policystore.format.records.matches import Match, MatchTotal
from policystore.league.analysis import Payoffs, payoffs, ratings
from policystore.league.analysis.counting import count_pairs
from policystore.league.pool.messages import Candidate

__all__ = ["PRIOR", "PoolPayoffs", "Tally", "as_total"]

PRIOR = 2.0
"""Episodes that each win rate of a sampler has beside the played ones: one won, one lost."""

Floats = np.ndarray[Any, np.dtype[np.float64]]


class Tally:
    """Scores of all pairs of players that have met, added up match by match.

    Attributes:
        itself: player -> wins and episodes of a learner that is booked under this player, and has
            trained on, against the player. A league has both under one player, so it cannot tell
            who won: only matches of this process count.
        episodes: number of all episodes.
    """

    def __init__(self) -> None:
        self._pairs: dict[str, dict[str, list[float]]] = defaultdict(dict)
        self._matchups: list[MatchTotal] = []
        self._since: list[MatchTotal] = []
        self.itself: dict[str, list[float]] = {}
        self.episodes = 0

    def restart(self, matchups: Iterable[MatchTotal], more: Iterable[Match] = ()) -> None:
        """Forget all but :attr:`itself`, and begin with the totals of a league and more matches."""
        self._pairs.clear()
        self._since.clear()
        self._matchups = [*matchups, *map(as_total, more)]
        self.episodes = 0
        self._add(self._matchups)

    def add(self, match: Match) -> None:
        """Add a match."""
        total = as_total(match)
        self._since.append(total)
        self._add_itself(match)
        self._add([total])

    def totals(self) -> list[MatchTotal]:
        """Return all that was added."""
        return [*self._matchups, *self._since]

    def row(self, player: str) -> dict[str, list[float]]:
        """Return opponent -> wins of a player, a draw as half a win, and episodes."""
        row = self._pairs.get(player, {})
        return row if player not in self.itself else {**row, player: self.itself[player]}

    def scores(self, player: str, opponent: str) -> tuple[float, float]:
        """Return the wins of a player, a draw as half a win, and the episodes they are of."""
        score = self.row(player).get(opponent, (0.0, 0.0))
        return score[0], score[1]

    def _add_itself(self, match: Match) -> None:
        roles = list(match.players)
        for i, role in enumerate(roles):
            for j, other in enumerate(roles):
                same = match.players[role] == match.players[other]
                if not same or role not in match.played or other in match.played:
                    continue
                score = self.itself.setdefault(match.players[role], [0.0, 0.0])
                for outcome in match.outcomes:
                    own, its = outcome.ranks[i], outcome.ranks[j]
                    if own is None and its is None:
                        continue  # nobody knows who was better
                    won = its is None or (own is not None and own < its)
                    score[0] += outcome.episodes * (0.5 if own == its else float(won))
                    score[1] += outcome.episodes

    def _add(self, totals: list[MatchTotal]) -> None:
        self.episodes += sum(total.episodes for total in totals)
        counts = count_pairs(totals, with_returns=False)
        for ((one, _), (other, _)), (wins, draws, losses) in counts.results.items():
            episodes = wins + draws + losses
            for player, opponent, won in ((one, other, wins), (other, one, losses)):
                pair = self._pairs[player].setdefault(opponent, [0.0, 0.0])
                pair[0] += won + draws / 2
                pair[1] += episodes


def as_total(match: Match) -> MatchTotal:
    """Return the total of one match."""
    return MatchTotal(
        players=match.players,
        teams=match.teams,
        env=match.env,
        env_digest=match.env_digest,
        matches=1,
        episodes=match.episodes,
        outcomes=match.outcomes,
        returns=match.returns,
    )


@dataclass(frozen=True, eq=False)
class PoolPayoffs:
    """What a league knows of one learner and its candidates; samplers get it as ``payoffs``.

    Attributes:
        learner: the policy id of the learner.
        candidates: the opponents that may be drawn.
    """

    learner: str
    candidates: tuple[Candidate, ...]
    _tally: Tally = field(repr=False)
    _lineage: Sequence[str] = field(repr=False)
    _decay: float = field(repr=False)

    @classmethod
    def of(
        cls,
        tally: Tally,
        learner: str,
        lineage: Sequence[str],
        candidates: Sequence[Candidate],
        *,
        decay: float,
    ) -> PoolPayoffs:
        """Return the payoffs of a learner; numbers are computed when they are first asked for.

        Args:
            tally: the scores of the league.
            learner: the policy id of the learner.
            lineage: the players that the learner was booked under, the latest first.
            candidates: the opponents.
            decay: weight of the episodes of a snapshot, relative to those of the next.
        """
        return cls(learner, tuple(candidates), tally, tuple(lineage), decay)

    @property
    def player(self) -> str:
        """The player that the learner's episodes are booked under; "" before its first snapshot.

        It is the digest of the learner's latest snapshot.
        """
        return self._lineage[0] if self._lineage else ""

    @property
    def win_rates(self) -> Floats:
        """For each candidate, how often the learner wins, between 0 and 1, a draw as half a win.

        Episodes of the latest snapshot count fully, and those of each earlier one ``decay`` times
        as much as those of the next. Two episodes are added, one won and one lost, so a candidate
        without episodes has 0.5. float64 of shape ``(len(candidates),)``.
        """
        wins, episodes = self._scores
        rates: Floats = (wins + PRIOR / 2) / (episodes + PRIOR)
        return rates

    @property
    def episodes(self) -> Floats:
        """For each candidate, the episodes behind :attr:`win_rates`, without the two added ones.

        Weighted as in ``win_rates``. float64 of shape ``(len(candidates),)``.
        """
        return self._scores[1]

    @functools.cached_property
    def _scores(self) -> tuple[Floats, Floats]:
        wins, episodes = np.zeros(len(self.candidates)), np.zeros(len(self.candidates))
        for age, player in enumerate(self._lineage):
            row, weight = self._tally.row(player), self._decay**age
            for index, candidate in enumerate(self.candidates):
                score = row.get(candidate.player)
                if score is not None:
                    wins[index] += score[0] * weight
                    episodes[index] += score[1] * weight
        return wins, episodes

    @property
    def _refs(self) -> dict[str, str]:
        return {each.player: each.ref for each in self.candidates}

    def league(self, players: Iterable[str] | None = None) -> Payoffs:
        """Return the payoffs of all pairs of players of the league, or of some players.

        Args:
            players: ids of the players that the result has, in this order, also those that have not
                played; only matches in which all players are among these count. None for all.
        """
        totals: Sequence[MatchTotal] = self._tally.totals()
        if players is None:
            return payoffs(totals, refs=self._refs)
        chosen = tuple(dict.fromkeys(players))
        among = set(chosen)
        totals = [each for each in totals if among.issuperset(each.players.values())]
        return payoffs(totals, refs=self._refs, players=chosen)

    def ratings(self, model: str = "bradley-terry") -> dict[str, float]:
        """Return the ratings of all players of the league that have met another one, Elo scale."""
        found = ratings(self._tally.totals(), model=model, refs=self._refs)
        rows = zip(found.players, found.ratings.tolist(), found.episodes.tolist(), strict=True)
        return {player: rating for player, rating, episodes in rows if episodes}
