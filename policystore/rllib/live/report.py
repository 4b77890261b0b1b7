"""Report which weights each learner and worker holds, as ``check_sync`` and ``load_into`` do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from policystore.digest import Digest, digest_of
from policystore.errors import SyncError
from policystore.rllib.worker_code.messages.answers import PolicyDigest, WorkerDigests, WorkerInfo
from policystore.rllib.workers.answers import NO_ANSWER, Answer, Answers
from policystore.rllib.workers.discovery import Worker

__all__ = ["FilterCounts", "SyncReport", "WorkerStatus", "parse_digest", "status_rows"]

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
            the worker holds older weights of a policy in training, which is allowed: RLlib updates
            the worker before it samples, or shortly after (asynchronous algorithms). ``pending``:
            no answer in time. ``unreachable``: the actor is dead or being restarted. ``own``: the
            worker holds the weights that ``load_local`` gave this worker alone.
        digest: digest of the weights that acting needs, as the worker holds them now; None if
            unknown.
        seq: RLlib's number of the weights, which a learner's update raises; None if RLlib counts
            none.
        targets: a digest of the target networks, to compare learners; None without target
            networks.
        filters: number of observations that the MeanStdFilter has seen; by agent on the new
            stack, where filters belong to agents.
        note: the reason for the status, in words.
    """

    worker: str
    policy: str
    status: str
    digest: Digest | None = None
    seq: int | None = None
    targets: str | None = None
    filters: FilterCounts | None = None
    note: str = ""


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
        expected: digests that all workers must hold, by policy; None for the digests of the leading
            worker, or, if it does not answer, of the first learner that answers.
        unnumbered: whether the Algorithm is asynchronous and its workers do not count updates.
    """
    leader = next(worker for worker in workers if worker.leads)
    learners = [worker for worker in workers if worker.is_learner]
    leading = next(iter(Answers(answers).values_of([leader, *learners])), None)
    wanted = dict(expected or {})
    if expected is None and leading is not None:
        for pid, held in leading.policies.items():
            digest = parse_digest(held) if held.own is None else _parsed(held.beneath)
            if digest is not None:
                wanted[pid] = digest
    seq = None if leading is None else leading.seq
    rows = []
    for worker in workers:
        for pid in sorted(info.policies):
            row = _row(worker, pid, answers[worker], wanted.get(pid))
            if row.status == "bad" and _may_be_behind(answers[worker], pid) and expected is None:
                late = _behind(worker, info, pid, row.seq, seq, unnumbered)
                if late:
                    row = replace(row, status="behind", note=late)
            rows.append(row)
    return tuple(rows)


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
            status, note = "bad", f"{note}; then its weights were changed on this worker"
    elif digest is None or digest != wanted:
        status = "bad"
        note = "it has no such policy" if held is None else held.wrong or "holds other weights"
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
    seq: int | None,
    leading_seq: int | None,
    unnumbered: bool,
) -> str:
    """Return why a worker may hold older weights of a policy; an empty text if it may not."""
    if not info.policies[pid].trained or worker.is_learner:
        return ""
    if worker.group != "train":
        return "RLlib updates an evaluation worker before the worker plays"
    if worker.idle:
        return "RLlib does not update this local worker while remote workers sample"
    numbered = seq is not None and leading_seq is not None and seq < leading_seq
    if unnumbered or (info.asynchronous and numbered):
        return "the algorithm is asynchronous, and the newer weights are on their way"
    return ""
