"""Hold the numbers of a store: names, versions, objects and bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["StatsProgress", "StoreStats"]


@dataclass(repr=False)
class StoreStats:
    """Report the numbers of a store. A number is None if this call did not count it.

    Attributes:
        url: the folder or URL of the store.
        prefix: the beginning of the names that were counted; empty for all names.
        names: how many names have a version.
        versions: how many versions these names have.
        deleted: how many of the versions are deleted.
        tags: how many tags the names have, including removed tags.
        records: how many records there are: versions, marks, tag moves, pushes without a name.
        kept: how many pushes without a name there are; None with a prefix.
        objects, nbytes: how many objects there are, and how many bytes they have. With a prefix,
            only the objects that versions below the prefix need; None without ``details``.
        trash_objects, trash_nbytes: the copies in the trash; None with a prefix.
        shared_nbytes: how many more bytes the needed objects would take if each version, and each
            push without a name, had objects of its own; None without ``details``.
        garbage_objects, garbage_nbytes: the objects that a collection would move to the trash now:
            nothing needs these objects, and they are older than the grace. Both numbers are
            estimates; None without ``details``, with a prefix, and if a record cannot be read.
        unreadable: how many records could not be read; ``verify`` names them.
    """

    url: str
    prefix: str = ""
    names: int = 0
    versions: int = 0
    deleted: int = 0
    tags: int = 0
    records: int = 0
    kept: int | None = None
    objects: int | None = None
    nbytes: int | None = None
    trash_objects: int | None = None
    trash_nbytes: int | None = None
    shared_nbytes: int | None = None
    garbage_objects: int | None = None
    garbage_nbytes: int | None = None
    unreadable: int = 0

    @property
    def standing(self) -> int:
        """How many versions are not deleted."""
        return self.versions - self.deleted

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        below = f" below {self.prefix!r}" if self.prefix else ""
        lines = [
            f"{self.url}{below}: {_count(self.names, 'name')}, {_count(self.versions, 'version')}"
            + (f" ({self.deleted:,} deleted)" if self.deleted else "")
            + f", {_count(self.tags, 'tag')}"
            + (f", {self.kept:,} pushes without a name" if self.kept else "")
        ]
        if self.objects is not None and self.nbytes is not None:
            saved = (
                f"; sharing saves {_bytes(self.shared_nbytes)}"
                if self.shared_nbytes is not None
                else ""
            )
            lines.append(f"  {_count(self.objects, 'object')}, {_bytes(self.nbytes)}{saved}")
        if self.garbage_objects is not None and self.garbage_nbytes is not None:
            lines.append(
                f"  garbage that collect_garbage() would take: "
                f"{_count(self.garbage_objects, 'object')}, {_bytes(self.garbage_nbytes)}"
            )
        if self.trash_objects is not None and self.trash_nbytes is not None:
            lines.append(
                f"  trash: {_count(self.trash_objects, 'copy', 'copies')}, "
                f"{_bytes(self.trash_nbytes)}"
            )
        if self.unreadable:
            lines.append(
                f"  {_count(self.unreadable, 'record')} that cannot be read: verify() names them, "
                "and a collection moves nothing"
            )
        return "\n".join(lines)


StatsProgress: TypeAlias = Callable[[StoreStats], None]
"""Called with the numbers so far."""


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _bytes(number: int) -> str:
    """Return a number of bytes in a unit that is easy to read: powers of 1000."""
    value, unit = float(number), "bytes"
    for larger in ("KB", "MB", "GB", "TB", "PB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{number} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
