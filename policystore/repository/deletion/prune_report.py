"""Report what a prune has deleted and kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

__all__ = ["PruneReport"]

_SHOWN = 20  # lines


@dataclass(frozen=True, repr=False)
class PruneReport:
    """The result of ``store.prune``.

    Attributes:
        name: the name.
        pruned: the versions that were pruned, newest first; with ``dry_run``, those that would be.
        kept: the versions that stand, newest first, each with the reasons for which it was kept.
        dry_run: whether nothing was written.
    """

    name: str
    pruned: tuple[int, ...]
    kept: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    dry_run: bool = False

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        done = "would be pruned" if self.dry_run else "pruned"
        lines = [f"{self.name}: {len(self.pruned)} versions {done}, {len(self.kept)} kept"]
        if self.pruned:
            lines.append(f"  {done}: {_written(self.pruned)}")
        reasons: dict[str, list[int]] = {}
        for number, why in self.kept.items():
            reasons.setdefault(", ".join(why), []).append(number)
        lines += [f"  kept: {_written(numbers)} ({why})" for why, numbers in reasons.items()]
        if len(lines) > _SHOWN:
            lines[_SHOWN:] = [f"  and {len(lines) - _SHOWN} lines more"]
        return "\n".join(lines)


def _written(numbers: Iterable[int]) -> str:
    """Write numbers as ranges, newest first."""
    ranges: list[list[int]] = []
    for number in sorted(numbers, reverse=True):
        if ranges and ranges[-1][1] == number + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    texts = [str(last) if first == last else f"{first} to {last}" for last, first in ranges]
    return ", ".join(texts[:_SHOWN]) + (", …" if texts[_SHOWN:] else "")
