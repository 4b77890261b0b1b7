"""Report what a collection has done, or would do."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Any

from policystore._util.messages import counted, printable
from policystore.format.plain import plain_fields

__all__ = ["MOST_NAMED", "GarbageReport", "Tally"]

MOST_NAMED = 20
"""The most keys that could not be deleted and that a report names."""


def _span(time: datetime.timedelta) -> str:
    """Return a time span in whole days or hours: ``7 days``; else as Python prints it."""
    for unit, hours in (("day", 24), ("hour", 1)):
        length = datetime.timedelta(hours=hours)
        if time and time % length == datetime.timedelta():
            return counted(time // length, unit)
    return str(time)


@dataclass
class Tally:
    """Count keys and their bytes.

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
    """Report what ``collect_garbage`` has done or, with ``dry_run``, what it would do.

    Attributes:
        url: the folder or URL of the store.
        dry_run: whether nothing was changed.
        grace: how long an object has to be unneeded and unchanged before it is moved.
        time: when the collection began, by the clock of the storage, in UTC.
        needed: objects that a version, a tag or a push without a name needs.
        young: objects that nothing needs, and that are younger than the grace.
        moved: objects that were moved to the trash.
        in_trash: copies that stay in the trash; they can be pulled by digest and restored.
        purged: copies that were deleted from the trash. These copies are lost.
        put_back: needed objects that were only in the trash, and were copied back.
        leagues: records of deleted leagues, and sums of leagues that newer ones have replaced; they
            were deleted.
        swept: unfinished writes that were deleted. Bytes of unfinished uploads are not counted.
        refused: keys that the storage refuses to delete; at most 20 keys are named.
        refusals: how many deletions the storage has refused.
        notes: sentences that say what the collector cannot do in this storage, and which versions
            it has restored because a tag points to them and their deletion was cut off.
        reason: why no object was moved; empty if an object was moved.
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
    leagues: Tally = field(default_factory=Tally)
    swept: Tally = field(default_factory=Tally)
    refused: list[str] = field(default_factory=list)
    refusals: int = 0
    notes: list[str] = field(default_factory=list)
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as nested plain values, which ``json.dumps`` takes.

        ``grace`` is a number of seconds, and each :class:`Tally` a dict.
        """
        return plain_fields(self)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        verb = "would be" if self.dry_run else "were"
        lines = [
            f"{self.url}: {self.moved} objects {verb} moved to the trash, "
            f"{self.purged} copies {verb} deleted from the trash",
            f"  needed: {self.needed}; younger than {_span(self.grace)}: {self.young}; "
            f"in the trash: {self.in_trash}",
        ]
        if self.put_back.count:
            lines.append(f"  {self.put_back} needed objects {verb} put back from the trash")
        if self.leagues.count:
            lines.append(f"  {self.leagues} records of leagues {verb} deleted")
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
        return "\n".join(map(printable, lines))
