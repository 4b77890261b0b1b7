"""Define ``league replay``, which plays a recorded match again."""

from __future__ import annotations

from typing import Annotated

import typer

from policystore._util.messages import brief, counted
from policystore.cli.commands.league.group import LEAGUE_GROUP, LeagueName, find_league
from policystore.cli.commands.league.matches import match_document, match_id, result_words
from policystore.cli.commands.league.playing import (
    EnvConfig,
    import_from_present_folder,
    make_environment,
)
from policystore.cli.common.command import LEAGUES, command
from policystore.cli.common.session import Session
from policystore.errors import AmbiguousError, InvalidInputError, NotFoundError
from policystore.format.plain import to_plain
from policystore.format.records.matches import Match
from policystore.league import League

__all__: list[str] = []

_LEAST_DIGITS = 4  # of the id of a match


@command("replay", LEAGUES, group=LEAGUE_GROUP)
def replay(
    session: Session,
    league: LeagueName,
    match: Annotated[
        str,
        typer.Argument(
            metavar="MATCH", help="The match, by the id that 'league matches' shows, or its start."
        ),
    ],
    env: Annotated[
        str | None,
        typer.Option(
            metavar="ENV",
            help="The environment, as for 'league play'. Default: the environment of the match, if "
            "gymnasium knows its id or --trust covers its import path.",
        ),
    ] = None,
    env_config: EnvConfig = None,
    trust: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PREFIX",
            help="Import from this package the classes that the policies name, and the environment "
            "that the match names; may be repeated.",
        ),
    ] = None,
) -> None:
    """Play a recorded match again from its seeds, and compare the returns."""
    found = find_league(session, league)
    with session.working(f"Looking for the match {match}"):
        chosen = _find_match(found, match)
    if env is None and env_config:
        raise InvalidInputError("--env-config needs --env, the environment that has this config")
    made = None if env is None else make_environment(env, env_config)
    if trust:
        import_from_present_folder()
    from policystore.league.tournament.replay import replay as replay_match  # late: loads numpy

    with session.working("Playing the match again"):
        again = replay_match(found, chosen, env=made, trust=trust or ())
    document = {
        "store": session.store.url,
        "league": league,
        "match": match_document(chosen),
        "episodes": to_plain(again.to_records()),
    }
    words = f"the same returns in {counted(chosen.episodes, 'episode')}: {result_words(chosen)}"
    session.show(document, lambda: session.say(words))


def _find_match(league: League, start: str) -> Match:
    """Return the match whose id starts with some digits.

    Raises:
        NotFoundError, AmbiguousError: no match, or several different ones. Two different matches
            may have one id, see :func:`match_id`.
        InvalidInputError: too few digits, or other characters.
    """
    if len(start) < _LEAST_DIGITS or not set(start) <= set("0123456789abcdef"):
        raise InvalidInputError(
            f"a match is named by {_LEAST_DIGITS} or more hexadecimal digits, as "
            f"'policystore league matches {league.name}' shows them, not {brief(start)}"
        )
    fitting: dict[str, Match] = {}
    for match in league.matches():
        name = match_id(match)
        if name.startswith(start) and fitting.setdefault(name, match) != match:
            raise AmbiguousError(
                f"two matches of the league {league.name!r} have the id {name[:16]}…, and differ "
                "in the config of the environment or in the returns of single episodes: replay one "
                "of them in Python, league.replay(match)"
            )
    if not fitting:
        raise NotFoundError(f"no match of the league {league.name!r} has an id with {start}…")
    if len(fitting) > 1:
        raise AmbiguousError(
            f"{len(fitting)} matches of the league {league.name!r} have an id with {start}…: "
            f"{', '.join(name[:16] for name in sorted(fitting)[:5])}. Give more digits"
        )
    return next(iter(fitting.values()))
