"""Policies that come to and leave a running Algorithm of the old API stack.

RLlib's ``add_policy`` gives every worker random weights of its own, and its ``remove_policy``
leaves episodes that play the policy, of which all workers then die
(``evaluation/episode_v2.py:131``).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, NoReturn

from ray.rllib.algorithms.algorithm import Algorithm

from policystore.errors import InvalidInputError, StorageError, SyncError
from policystore.rllib.common.trust import Trust
from policystore.rllib.live.compatibility import fit
from policystore.rllib.live.report import SyncReport
from policystore.rllib.live.restart_guard import forget, mapping, remember, watch
from policystore.rllib.live.transaction import Payload, Steps, carry_out, compare, describe_policies
from policystore.rllib.live.trial_build import check_supported, job_of, rehearse
from policystore.rllib.worker_code.policies import can_map, drop_policy, join_policy, leave_policy
from policystore.rllib.worker_code.weights import commit
from policystore.rllib.workers.calls import Calls, Deadline, Worker, send, workers_of
from policystore.snapshot import Snapshot

__all__ = ["add_old", "remove_old"]

_STEPS = Steps(put=join_policy, undo=leave_policy, commit=commit, failed="the policy was not added")
_NOTHING = "Nothing was changed."


def add_old(
    algo: Algorithm,
    policy_id: str,
    snap: Snapshot,
    *,
    policy_mapping_fn: Any,
    policies_to_train: Any,
    trust: Trust,
    deadline: Deadline,
) -> SyncReport:
    """:func:`policystore.rllib.add_policy` on the old stack."""
    team = workers_of(algo)
    before = describe_policies(team, None, deadline)
    local = _leader(team)
    job = job_of(algo, policy_id, snap, trust)
    policy, described = rehearse(local, job, snap, policies_to_train)
    fits = {policy_id: fit(policy_id, snap, described, "old")}
    check_supported(algo, local, policy_id, policy, described)
    coming = {policy_id: (policy.observation_space, policy.action_space)}
    del policy
    if policy_mapping_fn is not None:
        asked = {"mapping": policy_mapping_fn, "coming": coming, "leaving": []}
        _refuse_mapping(team, asked, f"policy {policy_id!r} cannot be added", deadline)
    job |= {
        "token": uuid.uuid4().hex,
        "plans": {policy_id: fits[policy_id].plan},
        "seq": None,
        "timeout": deadline.left(),
        "mapping": policy_mapping_fn,
        "to_train": policies_to_train,
    }
    payload = Payload(team, fits)
    watch(algo)
    report = carry_out(
        team,
        job,
        payload,
        {policy_id: fits[policy_id].expected},
        {**before, "policies": {policy_id: described}},
        deadline,
        notes=fits[policy_id].notes + _notes(algo, policy_id, job),
        steps=_STEPS,
        before=before,
    )
    remember(algo, team, job, payload, join=join_policy)
    if policy_mapping_fn is not None:
        mapping(algo, policy_mapping_fn)
    return report


def remove_old(
    algo: Algorithm,
    policy_id: str,
    *,
    policy_mapping_fn: Any,
    policies_to_train: Any,
    deadline: Deadline,
) -> SyncReport:
    """:func:`policystore.rllib.remove_policy` on the old stack."""
    team = workers_of(algo)
    before = describe_policies(team, None, deadline)
    left = [pid for pid in before["ids"] if pid != policy_id]
    what = f"policy {policy_id!r} cannot be removed"
    if not left:
        raise InvalidInputError(f"{what}: it is the only one of the Algorithm. {_NOTHING}")
    if policy_id in algo.config.policies:
        raise InvalidInputError(
            f"{what}: it is one of the Algorithm's config, so restarted workers and checkpoints "
            f"would have it again. Let policy_mapping_fn name others, and leave it. {_NOTHING}"
        )
    if not any(_is_trained(pid, before, policies_to_train) for pid in left) and _is_trained(
        policy_id, before, None
    ):
        raise InvalidInputError(
            f"{what}: it is the only one in training. Pass policies_to_train= with others. "
            f"{_NOTHING}"
        )
    asked = {"mapping": policy_mapping_fn, "coming": {}, "leaving": [policy_id]}
    _refuse_mapping(team, asked, what, deadline)
    job = {
        "token": uuid.uuid4().hex,
        "pid": policy_id,
        "mapping": policy_mapping_fn,
        "to_train": policies_to_train,
    }
    watch(algo)
    try:
        answers = send(team, drop_policy, lambda worker: (job,)).collect(deadline)
    except BaseException:
        send(team, leave_policy, lambda worker: (job["token"],))
        raise
    if any("error" in answer or answer.get("pending") for answer in answers.values()):
        _take_back(team, job, answers, before, deadline)
    _clean_driver(algo, policy_id)
    send(
        [worker for worker in team if "unreachable" not in answers[worker]],
        commit,
        lambda worker: (job["token"],),
    )
    forget(algo, policy_id)
    if policy_mapping_fn is not None:
        mapping(algo, policy_mapping_fn)
    team = workers_of(algo)  # anew: what was found out before still knows the policy
    return compare(team, describe_policies(team, left, deadline), deadline)


def _leader(team: list[Worker]) -> Any:
    leader = next(worker for worker in team if worker.leads)
    return leader.local.worker if leader.local is not None else None


def _refuse_mapping(
    team: list[Worker], asked: Mapping[str, Any], what: str, deadline: Deadline
) -> None:
    """Ask everyone, with its own episodes and environment, whom the mapping function names."""
    answers = send(team, can_map, lambda worker: (asked,)).collect(deadline)
    wrong = [
        f"  {worker.name}: {answer['error']}"
        for worker, answer in answers.items()
        if "error" in answer
    ]
    if wrong:
        raise InvalidInputError(
            f"{what}:\n" + "\n".join(wrong[:10]) + f"\n{_NOTHING} Pass a policy_mapping_fn= that "
            "names none but the policies there will be."
        )
    silent = [worker.name for worker, answer in answers.items() if answer.get("pending")]
    if silent:
        raise StorageError(
            f"{what}: no answer within {deadline.seconds:g} s from {', '.join(silent)}. {_NOTHING}"
        )


def _is_trained(pid: str, before: Mapping[str, Any], to_train: Any) -> bool:
    if to_train is None:
        return bool(before["policies"][pid]["trained"])
    if not callable(to_train):
        return pid in to_train
    try:
        return bool(to_train(pid, None))
    except Exception:
        # The user's own function, made for a batch: then it may well be trained.
        return True


def _notes(algo: Algorithm, policy_id: str, job: Mapping[str, Any]) -> tuple[str, ...]:
    if job["filter"] == "NoFilter" or algo.config.observation_filter != "NoFilter":
        return ()
    return (
        f"{policy_id!r} has an observation filter, and this Algorithm has none: RLlib does not "
        "merge its statistics then, so they go on by themselves on each worker and drift apart",
    )


def _clean_driver(algo: Algorithm, policy_id: str) -> None:
    """What the driver keeps of a policy beside its workers; the learner thread is at rest."""
    buffer = getattr(algo, "local_replay_buffer", None)
    getattr(buffer, "replay_buffers", {}).pop(policy_id, None)
    thread = getattr(algo, "_learner_thread", None)
    updated = getattr(thread, "policy_ids_updated", [])
    while policy_id in updated:  # each is looked up next (algorithms/impala/impala.py:1392)
        updated.remove(policy_id)
    getattr(thread, "learner_info", {}).pop(policy_id, None)


def _take_back(
    team: list[Worker],
    job: Mapping[str, Any],
    answers: Mapping[Worker, Mapping[str, Any]],
    before: Mapping[str, Any],
    deadline: Deadline,
) -> NoReturn:
    silent = {
        worker: dict(answer)
        for worker, answer in answers.items()
        if "unreachable" in answer or answer.get("pending")
    }
    back = send(
        [worker for worker in team if "unreachable" not in answers[worker]],
        leave_policy,
        lambda worker: (job["token"],),
    )
    # Those who are silent have it in their queue, behind the removal.
    waited = {worker: call for worker, call in back.references.items() if worker not in silent}
    Calls(waited, back.answers).collect(Deadline(10.0))
    reasons = [
        f"  {worker.name}: {answer.get('error') or 'no answer in time'}"
        for worker, answer in answers.items()
        if "error" in answer or answer.get("pending")
    ]
    raise SyncError(
        f"policy {job['pid']!r} was not removed: {len(reasons)} of {len(team)} did not let go of "
        "it:\n"
        + "\n".join(reasons[:20])
        + "\nEveryone who answers has it as before, and who has not answered within "
        f"{deadline.seconds:g} s takes it back when it does.",
        report=compare(team, before, Deadline(10.0), silent),
    )
