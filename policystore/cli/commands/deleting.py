"""Define ``delete``, ``restore``, ``prune`` and ``gc``."""

from __future__ import annotations

import datetime
from functools import partial
from typing import Annotated

import typer

from policystore import GarbageReport, PruneReport
from policystore._util.messages import counted
from policystore.cli.commands.names import draw_versions
from policystore.cli.common.command import CHANGE, UPKEEP, Author, Message, command
from policystore.cli.common.completion import complete_names, complete_refs
from policystore.cli.common.confirm import DryRun, Yes, confirmed
from policystore.cli.common.exit_codes import Code
from policystore.cli.common.reading import StoreReader
from policystore.cli.common.session import Session
from policystore.cli.terminal import words
from policystore.errors import InvalidInputError
from policystore.format.records import Version
from policystore.format.refs import check_name, parse_ref

__all__: list[str] = []

_SHOWN = 20  # versions that are listed before all versions of a name are deleted
_MAX_DIGITS = 18  # of a number of versions


@command("delete", CHANGE)
def delete(
    session: Session,
    ref: Annotated[
        str,
        typer.Argument(
            help="The version, such as soccer/main@7; soccer/main means the newest one. A digest "
            "means a policy that was pushed without a name.",
            autocompletion=complete_refs,
        ),
    ],
    all_versions: Annotated[
        bool, typer.Option("--all", metavar="", help="Delete all versions of the name REF.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            "-f",
            metavar="",
            help="Delete it even if a tag points to it, unless the tag is protected.",
        ),
    ] = False,
    message: Message = "",
    author: Author = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> int:
    """Delete a version. 'restore' can bring it back until 'gc' has deleted its bytes."""
    parsed = parse_ref(ref)
    if all_versions and (parsed.number is not None or parsed.tag is not None or not parsed.name):
        raise InvalidInputError(f"--all takes a name such as soccer/main, not {ref}")
    versions = _doomed(session, ref, all_versions=all_versions, force=force, author=author)
    count = counted(len(versions), "version") if parsed.name else "1 policy"

    def draw() -> None:
        if not parsed.name:
            session.say(f"would delete the policy {ref}, which was pushed without a name")
            return
        session.say(f"would delete {count}:")
        shown = versions[:_SHOWN]
        draw_versions(session, shown)
        if len(versions) > len(shown):
            session.say(f"and {len(versions) - len(shown):,} more")

    go = confirmed(session, draw, f"Delete {count}?", yes=yes, dry_run=dry_run)
    if go and all_versions:
        session.store.delete_name(ref, message=message, author=author, force=force)
    elif go:
        target = versions[0] if versions else ref
        session.store.delete(target, message=message, author=author, force=force)
    document = {
        "store": session.store.url,
        "ref": ref,
        "versions": [each.ref for each in versions],
        "deleted": go,
    }
    refs = [each.ref for each in versions] or [ref]
    said = f"deleted {_listed(refs)}"
    session.show(document, lambda: session.say(said) if go else None)
    return Code.FINE if go or dry_run else Code.FAULTS


def _doomed(
    session: Session, ref: str, *, all_versions: bool, force: bool, author: str | None
) -> list[Version]:
    """Return the versions that would be deleted; an empty list for a digest.

    Raises:
        InvalidInputError: a version has a tag, and ``force`` is False.
        ProtectedError: a version has a tag that is protected against the author.
    """
    from policystore.repository.deletion.delete import refuse_protected  # late: as in the store
    from policystore.repository.stamp import default_author

    parsed = parse_ref(ref)
    reader = StoreReader(session)
    if not parsed.name:
        session.store.resolve(ref)
        return []
    with session.working(f"Reading {ref}"):
        if all_versions:
            versions = reader.log(parsed.name, None)[0]
        else:
            versions = reader.filled(parsed.name, [reader.resolver.version(parsed)])
    tagged = [f"{each.ref} ({', '.join(each.tags)})" for each in versions if each.tags]
    if tagged and not force:
        raise InvalidInputError(
            f"tags point to {_listed(tagged)}: move or remove the tags, or give --force"
        )
    if tagged:
        moves = {tag: each[0] for tag, each in reader.moves(parsed.name).items()}
        numbers = [each.number or 0 for each in versions]
        refuse_protected(parsed.name, moves, numbers, author or default_author())
    return versions


def _listed(refs: list[str]) -> str:
    more = f" and {len(refs) - _SHOWN:,} more" if len(refs) > _SHOWN else ""
    return ", ".join(refs[:_SHOWN]) + more


@command("restore", CHANGE)
def restore(
    session: Session,
    ref: Annotated[
        str,
        typer.Argument(
            help="The deleted version, such as soccer/main@7. If all versions of a name are "
            "deleted, the name alone means all versions that the last deletion deleted.",
            autocompletion=complete_refs,
        ),
    ],
    message: Message = "",
    author: Author = None,
) -> None:
    """Bring a deleted version back, if the store still has all its bytes."""
    with session.working(f"Restoring {ref}"):
        versions = session.store.restore(ref, message=message, author=author)
    document = {
        "store": session.store.url,
        "ref": ref,
        "versions": [version.to_dict() for version in versions],
    }
    said = f"restored {_listed([version.ref for version in versions] or [ref])}"
    session.show(document, lambda: session.say(said))


@command("prune", CHANGE)
def prune(
    session: Session,
    name: Annotated[
        str, typer.Argument(help="The name, such as soccer/main.", autocompletion=complete_names)
    ],
    keep_last: Annotated[
        int | None, typer.Option(min=1, help="Keep this many of the newest versions.")
    ] = None,
    keep_best: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC[:max|min[:N]]",
            help="Keep the N best versions by a metric, such as return:max:5. Default: max, and "
            "N is 1.",
        ),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="SPAN", help="Delete only versions older than this, such as 30d."),
    ] = None,
    tagged: Annotated[
        bool,
        typer.Option(
            "--tagged",
            metavar="",
            help="Delete versions that a tag points to, too, unless the tag is protected.",
        ),
    ] = False,
    message: Message = "",
    author: Author = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> int:
    """Delete the versions of a name that no option keeps, with one record.

    The newest version is always kept, and so are versions with a tag, unless --tagged is given.
    'restore' can bring the versions back.
    """
    check_name(name)
    best = None if keep_best is None else _parse_best(keep_best)
    age = None if older_than is None else words.span(older_than, "--older-than")

    def run(*, dry: bool) -> PruneReport:
        return session.store.prune(
            name, keep_last=keep_last, keep_tagged=not tagged, keep_best=best, older_than=age,
            dry_run=dry, message=message, author=author,
        )  # fmt: skip

    with session.working(f"Reading {name}"):
        report = run(dry=True)
    if report.count:
        question = f"Delete {counted(report.count, 'version')}?"
        go = confirmed(
            session, lambda: session.say_report(report), question, yes=yes, dry_run=dry_run
        )
        if not go:
            session.show(report.to_dict(), lambda: None)
            return Code.FINE if dry_run else Code.FAULTS
    if not dry_run:
        with session.working(f"Pruning {name}"):
            report = run(dry=False)
    session.show(report.to_dict(), lambda: session.say_report(report))
    return Code.FINE


def _parse_best(text: str) -> tuple[str, str, int]:
    """Read ``metric``, ``metric:min`` or ``metric:min:5``; a metric may hold colons."""
    metric, mode, count = text, "max", "1"
    head, colon, last = text.rpartition(":")
    if colon and last.isdecimal() and head.rpartition(":")[2] in ("max", "min"):
        metric, count = head, last
    head, colon, last = metric.rpartition(":")
    if colon and last in ("max", "min"):
        metric, mode = head, last
    if len(count) > _MAX_DIGITS:
        raise InvalidInputError(f"--keep-best: {count[:_MAX_DIGITS]}… is no number of versions")
    return metric, mode, int(count)


@command("gc", UPKEEP)
def collect(
    session: Session,
    grace: Annotated[
        str,
        typer.Option(
            metavar="SPAN",
            help="How long an object has to be unneeded and unchanged, such as 12h; at least 2h.",
        ),
    ] = "7d",
    exclusive: Annotated[
        bool,
        typer.Option(
            "--exclusive",
            metavar="",
            help="You promise that nobody else uses the store now. Then a shorter grace is safe.",
        ),
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> int:
    """Move objects that nothing needs to the trash, and delete old copies from the trash."""
    waiting = words.span(grace, "--grace")
    is_asked = not yes and not dry_run
    report = _collect(session, waiting, exclusive=exclusive, dry=dry_run or is_asked)
    moves = (report.moved, report.purged, report.put_back, report.swept)
    if is_asked and any(each.count for each in moves):
        question = (
            f"Move {report.moved.count:,} objects, and delete {report.purged.count:,} copies?"
        )
        draw = partial(session.say_report, report)
        if not confirmed(session, draw, question, yes=False, dry_run=False):
            session.show(report.to_dict(), lambda: None)
            return Code.FAULTS
        report = _collect(session, waiting, exclusive=exclusive, dry=False)
    elif is_asked:
        report.dry_run = False  # there is nothing to do, so the command has done it
    session.show(report.to_dict(), lambda: session.say_report(report))
    return Code.FAULTS if report.refusals else Code.FINE


def _collect(
    session: Session, grace: datetime.timedelta, *, exclusive: bool, dry: bool
) -> GarbageReport:
    with session.working("Looking for garbage" if dry else "Collecting", unit="steps") as bar:
        return session.store.collect_garbage(
            grace=grace, dry_run=dry, exclusive=exclusive, progress=bar
        )
