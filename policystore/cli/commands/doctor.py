"""Define ``doctor``, which checks what a store needs from this machine and from its storage."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from policystore.cli.common.command import UPKEEP, command
from policystore.cli.common.exit_codes import Code
from policystore.cli.common.session import Session
from policystore.cli.terminal.tables import Column

__all__: list[str] = []


@command("doctor", UPKEEP)
def doctor(
    session: Session,
    no_write: Annotated[
        bool,
        typer.Option(
            "--no-write", metavar="", help="Write nothing, and leave out the checks that write."
        ),
    ] = False,
) -> int:
    """Check what a store needs: versions, credentials, rights, the bucket, clocks, the cache.

    The command shows no secrets. To find out what is allowed, it writes keys below tmp/ and deletes
    them.
    """
    # Late: these modules import much that no other command needs.
    from policystore.cli.doctor.machine import machine_checks
    from policystore.cli.doctor.storage import storage_checks

    with session.working("Checking"):
        checks = [*machine_checks(), *storage_checks(session, write=not no_write)]
    bad = [each for each in checks if each.status == "bad"]
    document = {"ok": not bad, "checks": [asdict(each) for each in checks]}
    columns = [
        Column("check", style="cyan"),
        Column("status"),
        Column("found", wraps=True),
    ]
    rows = [[each.check, each.status, each.found] for each in checks]
    session.show(document, lambda: session.table(columns, rows))
    return Code.FAULTS if bad else Code.FINE
