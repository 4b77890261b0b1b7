"""Replay loads, additions and removals on an env runner that was restarted or added later.

Runs in actors, sent by value (``messages/wire.py``). Nothing here raises, because the code runs
before RLlib's own calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from policystore.rllib.worker_code.messages.requests import REQUESTS, ReplayEntry, ReplayProgram
from policystore.rllib.worker_code.messages.wire import Message, from_wire, run
from policystore.rllib.worker_code.rollback import MARK, MISSED, RESTARTED, UNDO
from policystore.rllib.worker_code.state_lock import load_beneath, lock_of
from policystore.rllib.worker_code.tensors import access_to
from policystore.rllib.worker_code.weights import apply_weights

if TYPE_CHECKING:
    import ray
    from ray.rllib.env.env_runner import EnvRunner
    from ray.rllib.evaluation.rollout_worker import RolloutWorker

    from policystore.rllib.worker_code.messages.requests import Payload
    from policystore.rllib.worker_code.state_lock import StateLock

__all__ = ["catch_up", "replay_then_call"]


def replay_then_call(
    generation: int,
    program: ray.ObjectRef,
    function: Callable[..., Any] | str,
    worker: EnvRunner | RolloutWorker,
    /,
    *args: Any,
    **kw: Any,
) -> Any:
    """Replay the changes that an env runner missed, then call a function with the runner.

    RLlib sends this function with each call. So the function uses no name of this module but
    ``time``, and its pickle stays small. Workers that need :func:`catch_up` get it with the
    program.

    Args:
        generation: number of the last transaction.
        program: reference to :func:`catch_up` and the program that it replays.
        function: RLlib's, or the name of a method.
        worker: the env runner.
        args: for the function, as ``kw`` is.
    """
    missed = getattr(worker, "_policystore_missed", None)
    if (
        getattr(worker, "_policystore_mark", 0) < generation
        and (missed is None or time.monotonic() >= missed["again"])
        # Not while a transaction may be rolled back: a worker has room for one undo only.
        and not hasattr(worker, "_policystore_undo")
    ):
        try:
            import ray

            replay, wire = ray.get(program, timeout=60)
            replay(worker, generation, wire)
        except Exception as error:
            # The call goes on: raising here would end the worker (utils/actor_manager.py:195).
            worker._policystore_missed = {
                "done": () if missed is None else missed["done"],
                "error": f"{type(error).__name__}: {error}",
                "again": time.monotonic() + 60.0,
            }
    if isinstance(function, str):
        return getattr(worker, function)(*args, **kw)
    return function(worker, *args, **kw)


def catch_up(worker: EnvRunner | RolloutWorker, generation: int, wire: Any) -> None:
    """Carry out the entries of a program that a worker lacks, and keep errors on the worker.

    Args:
        worker: an env runner.
        generation: number of the last transaction; the worker has it once all entries are done.
        wire: a :class:`~policystore.rllib.worker_code.messages.requests.ReplayProgram`, as tuples.
    """
    program: ReplayProgram = from_wire(wire, REQUESTS)
    began = time.monotonic()
    mark = getattr(worker, MARK, 0)
    done = list((getattr(worker, MISSED, None) or {"done": ()})["done"])
    if not mark:
        setattr(worker, RESTARTED, True)
    wrong = []
    for entry in program.entries:
        if entry.generation <= mark or entry.generation in done:
            continue
        _, why, _ = run(_replay, worker, (entry,))
        if why:
            wrong.append(f"{', '.join(map(repr, entry.policies))}: {why}")
        else:
            done.append(entry.generation)
    _, why, _ = run(_set_mapping, worker, (program.policy_mapping_fn,))
    if why:
        wrong.append(f"the mapping function: {why}")
    if wrong:
        now = time.monotonic()
        # Tried again with later calls, but with pauses, so that these calls stay fast.
        again = now + max(1.0, 10 * (now - began))
        setattr(worker, MISSED, {"done": done, "error": "; ".join(wrong[:5]), "again": again})
        return
    setattr(worker, MARK, generation)
    if hasattr(worker, MISSED):
        delattr(worker, MISSED)


def _replay(worker: EnvRunner | RolloutWorker, entry: ReplayEntry) -> None:
    """Carry out one entry of a program."""
    access = access_to(worker)
    present = set(access.ids)
    if entry.kind == "remove":
        for pid in present & set(entry.policies):
            _remove(worker, pid)
        return
    if entry.add is not None and not present.issuperset(entry.policies):
        addition = entry.addition
        if addition is not None:
            # No number: states from RLlib's restore are newer, whatever their number is.
            addition = addition.replace(load=addition.load.replace(seq=None))
        _call(entry.add, worker, entry, addition)
        return
    # A policy that the worker lacks comes from RLlib's own restore, with its weights.
    kept = [pid for pid in entry.policies if pid in present]
    if kept and entry.load is not None:
        plans, filters = entry.load.plans, entry.load.filters or {}
        # Weights of the runner's own are younger than the change, which the runner missed.
        locks = {pid: lock for pid in kept if (lock := lock_of(access, pid)) is not None}
        if locks:
            _call(_load_beneath, worker, entry, locks)
        load = entry.load.replace(
            plans={pid: plans[pid] for pid in kept if pid in plans and pid not in locks},
            filters={pid: filters[pid] for pid in kept if pid in filters},
            seq=None,  # as above
        )
        _call(apply_weights, worker, entry, load)


def _call(
    function: Callable[..., Any],
    worker: EnvRunner | RolloutWorker,
    entry: ReplayEntry,
    request: Message | dict[str, StateLock] | None,
) -> None:
    """Call a worker function with the weights of an entry; drop its undo afterwards."""
    import ray

    try:
        function(worker, request, ray.get(entry.payload, timeout=60))
    finally:
        if hasattr(worker, UNDO):
            delattr(worker, UNDO)


def _load_beneath(
    worker: EnvRunner | RolloutWorker, locks: dict[str, StateLock], payload: Payload
) -> None:
    """Let the locks of policies keep the weights of an entry."""
    for pid, lock in locks.items():
        load_beneath(lock, payload[pid])


def _remove(worker: EnvRunner | RolloutWorker, pid: str) -> None:
    if not access_to(worker).is_old:
        worker.module.remove_module(pid)
        return
    worker.remove_policy(policy_id=pid)
    # RLlib leaves these entries. Training fails with a filter that other workers do not have
    # (evaluation/rollout_worker.py:1344).
    worker.filters.pop(pid, None)
    worker.policy_dict.pop(pid, None)


def _set_mapping(worker: EnvRunner | RolloutWorker, mapping: Callable[..., str] | None) -> None:
    """Set a worker's mapping function, if one is given; single-agent runners have none."""
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule

    if mapping is None:
        return
    if access_to(worker).is_old:
        worker.set_policy_mapping_fn(mapping)
    elif isinstance(worker.module.unwrapped(), MultiRLModule):
        worker.config.multi_agent(policy_mapping_fn=mapping)
