"""Define ``league delete`` and ``league report``."""

from __future__ import annotations

from typing import Annotated

import typer

from policystore._util.messages import counted
from policystore.cli.commands.league.group import LEAGUE_GROUP, LeagueName, find_league
from policystore.cli.common.command import LEAGUES, Author, Message, command
from policystore.cli.common.confirm import DryRun, Yes, confirmed
from policystore.cli.common.exit_codes import Code
from policystore.cli.common.session import Session
from policystore.league import League

__all__: list[str] = []


@command("report", LEAGUES, group=LEAGUE_GROUP)
def report(
    session: Session,
    league: LeagueName,
    out: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="A new or empty folder, the folder of an earlier report, or a file that ends with "
            ".html.",
        ),
    ] = "report",
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="The most versions of each name to show.")
    ] = 1000,
    title: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The title of the page. Default: the league."),
    ] = None,
) -> None:
    """Write a page that shows one league and the versions that play in it."""
    find_league(session, league)
    with session.working("Reading for the report", unit="records") as bar:
        summary = session.store.report(
            out,
            leagues=league,
            limit=limit,
            diffs=0,
            title=f"League {league}" if title is None else title,
            progress=bar,
        )
    for problem in summary.problems:
        session.fault(problem.place, problem.text)
    document = {
        "store": session.store.url,
        "league": league,
        "path": str(summary.path),
        "nbytes": summary.nbytes,
        "names": summary.names,
        "versions": summary.versions,
        "players": summary.players,
        "not_shown": summary.not_shown,
        "shortened": summary.shortened,
        "faults": session.fault_documents(),
    }
    session.show(document, lambda: session.say(str(summary).splitlines()[0]))


@command("delete", LEAGUES, group=LEAGUE_GROUP)
def delete(
    session: Session,
    league: LeagueName,
    message: Message = "",
    author: Author = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> int:
    """Delete all matches of a league. The policies that played stay in the store.

    Nothing brings the matches back. Matches that are recorded later begin the league anew.
    """
    found = find_league(session, league)
    with session.working(f"Reading {league}"):
        totals = found.totals()
    what = f"{counted(totals.matches, 'match', 'matches')} of {counted(totals.episodes, 'episode')}"

    def draw() -> None:
        session.say(f"would delete the league {league}: {what}")

    go = confirmed(session, draw, f"Delete the league {league}?", yes=yes, dry_run=dry_run)
    if go:
        League(session.store, league, author=author).delete(message=message)
    document = {
        "store": session.store.url,
        "league": league,
        "matches": totals.matches,
        "episodes": totals.episodes,
        "deleted": go,
    }
    done = f"deleted the league {league}: {what}"
    session.show(document, lambda: session.say(done) if go else None)
    return Code.FINE if go or dry_run else Code.FAULTS
