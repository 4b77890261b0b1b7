"""Count wins, draws and losses between players over the matches of a tournament."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from policystore.format.records.matches import Match
from policystore.league.analysis.intervals import win_rate_interval
from policystore.league.tournament.plan import Pairing, Sides

__all__ = ["Tally"]


class Tally:
    """Wins, draws and losses between each two players.

    Args:
        sides: the sides of the game; roles of one side have one rank.
    """

    def __init__(self, sides: Sides) -> None:
        self._roles = [side[0] for side in sides]
        self._counts: dict[tuple[str, str], list[int]] = {}

    def add(self, match: Match) -> None:
        """Count the outcomes of a match."""
        roles = list(match.players)
        places = [roles.index(role) for role in self._roles]
        for outcome in match.outcomes:
            for one, other in itertools.combinations(places, 2):
                players = match.players[roles[one]], match.players[roles[other]]
                if players[0] != players[1]:
                    self._compare(players, outcome.ranks[one], outcome.ranks[other],
                                  outcome.episodes)  # fmt: skip

    def _compare(
        self, players: tuple[str, str], one: int | None, other: int | None, episodes: int
    ) -> None:
        if one is None and other is None:
            return  # who of the two was better is unknown
        if one is not None and (other is None or one < other):
            result = 0
        else:
            result = 1 if one == other else 2
        for pair, place in ((players, result), (players[::-1], 2 - result)):
            self._counts.setdefault((pair[0], pair[1]), [0, 0, 0])[place] += episodes

    def counts(self, player: str, opponent: str) -> tuple[int, int, int]:
        """Return wins, draws and losses of a player against an opponent."""
        wins, draws, losses = self._counts.get((player, opponent), (0, 0, 0))
        return wins, draws, losses

    def score(self, player: str, opponents: Iterable[str]) -> float | None:
        """Return the share of points that a player took from opponents; None without any match."""
        wins = draws = losses = 0
        for opponent in opponents:
            won, drawn, lost = self.counts(player, opponent)
            wins, draws, losses = wins + won, draws + drawn, losses + lost
        episodes = wins + draws + losses
        return (wins + draws / 2) / episodes if episodes else None

    def widest(self, pairing: Pairing) -> float:
        """Return the largest uncertainty of the win rates between the players of a pairing.

        Half the width of the 95 % interval of
        :func:`policystore.league.analysis.intervals.win_rate_interval`; 0 for players between whom
        no episode had a winner or a draw, because more episodes would tell no more.
        """
        half = 0.0
        for one, other in itertools.combinations(pairing, 2):
            counts = self.counts(one, other)
            low, high = win_rate_interval(*counts) if any(counts) else (0.0, 0.0)
            half = max(half, float(high - low) / 2)
        return half
