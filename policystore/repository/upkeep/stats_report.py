"""Hold the numbers of a store: names, versions, objects and bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from policystore._util.messages import counted
from policystore.display.words import show_size
from policystore.format.plain import plain_fields

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
        records: how many records there are: versions, marks, tag moves, annotations, pushes without
            a name, and all records of leagues.
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
        annotations: how many annotations the versions have.
        leagues: how many leagues have matches; None with a prefix.
        match_records: how many records of matches these leagues have: batches, and the ends of
            writers' lists. A batch has any number of matches. None with a prefix.
        league_nbytes: how many bytes all records of leagues have, also those of deleted leagues;
            None with a prefix.
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
    annotations: int = 0
    leagues: int | None = None
    match_records: int | None = None
    league_nbytes: int | None = None

    @property
    def standing(self) -> int:
        """How many versions are not deleted."""
        return self.versions - self.deleted

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes and ``standing`` as plain values, which ``json.dumps`` takes."""
        return {**plain_fields(self), "standing": self.standing}

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        below = f" below {self.prefix!r}" if self.prefix else ""
        lines = [
            f"{self.url}{below}: {counted(self.names, 'name')}, {counted(self.versions, 'version')}"
            + (f" ({self.deleted:,} deleted)" if self.deleted else "")
            + f", {counted(self.tags, 'tag')}"
            + (f", {counted(self.annotations, 'annotation')}" if self.annotations else "")
            + (f", {self.kept:,} pushes without a name" if self.kept else "")
        ]
        if self.objects is not None and self.nbytes is not None:
            saved = (
                f"; sharing saves {_bytes(self.shared_nbytes)}"
                if self.shared_nbytes is not None
                else ""
            )
            lines.append(f"  {counted(self.objects, 'object')}, {_bytes(self.nbytes)}{saved}")
        if self.league_nbytes:
            lines.append(
                f"  {counted(self.leagues or 0, 'league')}, "
                f"{counted(self.match_records or 0, 'record')} of matches, "
                f"{_bytes(self.league_nbytes)}"
            )
        if self.garbage_objects is not None and self.garbage_nbytes is not None:
            lines.append(
                f"  garbage that collect_garbage() would take: "
                f"{counted(self.garbage_objects, 'object')}, {_bytes(self.garbage_nbytes)}"
            )
        if self.trash_objects is not None and self.trash_nbytes is not None:
            lines.append(
                f"  trash: {counted(self.trash_objects, 'copy', 'copies')}, "
                f"{_bytes(self.trash_nbytes)}"
            )
        if self.unreadable:
            lines.append(
                f"  {counted(self.unreadable, 'record')} that cannot be read: verify() names them, "
                "and a collection moves nothing"
            )
        return "\n".join(lines)


StatsProgress: TypeAlias = Callable[[StoreStats], None]
"""Called with the numbers so far."""


_bytes = partial(show_size, smallest="bytes")
