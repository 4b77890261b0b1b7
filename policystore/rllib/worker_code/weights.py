"""What runs inside learners and workers of a running Algorithm: reading and writing weights there.

Everything here is sent by value (``shipping.py``) and imports nothing of policystore, so nodes of a
cluster need no policystore. Nothing here raises when called from outside: RLlib ends an actor whose
function raises, after a sleep of 60 s (``utils/actor_manager.py:195``). Errors come back as values.

A *worker* is a learner or an env runner of the new stack, or a rollout worker of the old one. A
*plan* says how a digest is made: ``(header, [(name, torch dtype, shape), …])``, the header of the
canonical safetensors file of these tensors, and the tensors in its order.
"""

from __future__ import annotations

from typing import Any

from policystore.rllib.worker_code.filters import (
    policy_filter,
    read_old_filter,
    relink_old_filter,
    runner_filters,
    write_old_filter,
)
from policystore.rllib.worker_code.learner_thread import forget_queued_states, wait_until_idle
from policystore.rllib.worker_code.tensors import (
    PolicyAccess,
    acting_names,
    copy_network,
    digest_of,
    give_back,
    keep_network,
    misfit,
    plain_digest,
    read_bits,
    tensors_of,
    write_bits,
)

__all__ = [
    "MARK",
    "MISSED",
    "RESTARTED",
    "UNDO",
    "apply_weights",
    "commit",
    "describe",
    "held_by",
    "names_of_targets",
    "report_digests",
    "rollback",
    "write_filters",
    "write_policy",
]

# What is kept on a worker besides its weights: what undo needs; how many waves it has taken part
# in, or has done anew after a restart (worker_restarts.py); what went wrong then; whether there was
# one.
UNDO = "_policystore_undo"
MARK = "_policystore_mark"
MISSED = "_policystore_missed"
RESTARTED = "_policystore_restarted"


def held_by(worker: Any) -> PolicyAccess:
    """What a worker holds; the driver passes on what it has found out already."""
    return worker if isinstance(worker, PolicyAccess) else PolicyAccess(worker)


def describe(worker: Any, ids: Any, timeout: float) -> dict[str, Any]:
    """What a worker holds, without any values.

    Args:
        worker: a learner, an env runner or a rollout worker.
        ids: of the policies to describe; None for all.
        timeout: seconds to wait for a learner that updates in a thread.

    Returns:
        ``ids``, ``plain`` (False for a MultiRLModule of the user's own), ``seq``, ``settled``,
        ``asynchronous``, ``trains_new`` (whether a policy of a new id would be trained), and by id,
        under ``policies``, ``tensors`` (name -> dtype, shape), ``acting``, ``targets`` (names),
        ``spaces``, ``trained``; or ``error``.
    """
    try:
        held = held_by(worker)
        settled = held.is_old or wait_until_idle(held.worker, timeout)
        wanted = held.ids if ids is None else [pid for pid in ids if pid in held.ids]
        return {
            "ids": held.ids,
            "plain": held.is_plain,
            "seq": held.seq,
            "settled": settled,
            "trains_new": held.is_trained("\0"),
            "asynchronous": not held.is_old and hasattr(held.worker, "_learner_thread"),
            "policies": {pid: _describe(held, pid) for pid in wanted},
        }
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _describe(held: PolicyAccess, pid: str) -> dict[str, Any]:
    holder = held.holder(pid)
    entries = held.bits(pid)
    network = held.network(pid)
    all_act = held.is_old or network is None
    return {
        "tensors": {name: (entry[0], entry[1]) for name, entry in entries.items()},
        "acting": list(entries) if all_act else acting_names(holder, entries),
        "targets": names_of_targets(held, pid),
        "spaces": (holder.observation_space, holder.action_space),
        "trained": held.is_trained(pid),
    }


def names_of_targets(held: PolicyAccess, pid: str) -> list[str]:
    """Names of those weights that belong to target networks."""
    pairs = held.target_pairs(pid)
    network = held.network(pid)
    if not pairs or network is None:
        return []
    parts = {id(part) for _, target in pairs for part in target.state_dict(keep_vars=True).values()}
    kept = network.state_dict(keep_vars=True).values()
    return [name for name, part in zip(tensors_of(network), kept, strict=True) if id(part) in parts]


def report_digests(worker: Any, plans: Any, timeout: float) -> dict[str, Any]:
    """Digests of what a worker holds now.

    Args:
        worker: a learner, an env runner or a rollout worker.
        plans: by id.
        timeout: seconds to wait for a learner that updates in a thread.

    Returns:
        ``ids``, ``seq``, ``settled``, ``filters``, ``remark`` and by id, under ``policies``,
        ``digest`` or ``wrong``, ``targets`` and ``filters``; or ``error``.
    """
    try:
        held = held_by(worker)
        settled = held.is_old or wait_until_idle(held.worker, timeout)
        return {
            "ids": held.ids,
            "seq": held.seq,
            "settled": settled,
            "policies": {
                pid: _tell(held, pid, plan) for pid, plan in plans.items() if pid in held.ids
            },
            "filters": None if held.is_old else runner_filters(held.worker),
            "remark": _remark(held.worker),
        }
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _remark(worker: Any) -> str:
    """Why a worker may hold other weights than those who took part in everything."""
    missed = getattr(worker, MISSED, None)
    if missed is not None:
        return f"restarted, and not everything could be done anew: {missed['error']}"
    return "restarted or added since a load" if hasattr(worker, RESTARTED) else ""


def _tell(held: PolicyAccess, pid: str, plan: Any) -> dict[str, Any]:
    digest, wrong = digest_of(held.bits(pid), plan)
    return {
        "digest": digest,
        "wrong": wrong,
        "targets": plain_digest([target for _, target in held.target_pairs(pid)]),
        "filters": policy_filter(held.holder(pid)) if held.is_old else None,
    }


def apply_weights(worker: Any, job: Any, payload: Any) -> dict[str, Any]:
    """Give a worker new weights, keep its old ones for :func:`undo`, and say what it then holds.

    Args:
        worker: a learner, an env runner or a rollout worker.
        job: ``token``, ``plans`` by id, ``seq`` (None: unchanged), ``timeout``, and for filters
            ``pipeline`` (new stack) or ``filters`` by id (old stack).
        payload: id -> name -> (torch dtype, bits). Of these a worker takes what it holds.

    Returns:
        As :func:`tell`; or ``error``, and then it holds what it held before.
    """
    try:
        held = held_by(worker)
        plans = job["plans"]
        if not held.is_old and not wait_until_idle(held.worker, job["timeout"]):
            return {"error": "updates were under way all the time", "pending": True}
        wrong = [each for pid in plans for each in _unfit(held, pid, plans[pid], payload[pid])]
        if wrong:
            return {"error": "; ".join(wrong[:5])}
        setattr(held.worker, UNDO, (job["token"], _keep(held, job)))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    try:
        for pid in plans:
            write_policy(held, pid, payload[pid])
        write_filters(held, job)
        if not held.is_old:
            forget_queued_states(held.worker)
            if job["seq"] is not None:
                held.worker._weights_seq_no = job["seq"]
        return report_digests(held, plans, job["timeout"])
    except Exception as error:
        undone = rollback(worker, job["token"])
        return {"error": f"{type(error).__name__}: {error}", "undone": undone}


def _unfit(held: PolicyAccess, pid: str, plan: Any, arrays: Any) -> list[str]:
    """Why weights cannot be written into a worker's policy; checked before anything is."""
    if pid not in held.ids:
        return [f"it has no policy {pid!r}"]
    entries = held.bits(pid)
    wrong = misfit(entries, plan[1]) or misfit(
        entries,
        [(name, dtype, bits.shape) for name, (dtype, bits) in arrays.items() if name in entries],
    )
    return [f"{pid!r}: {wrong}"] if wrong else []


def _keep(held: PolicyAccess, job: Any) -> dict[str, Any]:
    """Copies of all that a job changes on a worker."""
    kept: dict[str, Any] = {
        "policies": {
            pid: {name: read_bits(entry) for name, entry in held.bits(pid).items()}
            for pid in job["plans"]
        },
        # On the new stack target networks are among the weights.
        "targets": {
            pid: [keep_network(target) for _, target in held.target_pairs(pid)]
            for pid in (job["plans"] if held.is_old else ())
        },
        "filters": {pid: read_old_filter(held.holder(pid)) for pid in job.get("filters") or ()},
        "seq": held.seq,
    }
    pipeline = getattr(held.worker, "_env_to_module", None)
    if job.get("pipeline") and pipeline is not None:
        state = pipeline.get_state()
        kept["pipeline"] = {name: state[name] for name in job["pipeline"] if name in state}
    return kept


def write_policy(held: PolicyAccess, pid: str, arrays: Any) -> None:
    """Write weights into a policy: those of them that it holds."""
    if held.network(pid) is None:
        held.write_own(pid, {name: bits for name, (_, bits) in arrays.items()})
        return
    entries = held.bits(pid)
    for name, entry in entries.items():
        if name in arrays:
            write_bits(entry, arrays[name][1])
    if held.is_old or entries.keys() - arrays.keys():
        # Targets that the snapshot does not hold start as copies of their networks.
        for network, target in held.target_pairs(pid):
            copy_network(network, target)


def write_filters(held: PolicyAccess, job: Any) -> None:
    """Set the filter statistics of a job."""
    for pid, stats in (job.get("filters") or {}).items():
        write_old_filter(held.holder(pid), stats)
        relink_old_filter(held.worker, pid)
    pipeline = getattr(held.worker, "_env_to_module", None)
    if job.get("pipeline") and pipeline is not None:
        now = pipeline.get_state()
        pipeline.set_state(
            {name: {**now[name], **state} for name, state in job["pipeline"].items() if name in now}
        )


def rollback(worker: Any, token: str) -> dict[str, Any]:
    """Give a worker back what it held before the job of ``token``, if it carried it out."""
    try:
        held = held_by(worker)
        found = getattr(held.worker, UNDO, None)
        if found is None or found[0] != token:
            return {"undone": False}
        old = found[1]
        if not held.is_old:
            wait_until_idle(held.worker, 5.0)
        for pid, kept in old["policies"].items():
            if held.network(pid) is None:
                held.write_own(pid, kept)
                continue
            for name, entry in held.bits(pid).items():
                write_bits(entry, kept[name])
            for (_, target), bits in zip(
                held.target_pairs(pid), old["targets"].get(pid, ()), strict=False
            ):
                give_back(target, bits)
        for pid, stats in old["filters"].items():
            write_old_filter(held.holder(pid), stats)
        if old.get("pipeline"):
            held.worker._env_to_module.set_state(old["pipeline"])
        if not held.is_old:
            forget_queued_states(held.worker)
            held.worker._weights_seq_no = old["seq"]
        delattr(held.worker, UNDO)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"undone": True}


def commit(worker: Any, token: str) -> None:
    """Let go of what :func:`undo` would need, and count the wave as one it took part in."""
    worker = held_by(worker).worker
    found = getattr(worker, UNDO, None)
    if found is not None and found[0] == token:
        delattr(worker, UNDO)
        if not hasattr(worker, MISSED):
            setattr(worker, MARK, getattr(worker, MARK, 0) + 1)
