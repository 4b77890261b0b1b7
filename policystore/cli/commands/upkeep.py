"""Define ``verify``, ``stats`` and ``cache``."""

from __future__ import annotations

import datetime
from typing import Annotated

import typer

from policystore import NodeCache, StoreStats, VerifyReport
from policystore._util.messages import counted
from policystore.cli.common.command import UPKEEP, command, group_of_commands
from policystore.cli.common.confirm import DryRun, Yes, confirmed
from policystore.cli.common.exit_codes import Code
from policystore.cli.common.session import Session
from policystore.cli.terminal import words

__all__: list[str] = []

_cache = group_of_commands(
    "cache", UPKEEP, summary="Look at the cache of this machine, or clear it."
)


@command("verify", UPKEEP)
def verify(
    session: Session,
    fraction: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE", help="Read only this share of the objects, such as 0.1 or 10%."
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Read only what is newer than this: 7d, 12h, or a date."),
    ] = None,
    repair_from: Annotated[
        str | None,
        typer.Option(
            metavar="STORE",
            help="Replace what is damaged by the bytes in this store, such as a mirror.",
        ),
    ] = None,
    repair_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Option for the filesystem of --repair-from, such as endpoint_url=http://….",
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="CURSOR",
            help="Go on where an earlier run ended, by the cursor that it printed.",
        ),
    ] = None,
) -> int:
    """Read everything in the store, and name every fault; the exit code is 1 if there is one."""
    part = None if fraction is None else words.share(fraction, "--fraction")
    source = None
    if repair_from is not None:
        source = session.other_store(repair_from, repair_option, "--repair-option")
    newest = None if since is None else words.moment(since, "--since")
    cursor: str | None = None
    try:
        with session.working(f"Verifying {session.store.url}") as bar:

            def progress(so_far: VerifyReport) -> None:
                nonlocal cursor
                cursor = so_far.cursor
                bar(so_far.nbytes, so_far.total_nbytes or None)

            report = session.store.verify(
                fraction=part, since=newest, repair_from=source, progress=progress,
                resume=resume,
            )  # fmt: skip
    except KeyboardInterrupt:
        if cursor is not None:
            session.note(f"--resume {cursor} goes on from here")
        raise

    def draw() -> None:
        session.say_report(report)
        if report.cursor is not None:
            session.say(f"  --resume {report.cursor} reads the next part")

    session.show(report.to_dict(), draw)
    return Code.FINE if report.ok else Code.FAULTS


@command("stats", UPKEEP)
def stats(
    session: Session,
    prefix: Annotated[
        str, typer.Argument(help="Count only names that start with this, such as soccer/.")
    ] = "",
    details: Annotated[
        bool,
        typer.Option(
            "--details",
            metavar="",
            help="Also count what sharing saves, and the garbage; this reads every record.",
        ),
    ] = False,
    grace: Annotated[
        str,
        typer.Option(
            metavar="SPAN",
            help="With --details: how long an object has to be unneeded to count as garbage.",
        ),
    ] = "7d",
) -> int:
    """Count names, versions, objects and bytes."""
    waiting: datetime.timedelta = words.span(grace, "--grace")
    with session.working(f"Counting {session.store.url}", unit="records") as bar:

        def progress(so_far: StoreStats) -> None:
            bar(so_far.records, None)

        numbers = session.store.stats(prefix, details=details, grace=waiting, progress=progress)
    session.show(numbers.to_dict(), lambda: session.say_report(numbers))
    return Code.FAULTS if numbers.unreadable else Code.FINE


@command("show", UPKEEP, group=_cache, without_store=True)
def show_cache(session: Session) -> None:
    """Show the cache of this machine: its folder, and how full it is."""
    cache = NodeCache()
    usage = cache.usage()
    document = {
        "folder": str(cache.folder),
        "objects": usage.objects,
        "nbytes": usage.nbytes,
        "max_bytes": cache.max_bytes,
    }
    fields = [
        ("folder", str(cache.folder)),
        ("objects", words.count(usage.objects)),
        ("size", f"{words.size(usage.nbytes)} of at most {words.size(cache.max_bytes)}"),
    ]
    session.show(document, lambda: session.fields(fields))


@command("clear", UPKEEP, group=_cache, without_store=True)
def clear_cache(session: Session, yes: Yes = False, dry_run: DryRun = False) -> int:
    """Delete all objects in the cache of this machine. No store changes."""
    cache = NodeCache()
    usage = cache.usage()
    what = f"{counted(usage.objects, 'object')} ({words.size(usage.nbytes)})"
    go = False
    if usage.objects:

        def draw() -> None:
            session.say(f"would delete {what} in {cache.folder}")

        go = confirmed(session, draw, f"Delete {what}?", yes=yes, dry_run=dry_run)
    removed = cache.clear() if go else None
    document = {
        "folder": str(cache.folder),
        "objects": 0 if removed is None else removed.objects,
        "nbytes": 0 if removed is None else removed.nbytes,
        "cleared": go,
    }
    said = f"deleted {what}" if go else f"{cache.folder} holds no objects"
    session.show(document, lambda: session.say(said) if go or not usage.objects else None)
    return Code.FINE if go or dry_run or not usage.objects else Code.FAULTS
