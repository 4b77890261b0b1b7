"""One wave of weights to all workers of an Algorithm: sent, proven, taken back where it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import ray
from ray.rllib.algorithms.algorithm import Algorithm

from policystore.digest import Digest
from policystore.errors import InvalidInputError, StorageError, SyncError
from policystore.rllib.live.compatibility import DigestPlan, PreparedWeights, plan_of
from policystore.rllib.live.report import SyncReport
from policystore.rllib.live.rows import digest_from, rows_of
from policystore.rllib.worker_code.learner_thread import wait_until_idle
from policystore.rllib.worker_code.weights import (
    apply_weights,
    commit,
    describe,
    held_by,
    report_digests,
    rollback,
)
from policystore.rllib.workers.calls import Calls, Deadline, Worker, is_new_stack, send

__all__ = [
    "Payload",
    "Steps",
    "carry_out",
    "compare",
    "deadline_of",
    "describe_policies",
    "settle_old",
]


@dataclass(frozen=True)
class Steps:
    """What workers do with weights, how they take it back, and how they let go of the old ones."""

    put: Callable[..., Any] = apply_weights
    undo: Callable[..., Any] = rollback
    commit: Callable[..., Any] = commit
    failed: str = "the weights were not loaded"


def carry_out(
    team: list[Worker],
    job: dict[str, Any],
    payload: Payload,
    expected: Mapping[str, Digest],
    facts: Mapping[str, Any],
    deadline: Deadline,
    *,
    notes: tuple[str, ...] = (),
    steps: Steps = Steps(),
    before: Mapping[str, Any] | None = None,
) -> SyncReport:
    """Send checked weights to everyone, and take them back from all if one does not take them.

    Args:
        team: everyone.
        job: what ``steps.put`` gets first; has a ``token``.
        payload: what it gets second.
        expected: by policy, the digest that everyone must then find.
        facts: of these policies, for the report.
        deadline: by when.
        notes: for the report.
        steps: what workers do with it.
        before: facts for the report after a failure, if other than ``facts``.

    Raises:
        SyncError: someone did not take them; all have what they had before.
    """
    try:
        answers = send(team, steps.put, lambda worker: (job, payload.of(worker))).collect(deadline)
    except BaseException:
        # Interrupted: who has been sent the weights takes them back once it comes to that.
        send(team, steps.undo, lambda worker: (job["token"],))
        raise
    failed = {
        worker: why
        for worker, answer in answers.items()
        if (why := _failed(worker, answer, expected))
    }
    if failed:
        _take_back(team, job, answers, failed, before or facts, deadline, steps)
    send(
        [worker for worker in team if "unreachable" not in answers[worker]],
        steps.commit,
        lambda worker: (job["token"],),
    )
    return SyncReport(rows_of(team, facts, answers, expected), notes)


def _failed(worker: Worker, answer: Mapping[str, Any], expected: Mapping[str, Digest]) -> str:
    if "unreachable" in answer:
        return "a learner is dead" if worker.group == "learner" else ""
    if answer.get("pending"):
        return str(answer.get("error") or "no answer in time")
    if "error" in answer:
        return str(answer["error"])
    for pid, digest in expected.items():
        held = answer["policies"].get(pid, {})
        if digest_from(held) != digest:
            return held.get("wrong") or f"{pid!r} holds other weights after they were set"
    return ""


def _take_back(
    team: list[Worker],
    job: Mapping[str, Any],
    answers: Mapping[Worker, Mapping[str, Any]],
    failed: Mapping[Worker, str],
    facts: Mapping[str, Any],
    deadline: Deadline,
    steps: Steps,
) -> NoReturn:
    silent = {
        worker: dict(answer)
        for worker, answer in answers.items()
        if "unreachable" in answer or answer.get("pending")
    }
    back = send(
        [worker for worker in team if "unreachable" not in answers[worker]],
        steps.undo,
        lambda worker: (job["token"],),
    )
    # Those who are silent have it in their queue, behind the weights; the others take a moment.
    grace = Deadline(10.0)
    listened = Calls(
        {w: r for w, r in back.references.items() if w not in silent}, back.answers
    ).collect(grace)
    stuck = {w: a["error"] for w, a in listened.items() if "error" in a}
    reasons = [f"  {worker.name}: {why}" for worker, why in failed.items()]
    report = None
    try:
        report = compare(team, facts, Deadline(10.0), silent)
    except StorageError as error:
        reasons.append(f"  {error}")
    raise SyncError(
        f"{steps.failed}: {len(failed)} of {len(team)} did not take the weights:\n"
        + "\n".join(reasons[:20])
        + (
            "\nEveryone who answers has what it had before, and who has not answered within "
            f"{deadline.seconds:g} s goes back to it when it does."
            if not stuck
            else f"\nTaking them back failed on {', '.join(w.name for w in stuck)}: {stuck}"
        ),
        report=report,
    )


def compare(
    team: list[Worker],
    facts: Mapping[str, Any],
    deadline: Deadline,
    silent: Mapping[Worker, dict[str, Any]] | None = None,
    notes: tuple[str, ...] = (),
) -> SyncReport:
    """A report of what everyone holds; of ``silent`` workers their answers are given."""
    plans: dict[str, DigestPlan] = {pid: plan_of(each) for pid, each in facts["policies"].items()}
    silent = silent or {}
    asked = [worker for worker in team if worker not in silent]
    answers = send(asked, report_digests, lambda worker: (plans, deadline.left())).collect(deadline)
    return SyncReport(rows_of(team, facts, {**silent, **answers}, None), notes)


class Payload:
    """Weights on their way: in the object store once, however many actors there are.

    Env runners of the new stack mostly hold what acting needs and no critic; they get no more.
    """

    def __init__(self, team: list[Worker], fits: Mapping[str, PreparedWeights]) -> None:
        self._full = {pid: each.arrays for pid, each in fits.items()}
        runners = [w.local for w in team if w.group != "learner" and not w.is_remote]
        held = {pid: set(each.acting) for pid, each in fits.items()}
        for runner in runners:
            there = held_by(runner)
            for pid in held.keys() & set(there.ids):
                held[pid] |= there.bits(pid).keys()
        if runners:
            self._part = {
                pid: {n: each for n, each in arrays.items() if n in held[pid]}
                for pid, arrays in self._full.items()
            }
            if all(len(self._part[pid]) == len(self._full[pid]) for pid in held):
                self._part = self._full
        else:
            self._part = self._full
        self._references: dict[int, Any] = {}

    def of(self, worker: Worker) -> Any:
        """What one worker gets: the arrays themselves, or a reference to them."""
        found = self._full if worker.group == "learner" or worker.leads else self._part
        if not worker.is_remote:
            return found
        if id(found) not in self._references:
            self._references[id(found)] = ray.put(found)
        return self._references[id(found)]


def describe_policies(
    team: list[Worker], ids: list[str] | None, deadline: Deadline, *, all_of_them: bool = True
) -> dict[str, Any]:
    """What the learners say of their policies (``worker_side.look``); they must all say the same.

    Raises:
        StorageError: one of them does not answer; or, without ``all_of_them``, none.
    """
    learners = [worker for worker in team if worker.group == "learner"]
    leaders = learners or [worker for worker in team if worker.leads]
    if not leaders:
        raise InvalidInputError("the Algorithm has neither learners nor a local worker")
    answers = send(leaders, describe, lambda worker: (ids, deadline.left())).collect(deadline)
    heard = []
    for worker in leaders:
        answer = answers[worker]
        why = answer.get("unreachable") or answer.get("error")
        if not (why or answer.get("pending") or not answer["settled"]):
            heard.append(worker)
        elif all_of_them or (worker is leaders[-1] and not heard):
            raise StorageError(
                f"{worker.name} does not answer within {deadline.seconds:g} s"
                + (f": {why}" if why else "")
                + ". Nothing was sent. A dead learner does not come back: build the Algorithm anew."
            )
    first: dict[str, Any] = answers[heard[0]]
    first["seq"] = max([answers[worker]["seq"] or 0 for worker in heard])
    return first


def settle_old(algo: Algorithm, deadline: Deadline) -> None:
    """IMPALA and APPO of the old stack learn in a thread of the driver: let it come to rest.

    Raises:
        StorageError: it did not in time.
    """
    if not is_new_stack(algo) and not wait_until_idle(algo, deadline.left()):
        raise StorageError(
            f"the learner thread was busy for {deadline.seconds:g} s; nothing was sent"
        )


def deadline_of(timeout: Any) -> Deadline:
    """The caller's timeout, checked."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
        raise InvalidInputError(f"timeout is a number of seconds above 0, not {timeout!r}")
    return Deadline(float(timeout))
