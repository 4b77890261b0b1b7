"""Show a league in a notebook and in a terminal: the ratings of its players."""

from __future__ import annotations

from collections.abc import Callable

from policystore._util.messages import counted, printable, shorten, text_table
from policystore.display.html import Cell, Html, block, line, table
from policystore.errors import PolicyStoreError
from policystore.league.analysis import payoffs, ratings
from policystore.league.analysis.labels import player_labels
from policystore.repository.matches.showing import LeagueSums, summary_of

__all__ = ["league_html", "league_text"]

_MAX_ROWS, _MAX_ROWS_HTML = 20, 50  # players
_HEAD = ("player", "rating", "error", "win rate", "episodes")


def league_text(title: str, read: Callable[[], LeagueSums]) -> str:
    """Return one screen of text.

    Args:
        title: the first line.
        read: reads the totals of the league.
    """
    try:
        rows, facts = _standings(read(), _MAX_ROWS)
    except PolicyStoreError as error:
        return f"{title}: {_in_brief(error)}"
    shown = [text_table(_HEAD, rows, range(1, len(_HEAD)))] if rows else []
    return "\n".join([title, *shown, *facts])


def league_html(title: str, read: Callable[[], LeagueSums]) -> str:
    """Return the ratings as HTML for a notebook, with all texts escaped."""
    head = line(title, heading=True)
    try:
        rows, facts = _standings(read(), _MAX_ROWS_HTML)
    except PolicyStoreError as error:
        return block([head, line(_in_brief(error))]).source
    cells: list[list[str | Html | Cell]] = [
        [player, *(Cell(text, number=True) for text in numbers)] for player, *numbers in rows
    ]
    shown = [table(_HEAD, cells)] if cells else []
    return block([head, *shown, *(line(fact, faint=True) for fact in facts)]).source


def _standings(totals: LeagueSums, most: int) -> tuple[list[list[str]], list[str]]:
    """Return the cells of the best players, and sentences on what was recorded."""
    results = payoffs(totals.matchups, refs=totals.refs)
    rated = ratings(totals.matchups, refs=totals.refs)
    records = rated.to_records() if len(results.first) else []
    scores = dict.fromkeys(range(len(results.players)), (0.0, 0))
    for first, second, wins, draws, losses in zip(
        *(
            getattr(results, name).tolist()
            for name in ("first", "second", "pair_wins", "pair_draws", "pair_losses")
        ),
        strict=True,
    ):
        for place, won in ((first, wins), (second, losses)):
            score, games = scores[place]
            scores[place] = (score + won + draws / 2, games + wins + draws + losses)
    share = {
        player: score / games
        for player, (score, games) in zip(results.players, scores.values(), strict=True)
        if games
    }
    labels = player_labels([each["player"] for each in records], totals.refs)
    rows = [
        [
            labels[each["player"]],
            f"{each['rating']:.0f}",
            f"± {each['error']:.0f}",
            f"{share[each['player']]:.0%}" if each["player"] in share else "",
            f"{each['episodes']:,}",
        ]
        for each in records[:most]
    ]
    left = len(records) - len(rows)
    facts = [f"and {counted(left, 'player')} more"] if left else []
    if records and len(rated.groups) > 1:
        facts.append(
            f"{len(rated.groups)} groups of players that never met: compare ratings within a group"
        )
    return rows, [*facts, *summary_of(totals)]


def _in_brief(error: PolicyStoreError) -> str:
    return printable(shorten(" ".join(str(error).split()), 300))
