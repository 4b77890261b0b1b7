"""Report which tensors ``adapt`` took from a snapshot, and which stayed as the target has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from policystore._util.messages import counted, printable, text_table
from policystore.digest import Digest
from policystore.display.html import block, line, table, text
from policystore.display.pretty import print_text
from policystore.format.plain import plain_fields
from policystore.snapshot import Snapshot

__all__ = ["AdaptReport", "Adapted", "AdaptedPart", "PartKind", "PartStatus"]

_MOST_ROWS = 60  # rows that a notebook shows

PartKind: TypeAlias = Literal["tensor", "state", "space"]
"""A tensor of the weights, the state of a connector or of exploration, or a space of the spec."""

PartStatus: TypeAlias = Literal["taken", "renamed", "follows", "kept", "left"]
"""Where a part of the result comes from; see :class:`AdaptedPart`."""

_STATUSES: tuple[PartStatus, ...] = ("taken", "renamed", "follows", "kept", "left")


@dataclass(frozen=True)
class AdaptedPart:
    """Say where one part of an adapted snapshot comes from.

    Attributes:
        name: the name of the part in the target; for ``left``, the name that the part would have.
        status: ``taken``: from the snapshot. ``renamed``: from the snapshot, under another name.
            ``follows``: a copy of another tensor of the result: a target network is a copy of its
            network, and all names of a tied parameter have the same value. ``kept``: as the target
            has it. ``left``: a part of the snapshot that the result does not have.
        kind: ``tensor``, ``state`` or ``space``.
        source: the name of the part in the snapshot, if that name is another one; for ``follows``,
            the name of the tensor of the result that was copied.
        shape: dtype and shape of a tensor, such as ``float32[64, 4]``; empty for other parts.
        why: the reason, in words.
    """

    name: str
    status: PartStatus
    kind: PartKind = "tensor"
    source: str = ""
    shape: str = ""
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as plain values."""
        return plain_fields(self)


@dataclass(frozen=True, repr=False)
class AdaptReport:
    """Report what ``adapt`` did; ``print(report)`` shows a table.

    Attributes:
        source: the digest of the snapshot from which parts were taken.
        source_ref: the ref of that snapshot, such as ``soccer/main@7``; None for a snapshot without
            a ref.
        target: what the snapshot was adapted to, in words.
        rows: one row for each tensor of the target, each tensor of the snapshot that was left, each
            part of the state, and each space that differs.
        parameters: how many numbers the tensors of the result have together.
        parameters_taken: how many of these numbers are from the snapshot.
        notes: differences between snapshot and target that may matter, such as another activation.
    """

    source: Digest
    source_ref: str | None
    target: str
    rows: tuple[AdaptedPart, ...]
    parameters: int
    parameters_taken: int
    notes: tuple[str, ...] = ()

    def names(self, *statuses: PartStatus) -> list[str]:
        """Return the names of the tensors with one of these statuses."""
        return [row.name for row in self.tensors if row.status in statuses]

    @property
    def tensors(self) -> tuple[AdaptedPart, ...]:
        """The rows about tensors."""
        return tuple(row for row in self.rows if row.kind == "tensor")

    @property
    def counts(self) -> dict[str, int]:
        """How many tensors have each status, such as ``{"taken": 4, "kept": 2, …}``."""
        given = [row.status for row in self.tensors]
        return {status: given.count(status) for status in _STATUSES}

    @property
    def summary(self) -> str:
        """One line: how many tensors were taken, renamed, copied, kept and left."""
        words = [f"{count:,} {status}" for status, count in self.counts.items() if count]
        of = f"{self.parameters_taken:,} of {counted(self.parameters, 'parameter')}"
        return f"{', '.join(words) or 'no tensors'}; {of} from the snapshot"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as nested plain values, with ``counts``, for ``json.dumps``."""
        return {**plain_fields(self), "counts": self.counts}

    def to_records(self) -> list[dict[str, Any]]:
        """Return one dict of plain values for each row, such as for ``pandas.DataFrame``."""
        return [row.to_dict() for row in self.rows]

    def __repr__(self) -> str:
        return f"<AdaptReport: {printable(self.summary)}>"

    def __str__(self) -> str:
        shown = text_table(_HEAD, [_cells(row) for row in self.rows], ())
        notes = [f"note: {printable(note)}" for note in self.notes]
        return "\n".join([printable(self._title()), self.summary, shown, *notes])

    _repr_pretty_ = print_text

    def _repr_html_(self) -> str:
        shown = self.rows[:_MOST_ROWS]
        hidden = len(self.rows) - len(shown)
        taken = {number for number, row in enumerate(shown) if row.status in ("taken", "renamed")}
        return block(
            [
                line(text(self._title()), heading=True),
                line(self.summary, faint=True),
                table(_HEAD, [_cells(row) for row in shown], marked=taken),
                *([line(f"and {hidden:,} more rows", faint=True)] if hidden else []),
                *(line(f"note: {note}") for note in self.notes),
            ]
        ).source

    def _title(self) -> str:
        source = self.source.short
        if self.source_ref is not None and self.source_ref != str(self.source):
            source = f"{self.source_ref} ({source})"
        return f"{source} adapted to {self.target}"


@dataclass(frozen=True, repr=False)
class Adapted:
    """A snapshot that was adapted to a target, and the report on it.

    Attributes:
        snapshot: has the names, shapes, dtypes and spec of the target.
        report: says where each part comes from.
    """

    snapshot: Snapshot
    report: AdaptReport

    def __repr__(self) -> str:
        return f"<Adapted {self.snapshot.digest.short}: {printable(self.report.summary)}>"

    def __str__(self) -> str:
        return f"{self.snapshot!r}\n{self.report}"

    _repr_pretty_ = print_text

    def _repr_html_(self) -> str:
        return block([line(repr(self.snapshot), faint=True)]).source + self.report._repr_html_()


_HEAD = ("part", "status", "from", "shape", "")


def _cells(row: AdaptedPart) -> tuple[str, ...]:
    name = row.name if row.kind == "tensor" else f"{row.kind}: {row.name}"
    return (name, row.status, row.source, row.shape, row.why)
