"""Report what a collection has done, or would do."""

from __future__ import annotations

import datetime
import threading
from dataclasses import dataclass, field

__all__ = ["GarbageReport", "Tally"]

_MOST_NAMED = 20  # keys that a report names


@dataclass
class Tally:
    """A number of keys.

    Attributes:
        count: how many keys.
        nbytes: how many bytes these keys have together.
    """

    count: int = 0
    nbytes: int = 0

    def __str__(self) -> str:
        return f"{self.count:,} ({self.nbytes:,} bytes)"


@dataclass(repr=False)
class GarbageReport:
    """The result of ``collect_garbage``. With ``dry_run``, what a real run would do.

    Attributes:
        url: the folder or URL of the store.
        dry_run: whether nothing was changed.
        grace: how long an object has to be unneeded and unchanged before it is moved.
        time: when the collection began, by the clock of the storage, in UTC.
        needed: objects that a version, a tag or a push without a name needs.
        young: objects that nothing needs, and that are younger than the grace.
        moved: objects that were moved to the trash.
        in_trash: copies that stay in the trash; they can be pulled by digest and restored.
        purged: copies that were deleted from the trash. They are lost.
        put_back: needed objects that were only in the trash, and were copied back.
        swept: unfinished writes that were deleted. Bytes of unfinished uploads are not counted.
        refused: keys that the storage refuses to delete, 20 of them at most.
        refusals: how many deletions the storage has refused.
        notes: sentences on what the collector cannot do in this storage.
        reason: why no object was moved; empty if some were.
    """

    url: str
    dry_run: bool
    grace: datetime.timedelta
    time: datetime.datetime
    needed: Tally = field(default_factory=Tally)
    young: Tally = field(default_factory=Tally)
    moved: Tally = field(default_factory=Tally)
    in_trash: Tally = field(default_factory=Tally)
    purged: Tally = field(default_factory=Tally)
    put_back: Tally = field(default_factory=Tally)
    swept: Tally = field(default_factory=Tally)
    refused: list[str] = field(default_factory=list)
    refusals: int = 0
    notes: list[str] = field(default_factory=list)
    reason: str = ""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._oldest: float | None = None

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def _count(self, tally: Tally, nbytes: int) -> None:
        """Count one key; several threads may do so at once."""
        with self._lock:
            tally.count += 1
            tally.nbytes += nbytes

    def _count_young(self, nbytes: int, time: float | None) -> None:
        """Count an object that is too young, and remember the oldest one."""
        with self._lock:
            self.young.count += 1
            self.young.nbytes += nbytes
            if time is not None and (self._oldest is None or time < self._oldest):
                self._oldest = time

    def _refuse(self, key: str) -> None:
        """Note a key that the storage does not delete."""
        with self._lock:
            self.refusals += 1
            if len(self.refused) < _MOST_NAMED:
                self.refused.append(key)

    def _explain(self) -> None:
        """Say why no object was moved, when the collection has ended."""
        if self.moved.count:
            return
        if self.refusals:
            self.reason = "the storage refuses to delete objects"
        elif self._oldest is not None:
            first = datetime.datetime.fromtimestamp(self._oldest, datetime.timezone.utc)
            self.reason = (
                f"nothing needs {self.young.count:,} objects, and all of them are younger than "
                f"the grace of {self.grace}; the oldest can be moved from "
                f"{first + self.grace:%Y-%m-%d %H:%M} UTC on"
            )
        elif self.young.count:
            self.reason = "the storage does not tell how old the objects are"
        elif self.needed.count:
            self.reason = "a version, a tag or a push without a name needs each object"
        else:
            self.reason = "the store has no objects"

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        verb = "would be" if self.dry_run else "were"
        lines = [
            f"{self.url}: {self.moved} objects {verb} moved to the trash, "
            f"{self.purged} copies {verb} deleted from the trash",
            f"  needed: {self.needed}; younger than {self.grace}: {self.young}; "
            f"in the trash: {self.in_trash}",
        ]
        if self.put_back.count:
            lines.append(f"  {self.put_back} needed objects {verb} put back from the trash")
        if self.swept.count:
            lines.append(f"  {self.swept} unfinished writes {verb} deleted")
        if self.reason:
            lines.append(
                f"  no object {'would be' if self.dry_run else 'was'} moved: {self.reason}"
            )
        if self.refusals:
            more = self.refusals - len(self.refused)
            lines.append(f"  {self.refusals:,} deletions were refused:")
            lines += [f"    {key}" for key in self.refused]
            lines += [f"    and {more:,} more"] if more else []
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)
