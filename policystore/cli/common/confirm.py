"""Show what a command would delete, and ask before the command does so."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from policystore.cli.common.session import Session
from policystore.cli.terminal.output import discard_output
from policystore.errors import InvalidInputError

__all__ = ["DryRun", "Yes", "confirmed"]

Yes = Annotated[
    bool,
    typer.Option("--yes", "-y", metavar="", help="Do it without a question, as in a script."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", metavar="", help="Show what would be done, and change nothing.")
]


def confirmed(
    session: Session, draw: Callable[[], None], question: str, *, yes: bool, dry_run: bool
) -> bool:
    """Show what a command is about to do, and return whether to do it.

    Args:
        session: the run of the command.
        draw: shows what would be done; not called with ``--json``, nor if nobody is asked.
        question: asked on the standard error, such as ``"Delete 3 versions?"``.
        yes: whether to ask nothing.
        dry_run: whether to do nothing in any case.

    Raises:
        InvalidInputError: nobody can be asked, because the input is not a terminal.
    """
    if yes and not dry_run:
        return True
    if not session.json:
        try:
            draw()
            sys.stdout.flush()
        except BrokenPipeError:
            discard_output()
            raise InvalidInputError(
                "nothing was changed, because what would be changed could not be shown: the reader "
                "of the output has closed the pipe. Give --yes to do it without a question"
            ) from None
    if dry_run:
        return False
    if not sys.stdin.isatty():
        raise InvalidInputError(
            "nothing was changed: this command asks a question first, and the input is not a "
            "terminal, so nobody can answer. Give --yes to do it without a question"
        )
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        sys.stderr.write("\n")  # the end of the input is no answer, and leaves the line open
    if answer.strip().lower() in ("y", "yes"):
        return True
    session.note("nothing was changed")
    return False
