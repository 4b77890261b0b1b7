"""Load snapshots into a running Algorithm, on all its learners and workers, with proof.

RLlib's own ways do not do this. On the old stack weights set on the driver reach no
remote worker (``algorithms/algorithm.py:set_weights``). On the new one runners drop weights whose
number is not newer than their own (``env/single_agent_env_runner.py:596``), and keys that do not
fit are skipped silently (``core/rl_module/torch/torch_rl_module.py:153``).

Here everything is checked before anything is sent. Then all workers get the weights at once,
through Ray's object store, and say what they hold afterwards. If one of them does not take the
weights, all get their old ones back (``transaction.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.metrics import ALL_MODULES

from policystore.errors import InvalidInputError, NotFoundError
from policystore.rllib.common.build_guard import check_snapshot
from policystore.rllib.live.compatibility import prepare
from policystore.rllib.live.filters import AgentIds, new_stack_filters, old_stack_filters
from policystore.rllib.live.report import SyncReport
from policystore.rllib.live.session import Session
from policystore.rllib.live.transaction import Payload, Transaction
from policystore.rllib.worker_code.messages.answers import WorkerInfo
from policystore.rllib.worker_code.messages.requests import LoadRequest
from policystore.rllib.worker_code.weights import apply_weights
from policystore.rllib.workers.calls import Deadline
from policystore.rllib.workers.compat import (
    actor_manager,
    env_to_module_of_driver,
    has_learner_thread,
    is_new_stack,
)
from policystore.snapshot import Snapshot

__all__ = ["check_sync", "load_into"]

# Above any number of updates that are under way: weights from before a load that runners get after
# it carry a lower number, and the runners drop them.
_FENCE = 1000


def load_into(
    algo: Algorithm,
    snaps: Mapping[str, Snapshot],
    *,
    agent_ids: AgentIds = None,
    timeout: float = 60.0,
) -> SyncReport:
    """Give policies of a running Algorithm the weights of snapshots, on every learner and worker.

    The weights reach the learners (local or remote), the local worker, from which restarted ones
    get theirs, and all remote workers of the training, evaluation and offline evaluation groups.
    Filter statistics go along. When this returns, each worker has said that it holds exactly these
    weights, the next sample of every worker is drawn with them, and the next ``train()`` neither
    undoes nor delays them. Takes no CPU, actor or task slot.

    All or nothing: if a worker refuses or does not answer in time, or a learner is dead, all
    workers get their old weights back, also those that answer later. A dead env runner is no
    failure: its row reads ``unreachable``. Like all that are restarted or added from now on,
    whether RLlib notices or not, it gets the weights before it samples. For that Ray's object store
    keeps one copy of them.

    On IMPALA and APPO updates that are under way are awaited, and the weights get a number far
    above what is still in flight, so that runners drop older ones
    (``env/multi_agent_env_runner.py:771``). Optimizers keep their moments. Target networks that a
    snapshot does not hold become copies of their networks.

    Args:
        algo: of either API stack, not inside ``train()``.
        snaps: id of a policy or module of the Algorithm -> the snapshot it gets. The snapshot of
            modules that share parts goes under ``"__all_modules__"``.
        agent_ids: new stack, multi-agent, and snapshots with filter statistics: policy id -> ids of
            the agents whose filters get them (or only these ids, for a single snapshot).
        timeout: seconds for all of it.

    Returns:
        A row for each of these policies on each learner and worker.

    Raises:
        NotFoundError: no such policy; lists those there are.
        MismatchError: names, shapes, dtypes, spaces or filters that differ; nothing was sent.
        InvalidInputError: a stopped Algorithm, or an argument of the wrong form.
        SyncError: a worker did not take the weights; all have their old ones again.
        StorageError: a learner did not answer before anything was sent.
    """
    transaction = Transaction(algo, timeout)
    given = _given(snaps)
    info = transaction.describe([pid for pid in given if pid != ALL_MODULES])
    if ALL_MODULES in given:
        given = _apart(given)
        info = transaction.describe(list(given))
    _require_known(given, info, " Nothing was sent. add_policy() adds one.")
    stack = "new" if is_new_stack(algo) else "old"
    prepared = {pid: prepare(pid, snap, info.policies[pid], stack) for pid, snap in given.items()}
    notes = tuple(note for each in prepared.values() for note in each.notes)
    request = LoadRequest(
        token=transaction.token,
        plans={pid: each.plan for pid, each in prepared.items()},
        timeout=transaction.deadline.left(),
        seq=(info.seq or 0) + _FENCE if info.asynchronous else None,
    )
    if stack == "new":
        pipeline, more = new_stack_filters(algo, given, agent_ids)
        request, notes = request.replace(pipeline=pipeline), notes + more
    else:
        if agent_ids is not None:
            raise InvalidInputError(
                "agent_ids= is for the new API stack; on the old one filters belong to policies"
            )
        request = request.replace(filters=old_stack_filters(algo.env_runner, given))
    payload = Payload(transaction.workers, prepared)
    with transaction.changes(info, "the weights were not loaded"):
        report = transaction.apply_and_prove(
            apply_weights,
            request,
            payload=payload,
            info=info,
            expected={pid: each.expected for pid, each in prepared.items()},
            notes=notes,
        )
    transaction.commit(transaction.replay_of(request, payload))
    if info.asynchronous:
        _drop_late_states(algo)
    _set_filters_of_driver(transaction, request)
    return report


def check_sync(
    algo: Algorithm, policy_ids: Iterable[str] | None = None, *, timeout: float = 60.0
) -> SyncReport:
    """Ask every learner and worker which weights it holds now.

    What counts is the ``acting`` digest: of the weights that acting needs. The first learner that
    answers (on the old stack the local worker) says what it should be.

    Changes nothing, but for one thing that any call of RLlib does as well: an env runner that was
    restarted unnoticed first gets what had been loaded. So its row shows what the next sample
    would be drawn with, and not what the actor was made with, which no sample is drawn with. If
    that failed, the note of the row says why. A policy in training reads ``bad`` on such a runner
    until the next ``train()``, as its weights are those of the load.

    Args:
        algo: of either API stack.
        policy_ids: of the policies to report on; all if left out.
        timeout: seconds.

    Returns:
        A row for each policy on each learner and worker, whether it answered or not.

    Raises:
        NotFoundError: no such policy; lists those there are.
        InvalidInputError: a stopped Algorithm, or an argument of the wrong form.
        StorageError: no learner answers.
    """
    session = Session(algo, timeout)
    wanted = None if policy_ids is None else _listed(policy_ids)
    # Half of the time: a learner that is silent must not take it from the workers.
    half = Deadline(session.deadline.left() / 2)
    info = session.describe(wanted, deadline=half, all_learners=False)
    _require_known(wanted or (), info)
    # The workers of IMPALA and APPO of the old stack have numbers that say nothing of the
    # learner's.
    return session.report(info, unnumbered=has_learner_thread(algo))


def _require_known(policy_ids: Iterable[str], info: WorkerInfo, advice: str = "") -> None:
    unknown = [pid for pid in policy_ids if pid not in info.policies]
    if unknown:
        raise NotFoundError(
            f"the Algorithm has no policy {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(map(repr, info.ids))}" + (f".{advice}" if advice else "")
        )


def _drop_late_states(algo: Algorithm) -> None:
    """Drop weights that learners gave out before the load and the driver has not passed on yet.

    A runner drops the first such message for its lower number, and takes that number for its own
    (``env/single_agent_env_runner.py:621``): it would not drop the second.
    """
    manager = actor_manager(algo.learner_group) if algo.learner_group is not None else None
    if manager is not None and manager.num_outstanding_async_reqs():
        # All have answered the load since, so these are there.
        manager.fetch_ready_async_reqs(timeout_seconds=1.0)


def _set_filters_of_driver(transaction: Transaction, request: LoadRequest) -> None:
    """Set the merged filters that the driver keeps if it has no local runner (algorithm.py:992)."""
    pipeline = env_to_module_of_driver(transaction.algo)
    if not request.pipeline or pipeline is None:
        return
    if any(w.group == "train" and not w.is_remote for w in transaction.workers):
        return
    now = pipeline.get_state()
    pipeline.set_state(
        {name: {**now[name], **state} for name, state in request.pipeline.items() if name in now}
    )


def _given(snaps: object) -> dict[str, Snapshot]:
    """Return the snapshots that were given, checked."""
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
    """Return the same with modules that share parts taken apart: each under its own id."""
    single = dict(given)
    together = single.pop(ALL_MODULES)
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
        if mid in single:
            raise InvalidInputError(f"module {mid!r} is given twice, alone and in {ALL_MODULES!r}")
        single[mid] = Snapshot(
            weights=weights, spec=part if acting is None else part.replace(acting=names)
        )
    return single


def _listed(policy_ids: object) -> list[str]:
    if isinstance(policy_ids, (str, bytes)) or not isinstance(policy_ids, Iterable):
        raise InvalidInputError(f"policy_ids is a list of ids: [{policy_ids!r}]")
    return list(policy_ids)
