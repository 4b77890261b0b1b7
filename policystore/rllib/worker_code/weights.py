"""Describe, digest and set the weights of a live worker.

Runs in actors, sent by value (``messages/wire.py``). ``messages/answers.py`` says what a *worker*
is. Each function raises where it fails; ``wire.run`` turns the error into an answer.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from policystore.rllib.worker_code.compat import (
    clear_queued_states,
    env_to_module,
    is_asynchronous,
    is_learner,
    is_learner_only,
    set_weights_seq,
)
from policystore.rllib.worker_code.filters import (
    filter_mark,
    policy_filter,
    read_old_filter,
    relink_old_filter,
    runner_filters,
    write_old_filter,
)
from policystore.rllib.worker_code.learner_thread import require_idle, wait_until_idle
from policystore.rllib.worker_code.messages.answers import (
    PolicyDigest,
    PolicyInfo,
    WorkerDigests,
    WorkerInfo,
)
from policystore.rllib.worker_code.messages.requests import LoadRequest
from policystore.rllib.worker_code.messages.wire import RefusedError
from policystore.rllib.worker_code.rollback import (
    FENCED,
    MISSED,
    RESTARTED,
    keep_for_rollback,
    rolled_back_on_error,
)
from policystore.rllib.worker_code.state_lock import (
    digest_beneath,
    install,
    lock_of,
    take_off,
)
from policystore.rllib.worker_code.tensors import (
    PolicyAccess,
    access_to,
    acting_names,
    copy_network,
    differences,
    digest_of,
    give_back,
    keep_network,
    plain_digest,
    read_bits,
    tensors_of,
    write_bits,
)

if TYPE_CHECKING:
    from policystore.rllib.worker_code.messages.requests import DigestPlan, Payload
    from policystore.rllib.worker_code.messages.wire import AnyWorker
    from policystore.rllib.worker_code.state_lock import StateLock

__all__ = [
    "apply_weights",
    "describe",
    "info_of",
    "names_of_targets",
    "raise_number",
    "report_digests",
    "write_filters",
    "write_policy",
]


def describe(worker: AnyWorker | PolicyAccess, ids: list[str] | None, timeout: float) -> WorkerInfo:
    """Describe the policies of a worker, without any values.

    Args:
        worker: a learner, an env runner or a rollout worker.
        ids: of the policies to describe; None for all. Unknown ones are left out.
        timeout: seconds to wait for a learner that updates in a thread.

    Raises:
        BusyError: such a learner did not come to rest in time.
    """
    access = access_to(worker)
    if not access.is_old:
        require_idle(access.worker, timeout)
    wanted = access.ids if ids is None else [pid for pid in ids if pid in access.ids]
    return WorkerInfo(
        ids=access.ids,
        seq=access.seq,
        trains_new=access.is_trained("\0"),
        asynchronous=not access.is_old and is_asynchronous(access.worker),
        policies={pid: _info(access, pid) for pid in wanted},
    )


def _info(access: PolicyAccess, pid: str) -> PolicyInfo:
    all_act = access.is_old or access.network(pid) is None
    return info_of(access, pid, trained=access.is_trained(pid), all_act=all_act)


def info_of(access: PolicyAccess, pid: str, *, trained: bool, all_act: bool = False) -> PolicyInfo:
    """Describe one policy.

    Args:
        access: access to the worker that has the policy.
        pid: its id.
        trained: whether training updates the policy.
        all_act: whether acting needs all weights; if False, RLlib says which.
    """
    holder = access.holder(pid)
    entries = access.entries(pid)
    return PolicyInfo(
        tensors={name: (entry.dtype, entry.shape) for name, entry in entries.items()},
        acting=list(entries) if all_act else acting_names(holder, entries),
        targets=names_of_targets(access, pid),
        spaces=(holder.observation_space, holder.action_space),
        trained=trained,
        learner_only=not access.is_old and is_learner_only(access.worker, pid),
    )


def names_of_targets(access: PolicyAccess, pid: str) -> list[str]:
    """Return the names of those weights of a policy that belong to target networks."""
    pairs = access.target_pairs(pid)
    network = access.network(pid)
    if not pairs or network is None:
        return []
    parts = {id(part) for _, target in pairs for part in target.state_dict(keep_vars=True).values()}
    kept = network.state_dict(keep_vars=True).values()
    return [name for name, part in zip(tensors_of(network), kept, strict=True) if id(part) in parts]


def report_digests(
    worker: AnyWorker | PolicyAccess, plans: dict[str, DigestPlan], timeout: float
) -> WorkerDigests:
    """Return digests of what a worker holds now.

    Args:
        worker: a learner, an env runner or a rollout worker.
        plans: by policy id, how its digest is made.
        timeout: seconds to wait for a learner that updates in a thread.
    """
    access = access_to(worker)
    if not access.is_old:
        wait_until_idle(access.worker, timeout)
    filters, mark = (None, "") if access.is_old else runner_filters(access.worker)
    return WorkerDigests(
        seq=access.seq,
        policies={pid: _digest(access, pid, plans[pid]) for pid in plans if pid in access.ids},
        filters=filters,
        remark=_remark(access.worker),
        filter_mark=mark,
        fenced=_fenced(access),
    )


def raise_number(access: PolicyAccess, request: LoadRequest) -> None:
    """Give a worker's weights the number of a request, if the request has one."""
    if request.seq is None:
        return
    number, policies = getattr(access.worker, FENCED, (None, ()))
    # Several steps of one transaction have one number.
    others = policies if number == request.seq else ()
    set_weights_seq(access.worker, request.seq)
    setattr(access.worker, FENCED, (request.seq, (*others, *request.plans)))


def _fenced(access: PolicyAccess) -> tuple[str, ...] | None:
    """Return the policies whose load gave the worker's weights their present number."""
    number, policies = getattr(access.worker, FENCED, (None, ()))
    return tuple(policies) if number is not None and number == access.seq else None


def _remark(worker: AnyWorker) -> str:
    """Say why a worker may hold other weights than workers that took part in every load."""
    missed = getattr(worker, MISSED, None)
    if missed is not None:
        return f"restarted, and not everything could be done anew: {missed['error']}"
    return "restarted or added since a load" if hasattr(worker, RESTARTED) else ""


def _digest(access: PolicyAccess, pid: str, plan: DigestPlan) -> PolicyDigest:
    digest, wrong = digest_of(access.entries(pid), plan)
    lock = lock_of(access, pid)
    return PolicyDigest(
        digest=digest,
        wrong=wrong,
        targets=plain_digest([target for _, target in access.target_pairs(pid)]),
        filters=policy_filter(access.holder(pid)) if access.is_old else None,
        filter_mark=filter_mark(access.holder(pid)) if access.is_old else "",
        own=None if lock is None else lock.own,
        own_label="" if lock is None else lock.label,
        beneath=digest_beneath(access, pid, plan),
    )


def apply_weights(
    worker: AnyWorker | PolicyAccess, request: LoadRequest, payload: Payload
) -> WorkerDigests:
    """Give a worker new weights, keep the old ones for a roll-back, and return digests.

    If this raises, the worker holds what it held before.

    Args:
        worker: a learner, an env runner or a rollout worker.
        request: what to load.
        payload: the weights. The worker takes those whose names it has.

    Raises:
        RefusedError: the weights do not fit.
        BusyError: a learner that updates in a thread did not come to rest in time.
    """
    access = access_to(worker)
    plans = request.plans
    if not is_learner(access.worker):
        # An env runner may lack these modules, and may have them if the user's class builds them.
        absent = set(request.learner_only) - set(access.ids)
        plans = {pid: plan for pid, plan in plans.items() if pid not in absent}
        request = request.replace(plans=plans)
    if not access.is_old:
        require_idle(access.worker, request.timeout)
    wrong = [text for pid in plans if (text := _unfit(access, pid, plans[pid], payload[pid]))]
    if wrong:
        raise RefusedError("; ".join(wrong[:5]))
    keep_for_rollback(access.worker, request.token, _undoing(access, request))
    with rolled_back_on_error(access, request.token):
        for pid in plans:
            take_off(access, pid)  # these weights are for all workers
            write_policy(access, pid, payload[pid])
        write_filters(access, request)
        if not access.is_old:
            clear_queued_states(access.worker)
            raise_number(access, request)
        return report_digests(access, plans, request.timeout)


def _unfit(
    access: PolicyAccess, pid: str, plan: DigestPlan, arrays: dict[str, tuple[str, Any]]
) -> str:
    """Say why weights cannot be written into a worker's policy; empty if they can."""
    if pid not in access.ids:
        return f"it has no policy {pid!r}"
    entries = access.entries(pid)
    wrong = differences(entries, plan[1]) or differences(
        entries,
        [(name, dtype, bits.shape) for name, (dtype, bits) in arrays.items() if name in entries],
    )
    return f"{pid!r}: {wrong}" if wrong else ""


def _undoing(access: PolicyAccess, request: LoadRequest) -> functools.partial[None]:
    """Copy all that a load changes on a worker; return the function that puts it back."""
    weights = {
        pid: {name: read_bits(entry) for name, entry in access.entries(pid).items()}
        for pid in request.plans
    }
    # On the new stack target networks are among the weights.
    targets = {
        pid: [keep_network(target) for _, target in access.target_pairs(pid)]
        for pid in (request.plans if access.is_old else ())
    }
    filters = {pid: read_old_filter(access.holder(pid)) for pid in request.filters or ()}
    connector_states = None
    pipeline = env_to_module(access.worker)
    if request.pipeline and pipeline is not None:
        state = pipeline.get_state()
        connector_states = {name: state[name] for name in request.pipeline if name in state}
    locks = {pid: lock for pid in request.plans if (lock := lock_of(access, pid)) is not None}
    return functools.partial(
        _put_back, weights, locks, targets, filters, connector_states, access.seq
    )


def _put_back(
    weights: dict[str, dict[str, Any]],
    locks: dict[str, StateLock],
    targets: dict[str, list[dict[str, Any]]],
    filters: dict[str, Any],
    connector_states: dict[str, Any] | None,
    seq: int | None,
    access: PolicyAccess,
) -> None:
    """Give a worker back what :func:`_undoing` copied."""
    worker = access.worker
    if not access.is_old:
        wait_until_idle(worker, 5.0)
    for pid, kept in weights.items():
        if access.network(pid) is None:
            access.write_own(pid, kept)
            continue
        for name, entry in access.entries(pid).items():
            write_bits(entry, kept[name])
        for (_, target), bits in zip(access.target_pairs(pid), targets.get(pid, ()), strict=False):
            give_back(target, bits)
    for pid, lock in locks.items():
        install(access, pid, lock)
    for pid, stats in filters.items():
        write_old_filter(access.holder(pid), stats)
    pipeline = env_to_module(worker)
    if connector_states and pipeline is not None:
        pipeline.set_state(connector_states)
    if not access.is_old:
        clear_queued_states(worker)
        set_weights_seq(worker, seq)


def write_policy(access: PolicyAccess, pid: str, arrays: dict[str, tuple[str, Any]]) -> None:
    """Write weights into a policy; names that the policy does not have are skipped."""
    if access.network(pid) is None:
        access.write_own(pid, {name: bits for name, (_, bits) in arrays.items()})
        return
    entries = access.entries(pid)
    for name, entry in entries.items():
        if name in arrays:
            write_bits(entry, arrays[name][1])
    if access.is_old or entries.keys() - arrays.keys():
        # Targets that the snapshot does not hold start as copies of their networks.
        for network, target in access.target_pairs(pid):
            copy_network(network, target)


def write_filters(access: PolicyAccess, request: LoadRequest) -> None:
    """Set the filter statistics of a request."""
    for pid, stats in (request.filters or {}).items():
        write_old_filter(access.holder(pid), stats)
        relink_old_filter(access.worker, pid)
    pipeline = env_to_module(access.worker)
    if request.pipeline and pipeline is not None:
        now = pipeline.get_state()
        pipeline.set_state(
            {
                name: {**now[name], **state}
                for name, state in request.pipeline.items()
                if name in now
            }
        )
