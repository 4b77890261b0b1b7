"""Who holds which weights: the report of :func:`~policystore.rllib.live.load.check_sync`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from policystore.digest import Digest
from policystore.errors import SyncError

__all__ = ["SyncReport", "WorkerStatus"]


@dataclass(frozen=True)
class WorkerStatus:
    """One policy on one learner or worker.

    Attributes:
        worker: ``learner 0``, ``train local``, ``eval 2``; numbers are RLlib's own.
        policy: id of the policy or module.
        status: ``ok``: exactly the weights that it should hold. ``bad``: others. ``behind``:
            legitimately older ones of a policy in training, which RLlib brings up to date before
            it samples with them, or shortly after (asynchronous algorithms). ``pending``: no answer
            in time. ``unreachable``: the actor is dead or being restarted.
        digest: of the weights that acting needs, as it holds them now; None where unknown.
        seq: number of the learner's update that the weights are of, where RLlib counts them.
        targets: a digest of its target networks, to compare learners by; None where it has none.
        filters: number of observations that its MeanStdFilter has seen; by agent on the new
            stack, where filters belong to agents.
        note: why, in words.
    """

    worker: str
    policy: str
    status: str
    digest: Digest | None = None
    seq: int | None = None
    targets: str | None = None
    filters: Any = None
    note: str = ""


@dataclass(frozen=True)
class SyncReport:
    """Rows by worker and policy; ``print(report)`` shows them as a table.

    Attributes:
        rows: one for every policy on every learner and worker, those without an answer included.
        notes: what else is worth knowing, such as NaN among the weights.
    """

    rows: tuple[WorkerStatus, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everyone answered and nobody holds what they should not."""
        return not self.bad

    @property
    def bad(self) -> tuple[WorkerStatus, ...]:
        """Rows that are neither ``ok`` nor ``behind``."""
        return tuple(row for row in self.rows if row.status not in ("ok", "behind"))

    def raise_if_bad(self) -> None:
        """Nothing if :attr:`ok`.

        Raises:
            SyncError: names the workers that differ or did not answer; has this report.
        """
        if not self.bad:
            return
        listed = [
            f"  {row.worker}, {row.policy!r}: {row.status}" + (f" ({row.note})" if row.note else "")
            for row in self.bad
        ]
        more = [f"  and {len(listed) - 20} more"] if listed[20:] else []
        raise SyncError(
            f"{len(listed)} of {len(self.rows)} do not hold the weights they should:\n"
            + "\n".join(listed[:20] + more)
            + "\nload_into() gives everyone the weights you choose; RLlib restores dead workers in "
            "the next calls of train().",
            report=self,
        )

    def __iter__(self) -> Iterator[WorkerStatus]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        head = ("worker", "policy", "status", "digest", "seq", "targets", "filters", "")
        lines = [head, *(_cells(row) for row in self.rows)]
        used = [i for i in range(len(head)) if any(line[i] for line in lines[1:]) or i < 4]
        widths = {i: max(len(line[i]) for line in lines) for i in used}
        shown = ["  ".join(line[i].ljust(widths[i]) for i in used).rstrip() for line in lines]
        return "\n".join([*shown, *(f"note: {note}" for note in self.notes)])


def _cells(row: WorkerStatus) -> tuple[str, ...]:
    return (
        row.worker,
        row.policy,
        row.status,
        "" if row.digest is None else row.digest.short,
        "" if row.seq is None else str(row.seq),
        "" if row.targets is None else row.targets[:8],
        _counts(row.filters),
        row.note,
    )


def _counts(filters: Any) -> str:
    if filters is None:
        return ""
    if isinstance(filters, dict):
        if list(filters) == [None]:
            return str(filters[None])
        return " ".join(f"{agent}:{count}" for agent, count in filters.items())
    return str(filters)
