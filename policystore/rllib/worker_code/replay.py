"""What a restarted or later added env runner does to be like the others. Runs there; sent by value.

Imports nothing of policystore but what is sent along (``worker_side.py`` says why). Nothing raises.
"""

from __future__ import annotations

import time
from typing import Any

from policystore.rllib.worker_code.weights import (
    MARK,
    MISSED,
    RESTARTED,
    UNDO,
    apply_weights,
    held_by,
)

__all__ = ["catch_up", "replay_then_call"]


def replay_then_call(
    generation: int, program: Any, function: Any, worker: Any, /, *args: Any, **kw: Any
) -> Any:
    """Call a function with a worker that has first got all it was to be given.

    Goes along with every call that RLlib makes, so it names nothing of this module but ``time``:
    its pickle stays small. :func:`catch_up` comes with the program, to those who need it.

    Args:
        generation: how many waves there have been.
        program: reference to what is done to be like those who took part in them.
        function: RLlib's, or the name of a method.
        worker: an env runner.
        args: for the function, as ``kw`` is.
    """
    missed = getattr(worker, "_policystore_missed", None)
    if (
        getattr(worker, "_policystore_mark", 0) < generation
        and (missed is None or time.monotonic() >= missed["again"])
        # Not while a wave may still be undone: what undo needs is kept in one place.
        and not hasattr(worker, "_policystore_undo")
    ):
        try:
            import ray

            found = ray.get(program, timeout=60)
            found["catch_up"](worker, generation, found)
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


def catch_up(worker: Any, generation: int, program: Any) -> None:
    """Do what a worker has not done yet of a program, and keep on it what went wrong.

    Args:
        worker: an env runner.
        generation: that it is of when it has done all.
        program: ``entries``, in their order, and ``mapping`` (None: leave it).
    """
    began = time.monotonic()
    mark = getattr(worker, MARK, 0)
    done = list((getattr(worker, MISSED, None) or {"done": ()})["done"])
    if not mark:
        setattr(worker, RESTARTED, True)
    wrong = []
    for entry in program["entries"]:
        number = entry["generation"]
        if number <= mark or number in done:
            continue
        why = _replay(worker, entry)
        if why:
            wrong.append(f"{', '.join(map(repr, entry['policies']))}: {why}")
        else:
            done.append(number)
    why = _follow(worker, program["mapping"])
    if why:
        wrong.append(f"the mapping function: {why}")
    if wrong:
        now = time.monotonic()
        # Tried again with later calls, but not so often that it would cost them much.
        again = now + max(1.0, 10 * (now - began))
        setattr(worker, MISSED, {"done": done, "error": "; ".join(wrong[:5]), "again": again})
        return
    setattr(worker, MARK, generation)
    if hasattr(worker, MISSED):
        delattr(worker, MISSED)


def _replay(worker: Any, entry: Any) -> str:
    """One entry; why it failed, or an empty text."""
    try:
        import ray

        there = set(held_by(worker).ids)
        if entry["kind"] == "drop":
            for pid in there & set(entry["policies"]):
                if held_by(worker).is_old:
                    worker.remove_policy(policy_id=pid)
                    # It leaves these, and training fails with a filter that the others do not have
                    # (evaluation/rollout_worker.py:1344).
                    worker.filters.pop(pid, None)
                    worker.policy_dict.pop(pid, None)
                else:
                    worker.module.remove_module(pid)
            return ""
        job = dict(entry["job"])
        function = entry["function"]
        if function is None or there.issuperset(entry["policies"]):
            # What is not there comes from RLlib's own restore, with its weights.
            kept = [pid for pid in entry["policies"] if pid in there]
            for key in ("plans", "filters"):
                job[key] = {pid: job[key][pid] for pid in kept if pid in (job.get(key) or ())}
            function = apply_weights
            if not kept:
                return ""
        # No number: states that RLlib's restore brings are newer, whatever theirs is.
        job["seq"] = None
        answer = function(worker, job, ray.get(entry["payload"], timeout=60))
        if hasattr(worker, UNDO):
            delattr(worker, UNDO)
        return str(answer.get("error") or "")
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _follow(worker: Any, mapping: Any) -> str:
    try:
        from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule

        if mapping is None:
            return ""
        if hasattr(worker, "policy_map"):
            worker.set_policy_mapping_fn(mapping)
        elif isinstance(worker.module.unwrapped(), MultiRLModule):
            worker.config.multi_agent(policy_mapping_fn=mapping)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
