"""Report what a copy from one store to another has done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from policystore._util.messages import printable, shorten
from policystore.format.plain import plain_fields

__all__ = ["CopyReport", "NameCopy", "show_numbers"]

_MAX_SHOWN = 10  # renumbered versions that a line of the report lists
_MAX_RANGES = 200  # characters


@dataclass
class NameCopy:
    """Report what happened to one name.

    Attributes:
        name: the name.
        copied: the versions whose records were copied byte by byte, under the same numbers.
        present: how many versions the target had already.
        renumbered: number in the source -> number in the target of each version that was copied
            under a new number, because the target has other versions under these numbers.
        marks: how many marks (deletions and restorations) were written.
        tags: the tags that were moved.
        notes: how many annotations were copied.
        conflicts: sentences on differences between the two stores that the copy has left as they
            are in the target.
        skipped: sentences on versions and other records that were not copied, with the reasons.
    """

    name: str
    copied: list[int] = field(default_factory=list)
    present: int = 0
    renumbered: dict[int, int] = field(default_factory=dict)
    marks: int = 0
    tags: list[str] = field(default_factory=list)
    notes: int = 0
    conflicts: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether something was written under this name."""
        return bool(self.copied or self.renumbered or self.marks or self.tags or self.notes)

    def lines(self) -> list[str]:
        """Return the lines of the report on this name."""
        parts = []
        if self.copied:
            parts.append(f"copied {shorten(show_numbers(self.copied), _MAX_RANGES)}")
        if self.renumbered:
            pairs = [f"{old} -> {new}" for old, new in sorted(self.renumbered.items())]
            more = len(pairs) - _MAX_SHOWN
            shown = ", ".join(pairs[:_MAX_SHOWN]) + (f" and {more} more" if more > 0 else "")
            parts.append(f"renumbered {shown}")
        if self.present:
            parts.append(f"{self.present:,} already there")
        if self.marks:
            parts.append(f"{self.marks} marks")
        if self.tags:
            parts.append(f"tags {', '.join(self.tags)}")
        if self.notes:
            parts.append(f"{self.notes:,} annotations")
        lines = [f"  {self.name}: {'; '.join(parts) or 'nothing copied'}"]
        lines += [f"    conflict: {line}" for line in self.conflicts]
        lines += [f"    skipped: {line}" for line in self.skipped]
        return lines


@dataclass(repr=False)
class CopyReport:
    """Report what ``copy_to`` has copied or, with ``dry_run``, what it would copy.

    Attributes:
        source, target: the folders or URLs of the two stores.
        dry_run: True if nothing was written, and the report says what would be written.
        names: what happened to each name, in order.
        kept: how many records of policies without a name were written.
        leagues: how many records of leagues were written.
        objects: how many objects were written.
        nbytes: how many bytes these objects have together.
        conflicts: records outside of names that differ between the two stores.
        unknown: keys, or starts of keys, of a kind that this policystore does not know. They were
            not copied.
        stores_inside: the URL of a store that lies inside the source, for each key of ``unknown``
            below which one was found.
    """

    source: str
    target: str
    dry_run: bool = False
    names: dict[str, NameCopy] = field(default_factory=dict)
    kept: int = 0
    leagues: int = 0
    objects: int = 0
    nbytes: int = 0
    conflicts: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    stores_inside: dict[str, str] = field(default_factory=dict)

    @property
    def versions(self) -> int:
        """How many version records were written."""
        return sum(len(copy.copied) + len(copy.renumbered) for copy in self.names.values())

    @property
    def changed(self) -> bool:
        """Whether the copy wrote anything to the target; False if the source had nothing new."""
        names = any(copy.changed for copy in self.names.values())
        return bool(names or self.kept or self.leagues or self.objects)

    @property
    def complete(self) -> bool:
        """Whether the target now has everything that the caller asked to copy."""
        copies = self.names.values()
        return not (
            self.conflicts or self.unknown or any(copy.conflicts or copy.skipped for copy in copies)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as nested plain values, which ``json.dumps`` takes.

        ``versions``, ``changed`` and ``complete`` are in the dict, too.
        """
        return {
            **plain_fields(self),
            "versions": self.versions,
            "changed": self.changed,
            "complete": self.complete,
        }

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        extra = [f"{self.kept:,} policies without a name"] if self.kept else []
        extra += [f"{self.leagues:,} records of leagues"] if self.leagues else []
        counts = [
            f"{self.versions:,} versions",
            *extra,
            f"{self.objects:,} objects ({self.nbytes:,} bytes)",
        ]
        verb = "would copy" if self.dry_run else "copied"
        done = f"{verb} {', '.join(counts)}" if self.changed else "nothing new"
        lines = [f"{self.source} -> {self.target}: {done}"]
        quiet = 0
        for copy in self.names.values():
            if copy.changed or copy.conflicts or copy.skipped:
                lines += copy.lines()
            else:
                quiet += 1
        lines += [f"  {quiet:,} names without anything new"] if quiet else []
        lines += [f"  conflict: {line}" for line in self.conflicts]
        for key in self.unknown:
            inside = self.stores_inside.get(key)
            lines.append(
                f"  unknown, not copied: {shorten(key, 200)}"
                if inside is None
                else f"  a store lies inside this store, at {inside}, and was not copied: copy it "
                "by itself"
            )
        return "\n".join(printable(line) for line in lines)


def show_numbers(numbers: Iterable[int]) -> str:
    """Write ascending numbers as ranges: ``1-5, 7``."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in ranges)
