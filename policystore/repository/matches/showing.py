"""Show the totals of a league as text, and in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

from policystore._util.messages import counted, printable, text_table
from policystore.display.html import Cell, Html, block, line, table
from policystore.format.records.matches import MatchTotal

__all__ = ["LeagueSums", "summary_of", "totals_html", "totals_text"]

_MAX_ROWS, _MAX_ROWS_HTML = 20, 50  # players
_MAX_REASONS = 3
_HEAD = ("player", "episodes", "won", "drawn", "opponents", "mean return")


class LeagueSums(Protocol):
    """The part of :class:`~policystore.repository.matches.totals.Totals` that is shown."""

    @property
    def league(self) -> str:
        """Name of the league."""

    @property
    def matchups(self) -> tuple[MatchTotal, ...]:
        """Sums of each combination of players, teams and environment."""

    @property
    def unknown(self) -> Mapping[str, int]:
        """Episodes that were not recorded, by reason."""

    @property
    def refs(self) -> Mapping[str, str]:
        """Player -> what its matches call it."""

    @property
    def players(self) -> tuple[str, ...]:
        """All players."""

    @property
    def matches(self) -> int:
        """Number of matches."""

    @property
    def episodes(self) -> int:
        """Number of episodes."""


@dataclass
class _Played:
    """What one player has played, over all matchups."""

    episodes: int = 0
    won: int = 0
    drawn: int = 0
    opponents: set[str] = field(default_factory=set)
    returns: int = 0
    sum: Fraction = Fraction(0)


def totals_text(totals: LeagueSums) -> str:
    """Return a table of the players with the most episodes, and below it what was recorded."""
    rows, left = _rows(totals, _MAX_ROWS)
    lines = [text_table(_HEAD, rows, range(1, len(_HEAD)))] if rows else []
    lines += [f"and {counted(left, 'player')} more"] if left else []
    return "\n".join([*lines, *summary_of(totals)])


def totals_html(totals: LeagueSums) -> str:
    """Return the same for a notebook, with all texts escaped."""
    rows, left = _rows(totals, _MAX_ROWS_HTML)
    cells: list[list[str | Html | Cell]] = [
        [player, *(Cell(text, number=True) for text in numbers)] for player, *numbers in rows
    ]
    parts = [line(f"League {totals.league}", heading=True)]
    parts += [table(_HEAD, cells)] if cells else []
    parts += [line(f"and {counted(left, 'player')} more", faint=True)] if left else []
    parts += [line(fact, faint=True) for fact in summary_of(totals)]
    return block(parts).source


def summary_of(totals: LeagueSums) -> list[str]:
    """Return printable sentences on how much was recorded, and what was not."""
    envs = {(total.env, total.env_digest) for total in totals.matchups}
    facts = [
        f"{counted(len(totals.players), 'player')}, {counted(totals.matches, 'match', 'matches')}, "
        f"{counted(totals.episodes, 'episode')} in {counted(len(envs), 'environment')}"
    ]
    if totals.unknown:
        reasons = sorted(totals.unknown.items(), key=lambda item: (-item[1], item[0]))
        named = [f"{printable(reason)} ({count:,})" for reason, count in reasons[:_MAX_REASONS]]
        more = [f"and {len(reasons) - _MAX_REASONS} more reasons"] * (len(reasons) > _MAX_REASONS)
        episodes = counted(sum(totals.unknown.values()), "episode")
        facts.append(f"{episodes} played and not recorded: {', '.join([*named, *more])}")
    return facts


def _rows(totals: LeagueSums, most: int) -> tuple[list[list[str]], int]:
    """Return the cells of the players with the most episodes, and how many more there are."""
    from policystore.league.analysis.labels import player_labels  # late: only who looks needs it

    played: dict[str, _Played] = {}
    for total in totals.matchups:
        _add(total, played)
    order = sorted(played, key=lambda player: (-played[player].episodes, player))
    labels = player_labels(order, totals.refs)
    decided = any(total.outcomes for total in totals.matchups)
    rows = []
    for player in order[:most]:
        each = played[player]
        rows.append(
            [
                labels[player],
                f"{each.episodes:,}",
                f"{each.won:,}" if decided else "",
                f"{each.drawn:,}" if decided else "",
                f"{len(each.opponents):,}",
                _mean(each.sum / each.returns) if each.returns else "",
            ]
        )
    return rows, max(0, len(order) - most)


def _add(total: MatchTotal, played: dict[str, _Played]) -> None:
    roles = list(total.players)
    sides = [total.teams.get(role, role) for role in roles]
    for player in set(total.players.values()):
        mine = [at for at, role in enumerate(roles) if total.players[role] == player]
        each = played.setdefault(player, _Played())
        each.episodes += total.episodes
        each.opponents |= set(total.players.values()) - {player}
        for outcome in total.outcomes:
            best = {side for side, rank in zip(sides, outcome.ranks, strict=True) if rank == 0}
            if best & {sides[at] for at in mine}:
                if len(best) == 1:
                    each.won += outcome.episodes
                else:
                    each.drawn += outcome.episodes
        for at in mine:
            known = total.returns.get(roles[at])
            if known is not None:
                each.returns += known.episodes
                each.sum += known.sum


def _mean(number: Fraction) -> str:
    try:
        return f"{float(number):.4g}"
    except OverflowError:  # sums in records are exact, and may be larger than every float
        return "inf" if number > 0 else "-inf"
