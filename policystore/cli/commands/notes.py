"""Define ``annotate``, which adds metrics and notes to a version after its push."""

from __future__ import annotations

from typing import Annotated

import typer

from policystore.cli.common.command import CHANGE, Author, command
from policystore.cli.common.completion import complete_refs
from policystore.cli.common.session import Session
from policystore.cli.common.values import parse_values

__all__: list[str] = []


@command("annotate", CHANGE)
def annotate(
    session: Session,
    ref: Annotated[
        str,
        typer.Argument(
            help="The version, such as soccer/main@7; soccer/main means the newest one.",
            autocompletion=complete_refs,
        ),
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A metric, such as elo=1200; may be repeated."),
    ] = None,
    note: Annotated[
        str, typer.Option("--note", "-m", metavar="TEXT", help="A text, such as 'do not use'.")
    ] = "",
    author: Author = None,
) -> None:
    """Add an annotation to a version: metrics, a note, or both.

    Earlier annotations are not changed.
    """
    metrics = parse_values(metric or (), "--metric")
    with session.working(f"Annotating {ref}"):
        made = session.store.annotate(ref, metrics=metrics, note=note, author=author)
    document = {"store": session.store.url, "annotation": made.to_dict()}
    session.show(document, lambda: session.say(f"annotated {made.ref}"))
