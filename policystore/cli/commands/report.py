"""Define ``report``, which writes a page that shows a store in a browser."""

from __future__ import annotations

from typing import Annotated

import typer

from policystore.cli.common.command import LOOK, command
from policystore.cli.common.completion import complete_names
from policystore.cli.common.session import Session

__all__: list[str] = []


@command("report", LOOK)
def report(
    session: Session,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="A name, a prefix such as soccer/, or a pattern such as soccer/*; several are "
            "allowed. Default: all names.",
            autocompletion=complete_names,
        ),
    ] = None,
    out: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="A new or empty folder, the folder of an earlier report, or a file that ends with "
            ".html.",
        ),
    ] = "report",
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="The most versions of each name to show.")
    ] = 1000,
    diffs: Annotated[
        int, typer.Option(min=0, help="The most pairs of versions to compare layer by layer.")
    ] = 40,
    title: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The title of the page. Default: the URL of the store."),
    ] = None,
) -> None:
    """Write a page that shows the store in a browser, without a server and without requests."""
    with session.working("Reading for the report", unit="records") as bar:
        summary = session.store.report(
            out, names or None, limit=limit, diffs=diffs, title=title, progress=bar
        )
    for problem in summary.problems:
        session.fault(problem.place, problem.text)
    document = {
        "store": session.store.url,
        "path": str(summary.path),
        "nbytes": summary.nbytes,
        "names": summary.names,
        "versions": summary.versions,
        "differences": summary.differences,
        "leagues": summary.leagues,
        "players": summary.players,
        "not_shown": summary.not_shown,
        "shortened": summary.shortened,
        "faults": session.fault_documents(),
    }
    session.show(document, lambda: session.say(str(summary).splitlines()[0]))
