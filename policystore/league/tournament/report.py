"""What a tournament returns: its matches, and who won how often."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policystore._util.messages import counted, text_table
from policystore.display.html import Cell, Html, block, line, table
from policystore.display.pretty import print_text
from policystore.format.records.matches import Match, MatchTotal
from policystore.league.analysis.intervals import win_rate_interval
from policystore.league.tournament.plan import Sides
from policystore.league.tournament.records import total_matches
from policystore.league.tournament.scores import Tally

__all__ = ["TournamentReport"]

_MAX_ROWS = 50  # of a printed table


@dataclass(frozen=True, repr=False)
class TournamentReport:
    """The matches of a tournament.

    ``print(report)`` prints a table of win rates.

    Attributes:
        matches: all matches, those played before the call and in the call; each is up to
            ``batch_size`` episodes of the same players in the same roles.
        played: episodes that this call played.
        known: episodes that the ledger had already.
        players: player -> what the caller called it.
        env: id of the environment.
        sides: the sides of the game, each with its roles.
        resting: of a Swiss tournament, the players without a match in each round.
    """

    matches: tuple[Match, ...]
    played: int
    known: int
    players: Mapping[str, str]
    env: str
    sides: Sides
    resting: tuple[tuple[str, ...], ...] = field(default=())

    @property
    def episodes(self) -> int:
        """All episodes of the tournament."""
        return self.played + self.known

    def totals(self) -> list[MatchTotal]:
        """Return the matches added up, as ``policystore.league.payoffs`` and ``ratings`` take."""
        return total_matches(self.matches)

    def to_records(self) -> list[dict[str, Any]]:
        """Return a dict for each two players that met, in both orders.

        Keys: ``player``, ``opponent``, ``ref``, ``opponent_ref``, ``episodes``, ``wins``,
        ``draws``, ``losses``, ``win_rate`` (draws half), ``low`` and ``high`` (95 % interval). The
        numbers of an environment without winners are None.
        """
        tally = Tally(self.sides)
        for match in self.matches:
            tally.add(match)
        met: dict[tuple[str, str], int] = {}
        for match in self.matches:
            for pair in itertools.permutations(sorted(set(match.players.values())), 2):
                met[pair] = met.get(pair, 0) + match.episodes
        return [self._record(tally, pair, met[pair]) for pair in sorted(met)]

    def _record(self, tally: Tally, pair: tuple[str, str], episodes: int) -> dict[str, Any]:
        wins, draws, losses = tally.counts(*pair)
        number = wins + draws + losses
        low, high = win_rate_interval(wins, draws, losses)
        return {
            "player": pair[0],
            "opponent": pair[1],
            "ref": self.players.get(pair[0], ""),
            "opponent_ref": self.players.get(pair[1], ""),
            "episodes": episodes,
            "wins": wins if number else None,
            "draws": draws if number else None,
            "losses": losses if number else None,
            "win_rate": (wins + draws / 2) / number if number else None,
            "low": float(low) if number else None,
            "high": float(high) if number else None,
        }

    def __repr__(self) -> str:
        return f"<TournamentReport: {self._summary()}>"

    def __str__(self) -> str:
        head = ("player", "opponent", "episodes", "wins", "draws", "losses", "win rate", "95 %")
        rows = self._rows()
        more = [f"… {len(rows) - _MAX_ROWS} more"] if len(rows) > _MAX_ROWS else []
        lines = [self._summary()]
        if rows:
            lines.append(text_table(head, rows[:_MAX_ROWS], range(2, 8)))
        return "\n".join([*lines, *more])

    _repr_pretty_ = print_text

    def _repr_html_(self) -> str:
        head = ("player", "opponent", "episodes", "wins", "draws", "losses", "win rate", "95 %")
        rows: list[list[str | Html | Cell]] = [
            [row[0], row[1], *(Cell(cell, number=True) for cell in row[2:])]
            for row in self._rows()[:_MAX_ROWS]
        ]
        parts = [line(self._summary(), heading=True)]
        if rows:
            parts.append(table(head, rows))
        return block(parts).source

    def _summary(self) -> str:
        known = f", {self.known:,} of them known" if self.known else ""
        players = counted(len(self.players), "player")
        return f"{counted(self.episodes, 'episode')}{known}, {players}, {self.env}"

    def _rows(self) -> list[list[str]]:
        """Return the cells of a table, best win rates first; each two players once."""
        rows = []
        for record in self.to_records():
            if record["win_rate"] is None and record["player"] > record["opponent"]:
                continue
            if record["win_rate"] is not None and (
                record["win_rate"] < 0.5
                or (record["win_rate"] == 0.5 and record["player"] > record["opponent"])
            ):
                continue
            rows.append(record)
        rows.sort(key=lambda record: (-(record["win_rate"] or 0.0), record["player"]))
        return [self._cells(record) for record in rows]

    def _cells(self, record: dict[str, Any]) -> list[str]:
        names = [
            record[ref] or record[player][:19]
            for ref, player in (("ref", "player"), ("opponent_ref", "opponent"))
        ]
        if record["win_rate"] is None:
            return [*names, f"{record['episodes']:,}", "", "", "", "", ""]
        counts = [f"{record[key]:,}" for key in ("episodes", "wins", "draws", "losses")]
        interval = f"{record['low']:.1%} to {record['high']:.1%}"
        return [*names, *counts, f"{record['win_rate']:.1%}", interval]
