"""Load snapshots into a running Algorithm, on all its learners and workers, with proof.

RLlib's own calls do not do this. On the old stack, weights that are set on the driver reach no
remote worker (``algorithms/algorithm.py:set_weights``). On the new stack, runners drop weights
whose number is not higher than their own number (``env/single_agent_env_runner.py:610``), and keys
that do not fit are skipped silently (``core/rl_module/torch/torch_rl_module.py:153``).

``load_into`` checks everything before it sends anything. Then all workers get the weights through
Ray's object store, and report which weights they hold afterwards. If a worker does not take the
weights, all workers get their old weights back (``transaction.py``).
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

__all__ = ["FENCE", "check_sync", "drop_late_states", "load_into"]

FENCE = 1000
"""More than the number of updates that can be under way. So weights from before a load, which reach
a runner after the load, have a lower number, and the runner drops these weights."""


def load_into(
    algo: Algorithm,
    snaps: Mapping[str, Snapshot],
    *,
    agent_ids: AgentIds = None,
    timeout: float = 60.0,
) -> SyncReport:
    """Give policies of a running Algorithm the weights of snapshots, on every learner and worker.

    The weights are loaded into the learners (local or remote), the local worker, and all remote
    workers of the training, evaluation and offline evaluation groups. Filter statistics are loaded,
    too. When this function returns, each worker has reported that it holds exactly these weights.
    The next sample of every worker is drawn with these weights, and the next ``train()`` neither
    undoes nor delays the load. The call takes no CPU, actor or task slot.

    All learners and workers change, or none. If a worker refuses or does not answer in time, or a
    learner is dead, all workers get their old weights back, also workers that answer later. A dead
    env runner is no failure: its row reads ``unreachable``. An env runner that is restarted or
    added from now on gets the weights before it samples, even if RLlib does not notice the restart.
    For this, Ray's object store keeps one copy of the weights.

    With IMPALA and APPO, the call waits for updates that are under way. The weights get a number
    far above the numbers of older weights that are still on their way, so runners drop the older
    weights (``env/multi_agent_env_runner.py:771``). Optimizers keep their moments. If a snapshot
    has no target networks, the target networks become copies of their networks.

    Args:
        algo: an Algorithm of either API stack, while ``train()`` does not run.
        snaps: id of a policy or module of the Algorithm -> the snapshot to load into it. Use the id
            ``"__all_modules__"`` for the snapshot of modules that share parts.
        agent_ids: policy id -> ids of the agents whose filters get the snapshot's statistics. For a
            single snapshot also only the agent ids. Only for multi-agent Algorithms of the new
            stack and snapshots with filter statistics.
        timeout: seconds for the whole call.

    Returns:
        A row for each of these policies on each learner and worker.

    Raises:
        NotFoundError: no such policy; the message lists the policies of the Algorithm.
        MismatchError: names, shapes, dtypes, spaces or filters that differ; nothing was sent.
        InvalidInputError: a stopped Algorithm, or an argument of the wrong form.
        SyncError: a worker did not take the weights; all workers have their old weights again.
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
        seq=(info.seq or 0) + FENCE if info.asynchronous else None,
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
        drop_late_states(algo)
    _set_filters_of_driver(transaction, request)
    return report


def check_sync(
    algo: Algorithm, policy_ids: Iterable[str] | None = None, *, timeout: float = 60.0
) -> SyncReport:
    """Ask every learner and worker which weights it holds now.

    The function compares digests of the weights that acting needs (``acting`` digests). The first
    learner that answers defines the expected digest; on the old stack the local worker does.

    The function changes nothing, with one exception, which is the same for any call of RLlib: if an
    env runner was restarted and RLlib has not noticed it, the env runner first gets the loaded
    weights. So the row of such an env runner shows the weights of its next sample, and not the
    weights with which the actor was made. If the env runner could not get the loaded weights, the
    note of the row says why. For a policy in training the row reads ``bad`` until the next
    ``train()``, because the env runner has the weights of the load.

    Args:
        algo: an Algorithm of either API stack.
        policy_ids: ids of the policies to report on; all policies if left out.
        timeout: seconds for the whole call.

    Returns:
        A row for each policy on each learner and worker, whether it answered or not.

    Raises:
        NotFoundError: no such policy; the message lists the policies of the Algorithm.
        InvalidInputError: a stopped Algorithm, or an argument of the wrong form.
        StorageError: no learner answers.
    """
    session = Session(algo, timeout)
    wanted = None if policy_ids is None else _listed(policy_ids)
    # Half of the time, so that a silent learner leaves time for the answers of the workers.
    half = Deadline(session.deadline.left() / 2)
    info = session.describe(wanted, deadline=half, all_learners=False)
    _require_known(wanted or (), info)
    # With IMPALA and APPO of the old stack, the numbers of workers cannot be compared with the
    # number of the learner.
    return session.report(info, unnumbered=has_learner_thread(algo))


def _require_known(policy_ids: Iterable[str], info: WorkerInfo, advice: str = "") -> None:
    unknown = [pid for pid in policy_ids if pid not in info.policies]
    if unknown:
        raise NotFoundError(
            f"the Algorithm has no policy {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(map(repr, info.ids))}" + (f".{advice}" if advice else "")
        )


def drop_late_states(algo: Algorithm) -> None:
    """Drop old weights that learners sent to the driver and that no runner has got yet.

    A runner drops the first such message, because the message has a lower number. But the runner
    also takes over the lower number (``env/single_agent_env_runner.py:621``), so it would not drop
    a second such message.
    """
    manager = actor_manager(algo.learner_group) if algo.learner_group is not None else None
    if manager is not None and manager.num_outstanding_async_reqs():
        # All learners have answered the load after they sent these weights, so these have arrived.
        manager.fetch_ready_async_reqs(timeout_seconds=1.0)


def _set_filters_of_driver(transaction: Transaction, request: LoadRequest) -> None:
    """Set the merged filters of a driver that has no local env runner (algorithm.py:992)."""
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
    """Check and return the snapshots that the caller gave."""
    if not isinstance(snaps, Mapping):
        raise InvalidInputError(
            "load_into takes snapshots by policy id: load_into(algo, {'main': snap}), not "
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
    """Return the snapshots by module id, with the snapshot of several modules split by module."""
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
