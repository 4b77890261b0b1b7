"""Answers of workers as rows of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policystore.digest import Digest, digest_of
from policystore.rllib.live.report import WorkerStatus
from policystore.rllib.workers.calls import Worker

__all__ = ["digest_from", "rows_of"]


def digest_from(held: Mapping[str, Any]) -> Digest | None:
    """The digest in a worker's answer; made here of the bytes that a node without blake3 sends."""
    found = held.get("digest")
    if found is None:
        return None
    return digest_of(found) if isinstance(found, bytes) else Digest.parse(found)


def rows_of(
    team: list[Worker],
    facts: Mapping[str, Any],
    answers: Mapping[Worker, Mapping[str, Any]],
    expected: Mapping[str, Digest] | None,
) -> tuple[WorkerStatus, ...]:
    """A row for each policy on each worker.

    Args:
        team: everyone.
        facts: what the leader says of the policies (``worker_side.look``).
        answers: of ``worker_side.tell`` or ``put``, or why there is none.
        expected: digests that everyone must hold; None: what the leader holds, or the first other
            learner that answers.
    """
    leader = next(worker for worker in team if worker.leads)
    learners = [worker for worker in team if worker.group == "learner"]
    leader = next((w for w in [leader, *learners] if "policies" in answers[w]), leader)
    wanted = dict(expected or {})
    if expected is None:
        for pid, held in answers[leader].get("policies", {}).items():
            found = digest_from(held)
            if found is not None:
                wanted[pid] = found
    number = answers[leader].get("seq")
    return tuple(
        _row(worker, pid, facts, answers[worker], wanted.get(pid), number, expected is not None)
        for worker in team
        for pid in sorted(facts["policies"])
    )


def _row(
    worker: Worker,
    pid: str,
    facts: Mapping[str, Any],
    answer: Mapping[str, Any],
    wanted: Digest | None,
    number: int | None,
    loaded: bool,
) -> WorkerStatus:
    if "unreachable" in answer:
        return WorkerStatus(worker.name, pid, "unreachable", note=str(answer["unreachable"]))
    if answer.get("pending"):
        return WorkerStatus(worker.name, pid, "pending", note="no answer in time")
    if "error" in answer:
        return WorkerStatus(worker.name, pid, "bad", note=str(answer["error"]))
    held = answer["policies"].get(pid)
    remark = answer.get("remark", "")
    if held is None:
        why = "it has no such policy"
        return WorkerStatus(
            worker.name, pid, "bad", seq=answer["seq"], note=f"{why}; {remark}" if remark else why
        )
    digest = digest_from(held)
    status, note = "ok", ""
    if digest is None or digest != wanted:
        status, note = "bad", held["wrong"] or "holds other weights"
        note = f"{note}; {remark}" if remark else note
        if digest is not None and not loaded:
            late = _behind(worker, facts, facts["policies"][pid], answer["seq"], number)
            if late:
                status, note = "behind", late
    filters = held["filters"] if held["filters"] is not None else answer.get("filters")
    return WorkerStatus(
        worker.name, pid, status, digest, answer["seq"], held["targets"], filters, note
    )


def _behind(
    worker: Worker,
    facts: Mapping[str, Any],
    policy: Mapping[str, Any],
    seq: int | None,
    number: int | None,
) -> str:
    """Why a worker may hold older weights of a policy in training, or an empty text."""
    if not policy["trained"] or worker.group == "learner":
        return ""
    if worker.group != "train":
        return "evaluation brings it up to date before it plays"
    if worker.idle:
        return "stands in for the remote workers and is not updated while they train"
    if facts["asynchronous"] and seq is not None and number is not None and seq < number:
        return "on its way, the algorithm is asynchronous"
    if facts.get("unnumbered"):
        return "on its way, the algorithm is asynchronous"
    return ""
