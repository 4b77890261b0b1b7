"""Bring all env runners of a running Algorithm to what its learners hold now, with proof.

RLlib's own restore may leave env runners with weights from before the restore, for five reasons.
RLlib drops a message to a busy runner (``env/env_runner_group.py:807``), and a new runner is busy
at first. A runner ignores weights whose number is lower than its own number, and takes over the
lower number (``env/multi_agent_env_runner.py:771``); weights of an older checkpoint have a lower
number. With IMPALA and APPO, older weights with a higher number may be on their way, or wait in the
state server (``env/env_runner_state_server.py``). If the path has a scheme, such as ``file://``,
RLlib does not find the learners' folder (``algorithms/algorithm.py:3385``). RLlib never sends the
weights to the evaluation runners.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm

from policystore._util.log import logger
from policystore.digest import Digest, digest_of
from policystore.errors import InvalidInputError
from policystore.rllib.live.changes import FENCE
from policystore.rllib.live.changes_new_stack import drop_late_states
from policystore.rllib.live.checks.compatibility import PreparedWeights, plan_of
from policystore.rllib.live.report import SyncReport, status_rows
from policystore.rllib.live.restart_guard import guards_of
from policystore.rllib.live.transaction import Payload, Transaction
from policystore.rllib.new_stack.connector_state import is_filter
from policystore.rllib.new_stack.connectors import walk
from policystore.rllib.worker_code.filters import policy_filter, read_old_filter
from policystore.rllib.worker_code.messages.answers import WorkerInfo
from policystore.rllib.worker_code.messages.requests import DigestPlan, FilterStats, LoadRequest
from policystore.rllib.worker_code.messages.requests import Payload as Weights
from policystore.rllib.worker_code.raw_weights import release_weights
from policystore.rllib.worker_code.rollback import commit
from policystore.rllib.worker_code.tensors import access_to
from policystore.rllib.worker_code.weights import apply_weights, report_digests
from policystore.rllib.workers.calls import Deadline
from policystore.rllib.workers.compat import env_to_module_of, is_new_stack

__all__ = ["keep_weights", "resync"]


def resync(algo: Algorithm, *, above: int = 0, timeout: float = 60.0) -> SyncReport:
    """Give every env runner the weights and filters that the Algorithm holds now.

    The weights are those of the learners, or, on the old stack, of the local worker, bit for bit
    and unchecked. The filters are those of the local runner or the driver. Env runners that are
    restarted or added later get the same weights and filters before they sample. With IMPALA and
    APPO the weights get a number far above the numbers of older weights that are still on their
    way, as with :func:`~policystore.rllib.load_into`.

    An env runner that does not take the weights changes nothing for the other env runners. A busy
    env runner takes the weights as soon as it answers.

    Args:
        algo: an Algorithm of either API stack, while ``train()`` does not run.
        above: a number that the weights' own number must exceed if the Algorithm is asynchronous:
            the highest number that weights had before.
        timeout: seconds for the whole call.

    Returns:
        A row for each policy on each learner and worker.

    Raises:
        InvalidInputError: a stopped Algorithm.
        StorageError: a learner does not answer.
    """
    change = Transaction(algo, timeout)
    info = change.describe(None)
    seq = None
    if is_new_stack(algo):
        # Other algorithms go on with the learners' number: runners drop weights of a lower number.
        seq = max(info.seq or 0, above) + FENCE if info.asynchronous else info.seq
    prepared = _prepared(_released(change, seq if info.asynchronous else None), info)
    info = info.replace(policies={pid: info.policies[pid] for pid in prepared})
    plans = {pid: each.plan for pid, each in prepared.items()}
    request = LoadRequest(
        token=change.token,
        plans=plans,
        timeout=change.deadline.left(),
        seq=seq,
        pipeline=_new_filters(algo),
        filters=_old_filters(algo),
    )
    payload = Payload(change.workers, prepared)
    leaders = [worker for worker in change.workers if worker.is_learner or worker.leads]
    runners = [worker for worker in change.workers if worker not in leaders]
    guards = guards_of(algo)
    for guard in guards:
        guard.start()
    calls = change.start(
        apply_weights, lambda worker: (request, payload.for_worker(worker)), runners
    )
    # Directly behind the weights. A runner that refused them counts no transaction, so the gate
    # of its guard tries again with RLlib's next call.
    change.start(commit, lambda worker: (change.token,), runners)
    for guard in guards:
        guard.record([change.replay_of(request, payload)])
    answers = calls.collect(change.deadline)
    if info.asynchronous:
        drop_late_states(algo)
    last = Deadline(change.seconds_to_end())
    held = change.call(report_digests, plans, last.left(), workers=leaders, deadline=last)
    expected = {pid: each.expected for pid, each in prepared.items()}
    return SyncReport(status_rows(change.workers, info, {**answers, **held}, expected))


def _released(change: Transaction, seq: int | None) -> Weights:
    """Return the weights of the first learner; all learners give their weights a number.

    Raises:
        StorageError: a learner does not answer.
    """
    leaders = change.learners or [worker for worker in change.workers if worker.leads]
    seconds = change.deadline.left()
    calls = change.start(
        release_weights, lambda worker: (seq, worker is leaders[0], seconds), leaders
    )
    answers = calls.collect(change.deadline)
    released = [answers[worker].get() for worker in leaders]
    return released[0]


def _prepared(weights: Weights, info: WorkerInfo) -> dict[str, PreparedWeights]:
    """Return weights in the form in which they are sent, by policy."""
    prepared = {}
    for pid, arrays in weights.items():
        try:
            plan = plan_of(info.policies[pid])
        except InvalidInputError as error:
            logger.warning("policy %r is not sent to the env runners: %s", pid, error)
            continue
        acting = frozenset(info.policies[pid].acting)
        prepared[pid] = PreparedWeights(arrays, plan, _digest(plan, arrays), acting, ())
    return prepared


def _digest(plan: DigestPlan, arrays: Mapping[str, tuple[str, Any]]) -> Digest:
    header, order = plan
    bits = (np.ascontiguousarray(arrays[name][1]) for name, _, _ in order)
    return digest_of(header, *(each.reshape(-1).view(np.uint8).data for each in bits))


def _new_filters(algo: Algorithm) -> dict[str, dict[Any, Any]] | None:
    """Return the filters of the local runner or the driver, by RLlib's name of the connector.

    None on the old stack, and if each env runner keeps filters of its own.
    """
    pipeline = env_to_module_of(algo) if is_new_stack(algo) else None
    if pipeline is None or not getattr(algo.config, "broadcast_env_runner_states", True):
        return None
    return {name: each.get_state() for name, each in walk(pipeline.connectors) if is_filter(each)}


def _old_filters(algo: Algorithm) -> dict[str, FilterStats] | None:
    """Return the filters of the local worker by policy; None on the new stack."""
    if is_new_stack(algo):
        return None
    access = access_to(algo.env_runner)
    holders = {pid: access.holder(pid) for pid in access.ids}
    return {
        pid: read_old_filter(policy)
        for pid, policy in holders.items()
        if policy_filter(policy) is not None
    }


def keep_weights(algo: Algorithm, ids: list[str], *, timeout: float = 60.0) -> Callable[[], None]:
    """Read weights of the learners now; return a function that writes these weights back later.

    Args:
        algo: an Algorithm of the new stack.
        ids: ids of the modules whose weights are kept.
        timeout: seconds for reading, and for writing.

    Raises:
        StorageError: a learner does not answer; the returned function raises this error, too.
    """
    weights = _released(Transaction(algo, timeout), None)
    return functools.partial(_give_back, algo, {pid: weights[pid] for pid in ids}, timeout)


def _give_back(algo: Algorithm, weights: Weights, timeout: float) -> None:
    change = Transaction(algo, timeout)
    info = change.describe(list(weights))
    prepared = _prepared(weights, info)
    plans = {pid: each.plan for pid, each in prepared.items()}
    payload = Payload(change.workers, prepared)
    request = LoadRequest(change.token, plans, change.deadline.left())
    calls = change.start(
        apply_weights, lambda worker: (request, payload.for_worker(worker)), change.learners
    )
    change.start(commit, lambda worker: (change.token,), change.learners)
    answers = calls.collect(change.deadline)
    for worker in change.learners:
        answers[worker].get()
