"""Report what a prune has deleted and kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from policystore._util.messages import counted
from policystore.format.plain import plain_fields

__all__ = ["PruneReport"]

_SHOWN = 20  # lines, and ranges in a line

_Range = tuple[int, int]


@dataclass(frozen=True, repr=False)
class PruneReport:
    """Report what ``store.prune`` has deleted and kept.

    Attributes:
        name: the name.
        ranges: the versions that were pruned, as ascending ranges of a first and a last number;
            with ``dry_run``, the versions that would be pruned.
        kept: the versions that stand, newest first, each with the reasons for which it was kept.
        dry_run: whether nothing was written.
    """

    name: str
    ranges: Sequence[_Range]
    kept: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    dry_run: bool = False

    @property
    def pruned(self) -> list[int]:
        """The numbers of the versions that were pruned, newest first."""
        return [n for first, last in reversed(self.ranges) for n in range(last, first - 1, -1)]

    @property
    def count(self) -> int:
        """How many versions were pruned."""
        return sum(last - first + 1 for first, last in self.ranges)

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes and ``count`` as plain values, which ``json.dumps`` takes.

        The keys of ``kept``, numbers of versions, are texts, because keys in JSON are texts.
        """
        return {**plain_fields(self), "count": self.count}

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        done = "would be pruned" if self.dry_run else "pruned"
        lines = [f"{self.name}: {counted(self.count, 'version')} {done}, {len(self.kept):,} kept"]
        if self.ranges:
            lines.append(f"  {done}: {_written(self.ranges)}")
        reasons: dict[str, list[_Range]] = {}
        for number, why in self.kept.items():
            ranges = reasons.setdefault(", ".join(why), [])
            if ranges and ranges[-1][0] == number + 1:
                ranges[-1] = (number, ranges[-1][1])
            else:
                ranges.append((number, number))
        lines += [f"  kept: {_written(ranges[::-1])} ({why})" for why, ranges in reasons.items()]
        if len(lines) > _SHOWN:
            lines[_SHOWN:] = [f"  and {len(lines) - _SHOWN} lines more"]
        return "\n".join(lines)


def _written(ranges: Iterable[_Range]) -> str:
    """Write ascending ranges, the newest first."""
    texts = [f"@{last}" if first == last else f"@{first} to @{last}" for first, last in ranges]
    texts.reverse()
    return ", ".join(texts[:_SHOWN]) + (", …" if texts[_SHOWN:] else "")
