"""Snapshots into a running Algorithm, all its learners and workers, with proof.

What RLlib offers for this does not do it. On the old stack weights set on the driver reach no
remote worker (``algorithms/algorithm.py:set_weights``). On the new one runners drop weights whose
number is not newer than their own (``env/single_agent_env_runner.py:596``), and keys that do not
fit are skipped silently (``core/rl_module/torch/torch_rl_module.py:153``).

Everything is checked before anything is sent. Then everyone gets the weights in one wave, through
Ray's object store, and says what it holds afterwards. If one of them does not take them, all get
their old ones back.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.metrics import ALL_MODULES

from policystore.errors import InvalidInputError, NotFoundError, StorageError, SyncError
from policystore.rllib.bounds import check_snapshot
from policystore.rllib.fitting import Fit, Plan, fit, plan_of
from policystore.rllib.running_filters import new_stack_filters, old_stack_filters
from policystore.rllib.sync_report import SyncReport
from policystore.rllib.sync_rows import digest_from, rows_of
from policystore.rllib.worker_side import commit, held_by, look, put, tell, undo
from policystore.rllib.worker_threads import settle
from policystore.rllib.workers import Calls, Deadline, Worker, is_new_stack, send, workers_of
from policystore.snapshot import Snapshot

__all__ = ["check_sync", "load_into"]

# Above any number of updates that are under way: what runners are still to be sent from before a
# load carries a lower one, and they drop it.
_FENCE = 1000


def load_into(
    algo: Algorithm,
    snaps: Mapping[str, Snapshot],
    *,
    agents: Any = None,
    timeout: float = 60.0,
) -> SyncReport:
    """Give policies of a running Algorithm the weights of snapshots, on every learner and worker.

    Reached are the learners (local or remote), the local worker, which seeds restarted ones, and
    all remote workers of the training, evaluation and offline evaluation groups. Filter statistics
    go along. When this returns, each has said that it holds exactly these weights, the next
    sample of every worker is drawn with them, and the next ``train()`` neither undoes nor delays
    them. Takes no CPU, actor or task slot.

    All or nothing: if someone refuses, does not answer in time, or a learner is dead, everyone gets
    its old weights back, those too who answer later. A dead env runner is no failure: it reads
    ``unreachable``, and RLlib restores it from the local worker, which has the new weights.

    On IMPALA and APPO updates that are under way are awaited, and the weights get a number far
    above what is still in flight, so that runners drop older ones
    (``env/multi_agent_env_runner.py:771``). Optimizers keep their moments, target networks that a
    snapshot does not hold become copies of their networks.

    Args:
        algo: of either API stack, not inside ``train()``.
        snaps: id of a policy or module that is there -> what it is to hold. The whole of modules
            that share parts goes under ``"__all_modules__"``.
        agents: new stack, multi-agent, and snapshots with filter statistics: policy id -> ids of
            the agents whose filters get them (or only these ids, for a single snapshot).
        timeout: seconds for all of it.

    Returns:
        A row for each of these policies on each learner and worker.

    Raises:
        NotFoundError: no such policy; lists those there are.
        MismatchError: names, shapes, dtypes, spaces or filters that differ; nothing was sent.
        InvalidInputError: a stopped Algorithm, or an argument of the wrong form.
        SyncError: someone did not take the weights; all have their old ones again.
        StorageError: a learner did not answer before anything was sent.
    """
    deadline = _deadline(timeout)
    team = workers_of(algo)
    given = _given(snaps)
    stack = "new" if is_new_stack(algo) else "old"
    _settle_old(algo, stack, deadline)
    facts = _facts(team, [pid for pid in given if pid != ALL_MODULES], deadline)
    if ALL_MODULES in given:
        given = _apart(given)
        facts = _facts(team, list(given), deadline)
    unknown = [pid for pid in given if pid not in facts["policies"]]
    if unknown:
        raise NotFoundError(
            f"the Algorithm has no policy {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(map(repr, facts['ids']))}. Nothing was sent. add_to() adds one."
        )
    fits = {pid: fit(pid, snap, facts["policies"][pid], stack) for pid, snap in given.items()}
    notes = tuple(note for each in fits.values() for note in each.notes)
    job: dict[str, Any] = {
        "token": uuid.uuid4().hex,
        "plans": {pid: each.plan for pid, each in fits.items()},
        "seq": None,
        "timeout": deadline.left(),
    }
    if facts["asynchronous"]:
        job["seq"] = facts["seq"] + _FENCE
    if stack == "new":
        job["pipeline"], more = new_stack_filters(algo, given, agents)
        notes += more
    else:
        if agents is not None:
            raise InvalidInputError(
                "agents= is for the new API stack; on the old one filters belong to policies"
            )
        leader = next(worker for worker in team if worker.leads)
        job["filters"] = old_stack_filters(held_by(leader.local).worker, given)
    return carry_out(algo, team, job, fits, facts, notes, deadline)


def check_sync(
    algo: Algorithm, policy_ids: Iterable[str] | None = None, *, timeout: float = 60.0
) -> SyncReport:
    """Ask every learner and worker which weights it holds now.

    What counts is the ``acting`` digest: of the weights that acting needs. The first learner (on
    the old stack the local worker) says what it should be. Changes nothing.

    Args:
        algo: of either API stack.
        policy_ids: which; all if left out.
        timeout: seconds.

    Returns:
        A row for each policy on each learner and worker, whether it answered or not.

    Raises:
        NotFoundError: no such policy; lists those there are.
        InvalidInputError: a stopped Algorithm, or an argument of the wrong form.
        StorageError: the first learner does not answer.
    """
    deadline = _deadline(timeout)
    team = workers_of(algo)
    wanted = None if policy_ids is None else _listed(policy_ids)
    facts = _facts(team, wanted, deadline)
    unknown = [pid for pid in wanted or () if pid not in facts["policies"]]
    if unknown:
        raise NotFoundError(
            f"the Algorithm has no policy {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(map(repr, facts['ids']))}"
        )
    return compare(team, facts, deadline)


def compare(
    team: list[Worker],
    facts: Mapping[str, Any],
    deadline: Deadline,
    silent: Mapping[Worker, dict[str, Any]] | None = None,
    notes: tuple[str, ...] = (),
) -> SyncReport:
    """A report of what everyone holds; of ``silent`` workers their answers are given."""
    plans: dict[str, Plan] = {pid: plan_of(each) for pid, each in facts["policies"].items()}
    silent = silent or {}
    asked = [worker for worker in team if worker not in silent]
    answers = send(asked, tell, lambda worker: (plans, deadline.left())).collect(deadline)
    return SyncReport(rows_of(team, facts, {**silent, **answers}, None), notes)


def carry_out(
    algo: Algorithm,
    team: list[Worker],
    job: dict[str, Any],
    fits: Mapping[str, Fit],
    facts: Mapping[str, Any],
    notes: tuple[str, ...],
    deadline: Deadline,
) -> SyncReport:
    """Send checked weights to everyone, and take them back from all if one does not take them."""
    payload = _Payload(team, fits)
    sent: Calls | None = None
    try:
        sent = send(team, put, lambda worker: (job, payload.of(worker)))
        answers = sent.collect(deadline)
    except BaseException:
        # Interrupted: who has been sent the weights takes them back once it comes to that.
        send(team, undo, lambda worker: (job["token"],))
        raise
    failed = [
        (worker, answer) for worker, answer in answers.items() if _failed(worker, answer, fits)
    ]
    if failed:
        _take_back(team, job, answers, failed, fits, facts, deadline)
    _set_connectors_of_driver(algo, team, job)
    send(
        [worker for worker in team if "unreachable" not in answers[worker]],
        commit,
        lambda worker: (job["token"],),
    )
    expected = {pid: each.expected for pid, each in fits.items()}
    return SyncReport(rows_of(team, facts, answers, expected), notes)


def _failed(worker: Worker, answer: Mapping[str, Any], fits: Mapping[str, Fit]) -> str:
    if "unreachable" in answer:
        return "a learner is dead" if worker.group == "learner" else ""
    if answer.get("pending"):
        return str(answer.get("error") or "no answer in time")
    if "error" in answer:
        return str(answer["error"])
    for pid, each in fits.items():
        held = answer["policies"].get(pid, {})
        if digest_from(held) != each.expected:
            return held.get("wrong") or f"{pid!r} holds other weights after they were set"
    return ""


def _take_back(
    team: list[Worker],
    job: Mapping[str, Any],
    answers: Mapping[Worker, Mapping[str, Any]],
    failed: list[tuple[Worker, dict[str, Any]]],
    fits: Mapping[str, Fit],
    facts: Mapping[str, Any],
    deadline: Deadline,
) -> None:
    silent = {
        worker: dict(answer)
        for worker, answer in answers.items()
        if "unreachable" in answer or answer.get("pending")
    }
    back = send(
        [worker for worker in team if "unreachable" not in answers[worker]],
        undo,
        lambda worker: (job["token"],),
    )
    # Those who are silent have it in their queue, behind the weights; the others take a moment.
    grace = Deadline(10.0)
    listened = Calls(
        {w: r for w, r in back.references.items() if w not in silent}, back.answers
    ).collect(grace)
    stuck = {w: a["error"] for w, a in listened.items() if "error" in a}
    reasons = [f"  {worker.name}: {_failed(worker, answer, fits)}" for worker, answer in failed]
    report = None
    try:
        report = compare(team, facts, Deadline(10.0), silent)
    except StorageError as error:
        reasons.append(f"  {error}")
    raise SyncError(
        f"the weights were not loaded: {len(failed)} of {len(team)} did not take them:\n"
        + "\n".join(reasons[:20])
        + (
            "\nEveryone who answers has its old weights again, and who has not answered within "
            f"{deadline.seconds:g} s gives the new ones back when it does."
            if not stuck
            else f"\nTaking them back failed on {', '.join(w.name for w in stuck)}: {stuck}"
        ),
        report=report,
    )


class _Payload:
    """Weights on their way: in the object store once, however many actors there are.

    Env runners of the new stack mostly hold what acting needs and no critic; they get no more.
    """

    def __init__(self, team: list[Worker], fits: Mapping[str, Fit]) -> None:
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


def _set_connectors_of_driver(algo: Algorithm, team: list[Worker], job: Mapping[str, Any]) -> None:
    """Without a local runner the driver itself keeps the merged filters (algorithm.py:992)."""
    pipeline = getattr(algo, "env_to_module_connector", None)
    if not job.get("pipeline") or pipeline is None:
        return
    if any(w.group == "train" and not w.is_remote for w in team):
        return
    now = pipeline.get_state()
    pipeline.set_state(
        {name: {**now[name], **state} for name, state in job["pipeline"].items() if name in now}
    )


def _facts(team: list[Worker], ids: list[str] | None, deadline: Deadline) -> dict[str, Any]:
    """What the learners say of their policies; they must all say the same."""
    learners = [worker for worker in team if worker.group == "learner"]
    leaders = learners or [worker for worker in team if worker.leads]
    if not leaders:
        raise InvalidInputError("the Algorithm has neither learners nor a local worker")
    answers = send(leaders, look, lambda worker: (ids, deadline.left())).collect(deadline)
    for worker in leaders:
        answer = answers[worker]
        why = answer.get("unreachable") or answer.get("error")
        if why or answer.get("pending") or not answer["settled"]:
            raise StorageError(
                f"{worker.name} does not answer within {deadline.seconds:g} s"
                + (f": {why}" if why else "")
                + ". Nothing was sent. A dead learner does not come back: build the Algorithm anew."
            )
    first: dict[str, Any] = answers[leaders[0]]
    first["seq"] = max([answers[worker]["seq"] or 0 for worker in leaders])
    return first


def _settle_old(algo: Algorithm, stack: str, deadline: Deadline) -> None:
    """IMPALA and APPO of the old stack learn in a thread of the driver."""
    if stack == "old" and not settle(algo, deadline.left()):
        raise StorageError(
            f"the learner thread was busy for {deadline.seconds:g} s; nothing was sent"
        )


def _given(snaps: Any) -> dict[str, Snapshot]:
    if not isinstance(snaps, Mapping):
        raise InvalidInputError(
            "snapshots come by policy id: load_into(algo, {'main': snap}), not "
            f"{type(snaps).__qualname__}"
        )
    if not snaps:
        raise InvalidInputError("no snapshot was given: load_into(algo, {'main': snap})")
    for pid, snap in snaps.items():
        if not isinstance(pid, str):
            raise InvalidInputError(f"policy ids are texts, not {pid!r}")
        check_snapshot(snap)
    return dict(snaps)


def _apart(given: dict[str, Snapshot]) -> dict[str, Snapshot]:
    """Modules that share parts, one by one: each under its own id."""
    found = dict(given)
    together = found.pop(ALL_MODULES)
    parts = together.spec.modules
    if parts is None:
        raise InvalidInputError(
            f"{together!r} is of one module: give it under that module's id, not {ALL_MODULES!r}"
        )
    acting = together.spec.acting
    for mid, part in parts.items():
        start = f"{mid}/"
        weights = {
            name[len(start) :]: array
            for name, array in together.weights.items()
            if name.startswith(start)
        }
        names = [n[len(start) :] for n in acting or () if n.startswith(start)]
        if mid in found:
            raise InvalidInputError(f"module {mid!r} is given twice, alone and in {ALL_MODULES!r}")
        found[mid] = Snapshot(
            weights=weights, spec=part if acting is None else part.replace(acting=names)
        )
    return found


def _listed(policy_ids: Any) -> list[str]:
    if isinstance(policy_ids, (str, bytes)) or not isinstance(policy_ids, Iterable):
        raise InvalidInputError(f"policy_ids is a list of ids: [{policy_ids!r}]")
    return list(policy_ids)


def _deadline(timeout: Any) -> Deadline:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
        raise InvalidInputError(f"timeout is a number of seconds above 0, not {timeout!r}")
    return Deadline(float(timeout))
