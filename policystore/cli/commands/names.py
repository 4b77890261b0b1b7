"""Define ``ls`` and ``log``, which list names and their versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from policystore._util.near import close_names, did_you_mean
from policystore.cli.common.command import LOOK, command
from policystore.cli.common.completion import complete_names
from policystore.cli.common.reading import NameRow, StoreReader
from policystore.cli.common.session import Session
from policystore.cli.terminal import words
from policystore.cli.terminal.tables import Column
from policystore.display.metrics import match_metrics, rank_metrics
from policystore.display.words import show_metrics
from policystore.format.plain import flatten, iso_time
from policystore.format.records import Version
from policystore.format.refs import check_name

__all__ = ["Metric", "draw_versions"]

_MOST_METRICS = 4  # of a version in a table

Metric = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="Show this metric first; may be repeated. The table shows 4 metrics of a version, or "
        "as many as are named.",
    ),
]

_VERSION_COLUMNS = [
    Column("ref", style="cyan"),
    Column("tags", style="green", wraps=True),
    Column("age", right=True),
    Column("size", right=True),
    Column("author"),
    Column("metrics", wraps=True),
    Column("message", wraps=True),
]


@command("ls", LOOK)
def list_names(
    session: Session,
    prefix: Annotated[
        str,
        typer.Argument(
            help="Only names that start with this, such as soccer/.", autocompletion=complete_names
        ),
    ] = "",
) -> None:
    """List the names in the store, each with its newest version and its tags."""
    reader = StoreReader(session)
    url = reader.backend.url
    with session.working(f"Reading {url}"):
        rows = reader.rows(reader.names(prefix))
    document = {
        "store": url,
        "prefix": prefix,
        "names": [_row_document(row) for row in rows],
        "faults": session.fault_documents(),
    }
    session.show(document, lambda: _draw_names(session, url, rows))


def _row_document(row: NameRow) -> dict[str, Any]:
    newest = row.newest
    return {
        "name": row.name,
        "versions": row.standing,
        "newest": row.number,
        "digest": None if newest is None else str(newest.digest),
        "nbytes": None if newest is None else newest.nbytes,
        "time": None if newest is None else iso_time(newest.time),
        "author": None if newest is None else newest.author,
        "message": None if newest is None else newest.message,
        "tags": row.tags,
    }


def _draw_names(session: Session, url: str, rows: list[NameRow]) -> None:
    if not rows:
        session.note(f"{url} is a store without names; 'policystore push' adds one")
        return
    columns = [
        Column("name", style="cyan"),
        Column("newest", right=True),
        Column("versions", right=True),
        Column("tags", style="green", wraps=True),
        Column("age", right=True),
        Column("size", right=True),
        Column("author"),
    ]
    cells = []
    for row in rows:
        tags = ", ".join(f"{tag} @{number}" for tag, number in row.tags.items())
        newest = row.newest
        number = "" if row.number is None else f"@{row.number}"
        known = (
            ["damaged", "", ""]
            if newest is None
            else [words.age(newest.time), words.size(newest.nbytes), newest.author]
        )
        cells.append([row.name, number, words.count(row.standing), tags, *known])
    session.table(columns, cells)


@command("log", LOOK)
def log(
    session: Session,
    name: Annotated[
        str, typer.Argument(help="The name, such as soccer/main.", autocompletion=complete_names)
    ],
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="The most versions to list.")
    ] = None,
    deleted: Annotated[
        bool, typer.Option("--deleted", help="List deleted versions, too, and who deleted them.")
    ] = False,
    metric: Metric = None,
) -> None:
    """List the versions of a name, newest first."""
    check_name(name)
    reader = StoreReader(session)
    with session.working(f"Reading {name}"):
        versions, lost = reader.log(name, limit, deleted=deleted)
    document = {
        "store": reader.backend.url,
        "name": name,
        "versions": [each.to_dict() for each in versions],
        "damaged": lost,
        "faults": session.fault_documents(),
    }
    session.show(document, lambda: draw_versions(session, versions, metric or ()))


def draw_versions(
    session: Session, versions: Sequence[Version], metrics: Sequence[str] = ()
) -> None:
    """Draw a table of versions, with their tags, annotations and deletions.

    Args:
        session: the run of the command.
        versions: the versions.
        metrics: the names of the metrics to show first.
    """
    from policystore.version_list import noted_metrics  # late: ls lists no versions

    rows = [_shown_metrics(each) for each in versions]
    known = dict.fromkeys(name for row in rows for name in row)
    meant = match_metrics(known, metrics)
    first = [name for names in meant.values() for name in names]
    ranked = rank_metrics(rows, first=first, noted=noted_metrics(versions))
    most = max(_MOST_METRICS, len(first))
    session.table(
        _VERSION_COLUMNS,
        [
            _version_cells(version, row, [name for name in ranked if name in row][:most])
            for version, row in zip(versions, rows, strict=True)
        ],
    )
    for name, names in meant.items():
        if not names and versions:
            hint = did_you_mean(close_names(name, known))
            session.note(f"none of these versions has the metric {name!r}.{hint}")


def _shown_metrics(version: Version) -> dict[str, Any]:
    """Return the metrics of a version that a table can show, with flat names."""
    return {
        name: value
        for name, value in flatten(version.all_metrics).items()
        if isinstance(value, (bool, int, float, str))
    }


def _version_cells(version: Version, metrics: dict[str, Any], chosen: list[str]) -> list[str]:
    deleted = "" if version.deleted is None else f"({version.deleted})"
    notes = [f"[{each.note}]" for each in version.annotations or () if each.note]
    left = len(metrics) - len(chosen)
    shown = show_metrics({name: metrics[name] for name in chosen})
    return [
        version.ref,
        ", ".join(version.tags or ()),
        words.age(version.time),
        words.size(version.nbytes),
        version.author,
        f"{shown} +{left}" if left else shown,
        " ".join(part for part in (version.message, *notes[-1:], deleted) if part),
    ]
