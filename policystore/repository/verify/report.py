"""Report what the verification of a store has found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from policystore.errors import IntegrityError

__all__ = ["Fault", "FaultKind", "VerifyProgress", "VerifyReport"]

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

    @property
    def ok(self) -> bool:
        """Whether the store has no fault, or had only faults that were repaired."""
        return not self.faults

    def raise_if_bad(self) -> None:
        """Raise IntegrityError with the whole report if the store has a fault."""
        if self.faults:
            raise IntegrityError(str(self))

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        more = {
            "marks": self.marks,
            "pushes without a name": self.kept,
            "copies in the trash": self.trash,
        }
        lines = [
            f"{self.url}: {self.objects} objects ({self.nbytes:,} bytes: {self.policies} policies, "
            f"{self.tensors} tensors), {self.names} names, {self.versions} versions, "
            f"{self.tags} tags"
            + "".join(f", {count} {what}" for what, count in more.items() if count)
            + (f", {len(self.repaired)} faults repaired" if self.repaired else "")
            + ": "
            + ("ok" if self.ok else f"{len(self.faults)} faults")
        ]
        if self.uncompared:
            lines.append(
                f"  of {self.uncompared} policies the digests of weights and state were not "
                "compared with their records"
            )
        lines += [f"  {fault.key}: {fault.problem}" for fault in self.faults]
        lines += [f"  repaired: {fault.key}: {fault.problem}" for fault in self.repaired]
        return "\n".join(lines)


VerifyProgress: TypeAlias = Callable[[VerifyReport], None]
"""Called with the report so far. Its ``cursor`` says where to go on if the run is cut off."""
