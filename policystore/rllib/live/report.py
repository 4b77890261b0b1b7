"""Report which weights each learner and worker holds, as ``check_sync`` and ``load_into`` do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from policystore.digest import Digest, digest_of
from policystore.display.html import block, line, table
from policystore.display.pretty import print_text
from policystore.errors import SyncError
from policystore.rllib.worker_code.messages.answers import PolicyDigest, WorkerDigests, WorkerInfo
from policystore.rllib.workers.answers import NO_ANSWER, Answer, Answers
from policystore.rllib.workers.discovery import Worker

__all__ = [
    "FilterCounts",
    "SyncReport",
    "WorkerStatus",
    "is_absent_by_design",
    "parse_digest",
    "status_rows",
]

FilterCounts: TypeAlias = "int | dict[str | None, int]"
"""Number of observations that a filter has seen; on the new stack by agent."""


@dataclass(frozen=True)
class WorkerStatus:
    """One policy on one learner or worker.

    Attributes:
        worker: ``learner 0``, ``train local``, ``eval 2``; numbers are RLlib's own.
        policy: id of the policy or module.
        status: ``ok``: the worker holds exactly the weights that it should hold. ``bad``: the
            worker holds other weights, has no such policy, or answered with an error. ``behind``:
            the worker holds older weights, which is allowed: RLlib updates the worker before the
            worker samples, or soon (asynchronous algorithms). ``pending``: no answer in time.
            ``unreachable``: the actor is dead or being restarted. ``own``: the worker holds the
            weights that ``load_local`` gave this worker alone.
        digest: digest of the weights that acting needs, as the worker holds them now; None if
            unknown.
        seq: RLlib's number of the weights, which a learner's update raises; None if RLlib counts
            none.
        targets: a digest of the target networks, to compare learners; None without target
            networks.
        filters: number of observations that the MeanStdFilter has seen; by agent on the new
            stack, where filters belong to agents.
        filters_differ: whether the statistics of the MeanStdFilter differ from those of the
            training group's first worker that has a filter. RLlib allows this: a worker has
            statistics of its own until RLlib merges all statistics, and evaluation workers get the
            merged statistics in ``evaluate()``.
        note: the reason for the status, in words.
        ref: name and version of these weights in a store, if a snapshot that was pulled by name was
            loaded or added with these weights, or ``publish`` pushed them.
    """

    worker: str
    policy: str
    status: str
    digest: Digest | None = None
    seq: int | None = None
    targets: str | None = None
    filters: FilterCounts | None = None
    note: str = ""
    filters_differ: bool = False
    ref: str | None = None


@dataclass(frozen=True)
class SyncReport:
    """Rows by worker and policy; ``print(report)`` shows them as a table.

    Attributes:
        rows: one row for every policy on every learner and worker, with or without an answer.
        notes: other observations, such as NaN among the weights.
    """

    rows: tuple[WorkerStatus, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every worker answered, and every row is ``ok``, ``behind`` or ``own``."""
        return not self.bad

    @property
    def bad(self) -> tuple[WorkerStatus, ...]:
        """Rows that are neither ``ok`` nor ``behind`` nor ``own``."""
        return tuple(row for row in self.rows if row.status not in ("ok", "behind", "own"))

    def raise_if_bad(self) -> None:
        """Raise if a worker differs or did not answer.

        Raises:
            SyncError: the message names these workers, and the error has this report.
        """
        if not self.bad:
            return
        listed = [
            f"  {row.worker}, {row.policy!r}: {row.status}" + (f" ({row.note})" if row.note else "")
            for row in self.bad
        ]
        more = [f"  and {len(listed) - 20} more"] if listed[20:] else []
        raise SyncError(
            f"{len(listed)} of {len(self.rows)} rows are neither ok nor behind nor own:\n"
            + "\n".join(listed[:20] + more)
            + "\nload_into() gives all workers the weights that you choose; RLlib restores dead "
            "workers in the next calls of train().",
            report=self,
        )

    def with_refs(self, refs: Mapping[str, str]) -> SyncReport:
        """Return a report whose rows name the weights; ``refs``: text of a digest -> ref."""
        rows = (replace(row, ref=refs.get(str(row.digest), row.ref)) for row in self.rows)
        return replace(self, rows=tuple(rows))

    def with_notes(self, notes: Iterable[str]) -> SyncReport:
        """Return a report with the same rows and more notes."""
        return replace(self, notes=(*self.notes, *notes))

    def __iter__(self) -> Iterator[WorkerStatus]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    _repr_pretty_ = print_text

    def _repr_html_(self) -> str:
        head, *rows = self._table()
        counts = Counter(row.status for row in self.rows)
        listed = ", ".join(f"{count} {status}" for status, count in counts.items()) or "no rows"
        wrong = {i for i, row in enumerate(self.rows) if row in self.bad}
        marked = {i for i, row in enumerate(self.rows) if row.status == "own"}
        return block(
            [
                line(listed if self.ok else f"not in sync: {listed}", heading=True),
                table(head, rows, wrong=wrong, marked=marked),
                *(line(f"note: {note}") for note in self.notes),
            ]
        ).source

    def __str__(self) -> str:
        lines = self._table()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        shown = [
            "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
            for cells in lines
        ]
        return "\n".join([*shown, *(f"note: {note}" for note in self.notes)])

    def _table(self) -> list[list[str]]:
        """Return the head and a line for each row, without the columns that say nothing."""
        head = ("worker", "policy", "status", "digest", "ref", "seq", "targets", "filters", "")
        lines = [head, *(_cells(row) for row in self.rows)]
        used = [i for i in range(len(head)) if any(cells[i] for cells in lines[1:]) or i < 4]
        return [[cells[i] for i in used] for cells in lines]


def _cells(row: WorkerStatus) -> tuple[str, ...]:
    return (
        row.worker,
        row.policy,
        row.status,
        "" if row.digest is None else row.digest.short,
        row.ref or "",
        "" if row.seq is None else str(row.seq),
        "" if row.targets is None else row.targets[:8],
        _counts(row.filters) + (" differ" if row.filters_differ else ""),
        row.note,
    )


def _counts(filters: FilterCounts | None) -> str:
    if filters is None:
        return ""
    if isinstance(filters, dict):
        if list(filters) == [None]:
            return str(filters[None])
        return " ".join(f"{agent}:{count}" for agent, count in filters.items())
    return str(filters)


# Answers as rows ---------------------------------------------------------------------------------


def parse_digest(held: PolicyDigest | None) -> Digest | None:
    """Return the digest in an answer.

    A node without blake3 sends bytes instead, and this function computes their digest.
    """
    return None if held is None else _parsed(held.digest)


def _parsed(given: str | bytes | None) -> Digest | None:
    if given is None:
        return None
    return digest_of(given) if isinstance(given, bytes) else Digest.parse(given)


def status_rows(
    workers: list[Worker],
    info: WorkerInfo,
    answers: Mapping[Worker, Answer[WorkerDigests]],
    expected: Mapping[str, Digest] | None = None,
    *,
    unnumbered: bool = False,
) -> tuple[WorkerStatus, ...]:
    """Return a row for each policy on each worker.

    Args:
        workers: all learners and workers of the Algorithm.
        info: descriptions of the policies to report on.
        answers: each worker's answer about the weights that the worker holds.
        expected: digests that all workers must hold, by policy. For all other policies, the leading
            worker's weights count. If the leading worker does not answer, the weights of the first
            learner that answers count.
        unnumbered: whether the Algorithm is asynchronous and its workers do not count updates.
    """
    leader = next(worker for worker in workers if worker.leads)
    learners = [worker for worker in workers if worker.is_learner]
    leading = next(iter(Answers(answers).values_of([leader, *learners])), None)
    proven = expected or {}
    wanted: dict[str, Digest] = {}
    for pid, held in ({} if leading is None else leading.policies).items():
        digest = parse_digest(held) if held.own is None else _parsed(held.beneath)
        if digest is not None:
            wanted[pid] = digest
    wanted |= proven
    seq = None if leading is None else leading.seq
    marks = {pid: _first_mark(workers, answers, pid) for pid in info.policies}
    rows = []
    for worker in workers:
        for pid in sorted(info.policies):
            answer = answers[worker]
            held_there = answer.ok and pid in answer.get().policies
            if is_absent_by_design(worker, info, pid) and not held_there:
                continue
            row = _row(worker, pid, answer, wanted.get(pid))
            if row.status == "bad" and _may_be_behind(answer, pid) and pid not in proven:
                late = _behind(worker, info, pid, answer.get(), seq, unnumbered)
                if late:
                    row = replace(row, status="behind", note=late)
            mark = _mark(answer, pid)
            rows.append(replace(row, filters_differ=bool(mark) and mark != marks[pid]))
    return tuple(rows)


def _mark(answer: Answer[WorkerDigests], pid: str) -> str:
    """Return a text for the filter statistics of a policy on a worker; empty if it has none."""
    held = answer.get().policies.get(pid) if answer.ok else None
    return "" if held is None else held.filter_mark or answer.get().filter_mark


def _first_mark(
    workers: list[Worker], answers: Mapping[Worker, Answer[WorkerDigests]], pid: str
) -> str:
    marks = (_mark(answers[worker], pid) for worker in workers if worker.group == "train")
    return next((mark for mark in marks if mark), "")


def is_absent_by_design(worker: Worker, info: WorkerInfo, pid: str) -> bool:
    """Return whether a policy is ``learner_only``, and the worker is no learner."""
    return info.policies[pid].learner_only and not worker.is_learner


def _row(
    worker: Worker, pid: str, answer: Answer[WorkerDigests], wanted: Digest | None
) -> WorkerStatus:
    """Return the row of one policy on one worker, ``ok`` or not."""
    if answer.unreachable:
        return WorkerStatus(worker.name, pid, "unreachable", note=answer.unreachable)
    if answer.pending:
        return WorkerStatus(worker.name, pid, "pending", note=NO_ANSWER)
    if answer.error:
        return WorkerStatus(worker.name, pid, "bad", note=answer.error)
    held_by_worker = answer.get()
    held = held_by_worker.policies.get(pid)
    digest = parse_digest(held)
    status, note = "ok", ""
    if held is not None and held.own is not None:
        status, note = "own", f"load_local loaded {held.own_label}"
        if digest is None or str(digest) != held.own:
            status, note = "bad", f"{note}, and something else changed the weights afterwards"
    elif digest is None or digest != wanted:
        status = "bad"
        note = "has no such policy" if held is None else held.wrong or "holds other weights"
        if held_by_worker.remark:
            note = f"{note}; {held_by_worker.remark}"
    if held is None:
        return WorkerStatus(worker.name, pid, status, seq=held_by_worker.seq, note=note)
    filters = held_by_worker.filters if held.filters is None else held.filters
    return WorkerStatus(
        worker.name, pid, status, digest, held_by_worker.seq, held.targets, filters, note
    )


def _may_be_behind(answer: Answer[WorkerDigests], pid: str) -> bool:
    """Return whether RLlib's next weights reach a policy that a worker holds."""
    held = answer.get().policies.get(pid) if answer.ok else None
    return held is not None and held.digest is not None and held.own is None


def _behind(
    worker: Worker,
    info: WorkerInfo,
    pid: str,
    held: WorkerDigests,
    leading_seq: int | None,
    unnumbered: bool,
) -> str:
    """Return why a worker may hold older weights of a policy; an empty text if it may not."""
    seq = held.seq
    if worker.is_learner:
        return ""
    if worker.group != "train":
        # evaluate() first sends all policies, also those that are not trained
        # (algorithms/algorithm.py:1424). A runner drops weights whose number is not higher.
        drops = not unnumbered and seq is not None and 0 < (leading_seq or 0) <= seq
        return "" if drops else "RLlib updates an evaluation worker before the worker plays"
    if not info.policies[pid].trained:
        return ""
    if worker.idle:
        return "RLlib does not update this local worker, because it does not sample"
    numbered = seq is not None and leading_seq is not None and seq < leading_seq
    if info.asynchronous and held.fenced is not None and pid not in held.fenced:
        return "a load of other policies raised the number; the newer weights are on their way"
    if unnumbered or (info.asynchronous and numbered):
        return "the algorithm is asynchronous, and the newer weights are on their way"
    return ""
