"""Define ``league ls``, ``ratings``, ``payoffs`` and ``matches``, which show what was played."""

from __future__ import annotations

import datetime
from functools import partial
from itertools import islice
from typing import Annotated, Any

import typer

from policystore._util.messages import counted
from policystore.cli.commands.league.group import LEAGUE_GROUP, Env, LeagueName, find_league
from policystore.cli.commands.league.matches import (
    match_document,
    match_id,
    result_words,
    shown_player,
)
from policystore.cli.common.command import LEAGUES, command
from policystore.cli.common.session import Session
from policystore.cli.common.values import parse_values
from policystore.cli.terminal import words
from policystore.cli.terminal.tables import Column
from policystore.format.plain import iso_time, to_plain
from policystore.format.records.fields import parse_time
from policystore.format.records.matches import Match
from policystore.league import League, leagues
from policystore.repository.stamp import now

__all__: list[str] = []

_SHOWN = 50  # rows of a table, unless --limit gives another number
_SHORT = 8  # digits of the id of a match in a table

Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        "-n",
        min=1,
        help="The most rows. Default: 50 in a table, all with --json.",
    ),
]


@command("ls", LEAGUES, group=LEAGUE_GROUP)
def list_leagues(session: Session) -> None:
    """List the leagues in the store, each with its players and episodes."""
    url = session.store.url
    with session.working(f"Reading {url}"):
        rows = [
            session.attempt(f"league {name}", partial(_summary, session, name))
            for name in leagues(session.store)
        ]
    known = [row for row in rows if row is not None]
    document = {"store": url, "leagues": known, "faults": session.fault_documents()}
    session.show(document, lambda: _draw_leagues(session, url, known))


def _summary(session: Session, name: str) -> dict[str, Any]:
    totals = League(session.store, name).totals()
    return {
        "name": name,
        "players": len(totals.players),
        "matches": totals.matches,
        "episodes": totals.episodes,
        "unknown": dict(totals.unknown),
        "writers": totals.writers,
        "environments": sorted({each.env for each in totals.matchups}),
        "last": iso_time(parse_time(totals.last)) if totals.last else None,
    }


def _draw_leagues(session: Session, url: str, rows: list[dict[str, Any]]) -> None:
    if not rows:
        session.note(f"{url} has no leagues; League(store, 'soccer') in Python records matches")
        return
    columns = [
        Column("league", style="cyan"),
        Column("players", right=True),
        Column("matches", right=True),
        Column("episodes", right=True),
        Column("unknown", right=True),
        Column("writers", right=True),
        Column("last match", right=True),
        Column("environments", wraps=True),
    ]
    session.table(
        columns,
        [
            [
                row["name"],
                *(words.count(row[key]) for key in ("players", "matches", "episodes")),
                words.count(sum(row["unknown"].values()) or None),
                words.count(row["writers"]),
                ""
                if row["last"] is None
                else words.age(datetime.datetime.fromisoformat(row["last"])),
                ", ".join(filter(None, row["environments"])),
            ]
            for row in rows
        ],
    )


def _age(time: str | None) -> str:
    return "" if not time else words.age(parse_time(time))


@command("ratings", LEAGUES, group=LEAGUE_GROUP)
def show_ratings(
    session: Session,
    league: LeagueName,
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL", help="bradley-terry, or openskill, which needs the extra league."
        ),
    ] = "bradley-terry",
    anchor: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLAYER=RATING",
            help="Give a player, such as soccer/main@1, a rating that the others follow; may be "
            "repeated. Default: the mean rating is 0.",
        ),
    ] = None,
    env: Env = None,
    limit: Limit = None,
) -> None:
    """Show the ratings of the players, the best first, on Elo's scale."""
    found = find_league(session, league)
    anchors = parse_values(anchor or (), "--anchor")
    with session.working(f"Rating the players of {league}"):
        rated = found.ratings(model=model, anchor=anchors or None, env=env)
    records = rated.to_records()
    notes = list(rated.notes)
    if len(rated.groups) > 1:
        notes.append(
            f"{len(rated.groups):,} groups of players never met each other: compare ratings within "
            "a group only"
        )
    document = {
        "store": session.store.url,
        "league": league,
        "model": model,
        "env": env,
        "ratings": to_plain(records[:limit]),
        "notes": notes,
    }

    def draw() -> None:
        columns = [
            Column("rank", right=True),
            Column("player", style="cyan"),
            Column("rating", right=True),
            Column("error", right=True),
            Column("episodes", right=True),
        ]
        rows = [
            [
                words.count(rank),
                shown_player(each["player"], each["ref"]),
                f"{each['rating']:.0f}",
                "given" if each["player"] in rated.anchor else f"± {each['error']:.0f}",
                words.count(each["episodes"]),
            ]
            for rank, each in enumerate(records[: limit or _SHOWN], 1)
        ]
        _draw(session, columns, rows, len(records), "player")
        _draw_notes(session, notes)

    session.show(document, draw)


@command("payoffs", LEAGUES, group=LEAGUE_GROUP)
def show_payoffs(
    session: Session,
    league: LeagueName,
    player: Annotated[
        str | None,
        typer.Option(metavar="PLAYER", help="Only pairs with this player, such as soccer/main@7."),
    ] = None,
    env: Env = None,
    limit: Limit = None,
) -> None:
    """Show who won how often against whom; draws count half. The interval is one of 95 %.

    The table has each pair once, and those with the most episodes first. With --json there are two
    records for each pair, one for each player.
    """
    found = find_league(session, league)
    with session.working(f"Reading {league}"):
        table = found.payoffs(env=env)
    records = table.to_records()
    if player is not None:
        wanted = table.players[table.place(player)]
        records = [each for each in records if each["player"] == wanted]
    records.sort(key=lambda each: (-each["episodes"], each["player"], each["opponent"]))
    document = {
        "store": session.store.url,
        "league": league,
        "env": env,
        "payoffs": to_plain(records[:limit]),
        "notes": list(table.notes),
    }
    notes = list(table.notes)
    once = records if player else [each for each in records if each["player"] < each["opponent"]]

    def draw() -> None:
        columns = [
            Column("player", style="cyan"),
            Column("opponent", style="cyan"),
            *(Column(name, right=True) for name in ("episodes", "wins", "draws", "losses")),
            Column("win rate", right=True),
            Column("interval", right=True),
        ]
        rows = [
            [
                shown_player(each["player"], each["ref"]),
                shown_player(each["opponent"], each["opponent_ref"]),
                *(words.count(each[key]) for key in ("episodes", "wins", "draws", "losses")),
                f"{each['win_rate']:.1%}",
                f"{each['low']:.1%} to {each['high']:.1%}",
            ]
            for each in once[: limit or _SHOWN]
        ]
        _draw(session, columns, rows, len(once), "pair")
        _draw_notes(session, notes)

    session.show(document, draw)


@command("matches", LEAGUES, group=LEAGUE_GROUP)
def show_matches(
    session: Session,
    league: LeagueName,
    player: Annotated[
        str | None,
        typer.Option(metavar="PLAYER", help="Only matches of this player, such as soccer/main@7."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only matches since then: 7d, 12h, or a date."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="The most matches to list.")
    ] = _SHOWN,
) -> None:
    """List matches, the newest first: who beat whom, where and when."""
    found = find_league(session, league)
    start = None if since is None else words.moment(since, "--since")
    if isinstance(start, datetime.timedelta):
        start = now() - start
    with session.working(f"Reading {league}"):
        matches = list(islice(found.matches(player=player, since=start, limit=limit), limit))
    document = {
        "store": session.store.url,
        "league": league,
        "matches": [match_document(each) for each in matches],
    }
    session.show(document, lambda: _draw_matches(session, matches))


def _draw_matches(session: Session, matches: list[Match]) -> None:
    if not matches:
        session.note("no match fits")
        return
    columns = [
        Column("match", style="cyan"),
        Column("age", right=True),
        Column("players", wraps=True),
        Column("episodes", right=True),
        Column("result", wraps=True),
        Column("environment", wraps=True),
        Column("iteration", right=True),
    ]
    session.table(columns, [_cells(each) for each in matches])


def _cells(match: Match) -> list[str]:
    players = [
        f"{role}: {shown_player(player, match.refs.get(role))}"
        for role, player in match.players.items()
    ]
    return [
        match_id(match)[:_SHORT],
        _age(match.time),
        ", ".join(players),
        words.count(match.episodes),
        result_words(match),
        match.env,
        words.count(match.iteration),
    ]


def _draw(
    session: Session, columns: list[Column], rows: list[list[str]], every: int, one: str
) -> None:
    """Draw a table, and say how many rows it lacks."""
    if rows:
        session.table(columns, rows)
    else:
        session.note(f"no {one}")
    if every > len(rows):
        session.note(f"and {counted(every - len(rows), one)} more; --limit shows more")


def _draw_notes(session: Session, notes: list[str]) -> None:
    for note in notes:
        session.note(session.translated(note))
