"""Define ``watch``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from policystore.cli.common.command import LOOK, command
from policystore.cli.common.completion import complete_refs
from policystore.cli.common.exit_codes import Code
from policystore.cli.common.session import Session
from policystore.cli.terminal.output import as_json, mapped_output
from policystore.display.words import show_time
from policystore.format.plain import iso_time
from policystore.format.records import Version
from policystore.repository.stamp import now

__all__: list[str] = []


@command("watch", LOOK)
def watch(
    session: Session,
    ref: Annotated[
        str,
        typer.Argument(
            help="A name or a tag, such as soccer/main@champion.", autocompletion=complete_refs
        ),
    ],
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", help="About how many seconds lie between two looks.")
    ] = 5.0,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="End after this time; 0: after one look. By default the command does not end.",
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", metavar="", help="Wait for a ref that means nothing yet.")
    ] = False,
) -> int:
    """Show the version that a name or a tag means now, and then each new version that it means.

    The command goes on until Ctrl-C, or until --timeout. If it has shown no version by then, the
    exit code is 1. With --json it prints a document for each version, on a line of its own.
    """
    watched = session.store.watch(ref, interval=interval, timeout=timeout, wait=wait)
    code = Code.FAULTS
    for version in watched:
        _show(session, ref, version)
        code = Code.FINE
    if code is not Code.FINE:
        session.note(f"{ref}: no version was seen until --timeout")
    return code


def _show(session: Session, ref: str, version: Version) -> None:
    seen = now()
    if session.json:
        document = {
            "store": session.store.url,
            "ref": ref,
            "seen": iso_time(seen),
            "version": version.to_dict(),
        }
        with mapped_output():
            sys.stdout.write(as_json(document) + "\n")
            sys.stdout.flush()
        return
    message = f"  {version.message}" if version.message else ""
    session.say(
        f"{show_time(seen)}  {version.ref}  {version.digest.short}  {version.author}{message}"
    )
    with mapped_output():
        sys.stdout.flush()
