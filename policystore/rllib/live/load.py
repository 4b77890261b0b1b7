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

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.metrics import ALL_MODULES

from policystore.errors import InvalidInputError, NotFoundError
from policystore.rllib.common.build_guard import check_snapshot
from policystore.rllib.live.compatibility import fit
from policystore.rllib.live.filters import new_stack_filters, old_stack_filters
from policystore.rllib.live.report import SyncReport
from policystore.rllib.live.restart_guard import remember, watch
from policystore.rllib.live.transaction import (
    Payload,
    carry_out,
    compare,
    deadline_of,
    describe_policies,
    settle_old,
)
from policystore.rllib.workers.calls import Deadline, Worker, is_new_stack, workers_of
from policystore.snapshot import Snapshot

__all__ = ["check_sync", "load_into"]

# Above any number of updates that are under way: what runners are still to be sent from before a
# load carries a lower one, and they drop it.
_FENCE = 1000


def load_into(
    algo: Algorithm,
    snaps: Mapping[str, Snapshot],
    *,
    agent_ids: Any = None,
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
    ``unreachable``. As all that are restarted or added from now on, whether RLlib notices or not,
    it gets the weights before it samples. For that Ray's object store keeps one copy of them.

    On IMPALA and APPO updates that are under way are awaited, and the weights get a number far
    above what is still in flight, so that runners drop older ones
    (``env/multi_agent_env_runner.py:771``). Optimizers keep their moments, target networks that a
    snapshot does not hold become copies of their networks.

    Args:
        algo: of either API stack, not inside ``train()``.
        snaps: id of a policy or module that is there -> what it is to hold. The whole of modules
            that share parts goes under ``"__all_modules__"``.
        agent_ids: new stack, multi-agent, and snapshots with filter statistics: policy id -> ids of
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
    deadline = deadline_of(timeout)
    team = workers_of(algo)
    given = _given(snaps)
    stack = "new" if is_new_stack(algo) else "old"
    settle_old(algo, deadline)
    facts = describe_policies(team, [pid for pid in given if pid != ALL_MODULES], deadline)
    if ALL_MODULES in given:
        given = _apart(given)
        facts = describe_policies(team, list(given), deadline)
    unknown = [pid for pid in given if pid not in facts["policies"]]
    if unknown:
        raise NotFoundError(
            f"the Algorithm has no policy {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(map(repr, facts['ids']))}. Nothing was sent. add_policy() adds one."
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
        job["pipeline"], more = new_stack_filters(algo, given, agent_ids)
        notes += more
    else:
        if agent_ids is not None:
            raise InvalidInputError(
                "agent_ids= is for the new API stack; on the old one filters belong to policies"
            )
        job["filters"] = old_stack_filters(algo.env_runner, given)
    payload = Payload(team, fits)
    watch(algo)
    report = carry_out(
        team,
        job,
        payload,
        {pid: each.expected for pid, each in fits.items()},
        facts,
        deadline,
        notes=notes,
    )
    remember(algo, team, job, payload)
    if facts["asynchronous"]:
        _drop_late_states(algo)
    _set_connectors_of_driver(algo, team, job)
    return report


def check_sync(
    algo: Algorithm, policy_ids: Iterable[str] | None = None, *, timeout: float = 60.0
) -> SyncReport:
    """Ask every learner and worker which weights it holds now.

    What counts is the ``acting`` digest: of the weights that acting needs. The first learner that
    answers (on the old stack the local worker) says what it should be.

    Changes nothing, but for one thing that any call of RLlib does as well: an env runner that was
    restarted unnoticed gets back first what had been loaded. So a row shows what the next sample
    would be drawn with, and not what the actor was made with, which nobody will see. If that
    failed, its note says why. A policy in training reads ``bad`` there until the next ``train()``,
    as its weights are those of the load.

    Args:
        algo: of either API stack.
        policy_ids: which; all if left out.
        timeout: seconds.

    Returns:
        A row for each policy on each learner and worker, whether it answered or not.

    Raises:
        NotFoundError: no such policy; lists those there are.
        InvalidInputError: a stopped Algorithm, or an argument of the wrong form.
        StorageError: no learner answers.
    """
    deadline = deadline_of(timeout)
    team = workers_of(algo)
    wanted = None if policy_ids is None else _listed(policy_ids)
    # Half of the time: a learner that is silent must not take it from the workers.
    facts = describe_policies(team, wanted, Deadline(deadline.left() / 2), all_of_them=False)
    # IMPALA and APPO of the old stack, whose workers' numbers say nothing of the learner's.
    facts["unnumbered"] = getattr(algo, "_learner_thread", None) is not None
    unknown = [pid for pid in wanted or () if pid not in facts["policies"]]
    if unknown:
        raise NotFoundError(
            f"the Algorithm has no policy {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(map(repr, facts['ids']))}"
        )
    return compare(team, facts, deadline)


def _drop_late_states(algo: Algorithm) -> None:
    """Weights that learners gave out before the load and the driver has not passed on yet.

    A runner drops the first such message for its lower number, and takes that number for its own
    (``env/single_agent_env_runner.py:621``): it would not drop the second.
    """
    manager = algo.learner_group._worker_manager if algo.learner_group is not None else None
    if manager is not None and manager.num_outstanding_async_reqs():
        # All have answered the load since, so these are there.
        manager.fetch_ready_async_reqs(timeout_seconds=1.0)


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
