"""Define ``tag``, ``untag``, ``protect``, ``unprotect`` and ``tags``."""

from __future__ import annotations

from typing import Annotated

import typer

from policystore.cli.common.command import CHANGE, LOOK, Author, command
from policystore.cli.common.completion import complete_names, complete_refs, complete_tags
from policystore.cli.common.confirm import DryRun, Yes, confirmed
from policystore.cli.common.exit_codes import Code
from policystore.cli.common.reading import StoreReader
from policystore.cli.common.session import Session
from policystore.cli.terminal import words
from policystore.cli.terminal.tables import Column
from policystore.display.words import show_time
from policystore.format.records import TagMove
from policystore.format.refs import check_name, check_tag

__all__: list[str] = []

_Name = Annotated[
    str, typer.Argument(help="The name, such as soccer/main.", autocompletion=complete_names)
]
_Force = Annotated[
    bool,
    typer.Option("--force", "-f", metavar="", help="Do it even if others have protected the tag."),
]


@command("tag", CHANGE)
def tag(
    session: Session,
    ref: Annotated[
        str,
        typer.Argument(
            help="The version, such as soccer/main@7; soccer/main means the newest one.",
            autocompletion=complete_refs,
        ),
    ],
    tag: Annotated[
        str, typer.Argument(help="The tag, such as champion.", autocompletion=complete_tags)
    ],
    force: _Force = False,
    author: Author = None,
) -> None:
    """Move a tag to a version, or make the tag. All earlier moves are kept."""
    check_tag(tag)
    name = ref.partition("@")[0]
    with session.working(f"Tagging {ref}"):
        before = StoreReader(session).tags(check_name(name), None).get(tag)
        version = session.store.tag(ref, tag, author=author, force=force)
    document = {
        "store": session.store.url,
        "name": version.name,
        "tag": tag,
        "before": before,
        "version": version.to_dict(),
    }
    origin = "" if before in (None, version.number) else f", from {version.name}@{before}"
    session.show(document, lambda: session.say(f"{tag} is {version.ref}{origin}"))


@command("untag", CHANGE)
def untag(
    session: Session,
    name: _Name,
    tag: Annotated[str, typer.Argument(help="The tag.", autocompletion=complete_tags)],
    force: _Force = False,
    author: Author = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> int:
    """Remove a tag. Its moves are kept, and the tag can be set again."""
    check_tag(tag)
    with session.working(f"Reading the tags of {name}"):
        move = StoreReader(session).resolver.last_move(check_name(name), tag)

    def draw() -> None:
        session.say(f"{tag} of {name} points to {name}@{move.target}; it would be removed")

    go = confirmed(session, draw, f"Remove the tag {tag}?", yes=yes, dry_run=dry_run)
    if go:
        session.store.untag(name, tag, author=author, force=force)
    document = {
        "store": session.store.url,
        "name": name,
        "tag": tag,
        "before": move.target,
        "removed": go,
    }
    session.show(document, lambda: session.say(f"removed the tag {tag} of {name}") if go else None)
    return Code.FINE if go or dry_run else Code.FAULTS


@command("protect", CHANGE)
def protect(
    session: Session,
    name: _Name,
    tag: Annotated[str, typer.Argument(help="The tag.", autocompletion=complete_tags)],
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="An author who may move the tag; may be repeated. Default: nobody."
        ),
    ] = None,
    force: _Force = False,
    author: Author = None,
) -> None:
    """Ask authors to leave a tag where it is; only those of --by may still move it.

    This is advice, and no access control: everybody who may write to the store can give --force.
    """
    with session.working(f"Protecting {tag}"):
        move = session.store.protect(name, tag, by, author=author, force=force)
    who = ", ".join(() if move.protected is None else move.protected.by) or "nobody"
    _show_protection(session, move, f"{tag} of {name} is protected; who may move it: {who}")


@command("unprotect", CHANGE)
def unprotect(
    session: Session,
    name: _Name,
    tag: Annotated[str, typer.Argument(help="The tag.", autocompletion=complete_tags)],
    force: _Force = False,
    author: Author = None,
) -> None:
    """End the protection of a tag; the tag stays where it is."""
    with session.working(f"Unprotecting {tag}"):
        move = session.store.unprotect(name, tag, author=author, force=force)
    _show_protection(session, move, f"{tag} of {name} is not protected any more")


def _show_protection(session: Session, move: TagMove, said: str) -> None:
    document = {"store": session.store.url, "move": move.to_dict()}
    session.show(document, lambda: session.say(said))


@command("tags", LOOK)
def tags(
    session: Session,
    name: _Name,
    tag: Annotated[str, typer.Argument(help="Only this tag.", autocompletion=complete_tags)] = "",
    history: Annotated[
        bool, typer.Option("--history", metavar="", help="List all moves, also of removed tags.")
    ] = False,
) -> None:
    """List the tags of a name; with --history, every move of its tags."""
    check_name(name)
    if tag:
        check_tag(tag)
    reader = StoreReader(session)
    with session.working(f"Reading the tags of {name}"):
        if tag:
            reader.resolver.tag_history(
                name, check_tag(tag)
            )  # raises an error that names close tags
        chosen = reader.moves(name, tag, history=history)
        if not chosen and not session.faults:
            reader.resolver.state(name, standing=False)  # raises an error if the name is unknown
    document = {
        "store": session.store.url,
        "name": name,
        "tags": {
            word: moves[0].target for word, moves in chosen.items() if moves[0].target is not None
        },
        "moves": [move.to_dict() for moves in chosen.values() for move in moves] if history else [],
        "faults": session.fault_documents(),
    }
    columns = [
        Column("tag", style="green"),
        Column("version", style="cyan"),
        Column("moved"),
        Column("age", right=True),
        Column("author"),
        Column("who may move it", wraps=True),
    ]
    cells = [
        [
            move.tag,
            "removed" if move.target is None else f"{name}@{move.target}",
            show_time(move.time),
            words.age(move.time),
            move.author,
            "" if move.protected is None else ", ".join(move.protected.by) or "nobody",
        ]
        for moves in chosen.values()
        for move in (moves if history else moves[:1])
        if history or move.target is not None
    ]

    def draw() -> None:
        if not cells and not session.faults:
            session.note(f"{name} has no tags; 'policystore tag {name} TAG' makes one")
        session.table(columns, cells)

    session.show(document, draw)
