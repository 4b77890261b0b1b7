"""Define ``search``, which finds versions across names by what their records say."""

from __future__ import annotations

from typing import Annotated

import typer

from policystore.cli.commands.names import Metric, draw_versions
from policystore.cli.common.command import LOOK, command
from policystore.cli.common.completion import complete_names
from policystore.cli.common.reading import StoreReader
from policystore.cli.common.session import Session
from policystore.cli.terminal import words

__all__: list[str] = []


@command("search", LOOK)
def search(
    session: Session,
    name: Annotated[
        str | None,
        typer.Argument(
            help="A name or a pattern: * and ? stand for characters within a segment, ** for any "
            "number of segments. Default: all names.",
            autocompletion=complete_names,
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            "-w",
            metavar="EXPRESSION",
            help="Only versions for which this holds, such as "
            "\"return > 20 and author == 'ann' and age < 7d\".",
        ),
    ] = None,
    sort: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD",
            help="Sort by a field; -FIELD puts the largest value first; may be repeated.",
        ),
    ] = None,
    tag: Annotated[
        str | None, typer.Option(metavar="TAG", help="Only versions to which this tag points.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only versions pushed since then: 7d, 12h, or a date."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="The most versions to list.")
    ] = None,
    metric: Metric = None,
) -> None:
    """Find versions across names by their metrics, authors, messages, tags and ages."""
    newest = None if since is None else words.moment(since, "--since")
    with session.working(f"Searching {session.store.url}"):
        found = session.store.versions(
            name, where=where, sort=sort or None, tag=tag, since=newest, limit=limit,
            skip_damaged=True,
        )  # fmt: skip
        for problem in found.problems:
            session.fault("", problem)
        versions = StoreReader(session).filled_names(found)
    document = {
        "store": session.store.url,
        "versions": [each.to_dict() for each in versions],
        "faults": session.fault_documents(),
    }

    def draw() -> None:
        if versions:
            draw_versions(session, versions, metric or ())
        elif not session.faults:
            session.note("no version fits")

    session.show(document, draw)
