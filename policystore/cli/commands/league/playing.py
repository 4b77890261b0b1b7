"""Define ``league play``, which plays matches between stored policies."""

from __future__ import annotations

import importlib
import re
import sys
from typing import Annotated, Any, Literal

import typer

from policystore._util.messages import brief
from policystore.cli.commands.league.group import LEAGUE_GROUP, LeagueName
from policystore.cli.common.command import LEAGUES, Author, command
from policystore.cli.common.completion import complete_refs
from policystore.cli.common.session import Session
from policystore.cli.common.values import parse_values
from policystore.errors import InvalidInputError
from policystore.format.plain import to_plain
from policystore.league import League

__all__ = ["EnvConfig", "import_from_present_folder", "make_environment"]

_IMPORT_PATH = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)\Z")

_Pairing = Literal["round-robin", "anchors", "swiss"]

Env = Annotated[
    str,
    typer.Option(
        metavar="ENV",
        help="The environment: an id of gymnasium, or MODULE:NAME of a class or function that "
        "makes it, such as pettingzoo.classic.connect_four_v3:env.",
    ),
]
EnvConfig = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="A value of the config that the environment is made with; may be repeated.",
    ),
]
Trust = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PREFIX",
        help="Import classes of this package, which the policies name; may be repeated.",
    ),
]


def import_from_present_folder() -> None:
    """Let modules that the user names come from the present folder, too.

    The folder comes last: a file in it that is called numpy.py replaces no installed package.
    """
    if "" not in sys.path:
        sys.path.append("")


def make_environment(text: str, config: list[str] | None) -> Any:
    """Return the environment of a command line as ``League.play`` takes it.

    A text such as ``mygame.envs:Soccer`` is imported, from the present folder, too: the user has
    named this code.

    Raises:
        InvalidInputError: there is no such module, or nothing of this name in it.
    """
    env: Any = text
    path = _IMPORT_PATH.match(text)
    if path is not None:
        import_from_present_folder()
        try:
            env = importlib.import_module(path[1])
            for name in path[2].split("."):
                env = getattr(env, name)
        except (ImportError, AttributeError) as error:
            raise InvalidInputError(f"--env {brief(text)}: {error}") from None
    values = parse_values(config or (), "--env-config")
    return (env, values) if values else env


@command("play", LEAGUES, group=LEAGUE_GROUP)
def play(
    session: Session,
    league: LeagueName,
    refs: Annotated[
        list[str],
        typer.Argument(
            metavar="REF...",
            help="The players: refs such as soccer/main@7, files of 'export', or random.",
            autocompletion=complete_refs,
        ),
    ],
    env: Env,
    env_config: EnvConfig = None,
    episodes: Annotated[
        int, typer.Option(min=1, help="How many episodes the players of each pairing play.")
    ] = 20,
    seed: Annotated[int, typer.Option(help="Other seeds give other episodes.")] = 0,
    pairing: Annotated[
        _Pairing,
        typer.Option(
            help="round-robin: everyone meets everyone. anchors: everyone meets those of "
            "--against. swiss: players of like scores meet.",
        ),
    ] = "round-robin",
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REF",
            help="An anchor, for --pairing anchors; may be repeated.",
            autocompletion=complete_refs,
        ),
    ] = None,
    until: Annotated[
        float | None,
        typer.Option(
            metavar="WIDTH",
            help="Go on with pairs until the 95 % interval of their win rate is at most this "
            "to each side, such as 0.05.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Play in so many processes of this machine. Default: in one."),
    ] = None,
    trust: Trust = None,
    author: Author = None,
) -> None:
    """Play a tournament between stored policies, and record its matches in a league.

    A league that does not exist yet is begun. What the league has already is not played again:
    after Ctrl-C, the same command goes on.
    """
    target = League(session.store, league, author=author)
    with session.working(f"Playing for {league}", unit="episodes") as bar:
        report = target.play(
            refs,
            env=make_environment(env, env_config),
            episodes=episodes,
            seed=seed,
            parallel=None if workers is None else "processes",
            workers=workers,
            pairing=pairing,
            against=against or (),
            until=until,
            trust=trust or (),
            progress=bar,
        )
    document = {
        "store": session.store.url,
        "league": league,
        "env": report.env,
        "played": report.played,
        "known": report.known,
        "results": to_plain(report.to_records()),
    }
    session.show(document, lambda: session.say_report(report))
