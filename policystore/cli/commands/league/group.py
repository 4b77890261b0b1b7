"""Hold the group ``policystore league``, and find the league that a command names."""

from __future__ import annotations

from typing import Annotated

import typer

from policystore._util.near import close_names, did_you_mean
from policystore.cli.common.command import LEAGUES, group_of_commands
from policystore.cli.common.session import Session
from policystore.errors import NotFoundError
from policystore.league import League, leagues

__all__ = ["LEAGUE_GROUP", "Env", "LeagueName", "find_league"]

_SHOWN = 10  # leagues in a message

LEAGUE_GROUP = group_of_commands(
    "league", LEAGUES, summary="Look at leagues: who played whom, ratings, tournaments."
)

LeagueName = Annotated[
    str, typer.Argument(metavar="LEAGUE", help="The name of the league, such as soccer.")
]
Env = Annotated[
    str | None,
    typer.Option(
        metavar="ENV",
        help="Only episodes in this environment: its id, or the digest of its id and config. "
        "Default: all environments together.",
    ),
]


def find_league(session: Session, name: str) -> League:
    """Return a league of the store.

    Raises:
        NotFoundError: there is no such league; the message names those that are close.
        InvalidInputError: the text is no name.
    """
    league = League(session.store, name)
    known = leagues(session.store)
    if name not in known:
        close = did_you_mean(close_names(name, known))
        some = f" Its leagues: {', '.join(known[:_SHOWN])}." if known and not close else ""
        none = " It has no leagues." if not known else ""
        raise NotFoundError(f"no league {name!r} in {session.store.url}.{close}{some}{none}")
    return league
