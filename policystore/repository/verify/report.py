"""Report what the verification of a store has found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from policystore._util.messages import counted, printable
from policystore.display.html import block, line, table, text
from policystore.errors import IntegrityError
from policystore.format.plain import plain_fields

__all__ = ["Fault", "FaultKind", "VerifyProgress", "VerifyReport"]

_MOST_ROWS = 60  # faults that a notebook shows

FaultKind: TypeAlias = Literal[
    "damaged", "missing", "in trash", "record", "foreign", "storage", "trash"
]
"""What is wrong, in the order of these words: bytes that do not match their digest, an object or a
record that is missing, an object that is only in the trash, a record with a wrong content or in a
wrong place, a key that policystore does not write, a key or a folder that could not be read or
listed, a damaged copy in the trash."""


@dataclass(frozen=True)
class Fault:
    """Say what is wrong at one key of a store.

    Attributes:
        key: the key.
        problem: a sentence that tells what is wrong.
        kind: what is wrong, as one word.
    """

    key: str
    problem: str
    kind: FaultKind = "record"

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as plain values."""
        return plain_fields(self)


@dataclass(repr=False)
class VerifyReport:
    """Report what ``verify`` has found. If :attr:`ok` is True, all policies can be pulled.

    With ``fraction`` or ``since``, this is true only of the objects that were read.

    Attributes:
        url: the folder or URL of the store.
        objects: how many objects were read.
        nbytes: how many bytes these objects have together.
        policies: how many of the objects are policies.
        tensors: how many of the objects are tensors.
        names: how many names have a version.
        versions: how many version records were read.
        tags: how many tags the store has, including removed tags.
        faults: all faults that were not repaired, in the order in which they were found.
        marks: how many marks were read.
        kept: how many records of pushes without a name were read.
        trash: how many copies in the trash were read.
        uncompared: how many policies have right bytes, but digests of weights and state that were
            not compared with their records, because tensors that many policies share take too much
            memory.
        repaired: the faults that were repaired.
        total_objects, total_nbytes: how many objects and copies in the trash this run reads, and
            how many bytes they have, by the listing. Both numbers are 0 until the listing is done.
        cursor: where a later run can go on, for the argument ``resume``; None if nothing is left.
        annotations: how many annotations were read.
        leagues: how many leagues there are, also deleted ones.
        match_records: how many records of matches were read.
        matches: how many matches these records have.
        summaries: how many summaries of leagues were read.
    """

    url: str
    objects: int = 0
    nbytes: int = 0
    policies: int = 0
    tensors: int = 0
    names: int = 0
    versions: int = 0
    tags: int = 0
    faults: list[Fault] = field(default_factory=list)
    marks: int = 0
    kept: int = 0
    trash: int = 0
    uncompared: int = 0
    repaired: list[Fault] = field(default_factory=list)
    total_objects: int = 0
    total_nbytes: int = 0
    cursor: str | None = None
    annotations: int = 0
    leagues: int = 0
    match_records: int = 0
    matches: int = 0
    summaries: int = 0

    @property
    def ok(self) -> bool:
        """Whether the store has no fault, or had only faults that were repaired."""
        return not self.faults

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes and ``ok`` as nested plain values, which ``json.dumps`` takes."""
        return {"ok": self.ok, **plain_fields(self)}

    def raise_if_bad(self) -> None:
        """Raise IntegrityError with the whole report if the store has a fault."""
        if self.faults:
            raise IntegrityError(str(self))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        head, *others = str(self).splitlines()
        shown = (self.faults + self.repaired)[:_MOST_ROWS]
        parts = [line(text(head), heading=True)]
        if shown:
            rows = [
                (fault.kind, fault.key, fault.problem, "repaired" if i >= len(self.faults) else "")
                for i, fault in enumerate(shown)
            ]
            wrong = range(min(len(self.faults), len(rows)))
            parts.append(table(("fault", "key", "", ""), rows, wrong=wrong))
        hidden = len(self.faults) + len(self.repaired) - len(shown)
        parts += [line(f"and {hidden:,} more", faint=True)] if hidden else []
        if self.uncompared:
            parts.append(line(others[0], faint=True))
        return block(parts).source

    def __str__(self) -> str:
        more = {
            ("mark", "marks"): self.marks,
            ("annotation", "annotations"): self.annotations,
            ("push without a name", "pushes without a name"): self.kept,
            ("copy in the trash", "copies in the trash"): self.trash,
            ("league", "leagues"): self.leagues,
            ("match", "matches"): self.matches,
        }
        lines = [
            f"{self.url}: {counted(self.objects, 'object')} ({counted(self.nbytes, 'byte')}: "
            f"{counted(self.policies, 'policy', 'policies')}, {counted(self.tensors, 'tensor')}), "
            f"{counted(self.names, 'name')}, {counted(self.versions, 'version')}, "
            f"{counted(self.tags, 'tag')}"
            + "".join(f", {counted(count, *noun)}" for noun, count in more.items() if count)
            + (f", {counted(len(self.repaired), 'fault')} repaired" if self.repaired else "")
            + ": "
            + ("ok" if self.ok else counted(len(self.faults), "fault"))
        ]
        if self.uncompared:
            lines.append(
                f"  of {self.uncompared} policies the digests of weights and state were not "
                "compared with their records"
            )
        lines += [f"  {fault.key}: {fault.problem}" for fault in self.faults]
        lines += [f"  repaired: {fault.key}: {fault.problem}" for fault in self.repaired]
        return "\n".join(map(printable, lines))


VerifyProgress: TypeAlias = Callable[[VerifyReport], None]
"""Called with the report so far. Its ``cursor`` says where to go on if the run is cut off."""
