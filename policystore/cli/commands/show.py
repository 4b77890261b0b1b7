"""Define ``show``, which shows one policy in full, and ``diff``, which compares two."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Any

import typer

from policystore._util.messages import counted
from policystore.cli.common.command import LOOK, command
from policystore.cli.common.completion import complete_refs
from policystore.cli.common.plain_weights import is_file
from policystore.cli.common.reading import StoreReader
from policystore.cli.common.session import Session
from policystore.cli.terminal import words
from policystore.cli.terminal.tables import Column
from policystore.diff import Diff, TensorDiff
from policystore.digest import Digest
from policystore.display.words import show_metrics, show_time
from policystore.format.plain import flatten, to_plain
from policystore.format.policy import ParsedPolicy
from policystore.format.records import Annotation, Version
from policystore.format.refs import parse_ref
from policystore.repository.lookup.digests import policy_by_digest
from policystore.repository.objects import StoredPolicy
from policystore.snapshot import Snapshot

__all__: list[str] = []

_STATE = "__state__/"  # what the names of arrays of the state begin with
_FILE = ".safetensors"


@command("show", LOOK)
def show(
    session: Session,
    ref: Annotated[
        str,
        typer.Argument(help="The policy, such as soccer/main@7.", autocompletion=complete_refs),
    ],
    rows: Annotated[
        int, typer.Option("--rows", min=0, help="The most tensors to list; --json lists all.")
    ] = 40,
) -> None:
    """Show one policy: its record, what rebuilds it, and its tensors with their shapes.

    The command reads the object of the policy. Large tensors, which are objects of their own, are
    not read.
    """
    parsed = parse_ref(ref)
    reader = StoreReader(session)
    with session.working(f"Reading {ref}"):
        version = None
        if parsed.name:
            (version,) = reader.filled(parsed.name, [reader.resolver.version(parsed)])
            policy = _policy(session, reader, version.digest)
        else:
            policy = policy_by_digest(reader.resolver.objects, parsed.digest)
    tensors = {} if policy is None else _tensors(policy.parsed)
    document = {
        "store": session.store.url,
        "ref": ref,
        "version": None if version is None else version.to_dict(),
        "policy": None if policy is None else _policy_document(policy, tensors),
        "faults": session.fault_documents(),
    }

    def draw() -> None:
        fields = [] if version is None else _record_fields(version)
        if policy is not None:
            fields += [] if fields else [("digest", str(policy.digest))]
            fields += _policy_fields(policy, tensors)
        session.fields(fields)
        _draw_tensors(session, tensors, rows)

    session.show(document, draw)


def _policy(session: Session, reader: StoreReader, digest: Digest) -> StoredPolicy | None:
    return session.attempt(str(digest), lambda: reader.resolver.objects.policy(digest))


def _tensors(parsed: ParsedPolicy) -> dict[str, dict[str, Any]]:
    """Return dtype, shape and elements of each tensor of a policy, by name."""
    acting = parsed.spec.acting
    shapes = {name: (array.dtype, array.shape) for name, array in parsed.tensors.items()}
    shapes |= {name: (each.dtype, each.shape) for name, each in parsed.external.items()}
    return {
        name: {
            "dtype": str(dtype),
            "shape": list(shape),
            "parameters": prod(shape),
            "nbytes": prod(shape) * dtype.itemsize,
            "acting": acting is None or name in acting,
        }
        for name, (dtype, shape) in sorted(shapes.items())
        if not name.startswith(_STATE)
    }


def _policy_document(policy: StoredPolicy, tensors: Mapping[str, Any]) -> dict[str, Any]:
    from policystore.display.policy import spec_in_words, state_in_words  # late: loads numpy

    return {
        "digest": str(policy.digest),
        "parameters": sum(each["parameters"] for each in tensors.values()),
        "nbytes": sum(each["nbytes"] for each in tensors.values()),
        "tensors": dict(tensors),
        "spec": to_plain(policy.parsed.spec.to_json()),
        "words": spec_in_words(policy.parsed.spec.to_json()),
        "state": state_in_words(policy.parsed.state),
    }


def _record_fields(version: Version) -> list[tuple[str, str]]:
    objects = "" if version.objects is None else counted(len(version.objects), "object")
    source = ", ".join(f"{key}={value}" for key, value in to_plain(version.source).items())
    return [
        ("ref", version.ref),
        ("tags", ", ".join(version.tags or ())),
        ("digest", str(version.digest)),
        ("acting digest", str(version.acting)),
        ("pushed", f"{show_time(version.time)}, {words.age(version.time)} ago"),
        ("author", version.author),
        ("message", version.message),
        ("metrics", show_metrics(flatten(version.metrics))),
        *(("annotation", _said(each)) for each in version.annotations or ()),
        ("source", source),
        ("parents", ", ".join(parent.short for parent in version.parents)),
        ("copied from", "" if version.origin is None else str(version.origin.to_json()["name"])),
        ("size", f"{words.size(version.nbytes)} in {objects}" if objects else ""),
    ]


def _said(annotation: Annotation) -> str:
    metrics = show_metrics(flatten(annotation.metrics))
    who = f"{annotation.author}, {words.age(annotation.time)} ago:"
    return " ".join(part for part in (who, metrics, annotation.note) if part)


def _policy_fields(policy: StoredPolicy, tensors: Mapping[str, Any]) -> list[tuple[str, str]]:
    from policystore.display.policy import spec_in_words, state_in_words  # late: loads numpy

    total = sum(each["parameters"] for each in tensors.values())
    parameters = f"{total:,} in {counted(len(tensors), 'tensor')}"
    words_of_spec = spec_in_words(policy.parsed.spec.to_json())
    words_of_spec.pop("left out", None)
    omitted = [f"{place}: {reason}" for place, reason in policy.parsed.spec.omitted.items()]
    return [
        *words_of_spec.items(),
        *(("" if index else "left out", text) for index, text in enumerate(omitted)),
        ("state", state_in_words(policy.parsed.state)),
        ("parameters", parameters),
    ]


def _draw_tensors(session: Session, tensors: Mapping[str, Any], rows: int) -> None:
    columns = [
        Column("tensor", style="cyan", wraps=True),
        Column("shape"),
        Column("dtype"),
        Column("parameters", right=True),
        Column("size", right=True),
        Column(""),
    ]
    cells = [
        [
            name,
            " x ".join(map(str, each["shape"])) or "one number",
            each["dtype"],
            words.count(each["parameters"]),
            words.size(each["nbytes"]),
            "" if each["acting"] else "only for training",
        ]
        for name, each in list(tensors.items())[:rows]
    ]
    if cells:
        session.say()
        session.table(columns, cells)
    if len(tensors) > len(cells):
        session.say(f"and {len(tensors) - len(cells):,} more tensors; --rows shows more")


@command("diff", LOOK)
def diff(
    session: Session,
    a: Annotated[
        str,
        typer.Argument(
            help="A policy, or a safetensors file that 'pull' wrote.", autocompletion=complete_refs
        ),
    ],
    b: Annotated[
        str,
        typer.Argument(help="The policy or file to compare with.", autocompletion=complete_refs),
    ],
    all_rows: Annotated[
        bool, typer.Option("--all", metavar="", help="List equal tensors, too.")
    ] = False,
) -> None:
    """Compare two policies: which tensors and which settings differ, and by how much."""
    with session.working(f"Comparing {a} and {b}"):
        sides = [Snapshot.load(x) if _is_file(x) else x for x in (a, b)]
        found = session.store.diff(sides[0], sides[1])
    refs = {"a_ref": found.a_ref or a, "b_ref": found.b_ref or b}
    document = {**found.to_dict(), **refs, "summary": found.summary}
    session.show(document, lambda: _draw_diff(session, found, a, b, all_rows=all_rows))


def _is_file(text: str) -> bool:
    return text.endswith(_FILE) and is_file(Path(text))


def _draw_diff(session: Session, found: Diff, a: str, b: str, *, all_rows: bool) -> None:
    session.fields([("a", f"{a}  {found.a.short}"), ("b", f"{b}  {found.b.short}")])
    session.say(found.summary)
    rows = {**found.tensors, **found.state}
    shown = {name: row for name, row in rows.items() if all_rows or row.status != "equal"}
    columns = [
        Column("tensor", style="cyan", wraps=True),
        Column("difference", wraps=True),
        Column("relative norm", right=True),
        Column("max", right=True),
        Column("mean", right=True),
    ]
    if shown:
        session.say()
        session.table(columns, [[name, *_diff_cells(row)] for name, row in shown.items()])
    if found.metrics or found.spec:
        session.say()
        fields = [Column("field", style="cyan", wraps=True), Column("a", wraps=True),
                  Column("b", wraps=True)]  # fmt: skip
        cells = [
            [
                each.path,
                str(each.a) if each.has_a else "absent",
                str(each.b) if each.has_b else "absent",
            ]
            for each in (*found.metrics, *found.spec)
        ]
        session.table(fields, cells)


def _diff_cells(row: TensorDiff) -> list[str]:
    if row.status != "changed":
        how = f"{row.a} -> {row.b}" if row.status.endswith("differs") else ""
        return [" ".join(part for part in (row.status, how) if part), "", "", ""]
    numbers = (row.relative_norm, row.max_change, row.mean_change)
    return [row.status, *("" if number is None else f"{number:.3g}" for number in numbers)]
